"""What an evaluation can measure, by name, and how a batch of maps is measured by several names at once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attention_refine import metrics
from attention_refine.metrics.truth import measurable
from attention_refine.metrics.volume import laid_out


@dataclass(frozen=True)
class Measure:
    """One number a sample; for ``kind="labels"``, and where ``whole_set`` holds, one a data set.

    Attributes:
        kind: ``"labels"`` (prediction against label), ``"groups"`` (the same by groups of images), ``"truth"`` (map
            against mask or filled boxes), ``"boxes"`` (map against boxes), ``"cue"`` (map against what should not be
            looked at), ``"shape"`` (the map alone), ``"forwards"`` (the map against the model: forwards of altered
            images), ``"attribution"`` (the model's integrated gradients against the mask), ``"sanity"`` (the map
            against that of an altered model).
        higher_is_better: None where neither direction is better by itself.
        title: how a table calls it.
        function: on maps without forwards ``(maps, truth or boxes, **options) -> (B,)``; with forwards ``(net,
            pixel_values, maps, **options)``, given what it names of target, labels, n_steps, score and batch_size.
        reads: what of the function's result is the value, a path of attributes; empty for the result itself.
        curve: what of it has ``.curve`` and ``.fractions``; None without a curve.
        correct_only: count only images that are classified rightly.
        whole_set: the function gives ``(B, n)``, and the figure is made of all of it.
    """

    kind: str
    higher_is_better: bool | None
    title: str
    function: Callable[..., Any] | None = None
    reads: str = ""
    curve: str | None = None
    correct_only: bool = False
    whole_set: bool = False


def box_iou(maps: Tensor, boxes: Sequence[Tensor], image_size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """``(B,)`` best IoU of an object's box with a box drawn round a connected part of ``min-max map >= threshold``."""
    return metrics.box_overlaps(maps, boxes, image_size, torch.tensor([threshold]))[:, 0]


def pointing_game(maps: Tensor, mask: Tensor, tolerance: float | None = None) -> Tensor:
    """:func:`attention_refine.metrics.pointing_game`; None means 15 pixels at 224, in proportion to the side."""
    return metrics.pointing_game(
        maps, mask, tolerance=15 / 224 * min(mask.shape[-2:]) if tolerance is None else tolerance
    )


def max_box_overlaps(
    maps: Tensor,
    boxes: Sequence[Tensor],
    image_size: tuple[int, int],
    at: Sequence[float] = (0.3, 0.5, 0.7),
    thresholds: int = 101,
    largest_only: bool = False,
) -> Tensor:
    """``(B, thresholds)`` of :func:`attention_refine.metrics.box_overlaps`; ``at`` is for the whole set's figure."""
    return metrics.box_overlaps(maps, boxes, image_size, metrics.threshold_grid(thresholds), largest_only)


def pixel_flipping(
    net: nn.Module, pixel_values: Tensor, maps: Tensor, target: Tensor, n_steps: int, batch_size: int, **options
) -> metrics.PerturbationResult:
    """:func:`attention_refine.metrics.pixel_flipping` on the logit, whatever the other measures score."""
    return metrics.pixel_flipping(net, pixel_values, maps, target, n_steps, batch_size=batch_size, **options)


