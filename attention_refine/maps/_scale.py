"""Scaling and sizing of maps that are already computed; every function keeps gradients where it can have one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def normalize(maps: Tensor, method: str = "minmax", eps: float = 1e-12) -> Tensor:
    """Every map on its own scale; a constant map becomes zero, with finite gradients.

    Args:
        maps: ``(B, K, h, w)`` or ``(B, K, t, h, w)``.
        method: ``"minmax"`` to [0, 1]; ``"max"`` divides by the largest magnitude, to [-1, 1], so that zero stays zero;
            ``"std"`` to mean 0 and standard deviation 1.
        eps: below this spread (in squared units for ``"std"``) a map counts as constant.

    Raises:
        ValueError: another ``method``.
    """
    maps = maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps
    locations = tuple(range(2, maps.ndim))
    if method == "minmax":
        low, high = maps.amin(locations, keepdim=True), maps.amax(locations, keepdim=True)
        return (maps - low) / (high - low).clamp_min(eps)
    if method == "max":
        return maps / maps.abs().amax(locations, keepdim=True).clamp_min(eps)
    if method == "std":
        centred = maps - maps.mean(locations, keepdim=True)
        # eps inside the root: the root of an exact zero has an infinite gradient
        return centred / (centred.square().mean(locations, keepdim=True) + eps).sqrt()
    raise ValueError(f"normalize method {method!r} is not 'minmax', 'max' or 'std'")


def resize(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maps at another resolution, bilinear (clips trilinear), pixel centres aligned.

    Args:
        maps: ``(B, K, h, w)`` or ``(B, K, t, h, w)``.
        size: ``(H, W)``, or ``(T, H, W)`` for clips.

    Raises:
        ValueError: the size has another rank than the maps.
    """
    if len(size) != maps.ndim - 2:
        raise ValueError(
            f"size {tuple(size)} does not fit maps of shape {tuple(maps.shape)}; give {maps.ndim - 2} numbers"
        )
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(
        maps, size=tuple(size), mode="bilinear" if maps.ndim == 4 else "trilinear", align_corners=False
    )


def threshold(maps: Tensor, level: float = 0.5, of: str = "value") -> Tensor:
    """Where a map is at or above a level, as a boolean tensor of its shape.

    Args:
        level: the level itself, a share of the map's maximum, or a quantile of its values (0 to 1).
        of: ``"value"``, ``"max"`` or ``"quantile"``: what ``level`` is measured in.

    Raises:
        ValueError: another ``of``.
    """
    if of == "value":
        return maps >= level
    if of == "max":
        return maps >= level * maps.amax(tuple(range(2, maps.ndim)), keepdim=True)
    if of == "quantile":
        cut = maps.flatten(2).float().quantile(level, dim=2)
        return maps >= cut.reshape(cut.shape + (1,) * (maps.ndim - 2))
    raise ValueError(f"threshold of {of!r} is not 'value', 'max' or 'quantile'")
