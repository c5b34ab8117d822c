"""Several models on the same images: paired differences with intervals, and p-values corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from attention_refine import metrics
from attention_refine.evaluation.dataset_level import MAP_STATISTICS, Statistic, statistic_of
from attention_refine.evaluation.groups import group_statistic, names_in, numbered
from attention_refine.evaluation.measures import CONTROLS
from attention_refine.evaluation.results import Evaluation, column_of, known, number, text_table
from attention_refine.metrics._registry import described


@dataclass(frozen=True)
class Difference:
    """Mean over the same images of ``model`` minus the reference; ``p_corrected`` by Holm over the whole comparison.

    ``map`` is None for measures of the prediction. Macro F1, mean average precision, MaxBoxAcc, the worst group's accuracy
    and the gap between groups are no means over images: they have an interval, and None for both p-values. ``group`` is
    ``"column: name"`` for the accuracy of one group, None for figures of all images.
    """

    model: str
    map: str | None
    measure: str
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    p_corrected: float | None
    count: int
    excluded: int
    group: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Every model against ``reference``, the first one given."""

    reference: str
    differences: list[Difference]

    def of(self, model: str, measure: str, map: str | None = None, group: str | None = None) -> Difference | None:
        """One difference, or None where it was not measured in both."""
        wanted = (model, measure, map, group)
        found = (d for d in self.differences if (d.model, d.measure, d.map, d.group) == wanted)
        return next(found, None)

    def __str__(self) -> str:
        rows = [
            [
                d.model,
                d.map or "",
                described(d.measure).title + (f", {d.group}" if d.group else ""),
                _signed(d),
                _p(d.p_value),
                _p(d.p_corrected),
                str(d.count),
            ]
            for d in self.differences
        ]
        head = ["model", "map", "measure", f"minus {self.reference}", "p", "p (Holm)", "images"]
        return "\n".join(text_table(head, rows))


