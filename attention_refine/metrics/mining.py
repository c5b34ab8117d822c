"""Insertion as the attention-mining paper measures it: does the map show enough of an image that went wrong?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._registry import register_measure
from ._stages import Stage, counts_of, score_stages, trapezoid
from .perturbation import pixel_ranks


@dataclass(frozen=True)
class MiningResult:
    """The mining paper's insertion, sample by sample; NaN for samples outside the protocol.

    Args:
        auc: ``(B,)`` area under ``curve``.
        curve: ``(B, n_points)`` probability of the true class with the top p of the pixels shown.
        accuracy_auc, accuracy_curve: the same of "the true class comes first" (0 or 1).
        fractions: ``(n_points,)`` p.
        counted: ``(B,)`` bool, the samples the protocol counts.
    """

    auc: Tensor
    curve: Tensor
    accuracy_auc: Tensor
    accuracy_curve: Tensor
    fractions: Tensor
    counted: Tensor


@register_measure(
    title="Insertion (mining)",
    better=True,
    needs="forwards",
    reads="auc",
    curve="",
    takes=("labels", "batch_size"),
    multi_label=False,
)
def insertion_mining(
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    labels: Tensor,
    n_points: int = 11,
    reference_logits: Tensor | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> MiningResult:
    """The image masked outside its top p % most attended pixels, p = 0 to 100 %. Higher is better.

    The paper counts only samples that the plain attention branch network misclassifies. It gives neither fill, step nor
    resize; here: fill 0 in normalised space, 11 points, bilinear, true class, softmax.

    Args:
        labels: ``(B,)`` true classes.
        reference_logits: ``(B, classes)`` of the plain network on the clean images; samples it classifies rightly are
            NaN in every result. None counts every sample.

    Raises:
        ValueError: fewer than 2 points, reference logits of another batch, and as the perturbation measures do.
    """
    if n_points < 2:
        raise ValueError(f"a curve needs at least 2 points, got n_points={n_points}")
    rank = pixel_ranks(pixel_values, maps)
    total = rank.shape[1]
    counts = counts_of(n_points - 1, total)
    stages = [Stage(0, n) for n in counts]
    labels = torch.as_tensor(labels, device=pixel_values.device)
    counted = torch.ones(len(pixel_values), dtype=torch.bool, device=pixel_values.device)
    if reference_logits is not None:
        if reference_logits.ndim != 2 or len(reference_logits) != len(pixel_values):
            raise ValueError(
                f"reference_logits must be ({len(pixel_values)}, classes), got {tuple(reference_logits.shape)}"
            )
        counted = reference_logits.to(pixel_values.device).argmax(1) != labels
    fills = [pixel_values.new_zeros(1, 1, 1, 1)]
    scores = score_stages(net, pixel_values, rank, stages, fills, labels, "softmax", batch_size, progress)
    curve = scores.score.masked_fill(~counted[:, None], torch.nan)
    accuracy = scores.hit.float().masked_fill(~counted[:, None], torch.nan)
    fractions = torch.tensor(counts, dtype=torch.float64, device=curve.device) / total
    return MiningResult(
        trapezoid(curve, fractions), curve, trapezoid(accuracy, fractions), accuracy, fractions.float(), counted
    )
