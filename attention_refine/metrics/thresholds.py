"""Localisation over all thresholds: an image's best IoU, a data set's MaxBoxAcc and PxAP (Choe et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._maps import check_maps, minmax, to_size, wide
from ._registry import register_measure
from .ground_truth import Boxes, read_truth

EIGHT = np.ones((3, 3), dtype=int)  # neighbours: corners, too


class BestIoU(NamedTuple):
    """``iou`` (B,) at each image's best ``threshold`` (B,), and ``curve`` (B, T), the IoU at them all."""

    iou: Tensor
    threshold: Tensor
    curve: Tensor


class MaxBoxAcc(NamedTuple):
    """``accuracy``, the mean over the overlaps asked for; ``by_overlap`` and the ``threshold`` index reaching each."""

    accuracy: Tensor
    by_overlap: Tensor
    threshold: Tensor


def threshold_grid(count: int = 101) -> Tensor:
    """``count`` thresholds from 0 to 1 included. The WSOL code takes steps of 0.001: ``threshold_grid(1001)``."""
    if count < 2:
        raise ValueError(f"a grid of thresholds needs at least 2, got {count}")
    return torch.linspace(0, 1, count, dtype=torch.float64).float()


@register_measure(title="Best IoU", better=True, needs="truth", reads="iou")
def best_iou(
    maps: Tensor,
    truth: Tensor | Boxes,
    image_size: tuple[int, int] | None = None,
    thresholds: Tensor | None = None,
) -> BestIoU:
    """IoU of ``min-max map >= threshold`` with the object, at every threshold, and the best of them for each image.

    A best threshold chosen per image is an upper bound no single threshold reaches; ``curve.nanmean(0).max()`` is the
    best that one threshold does for the whole set. A constant map is all zero after scaling: positive everywhere at
    threshold 0 and nowhere else, so its best is the object's share. The first of equal thresholds is returned.
    """
    maps = check_maps(maps)
    ground = read_truth(maps, truth, image_size)
    thresholds = (threshold_grid() if thresholds is None else thresholds).to(maps.device)
    positive, valid = ground.object.flatten(1), ground.valid.flatten(1)
    at_least = _counter(minmax(to_size(maps, ground.size)).flatten(1), thresholds)
    both = wide(at_least(positive))
    either = wide(at_least(valid & ~positive)) + positive.sum(1, keepdim=True)
    curve = (both / either.clamp_min(1)).float().masked_fill(~ground.usable[:, None], torch.nan)
    best, at = curve.max(1)
    return BestIoU(best, thresholds[at].masked_fill(~ground.usable, torch.nan), curve)


