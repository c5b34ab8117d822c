"""What a repair changed: every figure of two audits of the same images, before and after, with its paired difference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from attention_refine import metrics
from attention_refine.auditing import SCENES, Audit
from attention_refine.evaluation.comparison import compare
from attention_refine.evaluation.results import cell_of, number

LIES = ("mixed_rand", "cue_moved", "cue_removed")  # scenes in which a shortcut lies or is gone
Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """One figure, all shares in [0, 1].

    Attributes:
        name: ``accuracy``, a scene's name, ``worst_group_accuracy``, ``group_gap``, ``<column>: <group>``,
            ``energy_object`` or ``energy_cue``.
        title: how a table calls it.
        before, after: cells of value, low, high (95 %) and count.
        difference: after minus before, paired: a cell too.
        higher_is_better: None where neither is: accuracy on the place alone.
    """

    name: str
    title: str
    before: Cell
    after: Cell
    difference: Cell
    higher_is_better: bool | None = True

    @classmethod
    def of(
        cls, name: str, title: str, before: Tensor, after: Tensor, higher_is_better: bool | None = True, seed: int = 0
    ) -> Change:
        """From a value an image, ``(n,)`` each, the same images in the same order."""
        test = metrics.paired_test(after, before, "permutation", seed=seed)
        old, new = (cell_of(metrics.bootstrap(values, seed=seed)) for values in (before, after))
        difference = {"value": number(test.difference)} | {
            key: number(getattr(test, key)) for key in ("low", "high", "p_value", "count")
        }
        return cls(name, title, old, new, difference, higher_is_better)

    @property
    def better(self) -> bool | None:
        """True or False where the 95 % interval of the difference leaves out 0, else None."""
        low, high = self.difference["low"], self.difference["high"]
        if self.higher_is_better is None or low is None or low <= 0 <= high:
            return None
        return (low > 0) == self.higher_is_better

    def __str__(self) -> str:
        """``accuracy from 41 % to 63 % (+22.0 points, +18.1 to +25.7)``."""
        value, low, high = (self.difference[key] for key in ("value", "low", "high"))
        interval = "" if low is None else f", {signed(low)} to {signed(high)}"
        return (
            f"{_lower(self.title)} from {percent(self.before['value'])} to {percent(self.after['value'])} "
            f"({signed(value)} points{interval})"
        )


def changes(before: Audit, after: Audit, seed: int = 0) -> list[Change]:
    """Every figure that both audits have. They must be of the same images, seed and places.

    Raises:
        ValueError: other images or classes.
    """
    if [s["index"] for s in before.samples] != [s["index"] for s in after.samples]:
        raise ValueError("the two audits are not of the same images: audit both with the same dataset, limit and seed")
    both = list(zip(before.samples, after.samples))

    def paired(
        name: str, title: str, of: Callable[[Mapping[str, Any]], float | None], better: bool | None = True
    ) -> list[Change]:
        pairs = [(of(one), of(other)) for one, other in both]
        pairs = [pair for pair in pairs if None not in pair]
        if not pairs:
            return []
        ones, others = torch.tensor(pairs, dtype=torch.float64).unbind(1)
        return [Change.of(name, title, ones, others, better, seed)]

    found = paired("accuracy", "Accuracy, images as they are", lambda s: float(s["correct"]))
    for scene, words in SCENES.items():
        better = None if scene == "place_alone" else True
        found += paired(scene, f"Accuracy, {_lower(words.title)}", partial(_in_scene, scene=scene), better)
    found += _of_groups(before, after, seed)
    found += paired("energy_object", "Map on the object", lambda s: s["energy"]["object"])
    found += paired("energy_cue", "Map on the cue", lambda s: s["energy"]["cue"], False)
    return found


def _in_scene(sample: Mapping[str, Any], scene: str) -> float | None:
    return float(sample["scenes"][scene]["correct"]) if scene in sample["scenes"] else None


def _of_groups(before: Audit, after: Audit, seed: int) -> list[Change]:
    old, new = before.evaluation, after.evaluation
    if "groups" not in old.summary or "groups" not in new.summary:
        return []
    compared = compare({"before": old, "after": new}, seed=seed)
    found = []
    for name, title, better in (
        ("worst_group_accuracy", "Accuracy of the worst group", True), ("group_gap", "Gap between groups", False),
    ):  # fmt: skip
        difference = compared.of("after", name)
        if difference is not None and difference.difference is not None:
            was, now = (each.summary["classification"][name] for each in (old, new))
            found.append(Change(name, title, was, now, _cell(difference), better))
    for column, groups in old.summary["groups"].items():
        for group in groups["accuracy"]:
            difference = compared.of("after", "accuracy", group=f"{column}: {group}")
            if difference is None or difference.difference is None:
                continue
            was, now = (each.summary["groups"][column]["accuracy"][group] for each in (old, new))
            found.append(Change(f"{column}: {group}", f"Accuracy, {column} {group}", was, now, _cell(difference)))
    return found


def _cell(difference: Any) -> dict[str, Any]:
    return {"value": difference.difference} | {
        key: getattr(difference, key) for key in ("low", "high", "p_value", "count")
    }


def headline(found: Sequence[Change]) -> list[Change]:
    """At most three: accuracy, accuracy where a shortcut lies or is gone, and the map on the cue or else the object."""
    by_name = {change.name: change for change in found}
    wanted = (("accuracy",), (*LIES, "worst_group_accuracy"), ("energy_cue", "energy_object"))
    first = (next((name for name in names if name in by_name), None) for names in wanted)
    return [by_name[name] for name in first if name is not None]


def sentence(found: Sequence[Change]) -> str:
    """What got better beyond chance and what got worse, of the three headline figures."""
    told = headline(found)
    better = [str(change) for change in told if change.better is True]
    worse = [str(change) for change in told if change.better is False]
    same = [str(change) for change in told if change.better is None]
    if better:
        said = f"Mended: {'; '.join(better)}"
        said += f". Worse: {'; '.join(worse)}" if worse else ""
        return f"{said}. No sure difference: {'; '.join(same)}." if same else f"{said}."
    if worse:
        return f"Not mended, and worse: {'; '.join(worse)}."
    return f"Not mended: no difference beyond chance ({'; '.join(same)})."


def percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def signed(value: float) -> str:
    """Points, with a sign and one decimal: ``+4.2``, ``−0.3``; ``0`` for none."""
    return "0" if value == 0 else f"{100 * value:+.1f}".replace("-", "−")


def _lower(title: str) -> str:
    return title[0].lower() + title[1:]
