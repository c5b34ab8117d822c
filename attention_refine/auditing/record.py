"""What an audit found: every number with its interval, every image, as JSON and as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from attention_refine.auditing.scenes import SCENES
from attention_refine.core.files import atomic_text
from attention_refine.evaluation.results import Evaluation, text_table

FORMAT = 1
PARTS = ("object", "cue", "rest")
Cell = dict[str, Any]


@dataclass
class Audit:
    """What :func:`audit` found. Every cell is ``value``, ``low``, ``high`` (95 % bootstrap), ``count`` and ``excluded``.

    Attributes:
        verdict: what the model looks at, in a sentence.
        not_looked_at: sentences on what the data did not allow, with the remedy.
        energy: share of the map on ``object``, ``cue`` and ``rest`` of the image: a cell each, of those there are.
        area: share of the image that they cover, where a map that is the same everywhere would have its energy.
        scenes: by name of :data:`attention_refine.auditing.SCENES`: ``accuracy`` on those images, ``original``, that of
            the same images as they are, ``difference`` (the first minus the second, paired, with ``p_value``) and
            ``changed``, the share whose prediction is another one: cells.
        gaps: ``place``, accuracy on a place of the object's class minus that on any class's (the Backgrounds
            Challenge's BG-gap; paired), and ``believed``: on places of any class, accuracy where the model takes the
            place alone for the object's class (``agrees``) minus that where it takes it for another (``lies``), within
            each class and averaged over them.
        evaluation: of the images as they are, accuracy by group among it.
        samples: a dict an image: ``position``, ``index``, ``file``, ``label``, ``prediction``, ``correct``, and where
            its object or cue is known ``energy``, ``area`` and ``scenes`` (``prediction``, ``correct``, ``partner``).
        settings: what was asked, and ``classes``.
    """

    verdict: str
    not_looked_at: list[str]
    energy: dict[str, Cell]
    area: dict[str, Cell]
    scenes: dict[str, dict[str, Any]]
    gaps: dict[str, Cell]
    evaluation: Evaluation
    samples: list[dict[str, Any]]
    settings: dict[str, Any]

    def flips(self, scene: str = "mixed_rand") -> list[dict[str, Any]]:
        """The samples that were right and that a scene makes wrong, in order, with the scene's ``flipped_to``.

        Raises:
            ValueError: a scene that was not made.
        """
        if scene not in self.scenes:
            raise ValueError(f"scene {scene!r} is not one of those made: {', '.join(self.scenes) or 'none'}")
        return [
            {**sample, "flipped_to": sample["scenes"][scene]["prediction"]}
            for sample in self.samples
            if sample["correct"] and scene in sample["scenes"] and not sample["scenes"][scene]["correct"]
        ]

    def worst(self, count: int = 6) -> list[dict[str, Any]]:
        """The samples whose map goes furthest from the object (or most to the cue), those classified wrongly first.

        Without masks or cues: the wrong ones the model is surest of.
        """

        def badness(sample: Mapping[str, Any]) -> tuple[bool, float]:
            energy = sample["energy"]
            away = (energy["cue"] or 0.0) - (energy["object"] or 0.0) if any(energy.values()) else sample["score"]
            return not sample["correct"], away

        return sorted(self.samples, key=badness, reverse=True)[:count]

    def to_json(self, path: str | Path) -> None:
        """Write everything, whole or not at all."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["evaluation"] = {f.name: getattr(self.evaluation, f.name) for f in fields(self.evaluation)}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        atomic_text(Path(path), json.dumps({"format": FORMAT, **values}, indent=1, allow_nan=False))

    @classmethod
    def from_json(cls, path: str | Path) -> Audit:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: the file is not whole, or not of this format.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ValueError(f"another format than {FORMAT}")
            return cls(**{**content, "evaluation": Evaluation(**content["evaluation"])})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not an audit written by to_json ({error})") from error

    def __str__(self) -> str:
        lines = [self.verdict, ""]
        rows = [
            [f"map on the {part}", _shown(cell), f"{_percent(self.area[part]['value'])} of the image", cell["count"]]
            for part, cell in self.energy.items()
        ]
        for name, found in self.scenes.items():
            change = f"{_signed(found['difference'])} against the images as they are"
            rows.append([SCENES[name].title, _shown(found["accuracy"]), change, found["accuracy"]["count"]])
        for name, title in (
            ("place", "own class's place minus any"),
            ("believed", "place taken for its class minus for another"),
        ):
            if name in self.gaps:
                rows.append([title, _shown(self.gaps[name]), "", self.gaps[name]["count"]])
        for column, found in self.evaluation.summary.get("groups", {}).items():
            for group, cell in found["accuracy"].items():
                rows.append([f"accuracy, {column}: {group}", _shown(cell), "", cell["count"]])
        accuracy = self.evaluation.summary["classification"].get("accuracy")
        if accuracy:
            rows.insert(0, ["accuracy", _shown(accuracy), "", accuracy["count"]])
        lines += text_table(["", "value", "", "images"], [[str(cell) for cell in row] for row in rows])
        return "\n".join([*lines, "", *self.not_looked_at]).rstrip()


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _shown(cell: Mapping[str, Any]) -> str:
    return "none" if cell["value"] is None else f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


def _signed(cell: Mapping[str, Any]) -> str:
    return f"{cell['value']:+.3f} [{cell['low']:+.3f}, {cell['high']:+.3f}]"
