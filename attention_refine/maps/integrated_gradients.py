"""Integrated gradients (Sundararajan et al. 2017), by fixed steps or to a completeness error that is returned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .baselines import baseline_like
from .conditions import full_precision, map_conditions
from .gradient import clean_target, copies_at_once, in_graph, pixel_gradients
from .pixels import channel_axis, reduce_channels
from .progress import counted
from .site import logits_of, refuse_site
from .target import Target, fixed, repeated, rows, score


@dataclass(frozen=True)
class Integrated:
    """Integrated gradients and how complete they are.

    Attributes:
        maps: ``(B, T, H, W)``; clips ``(B, T, frames, H, W)``.
        gap: ``(B, T)``, score of the image minus score of its baseline: what the attributions should add up to.
        error: ``(B, T)``, how far from the gap they are, in units of the score.
        nodes: ``(B,)``, gradients evaluated for each image.
    """

    maps: Tensor
    gap: Tensor
    error: Tensor
    nodes: Tensor


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
        target: classes to explain, see :mod:`attention_refine.maps.target`; None is the class predicted for the image.
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
    nodes = _nodes(rule, steps)
    with map_conditions(net, pixel_values, create_graph) as (net, pixels):
        target = clean_target(net, pixels, target, chunk_size)
        start = baseline_like(pixels, baseline, seed)
        found = _integrate(net, pixels, start, target, nodes, create_graph, chunk_size, progress)
        return full_precision(torch.stack([reduce_channels(a, axis, reduce) for a in found], dim=1))


def integrated_gradients_to_error(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str = "auto",
    tolerance: float = 0.05,
    baseline: str | Tensor = "zero",
    steps: int = 8,
    max_steps: int = 128,
    reduce: str = "sum",
    chunk_size: int | None = None,
    seed: int = 0,
) -> Integrated:
    """Integrated gradients with as many Gauss-Legendre nodes as completeness asks for.

    The attributions of an image must add up to ``score(image) - score(baseline)``. Images whose sum is off by more than
    ``tolerance`` times that difference are integrated again with twice the nodes, until ``max_steps``; each image stops
    by itself, so its map does not depend on the batch. Not differentiable: use :func:`integrated_gradients` in a loss.

    Args:
        net, pixel_values, target, baseline, reduce, chunk_size, seed: as in :func:`integrated_gradients`.
        tolerance: largest error, as a share of the score's change; the worst of an image's targets counts.
        steps: nodes of the first attempt.
        max_steps: an attempt never has more; an image that is still off keeps its best attempt, and ``error`` says so.

    Raises:
        ValueError: the target, the baseline or an option does not fit.
    """
    if max_steps < steps:
        raise ValueError(f"max_steps {max_steps} is below the {steps} steps of the first attempt")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    refuse_site(site, "integrated_gradients_to_error")
    axis = channel_axis(pixel_values)
    with map_conditions(net, pixel_values, False) as (net, pixels):
        start = baseline_like(pixels, baseline, seed)
        logits = _logits(net, pixels, chunk_size)
        target = fixed(target, logits)
        gap = score(logits, target) - score(_logits(net, start, chunk_size), target)
        remaining = torch.arange(len(pixels), device=pixels.device)
        maps = error = None
        spent = torch.zeros(len(pixels), dtype=torch.long, device=pixels.device)
        attempt = steps
        while True:
            chosen = rows(target, remaining)
            found = _integrate(
                net, pixels[remaining], start[remaining], chosen, _nodes("gauss", attempt), False, chunk_size
            )
            total = torch.stack([a.flatten(1).sum(1) for a in found], dim=1)
            reduced = torch.stack([reduce_channels(a, axis, reduce) for a in found], dim=1)
            found_error = (total - gap[remaining]).abs()
            if maps is None:
                maps, error = reduced, found_error
            else:
                better = found_error.amax(1) < error[remaining].amax(1)
                maps[remaining[better]], error[remaining[better]] = reduced[better], found_error[better]
            spent[remaining] += attempt
            attempt *= 2
            remaining = remaining[(error[remaining] > tolerance * gap[remaining].abs()).any(1)]
            if attempt > max_steps or len(remaining) == 0:
                return Integrated(full_precision(maps), full_precision(gap), full_precision(error), spent)


def _nodes(rule: str, steps: int) -> list[tuple[float, float]]:
    """Positions in (0, 1) and their weights."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if rule == "midpoint":
        return [((i + 0.5) / steps, 1 / steps) for i in range(steps)]
    if rule == "gauss":
        positions, weights = np.polynomial.legendre.leggauss(steps)
        return [((1 + p) / 2, w / 2) for p, w in zip(positions.tolist(), weights.tolist())]
    raise ValueError(f"rule {rule!r} is not 'midpoint' or 'gauss'")


def _integrate(
    net: nn.Module,
    pixels: Tensor,
    start: Tensor,
    target: Tensor | Callable[[Tensor], Tensor],
    nodes: list[tuple[float, float]],
    create_graph: bool,
    chunk_size: int | None,
    progress: bool = False,
) -> list[Tensor]:
    """For each target, ``(x - x') . sum of weight . gradient``, in the shape of the pixels.

    A chunk larger than the batch holds several nodes of every image.
    """
    at_once = copies_at_once(pixels, chunk_size)
    groups = [nodes[i : i + at_once] for i in range(0, len(nodes), at_once)]
    total: list[Tensor] | None = None
    for group in counted(groups, len(groups), progress, "integrated_gradients"):
        path = torch.cat([start + position * (pixels - start) for position, _ in group])
        found = pixel_gradients(net, in_graph(path), repeated(target, len(group)), create_graph, chunk_size)
        weights = torch.tensor([w for _, w in group], dtype=pixels.dtype, device=pixels.device)
        sums = [torch.einsum("n,n...->...", weights, g.unflatten(0, (len(group), len(pixels)))) for g in found]
        total = sums if total is None else [a + b for a, b in zip(total, sums)]
    return [(pixels - start) * t for t in total]


def _logits(net: nn.Module, pixels: Tensor, chunk_size: int | None) -> Tensor:
    with torch.no_grad():
        return torch.cat([logits_of(net(piece)) for piece in pixels.split(chunk_size or len(pixels))])
