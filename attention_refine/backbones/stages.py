"""The stage that follows a site, copied at stride 1: what an attention branch is made of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from ..layouts import from_grid, infer_layout, to_grid
from .contexts import output_hook, quiet, without_checkpointing
from .outputs import feature_of, first_tensor
from .sites import Site
from .trace import image_size_of


class StageTwin(nn.Module):
    """Copies of the modules that follow a site, run one after the other at the site's resolution.

    Input and output are grids, ``(B, C, h, w)`` to ``(B, C', h, w)``. Token stages see the patch tokens alone: the
    class token belongs to the perception branch.
    """

    def __init__(self, modules: dict[str, nn.Module], site: Site):
        super().__init__()
        self.names = list(modules)
        self.stages = nn.ModuleList(modules.values())
        self.layout = site.layout

    @classmethod
    def of(cls, net: nn.Module, site: Site, names: list[str]) -> StageTwin:
        """The twin of named modules, as :func:`twin_of_last_stage` chose them before."""
        with without_checkpointing(net):  # the copies hold the flag too
            return cls({name: _at_stride_one(copy.deepcopy(net.get_submodule(name))) for name in names}, site)

    def forward(self, feature: Tensor) -> Tensor:
        size = tuple(feature.shape[2:])
        bare = replace(self.layout, prefix=0)
        x = from_grid(feature, feature, bare)
        for stage in self.stages:
            x = feature_of(stage(x))
        # The grid's own aspect ratio stands for the image's: the twin runs at stride 1.
        return to_grid(x, bare, size)


def following_stage(net: nn.Module, site: Site, pixel_values: Tensor) -> list[str]:
    """Names of the modules after the site in its own container, up to the first that returns no grid (pooling, say)."""
    parent, _, child = site.name.rpartition(".")
    siblings = [name for name, _ in net.get_submodule(parent).named_children()]
    following = [f"{parent}.{name}" if parent else name for name in siblings[siblings.index(child) + 1 :]]
    size, grids = image_size_of(pixel_values), set()

    def note(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            raw = first_tensor(output)
            if raw is not None and infer_layout(raw, size) is not None:
                grids.add(name)

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name in following:
            stack.enter_context(output_hook(net.get_submodule(name), note(name)))
        net(pixel_values)
    return list(takewhile(grids.__contains__, following))


def twin_of_last_stage(net: nn.Module, site: Site, feature: Tensor, pixel_values: Tensor) -> StageTwin | None:
    """A copy, weights included, of the stage after ``site``, changed to stride 1.

    Args:
        feature: an example ``(1, C, h, w)`` at the site, to try the copy on.
        pixel_values: the image it came from.

    Returns:
        ``None`` where nothing with weights follows the site, or it cannot run at stride 1 on the grid alone.
    """
    names: list[str] = []
    for name in following_stage(net, site, pixel_values):
        if not _keeps_grid(StageTwin.of(net, site, [*names, name]), feature):
            break
        names.append(name)
    while names and not any(True for _ in net.get_submodule(names[-1]).parameters()):
        names.pop()
    return StageTwin.of(net, site, names) if names else None


def _keeps_grid(twin: StageTwin, feature: Tensor) -> bool:
    try:
        with torch.no_grad(), quiet(twin):
            output = twin(feature)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, AssertionError):
        return False
    return output.ndim == feature.ndim and output.shape[2:] == feature.shape[2:]


def _at_stride_one(module: nn.Module) -> nn.Module:
    """Strided convolutions and pools made to keep the grid, in place; an average pool before a shortcut falls away."""
    for name, child in list(module.named_children()):
        if isinstance(child, (nn.AvgPool2d, nn.AvgPool3d)) and _strided(child):
            setattr(module, name, nn.Identity())
        else:
            _at_stride_one(child)
    if isinstance(module, (nn.Conv2d, nn.Conv3d)) and _strided(module):
        module.stride = (1,) * len(module.stride)
    elif isinstance(module, (nn.MaxPool2d, nn.MaxPool3d)) and _strided(module):
        module.stride = 1
    return module


def _strided(module: nn.Module) -> bool:
    stride: Any = module.stride
    return any(s > 1 for s in (stride if isinstance(stride, tuple) else (stride,)))
