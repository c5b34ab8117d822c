"""Measures that an evaluation makes itself, and functions in the form in which it takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import localisation, perturbation
from ._registry import Measure, measures, register_measure
from .thresholds import box_overlaps, pixel_counts, threshold_grid

_MADE = {
    "accuracy": Measure("Accuracy", True, "labels", multi_label=False, column="correct"),
    "top5_accuracy": Measure("Top-5 accuracy", True, "labels", multi_label=False, column="correct_top5"),
    "precision_at_1": Measure("Precision of the first class", True, "labels", multi_label=True, column="correct"),
    "macro_f1": Measure("Macro F1", True, "labels"),
    "mean_average_precision": Measure("Mean average precision", True, "labels", multi_label=True),
    "worst_group_accuracy": Measure("Accuracy of the worst group", True, "groups"),
    "group_gap": Measure("Gap between best and worst group", False, "groups"),
    "completeness_error": Measure("Completeness error", False, "attribution"),
    "parameter_randomisation": Measure("Likeness after randomising weights", False, "sanity"),
    "label_randomisation": Measure("Likeness to a model of random labels", False, "sanity"),
}
for _name, _measure in _MADE.items():
    measures.enter(_name, _measure, Measure)


@register_measure(title="IoU of boxes", better=True, needs="boxes")
def box_iou(maps: Tensor, boxes: Sequence[Tensor], image_size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """``(B,)`` best IoU of an object's box with a box drawn round a connected part of ``min-max map >= threshold``."""
    return box_overlaps(maps, boxes, image_size, torch.tensor([threshold]))[:, 0]


@register_measure(title="Pointing game", better=True, needs="truth")
def pointing_game(maps: Tensor, mask: Tensor, tolerance: float | None = None) -> Tensor:
    """:func:`attention_refine.metrics.pointing_game`; None means 15 pixels at 224, in proportion to the side."""
    tolerance = 15 / 224 * min(mask.shape[-2:]) if tolerance is None else tolerance
    return localisation.pointing_game(maps, mask, tolerance=tolerance)


@register_measure("max_box_acc", title="MaxBoxAcc", better=True, needs="boxes")
def max_box_overlaps(
    maps: Tensor,
    boxes: Sequence[Tensor],
    image_size: tuple[int, int],
    at: Sequence[float] = (0.3, 0.5, 0.7),
    thresholds: int = 101,
    largest_only: bool = False,
    chosen: Sequence[float] | None = None,
) -> Tensor:
    """``(B, thresholds)`` of :func:`attention_refine.metrics.box_overlaps`; ``at`` is for the whole set's figure.

    ``chosen``: thresholds found on other images, one for each of ``at``, in place of the best of this set.

    Raises:
        ValueError: as many thresholds as overlaps were not chosen, or one lies outside [0, 1].
    """
    if chosen is None:
        return box_overlaps(maps, boxes, image_size, threshold_grid(thresholds), largest_only)
    if len(chosen) != len(at) or not all(0 <= each <= 1 for each in chosen):
        raise ValueError(f"chosen={list(chosen)}: give one threshold in [0, 1] for each overlap of at={list(at)}")
    each = [box_overlaps(maps, boxes, image_size, torch.tensor([threshold]), largest_only) for threshold in chosen]
    return torch.cat(each, dim=1)


@register_measure("pxap", title="PxAP (pixels of all images)", better=True, needs="truth")
def pooled_pixels(
    maps: Tensor, truth: Tensor, image_size: tuple[int, int] | None = None, thresholds: int = 101
) -> Tensor:
    """``(B, 2 thresholds)`` of :func:`attention_refine.metrics.pixel_counts`, from which the whole set's figure is made."""
    return pixel_counts(maps, truth, image_size, threshold_grid(thresholds)).flatten(1)


@register_measure(
    title="Pixel flipping (AOPC)",
    better=True,
    needs="forwards",
    reads="aopc",
    takes=("target", "n_steps", "batch_size"),
)
def pixel_flipping(
    net: nn.Module, pixel_values: Tensor, maps: Tensor, target: Tensor, n_steps: int, batch_size: int, **options: Any
) -> perturbation.PerturbationResult:
    """:func:`attention_refine.metrics.pixel_flipping` on the logit, whatever the other measures score."""
    return perturbation.pixel_flipping(net, pixel_values, maps, target, n_steps, batch_size=batch_size, **options)