MEASURES: dict[str, Measure] = {
    "accuracy": Measure("labels", True, "Accuracy"),
    "top5_accuracy": Measure("labels", True, "Top-5 accuracy"),
    "precision_at_1": Measure("labels", True, "Precision of the first class"),
    "macro_f1": Measure("labels", True, "Macro F1"),
    "mean_average_precision": Measure("labels", True, "Mean average precision"),
    "worst_group_accuracy": Measure("groups", True, "Accuracy of the worst group"),
    "group_gap": Measure("groups", False, "Gap between best and worst group"),
    "mask_correlation": Measure("truth", True, "Mask correlation", metrics.mask_correlation),
    "iou": Measure("truth", True, "IoU with the object", metrics.iou),
    "iou_true_positives": Measure("truth", True, "IoU, true positives", metrics.iou, correct_only=True),
    "best_iou": Measure("truth", True, "Best IoU", metrics.best_iou, "iou"),
    "soft_iou": Measure("truth", True, "Soft IoU", metrics.soft_iou),
    "energy_inside": Measure("truth", True, "Energy inside the object", metrics.energy_inside),
    "energy_on_cue": Measure("cue", False, "Energy on the cue", metrics.energy_inside),
    "pointing_game": Measure("truth", True, "Pointing game", pointing_game),
    "map_auroc": Measure("truth", True, "Pixel AUROC", metrics.map_auroc),
    "map_average_precision": Measure("truth", True, "Pixel average precision", metrics.map_average_precision),
    "box_iou": Measure("boxes", True, "IoU of boxes", box_iou),
    "max_box_acc": Measure("boxes", True, "MaxBoxAcc", max_box_overlaps, whole_set=True),
    "sparsity": Measure("shape", None, "Sparsity", metrics.sparsity),
    "mean_activation": Measure("shape", None, "Mean activation", metrics.mean_activation),
    "entropy": Measure("shape", None, "Entropy", metrics.entropy),
    "insertion": Measure("forwards", True, "Insertion", metrics.insertion, "auc", curve=""),
    "deletion": Measure("forwards", False, "Deletion", metrics.deletion, "auc", curve=""),
    "token_insertion": Measure(
        "forwards", True, "Token insertion", metrics.token_insertion_and_deletion, "insertion.auc", curve="insertion"
    ),
    "token_deletion": Measure(
        "forwards", False, "Token deletion", metrics.token_insertion_and_deletion, "deletion.auc", curve="deletion"
    ),
    "insertion_mining": Measure("forwards", True, "Insertion (mining)", metrics.insertion_mining, "auc", curve=""),
    "pixel_flipping": Measure("forwards", True, "Pixel flipping (AOPC)", pixel_flipping, "aopc"),
    "iauc": Measure("forwards", True, "IAUC", metrics.iauc, "auc", curve=""),
    "ic": Measure("forwards", True, "Insertion correlation", metrics.iauc, "correlation"),
    "dauc": Measure("forwards", False, "DAUC", metrics.dauc, "auc", curve=""),
    "dc": Measure("forwards", True, "Deletion correlation", metrics.dauc, "correlation"),
    "average_drop": Measure("forwards", False, "Average drop", metrics.confidence, "average_drop"),
    "increase_in_confidence": Measure("forwards", True, "Increase in confidence", metrics.confidence, "increase"),
    "comprehensiveness": Measure("forwards", True, "Comprehensiveness", metrics.rationale, "comprehensiveness"),
    "sufficiency": Measure("forwards", False, "Sufficiency", metrics.rationale, "sufficiency"),
    "road": Measure("forwards", True, "ROAD", metrics.road_combined),
    "attribution_mass": Measure("attribution", True, "Attribution mass", metrics.attribution_mass),
    "attribution_detail": Measure("attribution", None, "Attribution detail", metrics.attribution_detail),
    "completeness_error": Measure("attribution", False, "Completeness error"),
    "parameter_randomisation": Measure("sanity", False, "Likeness after randomising weights"),
    "label_randomisation": Measure("sanity", False, "Likeness to a model of random labels"),
}
SINGLE_LABEL = ("accuracy", "top5_accuracy", "macro_f1")
MULTI_LABEL = ("mean_average_precision", "macro_f1", "precision_at_1")
ON_GROUPS = ("worst_group_accuracy", "group_gap")
ON_MAPS = (
    "mask_correlation", "iou", "box_iou", "energy_inside", "energy_on_cue", "pointing_game", "insertion", "deletion",
)  # fmt: skip
CONTROLS = ("random", "centre")  # maps that look at nothing, to set beside the others
ATTRIBUTED = "integrated_gradients"  # the map that the attribution measures are of, whatever maps are judged
WITH_CURVES = tuple(name for name, measure in MEASURES.items() if measure.curve is not None)
COSTLY = ("forwards", "attribution", "sanity")  # kinds taken on some of the images only


