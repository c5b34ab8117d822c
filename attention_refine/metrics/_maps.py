"""What every measure does to a map before it looks at it: check, resize, rescale, order.

Rules shared by all measures: each map is treated alone (never rescaled over a batch), resized bilinearly with
``align_corners=False``, and ordered by a stable descending sort, so that equal values fall in row-major order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

VOID = 255


def wide(tensor: Tensor) -> Tensor:
    """``tensor`` in float64, or float32 on the one device type (mps) that has no float64."""
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def check_maps(maps: Tensor, single: bool = True) -> Tensor:
    """``maps`` as detached float32 ``(B, K, h, w)``, refused by sample index where they are not finite.

    Args:
        maps: ``(B, K, h, w)``.
        single: demand ``K == 1``.

    Raises:
        TypeError: not a tensor. ValueError: wrong shape, more than one map where one is needed, NaN or infinity.
    """
    if not isinstance(maps, Tensor):
        raise TypeError(f"maps must be a tensor of shape (B, K, h, w), got {type(maps).__name__}")
    if maps.ndim != 4 or 0 in maps.shape[1:]:
        raise ValueError(f"maps must have shape (B, K, h, w) with K, h, w >= 1, got {tuple(maps.shape)}")
    if single and maps.shape[1] != 1:
        raise ValueError(
            f"this measure takes one map an image, got K = {maps.shape[1]}: "
            "choose one (maps[:, :1], the first-ranked) or reduce them (maps.mean(1, keepdim=True))"
        )
    maps = maps.detach().float()
    finite = maps.isfinite().flatten(1).all(1)
    if not finite.all():
        samples = (~finite).nonzero().flatten().tolist()
        raise ValueError(f"maps of samples {samples} contain NaN or infinity: repair or drop these samples first")
    return maps


def to_size(maps: Tensor, size: Sequence[int], mode: str = "bilinear") -> Tensor:
    """``maps`` resized to ``size``; interpolated in float64 and rounded, so that plateaus stay exact ties."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    corners = {} if mode == "nearest" else {"align_corners": False}
    return F.interpolate(wide(maps), size=tuple(size), mode=mode, **corners).to(maps.dtype)


def minmax(maps: Tensor) -> Tensor:
    """Each map rescaled to [0, 1] by its own extremes; a constant map becomes all zero."""
    values = wide(maps)  # the span of large float32 values may overflow float32
    low = values.amin((-2, -1), keepdim=True)
    span = values.amax((-2, -1), keepdim=True) - low
    return torch.where(span > 0, (values - low) / span.masked_fill(span == 0, 1.0), 0.0).to(maps.dtype)


def positive_part(maps: Tensor) -> Tensor:
    """``max(map, 0)``; a map with no positive value becomes uniform (all one), the limit of a fading constant map."""
    positive = maps.clamp_min(0)
    return torch.where(positive.amax((-2, -1), keepdim=True) > 0, positive, torch.ones_like(positive))


def removal_rank(maps: Tensor) -> Tensor:
    """``(B, n)`` int32: the place of each of the map's ``n`` pixels in descending order, 0 for the largest value."""
    order = maps.flatten(1).sort(dim=1, descending=True, stable=True).indices
    places = torch.arange(order.shape[1], device=order.device, dtype=torch.int32).expand(order.shape)
    return torch.empty_like(places, memory_format=torch.contiguous_format).scatter_(1, order, places)
