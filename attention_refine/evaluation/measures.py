"""What an evaluation can measure, by name, and how a batch of maps is measured by several names at once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attention_refine import metrics


@dataclass(frozen=True)
class Measure:
    """One number a sample, or for ``kind="labels"`` one a data set.

    Attributes:
        kind: ``"labels"`` (prediction against label), ``"truth"`` (map against mask or filled boxes), ``"boxes"``
            (map against boxes), ``"shape"`` (the map alone), ``"forwards"`` (the map against the model: forwards of
            altered images).
        higher_is_better: None where neither direction is better by itself.
        title: how a table calls it.
        function: for the kinds on maps without forwards, ``(maps, truth or boxes, **options) -> (B,)``.
    """

    kind: str
    higher_is_better: bool | None
    title: str
    function: Callable[..., Tensor] | None = None


def box_iou(maps: Tensor, boxes: Sequence[Tensor], image_size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """``(B,)`` best IoU of an object's box with a box drawn round a connected part of ``min-max map >= threshold``."""
    return metrics.box_overlaps(maps, boxes, image_size, torch.tensor([threshold]))[:, 0]


def pointing_game(maps: Tensor, mask: Tensor, tolerance: float | None = None) -> Tensor:
    """:func:`attention_refine.metrics.pointing_game`; None means 15 pixels at 224, in proportion to the side."""
    return metrics.pointing_game(
        maps, mask, tolerance=15 / 224 * min(mask.shape[-2:]) if tolerance is None else tolerance
    )


MEASURES: dict[str, Measure] = {
    "accuracy": Measure("labels", True, "Accuracy"),
    "top5_accuracy": Measure("labels", True, "Top-5 accuracy"),
    "precision_at_1": Measure("labels", True, "Precision of the first class"),
    "macro_f1": Measure("labels", True, "Macro F1"),
    "mean_average_precision": Measure("labels", True, "Mean average precision"),
    "mask_correlation": Measure("truth", True, "Mask correlation", metrics.mask_correlation),
    "iou": Measure("truth", True, "IoU with the object", metrics.iou),
    "best_iou": Measure("truth", True, "Best IoU", lambda *a, **k: metrics.best_iou(*a, **k).iou),
    "soft_iou": Measure("truth", True, "Soft IoU", metrics.soft_iou),
    "energy_inside": Measure("truth", True, "Energy inside the object", metrics.energy_inside),
    "pointing_game": Measure("truth", True, "Pointing game", pointing_game),
    "map_auroc": Measure("truth", True, "Pixel AUROC", metrics.map_auroc),
    "map_average_precision": Measure("truth", True, "Pixel average precision", metrics.map_average_precision),
    "box_iou": Measure("boxes", True, "IoU of boxes", box_iou),
    "sparsity": Measure("shape", None, "Sparsity", metrics.sparsity),
    "mean_activation": Measure("shape", None, "Mean activation", metrics.mean_activation),
    "entropy": Measure("shape", None, "Entropy", metrics.entropy),
    "insertion": Measure("forwards", True, "Insertion"),
    "deletion": Measure("forwards", False, "Deletion"),
    "iauc": Measure("forwards", True, "IAUC"),
    "ic": Measure("forwards", True, "Insertion correlation"),
    "dauc": Measure("forwards", False, "DAUC"),
    "dc": Measure("forwards", True, "Deletion correlation"),
    "average_drop": Measure("forwards", False, "Average drop"),
    "increase_in_confidence": Measure("forwards", True, "Increase in confidence"),
    "road": Measure("forwards", True, "ROAD"),
}
SINGLE_LABEL = ("accuracy", "top5_accuracy", "macro_f1")
MULTI_LABEL = ("mean_average_precision", "macro_f1", "precision_at_1")
ON_MAPS = (
    "mask_correlation", "iou", "box_iou", "energy_inside", "pointing_game", "insertion", "deletion",
)  # fmt: skip
CONTROLS = ("random", "centre")  # maps that look at nothing, to set beside the others
WITH_CURVES = ("insertion", "deletion", "iauc", "dauc")


