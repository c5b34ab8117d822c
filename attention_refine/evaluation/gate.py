"""A gate: sentences about two evaluations that must not be true, such as ``worst_group_accuracy falls by 0.01``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from attention_refine.evaluation.comparison import Comparison, Difference
from attention_refine.metrics._registry import described

FORMS = (
    "MEASURE falls", "MEASURE rises", "MEASURE falls by 0.01", "MEASURE rises by 0.01",
    "MEASURE where COLUMN is GROUP falls by 0.01",
)  # fmt: skip
_SENTENCE = re.compile(r"(?P<what>.+?)\s+(?P<how>falls|rises)(?:\s+by\s+(?P<by>\S+))?")
_WHERE = re.compile(r"accuracy\s+where\s+(?P<column>.+?)\s+is\s+(?P<group>.+)")
_SLACK = 1e-9  # a difference of two shares is not exact


@dataclass(frozen=True)
class Condition:
    """One sentence, read.

    Attributes:
        text: as it was written.
        measure, map, group: as :class:`~attention_refine.evaluation.Difference` has them.
        falls: the direction that fails.
        by: from which change on; 0 for any change at all.
    """

    text: str
    measure: str
    map: str | None
    group: str | None
    falls: bool
    by: float

    def failed_by(self, difference: Difference) -> bool:
        assert difference.difference is not None, "read_condition refuses what has none"
        change = -difference.difference if self.falls else difference.difference
        return change >= self.by - _SLACK if self.by > 0 else change > _SLACK


def read_condition(text: str, comparison: Comparison) -> Condition:
    """A condition on what was compared.

    A map's measure is that of the model's own map; ``grad_cam/energy_inside`` names another's.

    Raises:
        ValueError: a sentence of another form, or about something that was not measured in both; the message holds the
            accepted forms and the measures there are.
    """
    there = sorted({_name(d) for d in comparison.differences if d.difference is not None})
    help = f"write {', '.join(map(repr, FORMS))}; measured in both: {', '.join(there) or 'nothing'}"
    found = _SENTENCE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"the condition {text!r} cannot be read: {help}")
    try:
        by = float(found["by"] or 0)
    except ValueError:
        by = -1.0
    if not 0 <= by < float("inf"):
        raise ValueError(f"the condition {text!r} has {found['by']!r} where a number of 0 or more belongs: {help}")
    what = " ".join(found["what"].split())
    if what not in there:
        raise ValueError(f"the condition {text!r} is about {what!r}, which was not measured in both: {help}")
    where = _WHERE.fullmatch(what)
    if where is not None:
        measure, map_name, group = "accuracy", None, f"{where['column']}: {where['group']}"
    else:
        map_name, _, measure = what.rpartition("/")
        on_maps = not map_name and described(measure).needs not in ("labels", "groups")
        map_name, group = ("model" if on_maps else map_name or None), None
    return Condition(text, measure, map_name, group, found["how"] == "falls", by)


def gate(comparison: Comparison, conditions: Sequence[str], models: Sequence[str] | None = None) -> list[str]:
    """The conditions that came true, a sentence each; none where the gate is passed.

    Args:
        comparison: of the models with the old one.
        conditions: as :func:`read_condition` takes them; all are read before one is judged.
        models: those that are held against them; all by default.

    Raises:
        ValueError: a condition that cannot be read, or that says nothing about one of the models.
    """
    read = [read_condition(text, comparison) for text in conditions]
    names = dict.fromkeys(d.model for d in comparison.differences) if models is None else models
    failed = []
    for name in names:
        for condition in read:
            found = comparison.of(name, condition.measure, condition.map, condition.group)
            if found is None or found.difference is None:
                raise ValueError(f"the condition {condition.text!r} was not measured in {name!r}")
            if condition.failed_by(found):
                way = "falls" if condition.falls else "rises"
                failed.append(
                    f"{name}: {_name(found)} {way} by {abs(found.difference):.4g} (95 % interval of the change "
                    f"{found.low:+.4g} to {found.high:+.4g}, {found.count} images) against {comparison.reference}, "
                    f"and {condition.text!r} was to fail"
                )
    return failed


def _name(difference: Difference) -> str:
    """How a condition calls what a difference is of."""
    if difference.group is not None:
        column, _, group = difference.group.partition(": ")
        return f"{difference.measure} where {column} is {group}"
    own = difference.map in (None, "model")
    return difference.measure if own else f"{difference.map}/{difference.measure}"
