"""Rows of all processes, differentiably: what a loss between images needs when the images are divided."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gathered(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, in the order of the processes, and where this one's begin.

    The processes may have different numbers of rows. The gradient of a row is the sum of what every process's loss
    gives it, so the gradient of the sum of their losses is exact. Every process must call at the same time, also in the
    backward pass.

    Args:
        rows: ``(n, D)``; D the same everywhere.
    """
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(processes())]
    dist.all_gather(counts, count)
    sizes = [int(each) for each in counts]
    return _Gather.apply(rows, sizes), sum(sizes[: dist.get_rank()])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])  # a collective wants equal shapes
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        start = sum(ctx.sizes[: dist.get_rank()])
        return gradient[start : start + ctx.sizes[dist.get_rank()]], None
