"""Integrated gradients (Sundararajan et al. 2017) by a fixed number of steps; see also :mod:`.integrated_to_error`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce as folded

import numpy as np
import torch
from torch import Tensor, nn

from ._baselines import baseline_like
from ._conditions import full_precision, map_conditions
from ._pixels import channel_axis, reduce_channels
from ._progress import counted
from ._registry import register_map
from ._site import refuse_site
from ._target import FixedTarget, Target, repeated
from .gradient import clean_target, copies_at_once, in_graph, pixel_gradients


@register_map(kind="sampled", differentiable=True)
def integrated_gradients(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str = "auto",
    create_graph: bool = False,
    baseline: str | Tensor = "zero",
    steps: int = 20,
    rule: str = "midpoint",
    reduce: str = "sum",
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """``(x - x') . integral of d score / dx`` along the straight path from the baseline ``x'`` (eq. 1), fixed steps.

    Args:
        net: any classifier whose output is logits or has ``.logits``.
        pixel_values: images ``(B, 3, H, W)``, or clips ``(B, 3, T, H, W)`` or ``(B, T, 3, H, W)``.
        target: classes to explain, see :mod:`attention_refine.maps._target`; None is the class predicted for the image.
        site: only ``"auto"``: the map is of the pixels.
        create_graph: keep the graph, down to the parameters and the pixels, so that the map can be trained.
        baseline: ``"zero"``, ``"blur"``, ``"noise"`` or a tensor, see :func:`~.baselines.baseline_like`.
        steps: gradients along the path.
        rule: ``"midpoint"`` takes equal steps; ``"gauss"`` places them as Gauss and Legendre do, which needs about half
            as many on smooth networks.
        reduce: colour channels to one number: ``"sum"`` keeps completeness (the map adds up to the score's change),
            ``"abs"`` sums magnitudes, ``"max"`` takes the largest.
        chunk_size: images forwarded at once, which bounds the memory; None is one copy of the batch.
        seed: of the noise baseline.
        progress: show a progress bar.

    Returns:
        ``(B, T, H, W)`` at the pixels' resolution with ``T`` targets an image; clips ``(B, T, frames, H, W)``.

    Raises:
        ValueError: the target, the baseline or an option does not fit.
    """
    refuse_site(site, "integrated_gradients")
    axis = channel_axis(pixel_values)
    positions, weights = _rule(rule, steps)
    with map_conditions(net, pixel_values, create_graph) as (net, pixels):
        wanted = clean_target(net, pixels, target, chunk_size)
        start = baseline_like(pixels, baseline, seed)
        taken = _gradients_along(net, pixels, start, wanted, positions, create_graph, chunk_size, progress)
        found = (pixels - start)[:, None] * _weighted_sum(weights, taken)
        return full_precision(reduce_channels(found, axis + 1, reduce))


def _rule(rule: str, steps: int) -> tuple[list[float], list[float]]:
    """Positions in (0, 1) and their weights."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if rule == "midpoint":
        return [(i + 0.5) / steps for i in range(steps)], [1 / steps] * steps
    if rule == "gauss":
        places, weights = np.polynomial.legendre.leggauss(steps)
        return ((1 + places) / 2).tolist(), (weights / 2).tolist()
    raise ValueError(f"rule {rule!r} is not 'midpoint' or 'gauss'")


def _gradients_along(
    net: nn.Module,
    pixels: Tensor,
    start: Tensor,
    target: FixedTarget,
    positions: list[float],
    create_graph: bool,
    chunk_size: int | None,
    progress: bool = False,
) -> Iterator[Tensor]:
    """The gradient at each position of the path, ``(B, T, *pixels)``. A chunk larger than the batch holds several."""
    at_once = copies_at_once(pixels, chunk_size)
    groups = [positions[i : i + at_once] for i in range(0, len(positions), at_once)]
    for group in counted(groups, len(groups), progress, "integrated_gradients"):
        path = torch.cat([start + position * (pixels - start) for position in group])
        found = pixel_gradients(net, in_graph(path), repeated(target, len(group)), create_graph, chunk_size)
        yield from torch.stack(found, dim=1).unflatten(0, (len(group), len(pixels)))


def _weighted_sum(weights: list[float], gradients: Iterable[Tensor]) -> Tensor:
    return folded(torch.add, (weight * gradient for weight, gradient in zip(weights, gradients)))
