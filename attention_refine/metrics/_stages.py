"""The engine of every perturbation measure: scores of images of which part is replaced by a fill.

An image's pixels are ranked once. A stage keeps the pixels whose rank lies in ``[low, high)`` and fills the others, so
deletion, insertion and their kin differ only in their list of stages. A stage that keeps everything is the clean image
and one that keeps nothing is the fill: both are forwarded once, however many curves share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._forward import (
    check_images,
    check_score,
    class_scores,
    evaluating,
    forward_all,
    forward_in_chunks,
    network_input,
    resolve_target,
    usual_chunk,
)


@dataclass(frozen=True)
class Stage:
    """Keep the pixels ranked in ``[low, high)``; show ``fills[fill]`` elsewhere."""

    low: int
    high: int
    fill: int = 0


@dataclass(frozen=True)
class StageScores:
    """``score`` (B, S) of the target, ``hit`` (B, S) bool where it is the first class; both of the clean image."""

    score: Tensor
    hit: Tensor
    clean_score: Tensor
    clean_hit: Tensor
    target: Tensor


def counts_of(n_steps: int, total: int) -> list[int]:
    """``n_steps + 1`` numbers of pixels from 0 to ``total``, as evenly spaced as whole pixels allow."""
    if not 1 <= n_steps <= total:
        raise ValueError(f"n_steps must be between 1 and the {total} places there are to remove, got {n_steps}")
    return [(2 * j * total + n_steps) // (2 * n_steps) for j in range(n_steps + 1)]


def trapezoid(curve: Tensor, fractions: Tensor) -> Tensor:
    """``(B,)`` area under ``curve`` (B, n) over ``fractions`` (n,), divided by their span; summed in float64."""
    span = fractions[-1] - fractions[0]
    return (torch.trapezoid(curve.cpu().double(), fractions.cpu().double(), dim=1) / span.cpu().double()).to(curve)


def score_stages(
    net: nn.Module,
    images: Tensor,
    rank: Tensor,
    stages: Sequence[Stage],
    fills: Sequence[Tensor],
    target: int | Tensor | None,
    score: str,
    batch_size: int | None = None,
    progress: bool = False,
) -> StageScores:
    """Score every stage of every image.

    Args:
        images: ``(B, C, H, W)`` as the network sees them.
        rank: ``(B, H * W)`` int32, each pixel's place in the order of removal; several pixels may share a place.
        stages: what to keep; ``fills``: what to show elsewhere, each broadcastable to ``images``.
        target: class index, ``(B,)`` indices, or None for the class predicted on the clean image.
    """
    check_images(images, rank)
    check_score(score)
    with evaluating(net, images.device):
        images = network_input(net, images)
        rank = rank.to(images.device)
        batch, places = len(images), int(rank.max()) + 1
        first = batch_size or usual_chunk(images.device)
        clean = forward_all(net, images, first)
        target = resolve_target(target, clean)

        def read(logits: Tensor, owner: Tensor) -> Tensor:
            wanted = target[owner]
            return torch.stack([class_scores(logits, wanted, score), (logits.argmax(1) == wanted).float()], dim=1)

        everyone = torch.arange(batch, device=images.device)
        values = torch.empty(batch, len(stages), 2, device=images.device)
        whole = [stage.low <= 0 and stage.high >= places for stage in stages]
        empty = [stage.high <= stage.low and not all_ for stage, all_ in zip(stages, whole)]
        values[:, whole] = read(clean, everyone)[:, None]
        for number, fill in enumerate(fills):
            at = [e and stage.fill == number for e, stage in zip(empty, stages)]
            if any(at):
                alone = fill.to(images).expand(len(fill), *images.shape[1:])  # one image where all share the fill
                logits = forward_all(net, alone, first)
                values[:, at] = read(logits.expand(batch, -1), everyone)[:, None]

        inner = torch.tensor([s for s in range(len(stages)) if not (whole[s] or empty[s])], device=images.device)
        if len(inner):
            low = torch.tensor([stage.low for stage in stages], device=images.device)[inner]
            high = torch.tensor([stage.high for stage in stages], device=images.device)[inner]
            which = torch.tensor([stage.fill for stage in stages], device=images.device)[inner]
            painted = torch.stack([fill.to(images).expand_as(images) for fill in fills])

            def make(job: Tensor) -> Tensor:
                owner, stage = job // len(inner), job % len(inner)
                kept = (rank[owner] >= low[stage, None]) & (rank[owner] < high[stage, None])
                kept = kept.view(len(job), 1, *images.shape[-2:])
                return torch.where(kept, images[owner], painted[which[stage], owner])

            jobs = batch * len(inner)
            inner_values = forward_in_chunks(
                net,
                make,
                lambda logits, job: read(logits, job // len(inner)),
                jobs,
                images.device,
                batch_size,
                progress,
            )
            values[:, inner] = inner_values.view(batch, len(inner), 2)
        clean_values = read(clean, everyone)
    return StageScores(values[..., 0], values[..., 1] > 0, clean_values[:, 0], clean_values[:, 1] > 0, target)
