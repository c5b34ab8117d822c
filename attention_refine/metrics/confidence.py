"""Average drop and increase in confidence: the score of the image seen through its map (Chattopadhay et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ._forward import (
    check_images,
    class_scores,
    evaluating,
    forward_all,
    forward_in_chunks,
    network_input,
    resolve_target,
    usual_chunk,
)
from ._maps import check_maps, minmax, to_size
from ._registry import SCORED, register_measure


@dataclass(frozen=True)
class ConfidenceResult:
    """With ``s`` the clean score, ``m`` that of ``image * map`` and ``c`` that of ``image * (1 - map)``; each ``(B,)``.

    Args:
        average_drop: ``max(s - m, 0) / s``, as a fraction; lower is better.
        increase: 1 where ``m > s``, else 0; higher is better.
        average_drop_deletion: ``(s - c) / s`` (ADD, Jung and Oh 2021); higher is better.
        score, masked_score, complement_score: s, m, c.
        target: the class scored.
    """

    average_drop: Tensor
    increase: Tensor
    average_drop_deletion: Tensor
    score: Tensor
    masked_score: Tensor
    complement_score: Tensor
    target: Tensor


@register_measure(
    "average_drop", title="Average drop", better=False, needs="forwards", reads="average_drop", takes=SCORED
)
@register_measure(
    "increase_in_confidence",
    title="Increase in confidence",
    better=True,
    needs="forwards",
    reads="increase",
    takes=SCORED,
)
def confidence(
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: int | Tensor | None = None,
    score: str = "softmax",
    batch_size: int | None = None,
    progress: bool = False,
) -> ConfidenceResult:
    """All three measures from one set of forwards, three an image.

    Each map is min-max scaled by itself (the metrics-saliency-maps code scales over the batch, so that a result depends
    on its neighbours) and resized bilinearly (bicubic there); it multiplies the normalised image, so 0 is the fill.
    A constant map scales to zero and shows nothing.

    Args:
        score: ``"softmax"`` or ``"sigmoid"``; a logit has no meaningful ratio.

    Raises:
        ValueError: another score, a map with NaN or several maps an image.
    """
    if score not in ("softmax", "sigmoid"):
        raise ValueError(f"score {score!r} is not one of softmax, sigmoid: average drop divides by a probability")
    maps = check_maps(maps)
    check_images(pixel_values, maps)
    with evaluating(net, pixel_values.device):
        images = network_input(net, pixel_values)
        view = to_size(minmax(maps), images.shape[-2:]).to(images)
        batch = len(images)
        first = batch_size or usual_chunk(images.device)
        clean = forward_all(net, images, first)
        target = resolve_target(target, clean)

        def make(job: Tensor) -> Tensor:
            owner = job % batch
            seen = view[owner]
            return images[owner] * torch.where((job < batch).view(-1, 1, 1, 1), seen, 1 - seen)

        values = forward_in_chunks(
            net,
            make,
            lambda logits, job: class_scores(logits, target[job % batch], score),
            2 * batch,
            images.device,
            batch_size,
            progress,
        )
        masked, complement = values[:batch], values[batch:]
        whole = class_scores(clean, target, score)
    divisor = whole.clamp_min(torch.finfo(torch.float32).tiny)
    return ConfidenceResult(
        average_drop=(whole - masked).clamp_min(0) / divisor,
        increase=(masked > whole).float(),
        average_drop_deletion=(whole - complement) / divisor,
        score=whole,
        masked_score=masked,
        complement_score=complement,
        target=target,
    )


def average_drop(net: nn.Module, pixel_values: Tensor, maps: Tensor, **options: Any) -> Tensor:
    """``(B,)`` fractions; lower is better. Options, and all three measures in one pass: :func:`confidence`."""
    return confidence(net, pixel_values, maps, **options).average_drop


def increase_in_confidence(net: nn.Module, pixel_values: Tensor, maps: Tensor, **options: Any) -> Tensor:
    """``(B,)`` 0 or 1; the mean is the share of images. Options, and all in one pass: :func:`confidence`."""
    return confidence(net, pixel_values, maps, **options).increase
