"""Integrated gradients (Sundararajan et al. 2017), by fixed steps or to a completeness error that is returned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
        nodes: ``(B,)``, gradients taken for each image.
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
    positions, weights = _rule(rule, steps)
    with map_conditions(net, pixel_values, create_graph) as (net, pixels):
        target = clean_target(net, pixels, target, chunk_size)
        start = baseline_like(pixels, baseline, seed)
        taken = _gradients_along(net, pixels, start, target, positions, create_graph, chunk_size, progress)
        found = (pixels - start)[:, None] * _weighted_sum(weights, taken)
        return full_precision(reduce_channels(found, axis + 1, reduce))


def integrated_gradients_to_error(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str = "auto",
    tolerance: float = 0.05,
    baseline: str | Tensor = "zero",
    steps: int = 7,
    max_steps: int = 127,
    reduce: str = "sum",
    chunk_size: int | None = None,
    seed: int = 0,
) -> Integrated:
    """Integrated gradients with as many nodes as completeness asks for, every gradient used.

    The attributions of an image must add up to ``score(image) - score(baseline)``. Images whose sum is off by more than
    ``tolerance`` times that difference get a node between any two they have, until ``max_steps``; each image stops by
    itself, so its map does not depend on the batch. Not differentiable: use :func:`integrated_gradients` in a loss.

    The rule is the trapezoid's after the substitution ``(1 - cos t) / 2`` for the place on the path: nodes are denser
    towards the ends, where networks change most, and nested; a node weighs ``sin t`` whatever their number, so what is
    kept is one sum of gradients, not each. Dividing by the sum of the weights makes it exact for gradients that are
    linear along the path.

    Args:
        net, pixel_values, target, baseline, reduce, chunk_size, seed: as in :func:`integrated_gradients`.
        tolerance: largest error, as a share of the score's change; the worst of an image's targets counts.
        steps: nodes of the first attempt; after n there are 2 n + 1.
        max_steps: no image takes more; one that is still off keeps its best attempt, and ``error`` says so.

    Raises:
        ValueError: the target, the baseline or an option does not fit.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if max_steps < steps:
        raise ValueError(f"max_steps {max_steps} is below the {steps} nodes of the first attempt; raise it")
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
        spent = torch.zeros_like(remaining)
        maps = error = None
        total: Tensor | float = 0.0  # weighted sum of the gradients taken, of the remaining images
        while len(remaining) and steps <= max_steps:
            ends = pixels[remaining], start[remaining]
            angles = np.arange(1, steps + 1) * np.pi / (steps + 1)
            new = angles if maps is None else angles[::2]  # the others are the nodes that there are
            positions, weights = ((1 - np.cos(new)) / 2).tolist(), np.sin(new).tolist()
            taken = _gradients_along(net, *ends, rows(target, remaining), positions, False, chunk_size)
            total = total + _weighted_sum(weights, taken)
            attributions = (ends[0] - ends[1])[:, None] * total / np.sin(angles).sum().item()
            found_error = (attributions.flatten(2).sum(2) - gap[remaining]).abs()
            reduced = reduce_channels(attributions, axis + 1, reduce)
            if maps is None:
                maps, error = reduced, found_error
            else:
                better = found_error.amax(1) < error[remaining].amax(1)
                maps[remaining[better]], error[remaining[better]] = reduced[better], found_error[better]
            spent[remaining] += len(positions)
            off = (error[remaining] > tolerance * gap[remaining].abs()).any(1)
            remaining, total = remaining[off], total[off]
            steps = 2 * steps + 1
        return Integrated(full_precision(maps), full_precision(gap), full_precision(error), spent)


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
    target: Tensor | Callable[[Tensor], Tensor],
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
    return sum(weight * gradient for weight, gradient in zip(weights, gradients))


def _logits(net: nn.Module, pixels: Tensor, chunk_size: int | None) -> Tensor:
    with torch.no_grad():
        return torch.cat([logits_of(net(piece)) for piece in pixels.split(chunk_size or len(pixels))])
