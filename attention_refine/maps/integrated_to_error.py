"""Integrated gradients with as many nodes as a completeness error asks for, placed where the sum is off."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._baselines import baseline_like
from ._conditions import full_precision, map_conditions
from ._pixels import channel_axis, reduce_channels
from ._site import logits_of, refuse_site
from ._target import FixedTarget, Target, fixed, given, gradients, rows, score
from .gradient import in_graph


@dataclass(frozen=True)
class Integrated:
    """Integrated gradients and how complete they are.

    Attributes:
        maps: ``(B, T, H, W)``; clips ``(B, T, frames, H, W)``.
        gap: ``(B, T)``, score of the image minus score of its baseline: what the attributions should add up to.
        error: ``(B, T)``, how far from the gap they are, in units of the score.
        nodes: ``(B,)``, gradients taken for each image.
        local_error: ``(B, T)``, the same between each two nodes, absolute values summed: errors of opposite sign do not
            cancel in it, so it is never below ``error`` and cannot be small by chance.
    """

    maps: Tensor
    gap: Tensor
    error: Tensor
    nodes: Tensor
    local_error: Tensor


def integrated_gradients_to_error(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str = "auto",
    tolerance: float = 0.05,
    baseline: str | Tensor = "zero",
    steps: int = 5,
    max_steps: int = 127,
    reduce: str = "sum",
    chunk_size: int | None = None,
    seed: int = 0,
) -> Integrated:
    """Integrated gradients with as many nodes as completeness asks for, every gradient used.

    The attributions of an image must add up to ``score(image) - score(baseline)``, and so must those of every piece of
    the path to the score's change along it, which the forwards of the nodes tell. An image whose sum is off by more
    than ``tolerance`` times the whole change gets a node in the middle of the piece that is off most, and another,
    until it is not or ``max_steps`` are spent. Each image stops by itself, so its map does not depend on the batch. Not
    differentiable: use :func:`integrated_gradients` in a loss.

    The rule is the trapezoid's, both ends of the path included: they need their forwards anyway. It is exact for
    gradients that are linear along the path. A small completeness error does not say that the map has settled, pixel by
    pixel: for that raise ``steps``, and look at ``local_error``.

    Args:
        net, pixel_values, target, baseline, reduce, seed: as in :func:`integrated_gradients`.
        tolerance: largest error, as a share of the score's change; the worst of an image's targets counts.
        steps: nodes of the first attempt, equally spaced, both ends included.
        max_steps: no image takes more; one that is still off keeps its best attempt, and ``error`` says so.
        chunk_size: images worked on at once, whose gradients at every node are held; None is the whole batch.

    Raises:
        ValueError: the target, the baseline or an option does not fit.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, the image and its baseline, got {steps}")
    if max_steps < steps:
        raise ValueError(f"max_steps {max_steps} is below the {steps} nodes of the first attempt; raise it")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
    refuse_site(site, "integrated_gradients_to_error")
    axis = channel_axis(pixel_values)
    with map_conditions(net, pixel_values, False) as (net, pixels):
        start = baseline_like(pixels, baseline, seed)
        wanted = None if target is None else given(target, len(pixels), pixels.device)
        found = []
        for index in torch.arange(len(pixels), device=pixels.device).split(chunk_size or len(pixels)):
            path = _Path(net, pixels[index], start[index], None if wanted is None else rows(wanted, index), steps)
            found.append(_to_error(path, tolerance, max_steps, axis, reduce))
        maps, gap, error, nodes, local = (torch.cat(column) for column in zip(*found))
        return Integrated(
            full_precision(maps), full_precision(gap), full_precision(error), nodes, full_precision(local)
        )


