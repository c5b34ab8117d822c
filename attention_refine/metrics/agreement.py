"""How alike two maps of the same image are: two methods, two views, or two states of a model.

Each function takes ``(B, 1, h, w)`` and ``(B, 1, h', w')``, resizes the smaller (by cells) to the larger's size and
returns ``(B,)`` float32. A constant map agrees with nothing: 0, unless said otherwise. NaN or infinity raises
ValueError naming the sample.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ._maps import check_maps, minmax, to_size, wide
from .score_correlation import row_pearson


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    a, b = check_maps(a), check_maps(b)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} maps against {len(b)}: two maps of each image are compared")
    b = b.to(a.device)
    size = max(tuple(a.shape[-2:]), tuple(b.shape[-2:]), key=lambda s: s[0] * s[1])
    return to_size(a, size), to_size(b, size)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation over pixels, in [-1, 1]; invariant to ``scale * map + shift``, scale > 0."""
    a, b = _pair(a, b)
    return row_pearson(a.flatten(1), b.flatten(1))


def average_ranks(values: Tensor) -> Tensor:
    """``(B, n)`` float64 ranks in ascending order from 0; equal values share the mean of their places."""
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values.contiguous(), right=False)
    upto = torch.searchsorted(ordered, values.contiguous(), right=True)
    return wide(below + upto - 1) / 2


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation over pixels, in [-1, 1]; invariant to any increasing rescaling of maps of equal size."""
    a, b = _pair(a, b)
    return row_pearson(average_ranks(a.flatten(1)), average_ranks(b.flatten(1)))


def cross_correlation(a: Tensor, b: Tensor) -> Tensor:
    """ATCON's cross-correlation at zero shift: mean over pixels of ``sigmoid(std(a)) * sigmoid(std(b))``, in (0, 1).

    ``std`` standardises a map to mean 0 and deviation 1; a constant map standardises to 0 (two of them agree by 0.25).
    ATCON sums over pixels, which grows with the map; this is the mean.
    """
    a, b = _pair(a, b)
    return wide_cross_correlation(a.flatten(1), b.flatten(1)).float()


def wide_cross_correlation(a: Tensor, b: Tensor) -> Tensor:
    """:func:`cross_correlation` of each row of two ``(B, n)``, in float64 and differentiable."""
    return (standardise(wide(a)).sigmoid() * standardise(wide(b)).sigmoid()).mean(1)


def standardise(values: Tensor) -> Tensor:
    """Each row of ``(B, n)`` with mean 0 and deviation 1; a constant row becomes zero, with zero gradients."""
    constant = (values == values[:, :1]).all(1, keepdim=True)
    centred = (values - values.mean(1, keepdim=True)).masked_fill(constant, 0.0)
    return centred / centred.square().mean(1, keepdim=True).masked_fill(constant, 1.0).sqrt()


def ssim(a: Tensor, b: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Mean structural similarity (Wang et al. 2004) of the two min-max maps, data range 1, in [-1, 1].

    Gaussian window without padding, so only whole windows count (torchmetrics adds a border padded by reflection, which
    a small map would mostly consist of), and constants ``C1 = 0.01**2``, ``C2 = 0.03**2``. The
    window shrinks to the largest odd number that fits a small map. A constant map is all zero after scaling; two of
    them agree by 1.
    """
    a, b = _pair(a, b)
    return wide_ssim(minmax(a), minmax(b), window, sigma).float()


def wide_ssim(a: Tensor, b: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """:func:`ssim` of ``(B, 1, h, w)`` of one size that are in [0, 1] already, in float64 and differentiable."""
    a, b = wide(a), wide(b)
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be an odd number of pixels, got {window}")
    window = min(window, (min(a.shape[-2:]) - 1) // 2 * 2 + 1)
    offsets = torch.arange(window, device=a.device, dtype=a.dtype) - window // 2
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = weights / weights.sum()

    def local(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))

    mean_a, mean_b = local(a), local(b)
    var_a, var_b = local(a * a) - mean_a**2, local(b * b) - mean_b**2
    shared = local(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    quality = (2 * mean_a * mean_b + c1) * (2 * shared + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return quality.mean((1, 2, 3))


class AgreementResult(NamedTuple):
    """Each ``(B,)``."""

    pearson: Tensor
    rank_correlation: Tensor
    cross_correlation: Tensor
    ssim: Tensor


def compare(a: Tensor, b: Tensor) -> AgreementResult:
    """All four measures of two maps."""
    return AgreementResult(pearson(a, b), rank_correlation(a, b), cross_correlation(a, b), ssim(a, b))


SIMILARITIES = {
    "pearson": pearson,
    "rank_correlation": rank_correlation,
    "cross_correlation": cross_correlation,
    "ssim": ssim,
}
