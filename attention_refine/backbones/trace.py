"""One forward pass, watched: which modules return a spatial grid, and how it is laid out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..layouts import Layout, grid_of, infer_layout
from .contexts import output_hook
from .outputs import feature_of, first_tensor
from .partial_forward import Reached, before, shapes


@dataclass
class Candidate:
    """A module that ran once and returned a grid.

    Attributes:
        name: in the network.
        layout, grid: how its output is laid out, and ``(h, w)`` or ``(t, h, w)``.
        output: what it returned for the first image.
        position: how much of the forward pass had happened when it finished, in modules: 0 to 1.
        earlier: per module that ran before it and does not contain it, the shapes it returned at each call.
        felt: the logits have a gradient at its locations.
    """

    name: str
    layout: Layout
    grid: tuple[int, ...]
    output: Any
    position: float
    earlier: dict[str, list[Any]]
    felt: bool = False

    @property
    def cells(self) -> int:
        return self.grid[-1] * self.grid[-2]

    @property
    def depth(self) -> int:
        """How deep in the network's modules, numbers not counted: ``stages.2`` is as near the top as ``layer3``."""
        return sum(not part.isdigit() for part in self.name.split("."))


def trace(net: nn.Module, image: Tensor) -> tuple[list[Candidate], Any]:
    """Modules that ran once and returned a grid, in the order in which they finished, and the network's own output.

    Args:
        image: a single one, ``(1, C, H, W)`` or ``(1, C, T, H, W)``.
    """
    size = image_size_of(image)
    calls: dict[str, list[tuple[int, Any]]] = {}  # per module, when each call finished and the shapes it returned
    outputs: list[tuple[str, int, Any]] = []
    clock = itertools.count()

    def record(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            finished = next(clock)
            calls.setdefault(name, []).append((finished, shapes(output)))
            raw = first_tensor(output)
            if raw is not None and raw.is_floating_point() and raw.ndim >= 3 and raw.shape[0] == 1:
                outputs.append((name, finished, output))

        return hook

    with ExitStack() as stack:
        for name, module in net.named_modules():
            if name:
                stack.enter_context(output_hook(module, record(name)))
        result = net(image)
    total = next(clock)
    grids = _grids([feature_of(output) for _, _, output in outputs], size)
    found = []
    for name, finished, output in outputs:
        raw = feature_of(output)
        layout = infer_layout(raw, size, grids) if len(calls[name]) == 1 else None
        if layout is not None:
            earlier = {
                other: [shape for moment, shape in calls[other] if moment < finished]
                for other in before(net, name)
                if other in calls and calls[other][0][0] < finished
            }
            found.append(Candidate(name, layout, grid_of(raw, layout, size), output, finished / total, earlier))
    return _with_time_in_order(found, net, image), result


def _with_time_in_order(found: list[Candidate], net: nn.Module, image: Tensor) -> list[Candidate]:
    """Candidates whose layout says how tokens of clips run over time; without those, where that cannot be told."""
    tokens = [candidate for candidate in found if candidate.layout.format == "NLC"]
    if image.ndim == 4 or not tokens:
        return found
    last = frames_last(net, image)
    for candidate in tokens:
        candidate.layout = replace(candidate.layout, frames_last=bool(last))
    return found if last is not None else [candidate for candidate in found if candidate not in tokens]


def frames_last(net: nn.Module, clip: Tensor) -> bool | None:
    """Whether a network's tokens run over ``(h, w, t)``; false for ``(t, h, w)``, ``None`` where it cannot be told.

    The shape of a token feature does not say it, so the first frames of a clip are replaced, and the tokens that change
    are looked at where the network first returns some: before attention mixes them.

    Args:
        clip: ``(1, C, T, H, W)``, used for its shape, device and type only.
    """
    size = image_size_of(clip)
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn((2, *clip.shape[1:]), generator=generator).to(clip)
    first = _first_tokens(net, noise[:1])
    if first is None:
        return None
    raw, layout = first
    t, h, w = grid_of(raw, layout, size)
    if t == 1:
        return False
    half = t // 2
    replaced = noise[:1].clone()
    replaced[:, :, : half * (size[0] // t)] = noise[1:, :, : half * (size[0] // t)]
    again = _first_tokens(net, replaced)
    if again is None:
        return None
    change = (again[0] - raw)[0, layout.prefix :].float().norm(dim=-1)
    changed = change > change.mean()  # a stem whose patches overlap changes the next frame's tokens a little, too
    early = torch.arange(t, device=changed.device) < half
    if (changed.view(t, h * w) == early[:, None]).float().mean() > 0.75:
        return False
    return True if (changed.view(h * w, t) == early).float().mean() > 0.75 else None


def _first_tokens(net: nn.Module, clip: Tensor) -> tuple[Tensor, Layout] | None:
    """The first tokens of a clip that a network computes; it stops there."""

    def look(module: Any, args: Any, output: Any) -> None:
        raw = first_tensor(output)
        if raw is not None and raw.is_floating_point() and raw.ndim == 3 and len(raw) == 1:
            layout = infer_layout(raw, image_size_of(clip))
            if layout is not None:
                raise Reached((raw, layout))

    with ExitStack() as stack, torch.no_grad():
        for module in net.modules():
            if module is not net:
                stack.enter_context(output_hook(module, look))
        try:
            net(clip)
        except Reached as reached:
            return reached.output
    return None


def image_size_of(pixel_values: Tensor) -> tuple[int, ...]:
    """``(H, W)`` of a batch of images ``(B, C, H, W)``, or ``(T, H, W)`` of clips ``(B, C, T, H, W)``."""
    return tuple(pixel_values.shape[2:])


def _grids(raws: list[Tensor], image_size: tuple[int, ...]) -> frozenset[tuple[int, int]]:
    """Grids that say themselves what they are, and those that halving them gives (patch merging of tokens)."""
    found: set[tuple[int, int]] = set()
    for raw in raws:
        layout = infer_layout(raw, image_size) if raw.ndim == len(image_size) + 2 else None
        if layout is not None:
            h, w = grid_of(raw, layout, image_size)[-2:]
            while h * w > 1 and (h, w) not in found:
                found.add((h, w))
                h, w = math.ceil(h / 2), math.ceil(w / 2)
    return frozenset(found)
