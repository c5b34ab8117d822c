"""DAUC, IAUC, DC and IC: insertion and deletion a cell of the map at a time, as BR-NPA's evaluation does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ._fills import fill_image
from ._maps import check_maps, removal_rank, to_size, wide
from ._registry import SCORED, register_measure
from ._stages import Stage, counts_of, score_stages, trapezoid


@dataclass(frozen=True)
class CausalResult:
    """Cell-wise curves, sample by sample.

    Args:
        auc: ``(B,)`` DAUC (lower is better) or IAUC (higher is better).
        correlation: ``(B,)`` DC or IC: Pearson between each step's fall (deletion) or rise (insertion) of the score and
            the mean map value of the cells it moved; 0 where either is constant. Higher is better.
        curve: ``(B, points)``; fractions: ``(points,)`` share of the cells moved; target: ``(B,)``.
    """

    auc: Tensor
    correlation: Tensor
    curve: Tensor
    fractions: Tensor
    target: Tensor


def row_pearson(a: Tensor, b: Tensor) -> Tensor:
    """``(B,)`` float32: Pearson's correlation of each row of two ``(B, n)``, in float64; 0 where a row is constant."""
    return wide_pearson(a, b).float()


def wide_pearson(a: Tensor, b: Tensor) -> Tensor:
    """:func:`row_pearson` left in float64, and differentiable."""
    flat = (a == a[:, :1]).all(1) | (b == b[:, :1]).all(1)
    a, b = wide(a), wide(b)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    product = (a * b).sum(1)
    norm = a.norm(dim=1) * b.norm(dim=1)
    flat = flat | (norm == 0)
    return torch.where(flat, 0.0, product / norm.masked_fill(flat, 1.0)).clamp(-1, 1)


def _cellwise(
    net: nn.Module, pixel_values: Tensor, maps: Tensor, target: Any, fill: Any, insert: bool, include_clean: bool,
    max_steps: int, score: str, batch_size: int | None, progress: bool,
) -> Any:  # fmt: skip
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    maps = check_maps(maps)
    cells = maps.shape[-2] * maps.shape[-1]
    if maps.shape[-2] > pixel_values.shape[-2] or maps.shape[-1] > pixel_values.shape[-1]:
        raise ValueError(
            f"a map of {tuple(maps.shape[-2:])} cells is finer than the image {tuple(pixel_values.shape[-2:])}: "
            "cells are blocks of pixels; give the map at its own size"
        )
    cell_rank = removal_rank(maps)
    blocks = to_size(cell_rank.view(maps.shape).float(), pixel_values.shape[-2:], mode="nearest")
    counts = counts_of(min(cells, max_steps), cells)
    stages = [Stage(0, n) if insert else Stage(n, cells) for n in counts]
    scores = score_stages(
        net, pixel_values, blocks.flatten(1).int(), stages, [fill], target, score, batch_size, progress
    )
    curve = scores.score
    fractions = torch.tensor(counts, dtype=torch.float64, device=curve.device) / cells
    descending = wide(maps.flatten(1).sort(dim=1, descending=True, stable=True).values).to(curve.device)
    moved = torch.stack([descending[:, a:b].mean(1) for a, b in zip(counts, counts[1:])], dim=1)
    change = curve.diff(dim=1) if insert else -curve.diff(dim=1)
    correlation = row_pearson(change, moved)
    if not include_clean and len(counts) > 2:
        curve, fractions = curve[:, 1:], fractions[1:]
    return CausalResult(trapezoid(curve, fractions), correlation, curve, fractions.float(), scores.target)


@register_measure(title="DAUC", better=False, needs="forwards", reads="auc", curve="", takes=SCORED)
@register_measure("dc", title="Deletion correlation", better=True, needs="forwards", reads="correlation", takes=SCORED)
def dauc(
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: int | Tensor | None = None,
    include_clean: bool = True,
    max_steps: int = 196,
    baseline: str | Tensor = "zero",
    score: str = "softmax",
    batch_size: int | None = None,
    progress: bool = False,
) -> CausalResult:
    """Cells of the map are removed, the largest value first; ``.auc`` is DAUC and ``.correlation`` is DC.

    Args:
        maps: ``(B, 1, h, w)`` at the map's own size: a cell is a block of the image. BR-NPA multiplies its first map by
            the norm of the features first; pass that product in float (the published code stored both as 8-bit integers
            and let the product overflow, so its numbers are not reproduced).
        include_clean: whether the untouched image is the curve's first point, as in the metrics-saliency-maps code.
            False starts after the first removal, as BR-NPA's own; the area is divided by the fraction it spans, so a
            constant curve scores its constant: the published figure is this one times ``1 - 1 / steps``.
        max_steps: at most this many removals; more cells fall several at a time.
        score: of the class predicted on the clean image, unless ``target`` says otherwise.
    """
    fill = fill_image(pixel_values, baseline, "box")
    return _cellwise(
        net, pixel_values, maps, target, fill, False, include_clean, max_steps, score, batch_size, progress
    )


@register_measure(title="IAUC", better=True, needs="forwards", reads="auc", curve="", takes=SCORED)
@register_measure("ic", title="Insertion correlation", better=True, needs="forwards", reads="correlation", takes=SCORED)
def iauc(
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: int | Tensor | None = None,
    include_clean: bool = True,
    max_steps: int = 196,
    baseline: str | Tensor = "blur",
    score: str = "softmax",
    batch_size: int | None = None,
    progress: bool = False,
) -> CausalResult:
    """Cells of the map are put back into a box-blurred image; ``.auc`` is IAUC and ``.correlation`` is IC.

    The box is BR-NPA's, a side / 3.7 wide (121 pixels at 448) and zero-padded. Arguments as for :func:`dauc`;
    ``include_clean`` says whether the untouched baseline is the first point.
    """
    fill = fill_image(pixel_values, baseline, "box")
    return _cellwise(net, pixel_values, maps, target, fill, True, include_clean, max_steps, score, batch_size, progress)
