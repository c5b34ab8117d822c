"""From a feature and a map back to pixels: the deconvolutional network of DARC, and a light one.

Both read the feature with the map put in (:func:`fused`). Training-only: an objective owns one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...maps import resize

DECODERS = ("transposed", "shuffle")
FUSES = ("residual", "concat")
NARROWEST = 16  # channels that the transposed convolutions do not go below
GROUPS = 8


def fused(feature: Tensor, maps: Tensor, how: str) -> Tensor:
    """The feature ``(B, C, h, w)`` with the map ``(B, 1, h, w)`` put in.

    Args:
        how: ``"residual"``, ``(1 + a) F``, in which a zero map hides nothing of the feature and still has a gradient;
            or ``"concat"``, the map as one channel more.
    """
    maps = maps.to(feature.dtype)
    return feature * (1 + maps) if how == "residual" else torch.cat([feature, maps], dim=1)


def make_decoder(kind: str, channels: int, stride: float, width: int, frames: int | None = None) -> nn.Module:
    """``decoder(feature (B, channels, h, w), size) -> (B, 3, *size)``.

    Args:
        kind: ``"transposed"`` or ``"shuffle"``.
        stride: pixels a cell, on the longer way.
        width: channels after the first convolution.
        frames: of clips, how many a cell of time stands for; feature and size then have time before the sides.
    """
    made = TransposedDecoder if kind == "transposed" else ShuffleDecoder
    return made(channels, stride, width) if frames is None else ClipDecoder(made(channels, stride, width, frames))


class ClipDecoder(nn.Module):
    """Each moment of a feature ``(B, C, t, h, w)`` is decoded by itself, into the frames that it stands for."""

    def __init__(self, decoder: nn.Module):
        super().__init__()
        self.decoder = decoder

    def forward(self, feature: Tensor, size: tuple[int, int, int]) -> Tensor:
        found = self.decoder(feature.transpose(1, 2).flatten(0, 1), size[1:])
        frames = found.unflatten(0, (len(feature), -1)).unflatten(2, (3, -1))  # (B, t, 3, frames, H, W)
        return resize(frames.transpose(1, 2).flatten(2, 3), size)


class TransposedDecoder(nn.Module):
    """A 1x1 convolution, then transposed convolutions that double the sides and halve the channels, up to the stride.

    Halving keeps every doubling at the same cost. A stride that is no power of two is passed and resized back.
    """

    def __init__(self, channels: int, stride: float, width: int, pictures: int = 1):
        super().__init__()
        layers = [nn.Conv2d(channels, width, 1), _norm(width), nn.GELU()]
        for _ in range(max(0, math.ceil(math.log2(stride)) - 1)):
            narrower = max(NARROWEST, width // 2)
            layers += [nn.ConvTranspose2d(width, narrower, 4, stride=2, padding=1), _norm(narrower), nn.GELU()]
            width = narrower
        out = 3 * pictures
        last = nn.Conv2d(width, out, 3, padding=1) if stride <= 1 else nn.ConvTranspose2d(width, out, 4, 2, padding=1)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, feature: Tensor, size: tuple[int, int]) -> Tensor:
        return resize(self.layers(feature), size)


class ShuffleDecoder(nn.Module):
    """Each cell predicts its own block of ``stride x stride`` pixels, with two 1x1 convolutions and a pixel shuffle."""

    def __init__(self, channels: int, stride: float, width: int, pictures: int = 1):
        super().__init__()
        block = max(1, round(stride))
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 1),
            nn.GELU(),
            nn.Conv2d(width, 3 * pictures * block**2, 1),
            nn.PixelShuffle(block),
        )

    def forward(self, feature: Tensor, size: tuple[int, int]) -> Tensor:
        return resize(self.layers(feature), size)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(GROUPS, channels), channels)  # of one image: no batch statistics to keep
