"""Pictures put together from others: a hole filled from its surroundings, an edge made soft, a part moved.

Pure tensor code on images ``(B, C, H, W)`` and masks ``(B, 1, H, W)`` in [0, 1], in float32 at least; nothing here is
random, and nothing knows of models. Clips ``(B, C, T, H, W)`` and their masks are put together frame by frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FILLS = ("smooth", "mirror", "none")


def _frame_by_frame(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of images that takes clips too."""

    @functools.wraps(function)
    def of_images_and_clips(images: Tensor, *rest: object, **named: object) -> Tensor:
        if images.ndim != 5:
            return function(images, *rest, **named)
        found = function(_as_images(images), *(_as_images(each) for each in rest), **named)
        return found.unflatten(0, (len(images), -1)).movedim(1, 2)

    return of_images_and_clips


def _as_images(clips: Any) -> Any:
    """The frames of clips, one after another; anything else as it is."""
    return clips.movedim(2, 1).flatten(0, 1) if isinstance(clips, Tensor) and clips.ndim == 5 else clips


@_frame_by_frame
def fill_in(images: Tensor, hole: Tensor, fill: str = "smooth") -> Tensor:
    """Images whose hole is filled from what lies around it; outside the hole every pixel stays as it is.

    Args:
        images: ``(B, C, H, W)``.
        hole: ``(B, 1, H, W)`` in [0, 1], how far each pixel is replaced. An image that is all hole becomes zero.
        fill: ``"smooth"``, colours that run on smoothly from the rim (pull and push over a pyramid of averages, Gortler
            et al. 1996); ``"mirror"``, the image's own left-right mirror where that is not hole itself, else smooth: it
            keeps the texture; ``"none"``, the images as they are.

    Raises:
        ValueError: an unknown ``fill``.
    """
    if fill == "none":
        return images
    if fill == "mirror":
        filling = torch.where(hole.flip(-1) < 0.5, images.flip(-1), fill_in(images, hole))
        return images * (1 - hole) + hole * filling
    if fill != "smooth":
        raise ValueError(f"fill={fill!r} is not one of {', '.join(map(repr, FILLS))}")
    return _pulled_and_pushed(images * (1 - hole), 1 - hole)


def _pulled_and_pushed(seen: Tensor, weight: Tensor) -> Tensor:
    """What is seen, ``weight`` of it at each pixel, and for the rest what the same gives at half the resolution."""
    if max(seen.shape[2:]) == 1:
        return seen / weight.clamp_min(1e-6)
    halves = (F.avg_pool2d(each, 2, ceil_mode=True) for each in (seen, weight))
    coarser = F.interpolate(_pulled_and_pushed(*halves), scale_factor=2, mode="bilinear", align_corners=False)
    coarser = coarser[:, :, : seen.shape[2], : seen.shape[3]]
    return seen + (1 - weight) * coarser


@_frame_by_frame
def softened(mask: Tensor, pixels: int) -> Tensor:
    """A mask whose edge falls off over ``pixels`` to each side (two box filters); 0.5 stays at a straight edge.

    Beyond the border of the image the mask counts as it is at the border.
    """
    for radius in ((pixels + 1) // 2, pixels // 2):
        if radius:
            mask = F.avg_pool2d(F.pad(mask, [radius] * 4, mode="replicate"), 2 * radius + 1, stride=1)
    return mask


@_frame_by_frame
def grown(mask: Tensor, pixels: int) -> Tensor:
    """A mask larger by ``pixels`` on every side: at each pixel the largest value of the square around it."""
    return F.max_pool2d(mask, 2 * pixels + 1, stride=1, padding=pixels) if pixels else mask


def moved(images: Tensor, by: Tensor, outside: str = "border") -> Tensor:
    """Images moved by whole pixels, to the bit.

    Args:
        by: ``(B, 2)`` integers, pixels down and to the right; all frames of a clip move alike.
        outside: what comes in from beyond: the ``"border"``'s pixels, or ``"zeros"``.
    """
    if images.ndim == 5:
        found = moved(_as_images(images), by.repeat_interleave(images.shape[2], 0), outside)
        return found.unflatten(0, (len(images), -1)).movedim(1, 2)
    rows, columns = (
        torch.arange(side, device=images.device) - by[:, axis, None] for axis, side in enumerate(images.shape[2:])
    )
    height, width = images.shape[2:]
    at = torch.arange(len(images), device=images.device)[:, None, None]
    found = images.movedim(1, -1)[at, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]]
    found = found.movedim(-1, 1)
    if outside == "zeros":
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
        found = found * inside[:, None].to(found.dtype)
    return found


def extent(mask: Tensor) -> Tensor:
    """``(B, 4)`` integers: the first row of what is above 0, the row after its last, and the same of columns.

    An empty mask extends from its side's length to 0, and that of a clip over all that any frame has.
    """
    mask = mask.amax(2) if mask.ndim == 5 else mask
    ends = []
    for axis in (2, 3):
        there = (mask > 0).amax((1, 5 - axis))
        side = there.shape[1]
        at = torch.arange(side, device=mask.device)
        ends += [torch.where(there, at, side).amin(1), torch.where(there, at + 1, 0).amax(1)]
    return torch.stack(ends, dim=1)
