"""What was changed about a network for a finer last grid: plain data, stored with it and done again elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .pooling import PatchPooling
from .video import FramesFirst

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
POOLS = (nn.AvgPool2d, nn.MaxPool2d, nn.AvgPool3d, nn.MaxPool3d)
# The last is where torch keeps paddings that differ from side to side.
ATTRIBUTES = ("stride", "padding", "dilation", "padding_mode", "_reversed_padding_repeated_twice")


class StrideOnePool(nn.Module):
    """A pool of 2x2 blocks at stride 1: every location's mean or maximum over itself and its neighbours after it.

    Args:
        kind: ``"avg"`` or ``"max"``.
        spacing: how far away those neighbours are; at every ``2 * spacing``-th location it gives what the pool gave.
    """

    def __init__(self, kind: str, spacing: int = 1):
        super().__init__()
        self.kind, self.spacing = kind, spacing

    def forward(self, feature: Tensor) -> Tensor:
        height, width = feature.shape[2:]
        padded = F.pad(feature, (0, self.spacing, 0, self.spacing), mode="replicate")
        corners = [padded[:, :, y : y + height, x : x + width] for y in (0, self.spacing) for x in (0, self.spacing)]
        stacked = torch.stack(corners)
        return stacked.amax(0) if self.kind == "max" else stacked.mean(0)


@dataclass
class Resolution:
    """How a network was changed.

    Attributes:
        factor: by how much the sides of the last grid grew.
        dilate: whether later convolutions were dilated, so that they see as much of the image as before.
        settings: ``[module, attribute, before, after]``: strides, paddings and dilations.
        pools: pools of 2x2 blocks that became a :class:`StrideOnePool`: ``[module, kind, spacing]``.
        positions: learned positions that were interpolated: ``[parameter, prefix tokens, grid before, grid after]``.
    """

    factor: int
    dilate: bool = False
    settings: list[list[Any]] = field(default_factory=list)
    pools: list[list[Any]] = field(default_factory=list)
    positions: list[list[Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Resolution:
        return cls(**values)

    def apply(self, net: nn.Module) -> nn.Module:
        """Change a network that is as its library builds it.

        Raises:
            ValueError: the settings are not those of this network.
        """
        for name, attribute, _, after in self.settings:
            module = net.get_submodule(name)
            if attribute not in ATTRIBUTES or not isinstance(module, CONVOLUTIONS + POOLS):
                raise ValueError(f"a higher resolution cannot set {attribute!r} of {name!r}, a {type(module).__name__}")
            setattr(module, attribute, _plain(after))
        for name, kind, spacing in self.pools:
            _set(net, name, StrideOnePool(kind, spacing))
        for name, prefix, before, after in self.positions:
            _set(net, name, nn.Parameter(_interpolated(net.get_parameter(name), prefix, before, after)))
        vars(net)["resolution"] = self
        return net

    def parts(self, net: nn.Module) -> dict[str, Any]:
        """The modules and parameters that :meth:`apply` puts others in the place of."""
        modules = {name: net.get_submodule(name) for name, _, _ in self.pools}
        return modules | {name: net.get_parameter(name) for name, _, _, _ in self.positions}

    def take_back(self, net: nn.Module, parts: dict[str, Any]) -> None:
        """The reverse of :meth:`apply`, with the parts as they were."""
        for name, attribute, before, _ in self.settings:
            setattr(net.get_submodule(name), attribute, _plain(before))
        for name, part in parts.items():
            _set(net, name, part)
        if hasattr(net, "resolution"):
            del net.resolution

    @contextmanager
    def undone(self, net: nn.Module) -> Iterator[None]:
        """The network as its library knows it, inside; for describing it, not for running it."""
        ours = self.parts(net)
        theirs: dict[str, Any] = {
            name: (nn.MaxPool2d if kind == "max" else nn.AvgPool2d)(2) for name, kind, _ in self.pools
        }
        for name, prefix, before, _ in self.positions:
            shape = (1, prefix + math.prod(before), ours[name].shape[2])
            theirs[name] = nn.Parameter(torch.empty(shape, device="meta"))
        self.take_back(net, theirs)
        try:
            yield
        finally:
            for name, attribute, _, after in self.settings:
                setattr(net.get_submodule(name), attribute, _plain(after))
            for name, part in ours.items():
                _set(net, name, part)
            vars(net)["resolution"] = self


def resolution_of(net: nn.Module) -> Resolution | None:
    """How a network was changed by :func:`higher_resolution`; ``None`` where it was not."""
    return getattr(inside(net), "resolution", None)


def inside(net: nn.Module) -> nn.Module:
    """The library's network within what this package puts around one."""
    while isinstance(net, (PatchPooling, FramesFirst)):
        net = net.net
    return net


def _interpolated(positions: Tensor, prefix: int, before: list[int], after: list[int]) -> Tensor:
    """``(1, prefix + h w, C)`` on another grid, bicubic; the prefix as it is."""
    count = prefix + math.prod(after)
    if positions.is_meta:
        return positions.new_empty((1, count, positions.shape[2]))
    with torch.no_grad():
        grid = positions[:, prefix:].transpose(1, 2).unflatten(2, tuple(before)).float()
        finer = F.interpolate(grid, tuple(after), mode="bicubic", align_corners=False)
        tokens = finer.flatten(2).transpose(1, 2).to(positions.dtype)
        return torch.cat([positions[:, :prefix], tokens], dim=1)


def _set(net: nn.Module, name: str, part: nn.Module | nn.Parameter) -> None:
    parent, _, child = name.rpartition(".")
    setattr(net.get_submodule(parent), child, part)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
