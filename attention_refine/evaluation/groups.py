"""Groups of images: which column tells them apart, what each image's is called, and how well each does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from attention_refine import metrics
from attention_refine.data import DataError

DEFAULT = "group"
Figures = dict[str, Any]


def group_columns(dataset: Any, asked: str | Sequence[str] | None) -> list[str]:
    """The columns by whose values images are grouped: those asked for, else the dataset's own, else ``group`` if there.

    Args:
        dataset: prepared, or any of items. A column is looked for among the dataset's rows, and then in its items.

    Raises:
        DataError: a column asked for that the dataset does not have.
    """
    own = getattr(dataset, "group_column", None) or DEFAULT
    wanted = [own] if asked is None else [asked] if isinstance(asked, str) else list(asked)
    if not wanted:
        return []
    there = _columns(dataset, wanted)
    for column in wanted:
        if column not in there:
            if asked is None:
                return []
            known = ", ".join(name for name in there if name not in ("image", "mask", "maps", "pixel_values"))
            raise DataError(f"the dataset has no column {column!r} to group its images by: it has {known or 'none'}")
    return list(dict.fromkeys(wanted))


def _columns(dataset: Any, wanted: Sequence[str]) -> list[str]:
    """The columns that can be read: those of the rows behind the dataset, or of its items.

    A stream's rows pass only once, as items: what those do not carry cannot be looked up.
    """
    rows = getattr(dataset, "dataset", None)
    if isinstance(rows, datasets.Dataset):
        return rows.column_names
    if isinstance(rows, datasets.IterableDataset) and not set(wanted) & set(rows.column_names or wanted):
        return rows.column_names
    first: Any = next(iter(dataset), {}) if isinstance(dataset, IterableDataset) or len(dataset) else {}
    return list(first) if isinstance(first, Mapping) else []


def column_values(dataset: Any, column: str) -> list[str | None] | None:
    """A column of a prepared dataset's rows, by row; None where there are no rows to look at, only items."""
    rows = getattr(dataset, "dataset", None)
    if not isinstance(rows, datasets.Dataset) or column not in rows.column_names:
        return None
    kind = rows.features[column]
    cells = rows.select_columns([column])[column]
    if isinstance(kind, datasets.ClassLabel):
        cells = [None if cell is None or cell < 0 else kind.names[cell] for cell in cells]
    return [group_name(cell, column, row) for row, cell in enumerate(cells)]


def group_name(value: Any, column: str, row: int) -> str | None:
    """What a group is called: text as it is, numbers and booleans as Python writes them; None for a hole.

    Raises:
        DataError: a measurement, a list or another thing that names no group.
    """
    if isinstance(value, Tensor) or hasattr(value, "dtype"):
        value = value.item() if getattr(value, "ndim", 1) == 0 else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, (bool, int)) or (isinstance(value, float) and value.is_integer()):
        return str(value if isinstance(value, bool) else int(value))
    raise DataError(
        f"row {row}: {column} {value!r} names no group of images: it must be text, a whole number, true or false, "
        "or empty where it is not known"
    )


def item_group(dataset: Any, item: Mapping[str, Any], column: str, row: int) -> str | None:
    """What an item's group is called: its own value, or the name that ``dataset.group_names`` gives to it."""
    names = getattr(dataset, "group_names", None) if column == DEFAULT else None
    if not names:
        return group_name(item[column], column, row)
    place = int(item[column])
    return names[place] if 0 <= place < len(names) else None


def names_in(samples: Iterable[Mapping[str, Any]], column: str) -> list[str]:
    """The groups that occur, sorted; in numeric order where all are whole numbers."""
    found = {sample[column] for sample in samples if sample.get(column) is not None}
    return sorted(found, key=int) if all(name.lstrip("-").isdecimal() for name in found) else sorted(found)


def numbered(samples: Sequence[Mapping[str, Any]], column: str, names: Sequence[str]) -> Tensor:
    """``(n,)`` int64, each sample's group as its place among ``names``; -1 where it is not known."""
    place: dict[str | None, int] = {name: i for i, name in enumerate(names)}
    return torch.tensor([place.get(sample.get(column), -1) for sample in samples], dtype=torch.long)


def group_statistic(measure: str, right: Tensor, groups: Tensor) -> Callable[[Tensor], Tensor]:
    """``worst_group_accuracy`` or ``group_gap`` as a function of rows ``(m,)``, repeats allowed.

    The worst and the best group are found anew among the rows. Rows of a group that was not drawn do not count.
    """
    field = {"worst_group_accuracy": "worst", "group_gap": "gap"}[measure]
    count = int(groups.max()) + 1 if len(groups) else 0
    return lambda rows: getattr(metrics.group_figures(right[rows], groups[rows], count), field)


def by_group(samples: Sequence[Mapping[str, Any]], right: Tensor, column: str, seed: int) -> Figures:
    """The figures of one column: :class:`metrics.Interval` of each group's accuracy, of the worst's and of the gap.

    Args:
        right: ``(n,)`` float64, whether each sample's prediction is right.
    """
    names = names_in(samples, column)
    groups = numbered(samples, column, names)
    figures = metrics.group_figures(right, groups, len(names))
    found: Figures = {
        "accuracy": {n: metrics.bootstrap(right[groups == i], seed=seed) for i, n in enumerate(names)},
        "unknown": int((groups < 0).sum()),
    }
    if names:
        found["worst_group"] = names[int(figures.means.argmin())]
        found["best_group"] = names[int(figures.means.argmax())]
    for measure in ("worst_group_accuracy", "group_gap"):
        found[measure] = interval_of(measure, right, groups, seed)
    return found


def interval_of(measure: str, right: Tensor, groups: Tensor, seed: int) -> metrics.Interval:
    """Bootstrap interval of a group measure over the samples whose group is known; the others are ``excluded``."""
    known = groups >= 0
    right, groups, excluded = right[known], groups[known], int((~known).sum())
    if len(groups) == 0:
        return metrics.Interval(math.nan, math.nan, math.nan, 0.95, 0, excluded)
    found = metrics.bootstrap_statistic(group_statistic(measure, right, groups), torch.arange(len(groups)), seed=seed)
    return metrics.Interval(found.value, found.low, found.high, found.level, found.count, excluded)
