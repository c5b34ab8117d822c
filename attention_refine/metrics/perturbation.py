"""How the score falls as the pixels a map points at are taken away, and rises as they are put back.

Protocol of every function here: evaluation mode (training flags put back), no gradient, float32, no autocast; the map
is resized bilinearly to the image; pixels go in stable descending order of the map; the target is the class predicted
on the clean image unless given; both end points belong to the curve. Insertion and deletion follow RISE (Petsiuk et al.
2018) as its code has it: at 224 px its step of 224 pixels is ``n_steps=224``.

An increasing rescaling of a map of the image's size changes nothing. A smaller map is interpolated first, so there only
``a * map + b``, a > 0, changes nothing.

Common arguments:
    net: any classifier; returns logits, or an output with ``.logits``.
    pixel_values: ``(B, C, H, W)``, normalised as the network wants it.
    maps: ``(B, 1, h, w)`` of any size; one map an image.
    target: class index, ``(B,)`` indices, or None.
    n_steps: number of equal removals; the curve has ``n_steps + 1`` points.
    baseline, kernel: see :func:`attention_refine.metrics.fill_image`.
    score: ``"softmax"``, ``"sigmoid"`` (multi-label) or ``"logit"``.
    batch_size: images a forward; None finds a quick size while working.
    progress: show a bar.

All raise ValueError for a map with NaN or infinity (naming the samples), several maps an image, or a bad option.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ._fills import fill_image
from ._maps import check_maps, removal_rank, to_size
from ._registry import STEPPED, register_measure
from ._stages import Stage, StageScores, counts_of, score_stages, trapezoid


@dataclass(frozen=True)
class PerturbationResult:
    """Curves of one measure, sample by sample.

    Args:
        auc: ``(B,)`` area under the curve, trapezoid.
        curve: ``(B, n_steps + 1)`` scores.
        fractions: ``(n_steps + 1,)`` share of the pixels removed (or inserted) at each point.
        target: ``(B,)`` the class scored.
    """

    auc: Tensor
    curve: Tensor
    fractions: Tensor
    target: Tensor

    @property
    def aopc(self) -> Tensor:
        """``(B,)`` mean of ``f(clean) - f(point)`` over the points of a curve that starts clean (Samek et al. 2017)."""
        return (self.curve[:, :1] - self.curve).mean(1)


class InsertionDeletion(NamedTuple):
    insertion: PerturbationResult
    deletion: PerturbationResult


def pixel_ranks(pixel_values: Tensor, maps: Tensor) -> Tensor:
    """``(B, H * W)`` int32 places of the image's pixels in descending order of the resized map."""
    return removal_rank(to_size(check_maps(maps), pixel_values.shape[-2:]))


def _result(scores: StageScores, at: slice, counts: Sequence[int], total: int) -> PerturbationResult:
    curve = scores.score[:, at]
    fractions = torch.tensor(counts, dtype=torch.float64, device=curve.device) / total
    return PerturbationResult(trapezoid(curve, fractions), curve, fractions.float(), scores.target)


def _curve(
    net: Any,
    pixel_values: Any,
    rank: Tensor,
    n_steps: int,
    stage: Callable[[int, int], Stage],
    fill: Tensor,
    *scoring: Any,
) -> PerturbationResult:
    """One curve over ``stage(number of pixels moved, all pixels)``; ``scoring`` goes to :func:`score_stages`."""
    total = rank.shape[1]
    counts = counts_of(n_steps, total)
    scores = score_stages(net, pixel_values, rank, [stage(n, total) for n in counts], [fill], *scoring)
    return _result(scores, slice(None), counts, total)


def _shown(count: int, total: int) -> Stage:
    return Stage(0, count)


@register_measure(title="Deletion", better=False, needs="forwards", reads="auc", curve="", takes=STEPPED)
def deletion(
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: int | Tensor | None = None,
    n_steps: int = 50,
    baseline: str | Tensor = "zero",
    kernel: str = "rise",
    score: str = "softmax",
    batch_size: int | None = None,
    progress: bool = False,
) -> PerturbationResult:
    """RISE deletion: from the clean image, the most attended pixels are replaced first. Lower is better."""
    fill = fill_image(pixel_values, baseline, kernel)
    rank = pixel_ranks(pixel_values, maps)
    return _curve(net, pixel_values, rank, n_steps, Stage, fill, target, score, batch_size, progress)


@register_measure(title="Insertion", better=True, needs="forwards", reads="auc", curve="", takes=STEPPED)
def insertion(
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: int | Tensor | None = None,
    n_steps: int = 50,
    baseline: str | Tensor = "blur",
    kernel: str = "rise",
    score: str = "softmax",
    batch_size: int | None = None,
    progress: bool = False,
) -> PerturbationResult:
    """RISE insertion: into a blurred image, the most attended pixels are put back first. Higher is better."""
    fill = fill_image(pixel_values, baseline, kernel)
    rank = pixel_ranks(pixel_values, maps)
    return _curve(net, pixel_values, rank, n_steps, _shown, fill, target, score, batch_size, progress)


def insertion_and_deletion(
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: int | Tensor | None = None,
    n_steps: int = 50,
    insertion_baseline: str | Tensor = "blur",
    deletion_baseline: str | Tensor = "zero",
    kernel: str = "rise",
    score: str = "softmax",
    batch_size: int | None = None,
    progress: bool = False,
) -> InsertionDeletion:
    """Both curves in one pass: the clean image, and a fill that is the same for every image, are forwarded once.

    Returns:
        ``(insertion, deletion)``, equal to the two functions called apart.
    """
    rank = pixel_ranks(pixel_values, maps)
    total = rank.shape[1]
    counts = counts_of(n_steps, total)
    stages = [Stage(0, n, fill=0) for n in counts] + [Stage(n, total, fill=1) for n in counts]
    fills = [fill_image(pixel_values, insertion_baseline, kernel), fill_image(pixel_values, deletion_baseline, kernel)]
    if isinstance(insertion_baseline, str) and insertion_baseline == deletion_baseline:
        stages, fills = [Stage(stage.low, stage.high) for stage in stages], fills[:1]
    scores = score_stages(net, pixel_values, rank, stages, fills, target, score, batch_size, progress)
    half = len(counts)
    return InsertionDeletion(
        _result(scores, slice(0, half), counts, total), _result(scores, slice(half, None), counts, total)
    )


def pixel_flipping(
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: int | Tensor | None = None,
    n_steps: int = 50,
    baseline: str | Tensor = "mean",
    kernel: str = "rise",
    score: str = "logit",
    order: str = "most",
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = False,
) -> PerturbationResult:
    """Pixel flipping (Bach et al. 2015; Samek et al. 2017): the raw score while pixels are replaced; see ``.aopc``.

    Args:
        order: ``"most"`` attended first, ``"least"`` attended first, or ``"random"``, the control (one order for all
            images, drawn from ``seed``, so that a sample does not depend on its batch).

    A pixel falls with all its channels at once (some libraries rank channels apart).
    """
    rank = pixel_ranks(pixel_values, maps)
    total = rank.shape[1]
    if order == "least":
        rank = total - 1 - rank
    elif order == "random":
        shuffled = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).to(rank)
        rank = shuffled.expand_as(rank).contiguous()
    elif order != "most":
        raise ValueError(f"order {order!r} is not one of most, least, random")
    fill = fill_image(pixel_values, baseline, kernel)
    return _curve(net, pixel_values, rank, n_steps, Stage, fill, target, score, batch_size, progress)
