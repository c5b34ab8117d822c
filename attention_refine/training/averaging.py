"""A moving average of the weights over the steps (EMA), which is what is evaluated and saved.

After each step ``average = d average + (1 - d) weights`` with ``d = min(decay, (1 + n) / (10 + n))`` after n steps, so
that the start is forgotten soon. Batch statistics and counts are the model's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights:
    """The average of a model's trained weights.

    Args:
        model: its parameters that have a gradient are averaged; all of them keep their places in memory.
        decay: of the average, in [0, 1); 0 is the weights themselves.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.weights = {name: value.detach().clone() for name, value in self.trained.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After a step; ``step`` are taken in all."""
        move = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        move(list(self.weights.values()), list(self.trained.values()), step)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights within the block, and those that are trained afterwards."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def keep(self) -> None:
        """The model has the averaged weights from now on."""
        self._exchange()

    def tensors(self, copy: bool = False) -> dict[str, Tensor]:
        """By name, for a checkpoint; with ``copy`` they stay as they are when training goes on."""
        return {name: value.to("cpu", copy=copy).contiguous() for name, value in self.weights.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`tensors` gave.

        Raises:
            KeyError: of another model.
        """
        for name, value in self.weights.items():
            value.copy_(tensors[name])

    def _exchange(self) -> None:
        for name, value in self.trained.items():
            value.data, self.weights[name] = self.weights[name], value.data