def chosen_measures(
    asked: Iterable[str] | Mapping[str, Mapping[str, Any]] | None,
    classes: int,
    multi_label: bool,
    grouped: bool = False,
) -> dict[str, dict[str, Any]]:
    """The measures with their options; by default those that fit the labels and groups, and all of :data:`ON_MAPS`.

    Raises:
        ValueError: no such measure, or one that does not fit the labels, or of groups where there are none.
    """
    on_labels = MULTI_LABEL if multi_label else SINGLE_LABEL
    if asked is None:
        # With five classes or fewer the label is always among the first five.
        usual = (*on_labels, *(ON_GROUPS if grouped else ()), *ON_MAPS)
        return {name: {} for name in usual if name != "top5_accuracy" or classes > 5}
    options = dict(asked) if isinstance(asked, Mapping) else {name: {} for name in asked}
    for name in options:
        if name not in MEASURES:
            close = difflib.get_close_matches(name, MEASURES, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"measure {name!r} is not one of {', '.join(MEASURES)}{hint}")
        if MEASURES[name].kind == "labels" and name not in on_labels:
            kind = "several labels an image" if multi_label else "one label an image"
            raise ValueError(f"measure {name!r} does not fit a dataset with {kind}: use {', '.join(on_labels)}")
        if MEASURES[name].kind == "groups" and not grouped:
            raise ValueError(
                f"measure {name!r} needs groups, and the dataset has no column 'group': name the column that tells its "
                "images apart with groups= (data.group_column in a config)"
            )
        if name == "insertion_mining" and multi_label:
            raise ValueError("measure 'insertion_mining' needs one label an image: use insertion")
        if name == "label_randomisation" and not isinstance((options[name] or {}).get("model"), str):
            raise ValueError(
                "measure 'label_randomisation' compares with a model trained on shuffled labels "
                "(metrics.shuffle_labels): give {'label_randomisation': {'model': FOLDER}}"
            )
    chosen = {name: dict(given or {}) for name, given in options.items()}
    for names in sharing(names_of(chosen, "forwards")).values():
        given = {repr(chosen[name]): name for name in names if chosen[name]}
        if len(given) > 1:
            raise ValueError(f"measures {', '.join(given.values())} come of one run: give their options once, or alike")
    return chosen


def names_of(measures: Iterable[str], *kinds: str) -> list[str]:
    """Those of the measures that are of one of the kinds."""
    return [name for name in measures if MEASURES[name].kind in kinds]


def sharing(measures: Iterable[str]) -> dict[Callable[..., Any], list[str]]:
    """The measures by the function that gives them."""
    groups: dict[Callable[..., Any], list[str]] = {}
    for name in measures:
        groups.setdefault(MEASURES[name].function, []).append(name)
    return groups


def read(result: Any, path: str) -> Any:
    """What lies at ``a.b`` in a result; the result itself for an empty path."""
    for name in filter(None, path.split(".")):
        result = getattr(result, name)
    return result


def measure_maps(
    measures: Mapping[str, Mapping[str, Any]],
    maps: Tensor,
    mask: Tensor | None,
    boxes: Sequence[Tensor] | None,
    correct: Tensor,
    cue: Tensor | None = None,
    kinds: Sequence[str] = ("truth", "boxes", "cue", "shape"),
) -> dict[str, Tensor]:
    """``{name: (B,)}`` of every measure that needs no forward; NaN where a sample lacks what it is compared with.

    Args:
        maps: ``(B, 1, h, w)``; of clips ``(B, 1, t, h, w)``, measured over the volume.
        mask: ``(B, 1, H, W)`` (of clips ``(B, 1, T, H, W)``) uint8, or None where no sample has one; an empty mask is no ground truth.
        boxes: one ``(n, 4)`` an image, or None.
        correct: ``(B,)`` bool, whether the prediction is right.
        cue: ``(B, 1, H, W)`` uint8, 1 on what should not be looked at, or None where no sample has any.
        kinds: of measure; for ``"attribution"`` the maps are integrated gradients.
    """
    values = {}
    given, cued = maps.flatten(2, 3) if maps.ndim == 5 else maps, maps
    if cue is not None:
        cued, cue = laid_out(maps, cue)
    if mask is not None:
        maps, mask = laid_out(maps, mask)
        mask = measurable(mask)
    for name in names_of(measures, *kinds):
        measure, options = MEASURES[name], measures[name]
        if measure.function is None:
            continue  # given by what made the maps
        if measure.kind == "shape":
            found = measure.function(given, **options)
        elif measure.kind == "cue":
            nothing = maps.new_full((len(maps),), torch.nan)
            found = nothing if cue is None else measure.function(cued, cue, **options)
        elif mask is None or (measure.kind == "boxes" and boxes is None):
            found = maps.new_full((len(maps),), torch.nan)
        elif measure.kind == "boxes":
            found = measure.function(maps, boxes, tuple(mask.shape[-2:]), **options)
        else:
            found = read(measure.function(maps, mask, **options), measure.reads)
        values[name] = found.masked_fill(~correct.to(found.device), torch.nan) if measure.correct_only else found
    return values
