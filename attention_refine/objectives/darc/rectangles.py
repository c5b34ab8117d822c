"""Rectangles to hide: drawn at random, or where a map is strong or weak.

Two steps, so that everything but the first is a pure function: numbers in [0, 1) are drawn, four a rectangle, and the
rectangles are made of them. The numbers come from torch's CPU generator, whose state a checkpoint holds, or from each
image's own pixels: then an image has the same rectangles in any batch and on any process, and no generator moves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...maps import normalize

SAMPLING = ("random", "strong", "weak")
NUMBERS = 4  # a rectangle: height, width, and two for the place


@dataclass(frozen=True)
class Occlusion:
    """What is hidden of an image: rectangles of random size, at random places or where a map says.

    Of a clip they are hidden in every frame, as tubes: what is hidden in one alone can be read off the next.

    Args:
        size: shortest and longest side, as shares of the image's.
        rectangles: how many an image.
        least: shortest height and width in pixels; see :func:`side_range`.
        sampling: ``"random"``, ``"strong"`` or ``"weak"``; see :func:`rectangles`.
        seed: for :func:`drawn_from_pixels`.
    """

    size: tuple[float, float]
    rectangles: int
    least: tuple[float, float]
    sampling: str = "random"
    seed: int = 0

    def sides(self, image_size: Sequence[int]) -> list[tuple[int, int]]:
        """Shortest and longest height, and width, in an image of ``(H, W)``; refuses what cannot be."""
        return [side_range(side, self.size, least) for side, least in zip(image_size, self.least)]

    def hide(self, image: Tensor, maps: Tensor | None = None, turn: tuple[int, ...] | None = None) -> Tensor:
        """``(B, 1, H, W)`` bool, True where hidden; of clips ``(B, 1, T, H, W)``.

        Args:
            image: ``(B, C, H, W)``, or clips ``(B, C, T, H, W)``.
            maps: ``(B, 1, h, w)``, of clips ``(B, 1, t, h, w)``, whose mean over time counts; without them rectangles
                lie at random.
            turn: whole numbers that, with the pixels, decide the rectangles; ``None`` draws from torch's generator.
        """
        if turn is None:
            numbers = drawn(len(image), self.rectangles)
        else:
            numbers = drawn_from_pixels(image, self.rectangles, self.seed, *turn)
        size = tuple(image.shape[-2:])
        sampling = "random" if maps is None else self.sampling
        if maps is not None and maps.ndim == 5:
            maps = maps.mean(2)
        heights, widths = self.sides(size)
        made = rectangles(numbers, size, heights, widths, maps, sampling)
        hidden = inside(made, size, image.device)
        return hidden if image.ndim == 4 else hidden[:, :, None].expand(-1, -1, image.shape[2], -1, -1)


def drawn(images: int, rectangles: int) -> Tensor:
    """``(B, R, 4)`` float64 in [0, 1), from torch's CPU generator."""
    return torch.rand(images, rectangles, NUMBERS, dtype=torch.float64)


def drawn_from_pixels(pixel_values: Tensor, rectangles: int, *seeds: int) -> Tensor:
    """``(B, R, 4)`` float64 in [0, 1), decided by each image's pixels and ``seeds``; no generator moves."""
    bits = pixel_values.detach().float().contiguous().view(torch.int32)
    numbers = []
    for total in bits.flatten(1).long().sum(1).tolist():  # integers add up alike in any order
        for seed in seeds:
            total = (total * 6364136223846793005 + seed + 1442695040888963407) % 2**64
        generator = torch.Generator().manual_seed(total % 2**63)
        numbers.append(torch.rand(rectangles, NUMBERS, dtype=torch.float64, generator=generator))
    return torch.stack(numbers)


def side_range(side: int, share: tuple[float, float], least: float = 0.0) -> tuple[int, int]:
    """The shortest and longest side of a rectangle along an axis of ``side`` pixels, in pixels.

    Args:
        share: of the axis, shortest and longest.
        least: what is shorter than this many pixels is lengthened: a feature that sees most of the way around a hole
            has nothing to predict.

    Raises:
        ValueError: a rectangle would be empty, or leave nothing of the axis to predict it from.
    """
    shortest = max(round(share[0] * side), math.ceil(least))
    longest = max(round(share[1] * side), shortest)
    if shortest < 1:
        raise ValueError(f"occlusion: size={share} hides nothing of {side} pixels, and needs at least 1; raise size")
    if longest >= side:
        raise ValueError(
            f"occlusion: size={share}, at least {math.ceil(least)} pixels, hides {longest} of {side} pixels, and fewer "
            "than all are accepted; lower size or min_cells, or take larger images or an earlier site"
        )
    return shortest, longest


def rectangles(
    numbers: Tensor,
    size: Sequence[int],
    heights: tuple[int, int],
    widths: tuple[int, int],
    maps: Tensor | None = None,
    sampling: str = "random",
) -> Tensor:
    """``(B, R, 4)`` int64, left, top, right and bottom in pixels, right and bottom excluded; all inside the image.

    Args:
        numbers: ``(B, R, 4)`` in [0, 1).
        size: ``(H, W)`` of the image.
        heights, widths: shortest and longest, in pixels; every whole number between is equally likely.
        maps: ``(B, 1, h, w)``, for ``sampling`` other than ``"random"``.
        sampling: ``"random"``, every place is equally likely; ``"strong"``, the centre falls into a cell with a
            probability that grows with the map, from 0 where it is smallest; ``"weak"``, with one that falls.
    """
    maps = None if sampling == "random" else maps
    numbers = numbers if maps is None else numbers.to(maps.device)
    height, width = (_whole(numbers[..., k], *bounds) for k, bounds in enumerate((heights, widths)))
    if maps is None:
        top = _whole(numbers[..., 2], torch.zeros_like(height), size[0] - height)
        left = _whole(numbers[..., 3], torch.zeros_like(width), size[1] - width)
        return torch.stack([left, top, left + width, top + height], -1)
    rows, columns = maps.shape[2:]
    weights = normalize(maps.detach(), "minmax")[:, 0].flatten(1).double()
    weights = (weights if sampling == "strong" else 1 - weights) + 1e-6  # a constant map: anywhere
    shares = weights.cumsum(1)
    cell = torch.searchsorted(shares, numbers[..., 2] * shares[:, -1:], right=True).clamp(max=rows * columns - 1)
    # the last number says where in its cell the centre lies, on the diagonal
    middle_y = (cell // columns + numbers[..., 3]) * size[0] / rows
    middle_x = (cell % columns + numbers[..., 3]) * size[1] / columns
    top = torch.minimum((middle_y - height / 2).round().long().clamp_min(0), size[0] - height)
    left = torch.minimum((middle_x - width / 2).round().long().clamp_min(0), size[1] - width)
    return torch.stack([left, top, left + width, top + height], -1)


def _whole(number: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    """A whole number from ``low`` to ``high``, both included, from one in [0, 1)."""
    return (low + number * (high - low + 1)).floor().long()


def inside(boxes: Tensor, size: Sequence[int], device: torch.device) -> Tensor:
    """``(B, 1, H, W)`` bool: the pixels in at least one of the image's rectangles ``(B, R, 4)``."""
    left, top, right, bottom = boxes.to(device)[..., None].unbind(2)
    y, x = (torch.arange(side, device=device) for side in size)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return (rows[..., :, None] & columns[..., None, :]).any(1, keepdim=True)
