"""``recommend``: which recipe for this data and this network, from a table of what was measured.

The table is data, ``recommendations.yaml`` beside this module; docs/choosing.md shows it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from ..backbones.kinds import kind_of
from ..data import DataError, Summary, as_canonical, describe, load_dataset
from .configs import shipped
from .schema import Recipe, read_yaml

REFINED = "attention_refine"  # the model_type in the config.json of a model that this library saved


@dataclass(frozen=True)
class Row:
    """A row of the table; see the head of ``recommendations.yaml``."""

    name: str
    when: Mapping[str, Any]
    recipe: str
    why: str
    evidence: Mapping[str, Any]
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        return self.evidence.get("measured", True)

    def holds(self, found: Summary, network: str, goal: str) -> bool:
        """Whether all its conditions do."""
        annotated, cues = max(found.masks, found.boxes, found.edited_maps), max(found.cue_masks, found.cue_boxes)
        labelled = sum(found.classes.values()) / max(1, sum(number > 0 for number in found.classes.values()))
        tests = {
            "goal": lambda wanted: goal in wanted,
            "annotated": lambda least: annotated >= least,
            "cues": lambda least: cues >= least,
            "groups": lambda least: len(found.groups) >= least,
            "per_class": lambda most: 0 < labelled <= most,
            "network": lambda kind: kind == network,
        }
        return all(tests[name](value) for name, value in self.when.items())


@dataclass(frozen=True)
class Recommendation:
    """What :func:`recommend` picked. As text: the recipe, why, and where that was measured.

    Attributes:
        recipe: name of a shipped config.
        overrides: fields of it that differ, by section.
        why: a sentence.
        evidence: ``data``, ``network``, ``seeds``, ``numbers``, ``command`` and ``where``; or ``measured: False`` and
            what it ``says`` instead.
        found: what the training data holds, in a line.
        network: ``"transformer"`` or ``"convolutional"``; without a model the recipe's own, a ResNet.
        goal: what was wished for.
        name: of the row of the table.
    """

    recipe: str
    overrides: dict[str, dict[str, Any]]
    why: str
    evidence: dict[str, Any]
    found: str
    network: str
    goal: str
    name: str

    @property
    def measured(self) -> bool:
        """Whether the row has a measurement behind it."""
        return self.evidence.get("measured", True)

    def load(self, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Recipe:
        """The whole recipe, further fields replaced."""
        values = joined(read_yaml(shipped(self.recipe)), self.overrides, overrides or {})
        return Recipe.from_dict(values, where=self.recipe)

    def to_yaml(self) -> str:
        """The equivalent config, for ``attention-refine finetune``."""
        values = joined(read_yaml(shipped(self.recipe)), self.overrides)
        Recipe.from_dict(values, where=self.recipe)
        return f"# {self.recipe}: {self.why}\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def __str__(self) -> str:
        return f"{self.found}; {self.network} network.\n{self.recipe}: {self.why}\n{_measured(self.evidence)}"


def recommend(dataset: Any, model: nn.Module | str | Path | None = None, *, goal: str = "accuracy") -> Recommendation:
    """The recipe that measured best for what this data has and what this network is. No image is opened.

    Args:
        dataset: training images: a folder or Hub id (its ``train`` split), a ``datasets`` dataset, or what
            :func:`attention_refine.data.prepare` made of one. How many have masks, boxes, edited maps, cues or groups
            decides, and how many there are a class.
        model: a network, a refined model, the folder of a saved one, or a backbone's name. Of a timm name no weight is
            fetched. Without one the recipe's own, a ResNet.
        goal: ``"accuracy"``, right predictions, also where a shortcut lies; ``"shortcut"``, the same where the places are
            suspected, and nothing has to be annotated; ``"map"``, the map on the object; ``"both"``, right predictions
            although the place lies and the map on the object; ``"parts"``, fine-grained classes told apart by parts, which the
            data does not say.

    Raises:
        ValueError: another goal, or no model of that name.
        DataError: no dataset, or a stream, whose rows cannot be counted.
    """
    table = read_table()
    if goal not in table["goals"]:
        raise ValueError(f"goal {goal!r} is not one of {', '.join(table['goals'])}")
    source = str(dataset) if isinstance(dataset, (str, Path)) else None
    found = _described(dataset)
    network, given = _network(model)
    row = next(row for row in rows() if row.holds(found, network, goal))
    here = {"data": {"source": source}} if source else {}
    overrides = joined(table["networks"].get(network, {}), row.overrides, given, here)
    return Recommendation(row.recipe, overrides, row.why, dict(row.evidence), str(found), network, goal, row.name)


@cache
def read_table() -> dict[str, Any]:
    """The table as it stands in the file."""
    text = files("attention_refine.recipe").joinpath("recommendations.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def rows() -> list[Row]:
    """The rows of the table; the last one always holds."""
    return [Row(**row) for row in read_table()["rows"]]


def joined(*several: Mapping[str, Any]) -> dict[str, Any]:
    """Sections with keys and values, the later over the earlier, key by key."""
    out: dict[str, Any] = {}
    for values in several:
        for section, keys in values.items():
            out[section] = {**(out.get(section) or {}), **(keys or {})}
    return out


def as_markdown() -> str:
    """The table as docs/choosing.md shows it."""
    goals = read_table()["goals"]
    lines = ["| you have | you want | recipe | why | measured |", "|---|---|---|---|---|"]
    for row in rows():
        wanted = "; ".join(goals[goal] for goal in row.when["goal"]) if "goal" in row.when else "anything else"
        recipe = f"`{row.recipe}`"
        if row.overrides:
            recipe += " with " + ", ".join(
                f"`{section}.{name}: {_inline(value)}`" for section, keys in row.overrides.items()
                for name, value in keys.items()
            )  # fmt: skip
        lines.append(f"| {_conditions(row)} | {wanted} | {recipe} | {row.why} | {_measured(row.evidence)} |")
    return "\n".join(lines)


def _conditions(row: Row) -> str:
    words = {
        "annotated": lambda n: (
            "masks, boxes or edited maps of a few images" if n < 3 else f"masks or boxes of {n} images"
        ),
        "cues": lambda n: "cue boxes or masks of a few images",
        "groups": lambda n: "groups",
        "per_class": lambda n: f"labels, at most {n} images a class",
        "network": lambda kind: f"a {kind} network",
    }
    return ", ".join(words[name](value) for name, value in row.when.items() if name != "goal") or "labels"


def _measured(evidence: Mapping[str, Any]) -> str:
    if not evidence.get("measured", True):
        return f"Not measured: {evidence['says']}."
    facts = f"Measured on {evidence['data']} ({evidence['network']}; seeds: {evidence['seeds']}): {evidence['numbers']}"
    return f"{facts}. `{evidence['command']}`, {evidence['where']}"


def _inline(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _described(dataset: Any) -> Summary:
    if isinstance(dataset, (str, Path)):
        dataset = load_dataset(dataset, "train")
    elif isinstance(dataset, Mapping):
        raise DataError(f"give the training split of a dataset, not all of {', '.join(map(str, dataset))}")
    elif hasattr(dataset, "column_names") and hasattr(dataset, "features"):
        dataset = as_canonical(dataset)
    elif not hasattr(dataset, "dataset"):
        raise DataError(
            f"{type(dataset).__name__} does not say what it holds: give a folder, a datasets dataset, or what "
            "attention_refine.data.prepare makes of one"
        )
    found = describe(dataset)
    if found.images is None:
        raise DataError("the rows of a stream cannot be counted: give the dataset without streaming, or a part of it")
    return found


def _network(model: nn.Module | str | Path | None) -> tuple[str, dict[str, dict[str, Any]]]:
    """Its kind, and the fields of a recipe that name it."""
    if model is None:
        return "convolutional", {}
    if isinstance(model, nn.Module):
        return kind_of(model), {}
    saved = saved_model(model)
    if saved is None:
        return kind_of(model), {"model": {"backbone": str(model)}}
    from ..hub import load

    return kind_of(load(saved)), {"model": {"checkpoint": str(saved)}}


def saved_model(given: str | Path) -> Path | None:
    """The folder of a model that this library saved: the one given, or the best (else the last) of a run's; else None."""
    for place in (Path(given), Path(given) / "best", Path(given) / "last"):
        if (place / "config.json").is_file():
            kind = json.loads((place / "config.json").read_text(encoding="utf-8")).get("model_type")
            return place if kind == REFINED else None
    return None
