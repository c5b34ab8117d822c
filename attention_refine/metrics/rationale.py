"""ERASER's measures (DeYoung et al. 2020): is what the map points at needed, and is it enough?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ._fills import fill_image
from ._registry import SCORED, register_measure
from ._stages import Stage, score_stages
from .perturbation import pixel_ranks

ERASER_BINS = (0.01, 0.05, 0.10, 0.20, 0.50)


@dataclass(frozen=True)
class RationaleResult:
    """``comprehensiveness`` and ``sufficiency`` (B,), and the (B, bins) differences they are the means of."""

    comprehensiveness: Tensor
    sufficiency: Tensor
    comprehensiveness_bins: Tensor
    sufficiency_bins: Tensor
    target: Tensor


@register_measure(
    "comprehensiveness",
    title="Comprehensiveness",
    better=True,
    needs="forwards",
    reads="comprehensiveness",
    takes=SCORED,
)
@register_measure("sufficiency", title="Sufficiency", better=False, needs="forwards", reads="sufficiency", takes=SCORED)
def rationale(
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: int | Tensor | None = None,
    bins: Sequence[float] = ERASER_BINS,
    baseline: str | Tensor = "zero",
    kernel: str = "rise",
    score: str = "softmax",
    batch_size: int | None = None,
    progress: bool = False,
) -> RationaleResult:
    """Both measures over the top ``q`` of the pixels, for each ``q`` in ``bins``.

    Comprehensiveness is ``f(x) - f(x without the top q)``, higher is better; sufficiency ``f(x) - f(the top q alone)``,
    lower is better. The mean is over the bins; ERASER's AOPC also counts the empty bin, where nothing is removed: times
    ``len(bins) / (len(bins) + 1)``.

    Raises:
        ValueError: a bin outside (0, 1), and as the perturbation measures do.
    """
    if not bins or not all(0 < q < 1 for q in bins):
        raise ValueError(f"bins must be fractions of the image between 0 and 1, both excluded, got {tuple(bins)}")
    rank = pixel_ranks(pixel_values, maps)
    total = rank.shape[1]
    counts = [max(1, round(q * total)) for q in bins]
    stages = [Stage(n, total) for n in counts] + [Stage(0, n) for n in counts]
    fills = [fill_image(pixel_values, baseline, kernel)]
    scores = score_stages(net, pixel_values, rank, stages, fills, target, score, batch_size, progress)
    drops = scores.clean_score[:, None] - scores.score
    without, alone = drops[:, : len(counts)], drops[:, len(counts) :]
    return RationaleResult(without.mean(1), alone.mean(1), without, alone, scores.target)


def comprehensiveness(net: nn.Module, pixel_values: Tensor, maps: Tensor, **options: Any) -> Tensor:
    """``(B,)``; higher is better. Options, and both measures in one pass: :func:`rationale`."""
    return rationale(net, pixel_values, maps, **options).comprehensiveness


def sufficiency(net: nn.Module, pixel_values: Tensor, maps: Tensor, **options: Any) -> Tensor:
    """``(B,)``; lower is better. Options, and both measures in one pass: :func:`rationale`."""
    return rationale(net, pixel_values, maps, **options).sufficiency
