"""Images that the package draws itself, on which a fresh head finds its scale when a model is wrapped."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import shapes

# Of 8 pictures the map is nearly as good as of 32, for a quarter of the time (docs/abn.md). Of larger pictures fewer, so
# that a large input does not make wrapping long.
DRAWN = 8
PIXELS = DRAWN * 224 * 224


@cache
def pictures(count: int) -> Tensor:
    """``(n, H, W, 3)`` uint8; drawn once, since a drawing takes longer than a small network."""
    return torch.stack([torch.from_numpy(row["image"]) for row in shapes.rows("train", count)])


def drawn(preprocessing: dict[str, Any], example: Tensor) -> Tensor:
    """Images of the package's own, normalised, in the form of ``example``; clips stand still, other channels are grey."""
    channels, *size = example.shape[1:]
    count = max(2, min(DRAWN, PIXELS // math.prod(size)))
    pixels = pictures(count).permute(0, 3, 1, 2) / 255
    pixels = F.interpolate(pixels, tuple(size[-2:]), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(preprocessing[key]) for key in ("mean", "std"))
    if channels == 3:
        pixels = (pixels - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    else:
        pixels = ((pixels.mean(1, keepdim=True) - mean.mean()) / std.mean()).expand(-1, channels, -1, -1)
    pixels = pixels.to(example)
    return pixels if len(size) == 2 else pixels[:, :, None].expand(-1, -1, size[0], -1, -1)