def chosen_measures(
    asked: Iterable[str] | Mapping[str, Mapping[str, Any]] | None, classes: int, multi_label: bool
) -> dict[str, dict[str, Any]]:
    """The measures with their options; by default those that fit the labels, and all of :data:`ON_MAPS`.

    Raises:
        ValueError: no such measure, or one that does not fit the labels.
    """
    on_labels = MULTI_LABEL if multi_label else SINGLE_LABEL
    if asked is None:
        # With five classes or fewer the label is always among the first five.
        return {name: {} for name in (*on_labels, *ON_MAPS) if name != "top5_accuracy" or classes > 5}
    options = dict(asked) if isinstance(asked, Mapping) else {name: {} for name in asked}
    for name in options:
        if name not in MEASURES:
            close = difflib.get_close_matches(name, MEASURES, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"measure {name!r} is not one of {', '.join(MEASURES)}{hint}")
        if MEASURES[name].kind == "labels" and name not in on_labels:
            kind = "several labels an image" if multi_label else "one label an image"
            raise ValueError(f"measure {name!r} does not fit a dataset with {kind}: use {', '.join(on_labels)}")
    return {name: dict(given or {}) for name, given in options.items()}


def names_of(measures: Iterable[str], *kinds: str) -> list[str]:
    """Those of the measures that are of one of the kinds."""
    return [name for name in measures if MEASURES[name].kind in kinds]


def measure_maps(
    measures: Mapping[str, Mapping[str, Any]], maps: Tensor, mask: Tensor | None, boxes: Sequence[Tensor] | None
) -> dict[str, Tensor]:
    """``{name: (B,)}`` of every measure that needs no forward; NaN where a sample lacks what it is compared with.

    Args:
        maps: ``(B, 1, h, w)``.
        mask: ``(B, 1, H, W)`` uint8, or None where no sample has one; an empty mask is no ground truth.
        boxes: one ``(n, 4)`` an image, or None.
    """
    values = {}
    for name in names_of(measures, "truth", "boxes", "shape"):
        measure, options = MEASURES[name], measures[name]
        if measure.kind == "shape":
            values[name] = measure.function(maps, **options)
        elif mask is None or (measure.kind == "boxes" and boxes is None):
            values[name] = maps.new_full((len(maps),), torch.nan)
        elif measure.kind == "boxes":
            values[name] = measure.function(maps, boxes, tuple(mask.shape[-2:]), **options)
        else:
            values[name] = measure.function(maps, mask, **options)
    return values


def perturb(
    measures: Mapping[str, Mapping[str, Any]],
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: Tensor,
    *,
    n_steps: int,
    score: str,
    batch_size: int,
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """``{name: (B,)}`` of measures that need forwards, and ``{name: (curve (B, n), fractions (n,))}`` of their curves.

    Measures that share forwards are taken together: insertion and deletion, the two of DAUC, of IAUC, and of the drop.
    """
    wanted = names_of(measures, "forwards")
    values: dict[str, Tensor] = {}
    results: dict[str, Any] = {}
    common = {"target": target, "score": score, "batch_size": batch_size}
    if "insertion" in wanted and "deletion" in wanted and not measures["insertion"] and not measures["deletion"]:
        both = metrics.insertion_and_deletion(net, pixel_values, maps, n_steps=n_steps, **common)
        results |= {"insertion": both.insertion, "deletion": both.deletion}
    else:
        for name in ("insertion", "deletion"):
            if name in wanted:
                options = {"n_steps": n_steps, **common, **measures[name]}
                results[name] = getattr(metrics, name)(net, pixel_values, maps, **options)
    for name, correlation in (("dauc", "dc"), ("iauc", "ic")):
        if name in wanted or correlation in wanted:
            options = measures.get(name) or measures.get(correlation) or {}
            result = getattr(metrics, name)(net, pixel_values, maps, **{**common, **options})
            results |= {name: result} if name in wanted else {}
            values |= {correlation: result.correlation} if correlation in wanted else {}
    drop = [name for name in ("average_drop", "increase_in_confidence") if name in wanted]
    if drop:
        result = metrics.confidence(net, pixel_values, maps, **{**common, **measures[drop[0]]})
        fields = {"average_drop": result.average_drop, "increase_in_confidence": result.increase}
        values |= {name: fields[name] for name in drop}
    if "road" in wanted:
        values["road"] = metrics.road_combined(net, pixel_values, maps, **{**common, **measures["road"]})
    values |= {name: result.auc for name, result in results.items()}
    return values, {name: (result.curve, result.fractions) for name, result in results.items()}