class _Path:
    """The straight path of ``n`` images and what is known at its nodes, in the order they were measured.

    Attributes:
        places: list of ``(n,)`` in [0, 1]; scores, slopes: lists of ``(n, T)``, the score and its derivative along the
            path; gradients: list of ``(n, T, *pixels)``.
    """

    def __init__(self, net: nn.Module, pixels: Tensor, start: Tensor, target: FixedTarget | None, steps: int):
        self.net, self.start, self.way, self.target = net, start, pixels - start, target
        self.places: list[Tensor] = []
        self.scores: list[Tensor] = []
        self.slopes: list[Tensor] = []
        self.gradients: list[Tensor] = []
        for place in [steps - 1, *range(steps - 1)]:  # the image first: it says which class is explained
            self.measure(self.way.new_full((len(pixels),), place / (steps - 1)))

    def measure(self, places: Tensor) -> None:
        at = places.to(self.way).view(-1, *[1] * (self.way.ndim - 1))
        piece = in_graph(self.start + at * self.way)
        logits = logits_of(self.net(piece))
        if self.target is None:
            self.target = fixed(None, logits)
        scores = score(logits, self.target)
        found = torch.stack(list(gradients(scores, piece)), dim=1)
        self.places.append(places)
        self.scores.append(scores.detach())
        self.slopes.append((found * self.way[:, None]).flatten(2).sum(2))
        self.gradients.append(found)

    def keep(self, chosen: Tensor) -> None:
        """Forget the other images."""
        self.start, self.way = self.start[chosen], self.way[chosen]
        self.target = None if self.target is None else rows(self.target, chosen)
        for name in ("places", "scores", "slopes", "gradients"):
            setattr(self, name, [value[chosen] for value in getattr(self, name)])

    def pieces(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the stretches between neighbours: nodes in ascending order ``(n, N)``, widths ``(n, N - 1)``, and
        ``(n, N - 1, T)`` by how much the trapezoid misses the change of the score."""
        places = torch.stack(self.places, dim=1)
        order = places.argsort(1)
        width = places.gather(1, order).diff(dim=1)
        scores, slopes = (torch.stack(v, 1).take_along_dim(order[:, :, None], 1) for v in (self.scores, self.slopes))
        return order, width, width[:, :, None] * (slopes[:, 1:] + slopes[:, :-1]) / 2 - scores.diff(dim=1)

    def attributions(self, chosen: Tensor, weights: Tensor) -> Tensor:
        """``(k, T, *pixels)`` of the ``k`` chosen images, by weights ``(k, N)`` of their nodes."""
        shape = (-1, *[1] * self.way.ndim)
        terms = zip(weights.unbind(1), self.gradients)
        return self.way[chosen][:, None] * sum(w.view(shape) * g[chosen] for w, g in terms)


def _to_error(path: _Path, tolerance: float, max_steps: int, axis: int, reduce: str) -> tuple[Tensor, ...]:
    """Maps, gap, error, nodes and local error of one chunk of images, in order."""
    gap = path.scores[0] - path.scores[1]
    remaining = torch.arange(len(gap), device=gap.device)
    best: list[Tensor] = []  # error, local error and weights of each remaining image's best attempt
    finished: list[tuple[Tensor, ...]] = []
    while len(remaining):
        order, width, off = path.pieces()
        count = order.shape[1]
        halves = nn.functional.pad(width / 2, (1, 1))
        weights = torch.zeros_like(halves[:, 1:]).scatter_(1, order, halves[:, 1:] + halves[:, :-1])
        attempt = [off.sum(1).abs(), off.abs().sum(1), weights]
        if best:
            best[2] = nn.functional.pad(best[2], (0, 1))
            better = (attempt[0].amax(1) < best[0].amax(1))[:, None]
        best = [torch.where(better, new, old) for new, old in zip(attempt, best)] if best else attempt
        over = (best[0] > tolerance * gap[remaining].abs()).any(1) & (count < max_steps)
        ready = (~over).nonzero().flatten()
        if len(ready):
            maps = reduce_channels(path.attributions(ready, best[2][ready]), axis + 1, reduce)
            spent = torch.full_like(ready, count)
            finished.append((remaining[ready], maps, gap[remaining[ready]], best[0][ready], spent, best[1][ready]))
            path.keep(over)
            remaining, order, width, off, *best = (v[over] for v in (remaining, order, width, off, *best))
        if len(remaining):
            # Relative to each target's own change, as the tolerance is.
            share = off.abs() / gap[remaining].abs()[:, None].clamp_min(1e-30)
            worst = share.amax(2).argmax(1, keepdim=True)
            left = torch.stack(path.places, dim=1).gather(1, order.gather(1, worst))
            path.measure((left + width.gather(1, worst) / 2)[:, 0])
    images, *columns = (torch.cat(column) for column in zip(*finished))
    return tuple(column[images.argsort()] for column in columns)
