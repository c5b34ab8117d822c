"""A ``torchmetrics.Metric`` of any measure in this package: streaming, synchronised, every sample's value kept."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ._maps import wide

NO_INDEX = -1


class PerSampleMetric(Metric):
    """Collects what ``measure(*inputs, **options)`` says of each sample.

    A subclass sets ``measure``, the function, and ``reads``: the name of each value to keep, and where it lies in the
    function's result ("" for the result itself). Those named in ``tables`` have a row a sample, the others one number.

    Args:
        metric_options: for :class:`torchmetrics.Metric` (``dist_sync_fn``, ``sync_on_compute``, ...).
        options: for the function.
    """

    full_state_update = False
    is_differentiable = False
    measure: Any = None
    reads: dict[str, str] = {}
    tables: tuple[str, ...] = ()
    index: list[Tensor]

    def __init__(self, metric_options: dict | None = None, **options: Any) -> None:
        super().__init__(**(metric_options or {}))
        self.options = options
        # Flat, so that a process that saw no batch, and knows no widths, can still join in the gathering.
        for name in ("index", *self.reads):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, *inputs: Any, index: Tensor | None = None, **more: Any) -> None:
        """Measure one batch: ``inputs`` and ``more`` go to the function; ``index`` (B,) in all batches or none."""
        result = type(self).measure(*inputs, **self.options, **more)
        values = {
            name: reduce(getattr, path.split("."), result) if path else result for name, path in self.reads.items()
        }
        count = len(next(iter(values.values())))
        index = torch.full((count,), NO_INDEX) if index is None else index
        if len(index) != count:
            raise ValueError(f"{len(index)} indices for {count} samples: give one a sample")
        self.index.append(index.to(self.device))
        for name, value in values.items():
            getattr(self, name).append(value.detach().flatten().to(self.device))

    def sync(self, *args: Any, **kwargs: Any) -> None:
        for name in ("index", *self.reads):
            if getattr(self, name) == []:
                kind = torch.long if name == "index" else torch.float32
                getattr(self, name).append(torch.empty(0, dtype=kind, device=self.device))
        super().sync(*args, **kwargs)

    def _gathered(self) -> dict[str, Tensor]:
        def joined(name: str) -> Tensor:
            state = getattr(self, name)
            if isinstance(state, Tensor):
                return state
            return torch.cat(state) if state else torch.empty(0, device=self.device)

        index = joined("index").long()
        count = len(index)
        values = {name: joined(name) for name in self.reads}
        values |= {name: values[name].view(count, -1) if count else values[name].view(0, 0) for name in self.tables}
        if not count or (index == NO_INDEX).all():
            return values
        if (index == NO_INDEX).any():
            raise ValueError(
                "some batches came with an index and some without: give index=... with every batch or with none"
            )
        index, inverse = index.unique(return_inverse=True)
        first = torch.full_like(index, count).scatter_reduce_(
            0, inverse, torch.arange(count, device=inverse.device), "amin"
        )
        return {name: value[first] for name, value in values.items()} | {"index": index}

    def per_sample(self) -> dict[str, Tensor]:
        """Every value kept, ``(n, ...)`` by name, of all processes; ``index`` too where it was given."""
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync, should_unsync=self._should_unsync
        ):
            return self._gathered()

    def compute(self) -> dict[str, Tensor]:
        """``{name: mean, name + "_count": samples}`` of each value that is one number a sample, NaN left out."""
        summary = {}
        for name, value in self._gathered().items():
            if name != "index" and value.ndim == 1:
                summary[name] = wide(value).nanmean().float()
                summary[f"{name}_count"] = (~value.isnan()).sum()
        return summary
