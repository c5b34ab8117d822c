"""Measures of a clip's map over the whole volume: its frames are laid out under one another as one tall picture.

Every measure of a map takes that as it takes a picture, so a correlation, an overlap or a curve is one of all frames at
once: a map that is right in place and wrong in time is wrong.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._fills import blur
from ._maps import VOID, wide

TOLERANCE = 15 / 224  # of a side, by which the pointing game may miss: so many rows part a frame from the next


def laid_out(maps: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Maps and masks of clips as those of tall pictures; those of pictures as they are.

    Between frames lie rows that are void in the mask and lowest in the map, so that nothing of one frame counts as near
    to another.

    Args:
        maps: ``(B, K, t, h, w)``; resized in time and space to the masks.
        mask: ``(B, 1, T, H, W)``: 1 object, 0 background, 255 void.

    Returns:
        ``(B, K, T * (H + gap), W)`` and ``(B, 1, T * (H + gap), W)``.
    """
    if maps.ndim == 4:
        return maps, mask
    gap = math.ceil(TOLERANCE * min(mask.shape[-2:])) + 1
    maps = to_volume(maps, mask.shape[2:])
    lowest = maps.amin((2, 3, 4), keepdim=True).expand(*maps.shape[:3], gap, maps.shape[-1])
    between = mask.new_full((*mask.shape[:3], gap, mask.shape[-1]), VOID)
    return torch.cat([maps, lowest], 3).flatten(2, 3), torch.cat([mask, between], 3).flatten(2, 3)


def to_volume(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Maps ``(B, K, t, h, w)`` at another size ``(T, H, W)``, trilinear; interpolated in float64 and rounded."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(wide(maps), size=tuple(size), mode="trilinear", align_corners=False).to(maps.dtype)


class OnSheets(nn.Module):
    """A network of clips that is given them laid out, ``(B, C, T * H, W)``: for measures that alter pictures."""

    def __init__(self, net: nn.Module, frames: int):
        super().__init__()
        self.net, self.frames = net, frames
        self.training = net.training

    def forward(self, sheets: Tensor) -> Any:
        return self.net(sheets.unflatten(2, (self.frames, -1)))


def on_sheets(net: nn.Module, clips: Tensor, maps: Tensor) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A network, clips ``(B, C, T, H, W)`` and their maps ``(B, K, t, h, w)`` for measures that alter pictures.

    Returns:
        the network for sheets, the clips as such, without gaps, their maps, and the clips blurred frame by frame, which
        is what insertion begins with.
    """
    frames = clips.movedim(2, 1)
    blurred = blur(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).movedim(1, 2)
    maps = to_volume(maps, clips.shape[2:])
    return OnSheets(net, clips.shape[2]), clips.flatten(2, 3), maps.flatten(2, 3), blurred.flatten(2, 3)