def compare(evaluations: Mapping[str, Evaluation], *, n_resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Paired differences of every further model to the first, on the same images.

    Means over images: interval by bootstrap, p-value by flipping the differences' signs at random, all of them
    corrected together by Holm's method. An image that either model does not count is left out. The controls are not
    compared: they do not come from the models.

    Raises:
        ValueError: fewer than two evaluations, or evaluations of different images or labels.
    """
    if len(evaluations) < 2:
        raise ValueError(f"a comparison needs at least two evaluations, got {len(evaluations)}")
    (reference, base), *others = evaluations.items()
    for name, other in others:
        _check_same_images(reference, base, name, other)
    found: list[Difference] = []
    for name, other in others:
        for measure in base.summary["classification"]:
            if measure not in other.summary["classification"]:
                continue
            if described(measure).needs == "groups" and other.settings["groups"][0] != base.settings["groups"][0]:
                continue  # groups of another kind
            column = described(measure).column
            if column:
                ours, theirs = (column_of(each.samples, column) for each in (other, base))
                test = metrics.paired_test(ours, theirs, "permutation", n_resamples, seed=seed)
                found.append(_difference(name, None, measure, test))
            else:
                found.append(_difference(name, None, measure, _set_difference(measure, other, base, seed)))
        found += _by_group(name, other, base, n_resamples, seed)
        for map_name, cells in base.summary["maps"].items():
            if map_name in CONTROLS:
                continue
            for measure in cells:
                if measure in other.summary["maps"].get(map_name, {}):
                    column = f"{map_name}/{measure}"
                    a, b = column_of(other.samples, column), column_of(base.samples, column)
                    if measure in MAP_STATISTICS:
                        both = known(torch.cat([a, b], dim=1)).chunk(2, dim=1)
                        if len(both[0]):
                            options = base.settings["measures"][measure]
                            of_other, of_base = (MAP_STATISTICS[measure](x, **options) for x in both)
                            interval = _interval(of_other, of_base, len(both[0]), seed)
                            found.append(_difference(name, map_name, measure, interval))
                        continue
                    test = metrics.paired_test(a, b, "permutation", n_resamples, seed=seed)
                    # Images that neither was run on are not excluded: they were not asked about.
                    absent = sum(column not in x and column not in y for x, y in zip(other.samples, base.samples))
                    found.append(_difference(name, map_name, measure, test, absent))
    tested = [d for d in found if d.p_value is not None]
    corrected = iter(metrics.holm([d.p_value for d in tested if d.p_value is not None]))
    final = [d if d.p_value is None else Difference(**{**vars(d), "p_corrected": next(corrected)}) for d in found]
    return Comparison(reference, final)


def _by_group(name: str, other: Evaluation, base: Evaluation, n_resamples: int, seed: int) -> list[Difference]:
    """The difference in accuracy on each group that both evaluations know by the same column."""
    found = []
    for column in base.settings.get("groups", ()):
        if column not in other.settings.get("groups", ()):
            continue
        ours, theirs = column_of(other.samples, "correct"), column_of(base.samples, "correct")
        names = names_in(base.samples, column)
        groups = numbered(base.samples, column, names)
        for place, group in enumerate(names):
            rows = groups == place
            test = metrics.paired_test(ours[rows], theirs[rows], "permutation", n_resamples, seed=seed)
            found.append(replace(_difference(name, None, "accuracy", test), group=f"{column}: {group}"))
    return found


def _set_difference(measure: str, a: Evaluation, b: Evaluation, seed: int) -> metrics.Interval:
    if described(measure).needs == "groups":
        column = b.settings["groups"][0]
        groups = numbered(b.samples, column, names_in(b.samples, column))
        known = groups >= 0
        right = (column_of(e.samples, "correct")[known] for e in (a, b))
        ours, theirs = (group_statistic(measure, each, groups[known]) for each in right)
        return replace(_interval(ours, theirs, int(known.sum()), seed), excluded=int((~known).sum()))
    classes = len(a.settings["classes"])
    ours, theirs = (statistic_of(measure, evaluation.samples, classes) for evaluation in (a, b))
    return _interval(ours, theirs, len(a.samples), seed)


def _interval(ours: Statistic, theirs: Statistic, count: int, seed: int) -> metrics.Interval:
    return metrics.bootstrap_statistic(lambda drawn: ours(drawn) - theirs(drawn), torch.arange(count), seed=seed)


def _difference(model: str, map_name: str | None, measure: str, found: Any, absent: int = 0) -> Difference:
    """From a PairedTest, or from an Interval of a difference."""
    paired = isinstance(found, metrics.PairedTest)
    value = number(found.difference if paired else found.value)
    p_value = found.p_value if paired else None
    low, high = number(found.low), number(found.high)
    excluded = found.excluded - absent
    return Difference(model, map_name, measure, value, low, high, p_value, None, found.count, excluded)


def _check_same_images(reference: str, base: Evaluation, name: str, other: Evaluation) -> None:
    if base.settings["classes"] != other.settings["classes"]:
        raise ValueError(f"{name!r} and {reference!r} have different classes: evaluate both models on one dataset")
    if len(base.samples) != len(other.samples):
        counts = f"{len(other.samples)} and {len(base.samples)}"
        raise ValueError(f"{name!r} and {reference!r} have {counts} images: a paired comparison needs the same ones")
    both = [key for key in base.settings.get("groups", ()) if key in other.settings.get("groups", ())]
    for a, b in zip(base.samples, other.samples):
        for key in ("index", "label", *both):
            if a[key] != b[key]:
                raise ValueError(
                    f"{name!r} and {reference!r} are not of the same images: where one has {key} {b[key]}, "
                    f"the other has {a[key]}"
                )


def _signed(d: Difference) -> str:
    return "none" if d.difference is None else f"{d.difference:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"


def _p(value: float | None) -> str:
    return "" if value is None else ("< 0.001" if value < 0.001 else f"{value:.3f}")
