"""ROAD, remove and debias (Rong et al. 2022): removed pixels are imputed from their neighbours.

No fill colour and no mask-shaped edge gives the removal away. The linear system is solved exactly.

"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

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
from ._registry import SCORED, register_measure
from .perturbation import pixel_ranks

# (rows down, columns right, weight): ROAD's direct and diagonal neighbours; a full neighbourhood sums to 1.
NEIGHBOURS = (
    (-1, -1, 1 / 12), (-1, 0, 1 / 6), (-1, 1, 1 / 12), (0, -1, 1 / 6),
    (0, 1, 1 / 6), (1, -1, 1 / 12), (1, 0, 1 / 6), (1, 1, 1 / 12),
)  # fmt: skip


@dataclass(frozen=True)
class RoadResult:
    """ROAD's curves, sample by sample.

    Args:
        score: ``(B, P)`` of the target with the first of ``fractions`` (P,) of the pixels imputed.
        hit: ``(B, P)`` bool, whether the target is still the first class: its mean is the accuracy the paper plots.
        clean_score: ``(B,)``; target: ``(B,)``.
    """

    score: Tensor
    hit: Tensor
    fractions: Tensor
    clean_score: Tensor
    target: Tensor


def impute(image: Tensor, removed: Tensor) -> Tensor:
    """``image`` (C, H, W) whose ``removed`` (H, W) bool pixels become the weighted means of their neighbours.

    One sparse, symmetric positive definite system an image, shared by the channels, solved directly in float64 (an
    iterative solver stops far from the solution when much is removed). At a border the weights left are renormalised.

    Raises:
        ValueError: nothing is left to impute from.
    """
    from scipy.sparse import csc_matrix
    from scipy.sparse.linalg import splu

    gone = removed.cpu().numpy()
    height, width = gone.shape
    rows, columns = gone.nonzero()
    count = len(rows)
    if count == 0:
        return image.clone()
    if count == gone.size:
        raise ValueError("every pixel is removed: there is nothing to impute from, remove less than the whole image")
    known = image.detach().cpu().double().numpy()
    number = np.full((height, width), -1, dtype=np.int32)
    number[rows, columns] = np.arange(count, dtype=np.int32)
    down, right, weight = (np.array(part) for part in zip(*NEIGHBOURS))
    near_rows, near_columns = rows[:, None] + down, columns[:, None] + right  # (count, 8)
    exists = (near_rows >= 0) & (near_rows < height) & (near_columns >= 0) & (near_columns < width)
    near_rows, near_columns = near_rows.clip(0, height - 1), near_columns.clip(0, width - 1)
    weights = np.where(exists, weight, 0.0)
    unknown = number[near_rows, near_columns]
    given = np.where(unknown < 0, weights, 0.0)
    right_side = np.einsum("nk,cnk->nc", given, known[:, near_rows, near_columns])
    # The matrix is symmetric, so its compressed rows are its compressed columns: built in place, no sorting of triples.
    entries = np.concatenate([weights.sum(1, keepdims=True), -weights], axis=1)
    where = np.concatenate([np.arange(count, dtype=np.int32)[:, None], unknown], axis=1)
    used = np.concatenate([np.ones((count, 1), dtype=bool), exists & (unknown >= 0)], axis=1)
    pointers = np.concatenate([[0], used.sum(1).cumsum()]).astype(np.int32)
    matrix = csc_matrix((entries[used], where[used], pointers), shape=(count, count))
    matrix.sort_indices()
    solver = splu(matrix, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    solved = torch.from_numpy(solver.solve(right_side).T).to(image)
    filled = image.clone()
    filled[:, torch.from_numpy(rows).to(image.device), torch.from_numpy(columns).to(image.device)] = solved
    return filled


def road(
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: int | Tensor | None = None,
    fractions: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    order: str = "most",
    noise: float = 0.01,
    seed: int = 0,
    score: str = "softmax",
    batch_size: int | None = None,
    progress: bool = False,
) -> RoadResult:
    """Score with the most (or least) attended pixels imputed.

    Args:
        fractions: of the pixels to remove, each in (0, 1). Exactly ``round(fraction * H * W)`` pixels go, in the map's
            stable descending order (pytorch-grad-cam thresholds at a percentile instead, so ties go together there).
        order: ``"most"`` relevant first (lower scores are better) or ``"least"`` (higher are better).
        noise: deviation of the Gaussian noise on imputed pixels; one field, drawn from ``seed``, serves all images, so
            that a sample does not depend on its batch.

    Raises:
        ValueError: a fraction outside (0, 1), an unknown order, and as the perturbation measures do.
    """
    if order not in ("most", "least"):
        raise ValueError(f"order {order!r} is not one of most, least")
    scores, clean, chosen = _imputed_scores(
        net, pixel_values, maps, target, fractions, (order,), noise, seed, score, batch_size, progress
    )
    points = torch.tensor(list(fractions), device=scores.device)
    return RoadResult(scores[:, 0, :, 0], scores[:, 0, :, 1] > 0, points, clean, chosen)


@register_measure("road", title="ROAD", better=True, needs="forwards", takes=SCORED)
def road_combined(
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: int | Tensor | None = None,
    fractions: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    noise: float = 0.01,
    seed: int = 0,
    score: str = "softmax",
    batch_size: int | None = None,
    progress: bool = False,
) -> Tensor:
    """``(B,)``: mean over ``fractions`` of ``(score least first - score most first) / 2``; higher is better."""
    scores, _, _ = _imputed_scores(
        net, pixel_values, maps, target, fractions, ("least", "most"), noise, seed, score, batch_size, progress
    )
    return (scores[:, 0, :, 0] - scores[:, 1, :, 0]).mean(1) / 2


def _imputed_scores(
    net: nn.Module, pixel_values: Tensor, maps: Tensor, target: Any, fractions: Sequence[float], orders: Sequence[str],
    noise: float, seed: int, score: str, batch_size: int | None, progress: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """``(B, orders, P, 2)`` score and hit, ``(B,)`` clean score, ``(B,)`` target."""
    if not fractions or not all(0 < f < 1 for f in fractions):
        raise ValueError(f"fractions must lie between 0 and 1, both excluded, got {tuple(fractions)}")
    check_score(score)
    rank = pixel_ranks(pixel_values, maps)
    check_images(pixel_values, rank)
    batch, total = rank.shape
    counts = [min(max(1, round(f * total)), total - 1) for f in fractions]
    field = torch.randn(pixel_values.shape[1:], generator=torch.Generator().manual_seed(seed))
    per_image = len(orders) * len(counts)
    with (
        evaluating(net, pixel_values.device),
        tqdm(total=batch * per_image, disable=not progress, unit="solve", leave=False) as bar,
    ):
        images = network_input(net, pixel_values)
        first = batch_size or usual_chunk(images.device)
        clean = forward_all(net, images, first)
        target = resolve_target(target, clean)

        def make(job: Tensor) -> Tensor:
            made = []
            for owner, rest in zip((job // per_image).tolist(), (job % per_image).tolist()):
                count = counts[rest % len(counts)]
                places = rank[owner] if orders[rest // len(counts)] == "most" else total - 1 - rank[owner]
                removed = (places < count).view(images.shape[-2:])
                filled = impute(images[owner], removed)
                made.append(filled + noise * field.to(filled) * removed.to(filled))
            bar.update(len(made))
            return torch.stack(made)

        def read(logits: Tensor, job: Tensor) -> Tensor:
            wanted = target[job // per_image]
            return torch.stack([class_scores(logits, wanted, score), (logits.argmax(1) == wanted).float()], dim=1)

        # The solves dwarf the forwards, so a probe would time the solver: a fixed chunk.
        values = forward_in_chunks(net, make, read, batch * per_image, images.device, first)
        clean_score = class_scores(clean, target, score)
    return values.view(batch, len(orders), len(counts), 2), clean_score, target
