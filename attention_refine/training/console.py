"""What a run says while it goes: the data before, a line an epoch, the verdict after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from attention_refine.data import describe
from attention_refine.training.choosing import Choice, Entry
from attention_refine.training.config import TrainingConfig

_NEVER = ("images", "mask_correlation_images")  # counts: the verdict says them


def data_line(name: str, dataset: Any) -> str:
    """``training: 24 images, 3 classes, 4 masks``; the number of images alone where the dataset says no more."""
    try:
        return f"{name}: {describe(dataset)}"
    except (AttributeError, TypeError, ValueError):  # no dataset of this library
        return f"{name}: {len(dataset)} images" if hasattr(dataset, "__len__") else f"{name}: a stream of images"


def half_line(types: Mapping[str, torch.dtype], kept: bool) -> str:
    """What becomes of weights of half precision, by their name."""
    names = " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in types.values()}))
    end = f"saved as {names}" if kept else f"saved so (keep_dtype=True saves {names})"
    return f"weights: {names}, trained as float32 and {end}"


def fading_line(model: nn.Module, passes: int) -> str | None:
    """How far a head's map will have come in after so many training passes; None where it is in by then."""
    head = getattr(model, "head", None)
    whole = getattr(getattr(head, "config", None), "fade_in_steps", 0)
    left = whole - int(getattr(head, "begun_steps", 0)) - passes
    if left <= 0:
        return None
    return (
        f"map: it comes in over {whole} training passes (fade_in_steps) and acts by {1 - left / whole:.0%} in the end"
    )


def epoch_line(
    entry: Entry, epochs: int | None, config: TrainingConfig, choice: Choice | None, waited: float = 0.0
) -> str:
    """``epoch 3 of 40: loss 0.412, accuracy 0.867, mask_correlation 0.610; best: epoch 2``.

    Args:
        entry: of the history.
        epochs: of the whole run; None where that is not known.
        choice: the best epoch so far; None where this one was not evaluated.
        waited: share of the steps' time in which they waited for their images; said from a tenth on.
    """
    words = [f"loss {entry['train/loss']:.3g}"] if "train/loss" in entry else []
    shown = dict.fromkeys(
        [config.monitor, "accuracy", "mean_average_precision", "worst_group_accuracy", "mask_correlation"]
    )
    if config.second_monitor not in (None, "auto"):
        shown[config.second_monitor] = None
    words += [f"{name} {entry[f'eval/{name}']:.3f}" for name in shown if f"eval/{name}" in entry and name not in _NEVER]
    words += [f"{waited:.0%} of the time waiting for images"] if waited >= 0.1 else []
    of = f" of {epochs}" if epochs else ""
    best = "" if choice is None or choice.entry is None else f"; best: epoch {choice.entry['epoch']:.0f}"
    return f"epoch {entry['epoch']:.0f}{of}: {', '.join(words)}{best}"
