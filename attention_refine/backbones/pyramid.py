"""What a network computes on the way, at several depths: the features that tell an object from what is around it.

The deepest grid knows what is there and the shallow ones where its edge is. Which modules give them is found by running
the network once, as sites are: no table of families.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..layouts import Layout, to_grid
from .contexts import output_hook, own_randomness, quiet
from .outputs import first_tensor
from .precision import precision
from .probe import UnsupportedBackbone
from .trace import Candidate, image_size_of, trace

FINEST = 4  # pixels a cell of the finest grid covers at least: finer ones hold little but colour
LEVELS = 4


@dataclass(frozen=True)
class Level:
    """One module of the network, by name, and how its output is laid out."""

    name: str
    layout: Layout


def find_levels(net: nn.Module, pixel_values: Tensor, count: int = LEVELS) -> list[Level]:
    """Modules that return a grid, from the shallowest to the deepest: the last of each resolution.

    A network with fewer resolutions than ``count`` (a plain transformer has one) gives more of the one with most
    modules, evenly spaced.

    Args:
        net: any network.
        pixel_values: an example ``(1, C, H, W)``, used for its shape, device and type only.
        count: most levels.

    Raises:
        UnsupportedBackbone: no module returns a grid.
    """
    pixel_values = pixel_values.to(precision(net, pixel_values))
    with torch.no_grad(), quiet(net), own_randomness(pixel_values.device):
        candidates, _ = trace(net, pixel_values)
    height, width = image_size_of(pixel_values)[-2:]
    coarse = [each for each in candidates if each.cells <= height * width / FINEST**2] or candidates
    if not coarse:
        raise UnsupportedBackbone(
            f"{type(net).__name__} has no module that returns a spatial grid for images of {height}x{width}"
        )
    groups: dict[int, list[Candidate]] = {}
    for each in coarse:
        groups.setdefault(each.cells, []).append(each)
    outer = []  # of each resolution, the modules nearest the top, in the order in which they finish
    for group in groups.values():
        depth = min(each.depth for each in group)
        outer.append([each for each in group if each.depth == depth])
    chosen = [group[-1] for group in outer]
    if len(chosen) < count:
        largest = max(outer, key=len)
        extra = count - len(chosen) + 1
        chosen = [each for each in chosen if each is not largest[-1]]
        chosen += [largest[round(len(largest) * (i + 1) / extra) - 1] for i in range(min(extra, len(largest)))]
    chosen = sorted({each.name: each for each in chosen}.values(), key=lambda each: each.position)
    return [Level(each.name, each.layout) for each in chosen[-count:]]


@torch.no_grad()
def read_levels(net: nn.Module, levels: Sequence[Level], pixel_values: Tensor) -> list[Tensor]:
    """The features ``(B, C, h, w)`` at the levels, from one pass without a graph, in the mode the network is in."""
    found: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            found[name] = first_tensor(output)

        return hook

    with ExitStack() as stack:
        for level in levels:
            stack.enter_context(output_hook(net.get_submodule(level.name), keep(level.name)))
        net(pixel_values.to(precision(net, pixel_values)))
    return [to_grid(found[level.name], level.layout, image_size_of(pixel_values)) for level in levels]
