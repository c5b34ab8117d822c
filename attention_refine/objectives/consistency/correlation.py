"""How alike two maps are, as a loss needs it: differentiable, and 0 where a map says nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from ...metrics._maps import minmax, wide
from ...metrics.agreement import standardise, wide_cross_correlation, wide_ssim
from ...metrics.score_correlation import wide_pearson

CORRELATIONS = ("pearson", "cross_correlation", "ssim")
ROUNDING = 1e-6  # a spread below this share of the largest magnitude is rounding, and its gradient would be noise


def is_constant(maps: Tensor) -> Tensor:
    """``(N,)`` bool: every location of a map ``(N, ...)`` has the same value, to float32's rounding."""
    flat = maps.detach().flatten(1)
    return flat.amax(1) - flat.amin(1) <= ROUNDING * flat.abs().amax(1)


def correlation(a: Tensor, b: Tensor, kind: str, squash: bool = False) -> tuple[Tensor, Tensor]:
    """``h(a, b)`` of each pair of maps.

    Args:
        a, b: ``(N, 1, h, w)`` or ``(N, 1, t, h, w)``, of one size.
        kind: ``"pearson"``, in [-1, 1]; ``"cross_correlation"``, the mean of ``sigmoid(std(a)) sigmoid(std(b))``, in
            (0, 1); ``"ssim"`` of the maps scaled to [0, 1], in [-1, 1], frame by frame on clips. They are the measures
            of :mod:`attention_refine.metrics`.
        squash: standardise each map and take its sigmoid first, as ATCON's published code does before Pearson.

    Returns:
        ``h (N,)``, 0 with zero gradients where one of the maps is constant; and where that is so, ``(N,)`` bool.
    """
    constant = is_constant(a) | is_constant(b)
    # A ramp takes the place of a constant map, whose correlation and its gradient have a zero to divide by.
    ramp = torch.linspace(0, 1, a[0].numel(), dtype=a.dtype, device=a.device).view_as(a[0])
    instead = constant.view(-1, *[1] * (a.ndim - 1))
    a, b = torch.where(instead, ramp, a), torch.where(instead, ramp, b)
    if squash:
        a, b = (standardise(wide(m.flatten(1))).sigmoid().view_as(m).to(m.dtype) for m in (a, b))
    if kind == "pearson":
        h = wide_pearson(a.flatten(1), b.flatten(1))
    elif kind == "cross_correlation":
        h = wide_cross_correlation(a.flatten(1), b.flatten(1))
    else:
        h = _ssim(a, b)
    return h.to(a.dtype).masked_fill(constant, 0.0), constant


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    if a.ndim == 4:
        return wide_ssim(minmax(a), minmax(b))
    # Scaled over the whole clip, compared frame by frame.
    first, second = ((minmax(m.flatten(2, 3)).view_as(m)).transpose(1, 2).flatten(0, 1) for m in (a, b))
    return wide_ssim(first, second).unflatten(0, (len(a), -1)).mean(1)
