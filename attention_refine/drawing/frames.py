"""Frames of a clip as pictures, with its map over them: a strip of some of them, or all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from ..maps._scale import normalize, resize
from .overlay import denormalize, outline, overlay

GAP = 2  # pixels between the frames of a strip
MOST = 6  # frames of a strip


def spread(frames: int, most: int = MOST) -> list[int]:
    """Which of the frames a strip shows: the first, the last, and others evenly between."""
    count = min(frames, most)
    return [round(i * (frames - 1) / max(1, count - 1)) for i in range(count)]


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size in a row."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place * (width + GAP), 0))
    return sheet


def pictures_of(pixel_values: Tensor, preprocessing: Mapping[str, Any]) -> list[Image.Image]:
    """The frames of a clip ``(3, T, H, W)`` that is normalised by ``preprocessing``."""
    return [denormalize(frame, preprocessing) for frame in pixel_values.unbind(1)]


def with_maps(
    pictures: Sequence[Image.Image], maps: Tensor, alpha: float = 0.5, box: Sequence[float] | None = None
) -> list[Image.Image]:
    """Every frame with its map over it, all on one scale: the clip's lowest value dark, its highest bright.

    Args:
        maps: ``(t, h, w)``, in frames and in space at any resolution.
        alpha, box: as of :func:`attention_refine.drawing.overlay.overlay`.
    """
    there = resize(maps[None, None].detach().cpu().double(), (len(pictures), *maps.shape[1:]))
    scaled = normalize(there)[0, 0]
    return [overlay(picture, map, alpha=alpha, scale="unit", box=box) for picture, map in zip(pictures, scaled)]


def map_strip(pictures: Sequence[Image.Image], maps: Tensor) -> Image.Image:
    """A strip of frames in grey with their maps in colour."""
    drawn = with_maps([picture.convert("L") for picture in pictures], maps, alpha=0.55)
    return side_by_side([drawn[i] for i in spread(len(drawn))])


def truth_strip(
    pictures: Sequence[Image.Image], mask: Tensor | None, cue: Tensor | None, cue_colour: Any
) -> Image.Image:
    """A strip of frames with the edges of object and cue, ``(1, T, H, W)`` each, where they are known."""

    def at(truth: Tensor | None, frame: int) -> Tensor | None:
        return None if truth is None else truth[:, frame]

    shown = []
    for frame in spread(len(pictures)):
        outlined = outline(pictures[frame], at(mask, frame))
        shown.append(outline(outlined, at(cue, frame), colour=cue_colour))
    return side_by_side(shown)
