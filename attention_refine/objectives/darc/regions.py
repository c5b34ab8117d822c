"""Losses over a hidden region: of its pixels, of the features there, and against the regions of other images."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...maps._conditions import full_precision


def mean_over(values: Tensor, weights: Tensor) -> Tensor:
    """``(B,)``: the mean of ``values (B, C, h, w)`` over channels and locations, weighted by ``(B, 1, h, w)``.

    As all here it takes clips too, with their time before the sides.
    """
    weights = weights.to(values.dtype)
    return (values * weights).flatten(1).sum(1) / (weights.flatten(1).sum(1) * values.shape[1])


def pixel_errors(found: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """``(B,)``: the mean squared error of images ``(B, 3, H, W)`` over the pixels of ``hidden (B, 1, H, W)``."""
    return mean_over((full_precision(found) - full_precision(truth)).square(), hidden)


def cells(hidden: Tensor, grid: tuple[int, ...]) -> Tensor:
    """``(B, 1, h, w)``: the share of each cell of a grid that is hidden."""
    pool: Callable[..., Tensor] = F.adaptive_avg_pool2d if len(grid) == 2 else F.adaptive_avg_pool3d
    return pool(hidden.float(), grid)


def feature_errors(found: Tensor, truth: Tensor, hidden: Tensor) -> Tensor:
    """``(B,)``: squared distance of features ``(B, C, h, w)`` of length 1 over the cells of ``hidden (B, 1, H, W)``."""
    found, truth = (F.normalize(full_precision(each), dim=1) for each in (found, truth))
    distance = (found - truth).square().sum(1, keepdim=True)
    return mean_over(distance, cells(hidden, tuple(truth.shape[2:])))


def pooled(feature: Tensor, hidden: Tensor) -> Tensor:
    """``(B, C)``: the mean of a feature ``(B, C, h, w)`` over the cells of ``hidden (B, 1, H, W)``."""
    shares, places = cells(hidden, tuple(feature.shape[2:])), tuple(range(2, feature.ndim))
    return (feature * (shares / shares.sum(places, keepdim=True)).to(feature.dtype)).sum(places)


def info_nce(predicted: Tensor, true: Tensor, temperature: float) -> Tensor:
    """``(B,)``: cross-entropy of finding each row of ``predicted (B, D)`` its own in ``true``, by cosine."""
    scores = F.normalize(full_precision(predicted), dim=1) @ F.normalize(full_precision(true), dim=1).T
    return F.cross_entropy(scores / temperature, torch.arange(len(scores), device=scores.device), reduction="none")