def _counter(scaled: Tensor, thresholds: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of pixels ``(B, n)``, 0 and 1: how many of them are at least so bright, ``(B, T)``."""
    if thresholds.ndim != 1 or len(thresholds) == 0 or bool((thresholds.diff() <= 0).any()):
        raise ValueError("thresholds must be a 1-D tensor in increasing order")
    # A pixel of value v is positive at the thresholds <= v: count pixels by their last one, then sum from the top.
    level = torch.searchsorted(thresholds, scaled.contiguous(), right=True)
    shape = (len(scaled), len(thresholds) + 1)

    def at_least(pixels: Tensor) -> Tensor:
        counts = torch.zeros(shape, dtype=torch.long, device=scaled.device).scatter_add_(1, level, pixels.long())
        return counts.flip(1).cumsum(1).flip(1)[:, 1:]

    return at_least


def pixel_counts(
    maps: Tensor, truth: Tensor | Boxes, image_size: tuple[int, int] | None = None, thresholds: Tensor | None = None
) -> Tensor:
    """``(B, 2, T)`` float64: pixels of the object, and pixels in all, where ``min-max map >= threshold``.

    Void pixels are not counted. NaN rows for images without ground truth. :func:`pixel_precision` makes PxAP of all
    images together.

    Raises:
        ValueError: thresholds that do not increase.
    """
    maps = check_maps(maps)
    ground = read_truth(maps, truth, image_size)
    thresholds = (threshold_grid() if thresholds is None else thresholds).to(maps.device)
    at_least = _counter(minmax(to_size(maps, ground.size)).flatten(1), thresholds)
    counts = torch.stack([at_least(ground.object.flatten(1)), at_least(ground.valid.flatten(1))], dim=1).double()
    return counts.masked_fill(~ground.usable[:, None, None], torch.nan)


def pixel_precision(counts: Tensor) -> Tensor:
    """PxAP of Choe et al. 2020 (eq. 4): average precision of all pixels of a set, pooled, from :func:`pixel_counts`.

    :math:`\\sum_l P(\\tau_l) (R(\\tau_l) - R(\\tau_{l-1}))`, thresholds falling; the lowest must be 0, where every pixel of
    a map that was scaled to [0, 1] is positive. Large objects count by their area, as there.

    Args:
        counts: ``(N, 2, T)``, all images together; NaN rows are left out. Without any the result is NaN.
    """
    hits, marked = counts[~counts.flatten(1).isnan().any(1)].sum(0).flip(1)
    recall = hits / hits[-1]
    gained = torch.diff(recall, prepend=torch.zeros_like(recall[:1]))
    return (gained * hits / marked.clamp_min(1)).sum()


def box_overlaps(
    maps: Tensor,
    boxes: Boxes,
    image_size: tuple[int, int],
    thresholds: Tensor | None = None,
    largest_only: bool = False,
) -> Tensor:
    """``(B, T)`` best IoU between a ground-truth box and a box drawn round what the map marks, at each threshold.

    Boxes are drawn round the 8-connected components of ``min-max map >= threshold`` (the contours of the WSOL code).

    Args:
        boxes: one ``(n, 4)`` tensor an image, ``x1 y1 x2 y2``, edges in pixels: a component over columns 3 to 5 is the
            box 3..6. The WSOL code counts inclusive corners and adds 1, which is the same box.
        largest_only: only the component of most pixels (MaxBoxAcc); False tries every one (MaxBoxAccV2).

    Returns:
        NaN rows for images without a box. Connected components are found on the CPU.
    """
    maps = check_maps(maps)
    if len(boxes) != len(maps):
        raise ValueError(f"{len(boxes)} sets of boxes for {len(maps)} maps: give one an image")
    thresholds = threshold_grid() if thresholds is None else thresholds
    scaled = minmax(to_size(maps, image_size))[:, 0].cpu().numpy()
    table = np.full((len(maps), len(thresholds)), np.nan, dtype=np.float32)
    for sample, (values, truth) in enumerate(zip(scaled, boxes)):
        true = truth.cpu().double().numpy().reshape(-1, 4)
        if len(true) == 0:
            continue
        for column, drawn in enumerate(_drawn(values, thresholds.cpu().numpy(), largest_only)):
            table[sample, column] = _pairwise_iou(drawn, true).max(initial=0.0)
    return torch.from_numpy(table).to(maps.device)


def _drawn(values: np.ndarray, thresholds: np.ndarray, largest_only: bool) -> list[np.ndarray]:
    """``(n, 4)`` boxes of the 8-connected components of ``values >= threshold``, for each threshold.

    Every component holds a peak, and between two peaks components only grow and merge as the threshold falls. So where a
    threshold leaves one component, lower ones do, too, down to the next peak: its box is that of all that is marked.
    """
    from scipy import ndimage

    brightest = values.max(1), values.max(0)
    plateaus, count = ndimage.label(values == ndimage.maximum_filter(values, size=3, mode="nearest"), structure=EIGHT)
    peaks = np.sort(ndimage.maximum(values, plateaus, np.arange(1, count + 1)))
    found: dict[int, np.ndarray] = {}
    one_since = 1  # with so many peaks there is one component
    for at in np.argsort(-thresholds, kind="stable"):
        threshold = thresholds[at]
        rows, columns = (np.flatnonzero(each >= threshold) for each in brightest)
        if len(rows) == 0:
            found[at] = np.zeros((0, 4))
            continue
        top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
        above = count - int(np.searchsorted(peaks, threshold))
        boxes = np.array([[left, top, right, bottom]], dtype=float)
        if above != one_since:
            labels, parts = ndimage.label(values[top:bottom, left:right] >= threshold, structure=EIGHT)
            one_since = above if parts == 1 else -1
            if parts > 1:
                boxes = boxes[:, [0, 1, 0, 1]] + _boxes_of(labels, largest_only)
        found[at] = boxes
    return [found[at] for at in range(len(thresholds))]


def _boxes_of(labels: np.ndarray, largest_only: bool) -> np.ndarray:
    from scipy import ndimage

    found = ndimage.find_objects(labels)
    if largest_only:
        found = [found[np.bincount(labels.ravel())[1:].argmax()]]
    return np.array([[c.start, r.start, c.stop, r.stop] for r, c in found], dtype=float)


def max_box_accuracy(overlaps: Tensor, at: Sequence[float] = (0.3, 0.5, 0.7)) -> MaxBoxAcc:
    """Share of images whose box overlaps the truth by at least ``at``, at the one best threshold for the set.

    Args:
        overlaps: ``(N, T)`` from :func:`box_overlaps`, all images together; NaN rows are left out.
        at: IoU to reach; (0.3, 0.5, 0.7) is MaxBoxAccV2's, (0.5,) with ``largest_only`` is MaxBoxAcc.
    """
    kept = overlaps[~overlaps.isnan().any(1)]
    rates = torch.stack([(kept >= delta).cpu().double().mean(0) for delta in at])
    if len(kept) == 0:
        nan = torch.full((len(at),), torch.nan)
        return MaxBoxAcc(nan.mean(), nan, torch.zeros(len(at), dtype=torch.long))
    best, threshold = rates.max(1)
    return MaxBoxAcc(best.mean().float(), best.float(), threshold)


def _pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area_a, area_b = (a[:, 2:] - a[:, :2]).prod(-1), (b[:, 2:] - b[:, :2]).prod(-1)
    return shared / np.maximum(area_a[:, None] + area_b[None] - shared, 1e-12)
