"""From what a person gives for a dataset to items that one model can be judged on, classes matched by name."""

from __future__ import annotations

from typing import Any

import datasets
from torch import nn

from attention_refine.data import match_classes, prepare


def prepared_for(model: nn.Module, dataset: Any, *, on_error: str = "raise") -> Any:
    """Items for the model, their labels counted in the model's classes.

    Args:
        model: a refined model; any other network needs a dataset that is prepared already.
        dataset: a ``datasets`` dataset or stream with canonical columns; or one prepared already, taken with the
            preprocessing it has.
        on_error: for a raw dataset, as :func:`attention_refine.data.prepare` takes it.

    Raises:
        DataError: classes that the model does not have, with both lists; and as :func:`attention_refine.data.prepare`.
        ValueError: several splits at once, or a network that does not say its preprocessing.
    """
    if isinstance(dataset, dict):
        raise ValueError(f"evaluate takes one split of a dataset, not all of {', '.join(dataset)}: index it by a name")
    names = list(getattr(model, "labels", []))
    if not isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
        return match_classes(dataset, names)
    preprocessing = getattr(model, "preprocessing", None)
    if preprocessing is None:
        raise ValueError(
            f"{type(model).__name__} does not say its preprocessing: wrap it with ar.wrap, or give a dataset "
            "prepared by ar.data.prepare(dataset, preprocessing)"
        )
    options = {"progress": False} if isinstance(dataset, datasets.Dataset) else {}
    return match_classes(prepare(dataset, preprocessing, on_error=on_error, **options), names)


def rows_of(dataset: Any) -> dict[int, int] | None:
    """The position of each row that a prepared dataset kept; None where items have no rows behind them."""
    rows = getattr(dataset, "rows", None)
    return None if rows is None else {int(row): position for position, row in enumerate(rows)}
