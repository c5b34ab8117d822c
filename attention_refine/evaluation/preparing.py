"""From what a person gives for a dataset to items that one model can be judged on, classes matched by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from attention_refine.data import as_prepared


def prepared_for(model: nn.Module, dataset: Any, *, on_error: str = "raise") -> Any:
    """Items for the model, their labels counted in the model's classes.

    Args:
        model: a refined model; any other network needs a dataset that is prepared already.
        dataset: anything that :func:`attention_refine.data.as_prepared` takes: a folder, a ``datasets`` dataset, a list
            of (image, label), ...; one prepared already is taken with the preprocessing it has.
        on_error: for a raw dataset, as :func:`attention_refine.data.prepare` takes it.

    Raises:
        DataError: classes that the model does not have, with both lists; and as :func:`attention_refine.data.prepare`.
        ValueError: several splits at once, or a network that does not say its preprocessing.
    """
    return as_prepared(model, dataset, on_error=on_error, progress=False)


def rows_of(dataset: Any) -> dict[int, int] | None:
    """The position of each row that a prepared dataset kept; None where items have no rows behind them."""
    rows = getattr(dataset, "rows", None)
    return None if rows is None else {int(row): position for position, row in enumerate(rows)}
