"""How well a map finds the object: overlap, pointing, energy, correlation, and the map as a classifier of pixels.

Every function takes maps ``(B, 1, h, w)`` of any size and ground truth at image size (masks ``(B, 1, H, W)`` with 1
object, 0 background, 255 void; or a list of ``(n, 4)`` boxes with ``image_size``), resizes the map bilinearly to it and
returns ``(B,)`` float32. Void pixels are left out. A sample whose truth has no object, or nothing but object, is NaN
(:func:`usable` says which). Several objects count as their union. A map with NaN or infinity raises ValueError naming
the sample; a constant map has a defined value, given under each function.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._maps import check_maps, minmax, positive_part, to_size, wide
from ._registry import register_measure
from .ground_truth import Boxes, Truth, read_truth, standing_in
from .score_correlation import row_pearson

NORMALISATIONS = ("minmax", "median")


def _excluded(values: Tensor, truth: Truth) -> Tensor:
    return values.float().masked_fill(~truth.usable, torch.nan)


def _prepare(maps: Tensor, truth: Tensor | Boxes, image_size: Any) -> tuple[Tensor, Truth]:
    maps = check_maps(maps)
    ground = read_truth(maps, truth, image_size)
    return to_size(maps, ground.size)[:, 0], ground


def median_form(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """``(B, 1, H, W)``: ATCON's published rescaling of a map before the 0.5 threshold (methods of its evaluation code).

    Nearest resize, min-max, shift so that the median is 0.5, clip above the mean plus two standard deviations and below
    0, divide by the maximum. The median sits at the threshold, so most pixels come out positive by construction.
    ATCON resizes to 256 x 256 whatever the image; here ``size`` is the ground truth's. A constant map gives 1
    everywhere.
    """
    maps = minmax(to_size(check_maps(maps), size, mode="nearest"))
    flat = wide(maps.flatten(1))
    ordered = flat.sort(1).values
    count = flat.shape[1]
    median = (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2
    shifted = flat + 0.5 - median[:, None]
    mean = shifted.mean(1, keepdim=True)
    ceiling = mean + 2 * (shifted - mean).square().mean(1, keepdim=True).sqrt()
    clipped = shifted.minimum(ceiling).clamp_min(0)
    return (clipped / clipped.amax(1, keepdim=True)).to(maps).view_as(maps)


def _overlap(predicted: Tensor, truth: Truth) -> Tensor:
    predicted = predicted & truth.valid
    both = (predicted & truth.object).flatten(1).sum(1).cpu().double()
    either = (predicted | truth.object).flatten(1).sum(1).cpu().double()
    return (both / either.clamp_min(1)).float().to(predicted.device)


@register_measure(title="IoU with the object", better=True, needs="truth")
@register_measure("iou_true_positives", title="IoU, true positives", better=True, needs="truth", correct_only=True)
def iou(
    maps: Tensor,
    truth: Tensor | Boxes,
    image_size: tuple[int, int] | None = None,
    threshold: float = 0.5,
    normalise: str = "minmax",
) -> Tensor:
    """Intersection over union of the pixels above ``threshold`` (strictly) with the object.

    Args:
        threshold: on the rescaled map, in [0, 1).
        normalise: ``"minmax"``, the form ATCON's paper describes, or ``"median"``, the form its code has
            (:func:`median_form`), whose level is higher by construction. On true positives only: see
            :func:`true_positives`.

    A constant map scores 0 under ``"minmax"`` (nothing is above) and the object's share under ``"median"``.
    """
    if normalise not in NORMALISATIONS:
        raise ValueError(f"normalise {normalise!r} is not one of {', '.join(NORMALISATIONS)}")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be at least 0 and below 1, got {threshold}")
    maps = check_maps(maps)
    ground = read_truth(maps, truth, image_size)
    scaled = median_form(maps, ground.size) if normalise == "median" else minmax(to_size(maps, ground.size))
    return _excluded(_overlap(scaled[:, 0] > threshold, ground), ground)


@register_measure(title="Soft IoU", better=True, needs="truth")
def soft_iou(maps: Tensor, truth: Tensor | Boxes, image_size: tuple[int, int] | None = None) -> Tensor:
    """``sum(min(map, mask)) / sum(max(map, mask))`` of the min-max map. A constant map scores 0."""
    scaled, ground = _prepare(maps, truth, image_size)
    scaled = wide(minmax(scaled)) * ground.valid
    mask = wide(ground.object.float())
    shared, joint = scaled.minimum(mask).sum((1, 2)), scaled.maximum(mask).sum((1, 2))
    return _excluded(shared / joint.clamp_min(1e-30), ground)


@register_measure(title="Energy inside the object", better=True, needs="truth")
@register_measure("energy_on_cue", title="Energy on the cue", better=False, needs="cue")
def energy_inside(maps: Tensor, truth: Tensor | Boxes, image_size: tuple[int, int] | None = None) -> Tensor:
    """Share of the map's positive part that lies on the object (energy-based pointing game, Wang et al. 2020).

    Invariant to positive scale, not to shift. A constant map, and one with no positive value, scores the object's share
    of the area.
    """
    resized, ground = _prepare(maps, truth, image_size)
    energy = wide(positive_part(resized * ground.valid)) * ground.valid
    return _excluded((energy * ground.object).sum((1, 2)) / energy.sum((1, 2)).clamp_min(1e-30), ground)


@register_measure(title="Mask correlation", better=True, needs="truth")
def mask_correlation(maps: Tensor, truth: Tensor | Boxes, image_size: tuple[int, int] | None = None) -> Tensor:
    """Pearson's correlation between map and binary mask, DARC's "fidelity"; in [-1, 1]. A constant map scores 0.

    Equals the point-biserial correlation. Invariant to ``a * map + b``, a > 0. DARC's text says only "correlation
    between the attention map and ground truth"; Pearson on the map as it is, bilinearly resized, is our reading.
    """
    resized, ground = _prepare(maps, truth, image_size)
    valid = wide(ground.valid.float()).flatten(1)
    values, mask = wide(resized).flatten(1), wide(ground.object.float()).flatten(1)
    count = valid.sum(1, keepdim=True).clamp_min(1)
    # A void pixel takes the mean of the others and so adds nothing to any sum.
    values = torch.where(valid > 0, values, (values * valid).sum(1, keepdim=True) / count)
    mask = torch.where(valid > 0, mask, (mask * valid).sum(1, keepdim=True) / count)
    low = values.masked_fill(valid == 0, torch.inf).amin(1)
    high = values.masked_fill(valid == 0, -torch.inf).amax(1)
    return _excluded(torch.where(low == high, 0.0, row_pearson(values, mask)), ground)


def pointing_game(
    maps: Tensor, truth: Tensor | Boxes, image_size: tuple[int, int] | None = None, tolerance: float = 15
) -> Tensor:
    """1 where the map's largest pixel is within ``tolerance`` pixels of the object, else 0 (Zhang et al. 2018).

    The tolerance is in pixels of the ground truth; 15 is TorchRay's. The benchmark's figure is the mean over images of
    each class, then over classes. The first of several equal pixels counts, in row-major order, so a constant map
    points at the top left corner: compare with :func:`pointing_centre`.
    """
    resized, ground = _prepare(maps, truth, image_size)
    width = ground.size[1]
    top = resized.flatten(1).argmax(1)
    return _hits(top // width, top % width, ground, tolerance)


def pointing_centre(truth: Tensor | Boxes, image_size: tuple[int, int] | None = None, tolerance: float = 15) -> Tensor:
    """The pointing game played by the middle of the image: the baseline to set beside :func:`pointing_game`."""
    ground = read_truth(standing_in(truth), truth, image_size)
    height, width = ground.size
    middle = torch.ones(len(ground.object), device=ground.object.device)
    return _hits(middle * (height - 1) / 2, middle * (width - 1) / 2, ground, tolerance)


class Pointing(NamedTuple):
    """``hit`` and ``centre``, each ``(B,)``."""

    hit: Tensor
    centre: Tensor


def pointing_with_centre(
    maps: Tensor, truth: Tensor | Boxes, image_size: tuple[int, int] | None = None, tolerance: float = 15
) -> Pointing:
    """:func:`pointing_game` and :func:`pointing_centre` of the same images."""
    hit = pointing_game(maps, truth, image_size, tolerance)
    return Pointing(hit, pointing_centre(truth, image_size, tolerance).to(hit.device))


def _hits(rows: Tensor, columns: Tensor, ground: Truth, tolerance: float) -> Tensor:
    if tolerance < 0:
        raise ValueError(f"tolerance must be at least 0 pixels, got {tolerance}")
    height, width = ground.size
    device = ground.object.device
    down = (torch.arange(height, device=device) - rows[:, None]) ** 2
    across = (torch.arange(width, device=device) - columns[:, None]) ** 2
    near = down[:, :, None] + across[:, None, :] <= tolerance**2
    return _excluded((near & ground.object).flatten(1).any(1), ground)


def _ranking(maps: Tensor, truth: Tensor | Boxes, image_size: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Truth]:
    """Positives and negatives counted below each tie group and up to it, at every pixel, in ascending order."""
    resized, ground = _prepare(maps, truth, image_size)
    values, order = resized.flatten(1).sort(1)
    positive = ground.object.flatten(1).gather(1, order)
    negative = ground.valid.flatten(1).gather(1, order) & ~positive
    left = torch.searchsorted(values, values, right=False)
    right = torch.searchsorted(values, values, right=True)
    start = torch.zeros(len(values), 1, dtype=torch.long, device=values.device)
    positives = torch.cat([start, positive.cumsum(1)], dim=1)
    negatives = torch.cat([start, negative.cumsum(1)], dim=1)
    return positive, left, right, torch.stack([positives, negatives]), ground


@register_measure(title="Pixel AUROC", better=True, needs="truth")
def map_auroc(maps: Tensor, truth: Tensor | Boxes, image_size: tuple[int, int] | None = None) -> Tensor:
    """Area under the ROC curve of the map as a classifier of pixels; ties count half. A constant map scores 0.5."""
    positive, left, right, (positives, negatives), ground = _ranking(maps, truth, image_size)
    won = wide(negatives.gather(1, left) + negatives.gather(1, right)) / 2
    pairs = wide(positives[:, -1] * negatives[:, -1]).clamp_min(1)
    return _excluded((won * positive).sum(1) / pairs, ground)


@register_measure(title="Pixel average precision", better=True, needs="truth")
def map_average_precision(maps: Tensor, truth: Tensor | Boxes, image_size: tuple[int, int] | None = None) -> Tensor:
    """Average precision of the map as a classifier of pixels: ``sum((R_n - R_n-1) * P_n)`` over its distinct values.

    A constant map scores the object's share of the area.
    """
    positive, left, _, (positives, negatives), ground = _ranking(maps, truth, image_size)
    hits = wide(positives[:, -1:] - positives.gather(1, left))
    shown = hits + wide(negatives[:, -1:] - negatives.gather(1, left))
    precision = hits / shown.clamp_min(1)
    return _excluded((precision * positive).sum(1) / wide(positives[:, -1]).clamp_min(1), ground)
