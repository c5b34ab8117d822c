"""What an evaluation can measure, by name, and how a batch of maps is measured by several names at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attention_refine import metrics
from attention_refine.metrics._registry import measures as registered
from attention_refine.metrics._volume import laid_out
from attention_refine.metrics.ground_truth import measurable

MEASURES = registered.entries  # what is registered later is in it too

# What is measured where nothing is asked for, in this order.
SINGLE_LABEL = ("accuracy", "top5_accuracy", "macro_f1")
MULTI_LABEL = ("mean_average_precision", "macro_f1", "precision_at_1")
ON_GROUPS = ("worst_group_accuracy", "group_gap")
ON_MAPS = (
    "mask_correlation", "iou", "box_iou", "energy_inside", "energy_on_cue", "pointing_game", "insertion", "deletion",
)  # fmt: skip
CONTROLS = ("random", "centre")  # maps that look at nothing, to set beside the others
ATTRIBUTED = "integrated_gradients"  # the map that the attribution measures are of, whatever maps are judged
COSTLY = ("forwards", "attribution", "sanity")  # taken on some of the images only


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
        measure = registered.named(name)
        if measure.multi_label not in (None, multi_label):
            kind = "several labels an image" if multi_label else "one label an image"
            use = on_labels if measure.needs == "labels" else ("insertion",)
            raise ValueError(f"measure {name!r} does not fit a dataset with {kind}: use {', '.join(use)}")
        if measure.needs == "groups" and not grouped:
            raise ValueError(
                f"measure {name!r} needs groups, and the dataset has no column 'group': name the column that tells its "
                "images apart with groups= (data.group_column in a config)"
            )
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


def names_of(measures: Iterable[str], *needs: str) -> list[str]:
    """Those of the measures that need one of these."""
    return [name for name in measures if MEASURES[name].needs in needs]


def sharing(measures: Iterable[str]) -> dict[Callable[..., Any], list[str]]:
    """The measures by the function that gives them."""
    groups: dict[Callable[..., Any], list[str]] = {}
    for name in measures:
        function = MEASURES[name].function
        assert function is not None, "only the classification's own have none"
        groups.setdefault(function, []).append(name)
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
    needs: Sequence[str] = ("truth", "boxes", "cue", "volume", "map"),
) -> dict[str, Tensor]:
    """``{name: (B,)}`` of every measure that needs no forward; NaN where a sample lacks what it is compared with.

    Args:
        maps: ``(B, 1, h, w)``; of clips ``(B, 1, t, h, w)``, measured over the volume.
        mask: ``(B, 1, H, W)`` (of clips ``(B, 1, T, H, W)``) uint8, or None where no sample has one; an empty mask is no ground truth.
        boxes: one ``(n, 4)`` an image, or None.
        correct: ``(B,)`` bool, whether the prediction is right.
        cue: ``(B, 1, H, W)`` uint8, 1 on what should not be looked at, or None where no sample has any.
        needs: of the measures taken; for ``"attribution"`` the maps are integrated gradients.
    """
    values = {}
    given, cued = maps.flatten(2, 3) if maps.ndim == 5 else maps, maps
    volume = (maps, mask) if maps.ndim == 5 and mask is not None else None
    if cue is not None:
        cued, cue = laid_out(maps, cue)
    if mask is not None:
        maps, mask = laid_out(maps, mask)
        mask = measurable(mask)
    for name in names_of(measures, *needs):
        measure, options = MEASURES[name], measures[name]
        if measure.function is None:
            continue  # given by what made the maps
        if measure.needs == "map":
            found = measure.function(given, **options)
        elif measure.needs == "volume":
            found = maps.new_full((len(maps),), torch.nan) if volume is None else measure.function(*volume, **options)
        elif measure.needs == "cue":
            nothing = maps.new_full((len(maps),), torch.nan)
            found = nothing if cue is None else _where_there_is_some(cue, measure.function(cued, cue, **options))
        elif mask is None or (measure.needs == "boxes" and boxes is None):
            found = maps.new_full((len(maps),), torch.nan)
        elif measure.needs == "boxes":
            found = measure.function(maps, boxes, tuple(mask.shape[-2:]), **options)
        else:
            found = _where_there_is_some(mask, read(measure.function(maps, mask, **options), measure.reads))
        values[name] = found.masked_fill(~correct.to(found.device), torch.nan) if measure.correct_only else found
    return values


def _where_there_is_some(mask: Tensor, found: Tensor) -> Tensor:
    """NaN where the mask has no object, or nothing else, whatever the function made of it."""
    return found.masked_fill(~metrics.usable(mask).to(found.device), torch.nan) if found.ndim == 1 else found
