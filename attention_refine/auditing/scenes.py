"""Images that never were: the object on another place, alone or gone; the cue removed, or another class's put in.

The object's scenes are those of the Backgrounds Challenge (Xiao et al., *Noise or Signal*, ICLR 2021, arXiv 2006.09994):
*Only-FG*, *Only-BG*, *Mixed-Same* and *Mixed-Rand*. Two things differ: what is taken out is filled smoothly from its
surroundings instead of tiled (its whole bounding box, so that no outline is left to tell the class), and edges are soft
by a pixel. Pure tensor code on ``(B, 3, H, W)`` as a model takes it, and masks ``(B, 1, H, W)`` of 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attention_refine.drawing.compositing import extent, fill_in, grown, softened


@dataclass(frozen=True)
class Scene:
    """What a table calls it, and what a model that looks at the object alone makes of it."""

    title: str
    note: str


SCENES: dict[str, Scene] = {
    "object_alone": Scene("Object alone, on black", "should stay right"),
    "place_alone": Scene("Place alone, the object filled in", "should be no better than guessing"),
    "mixed_same": Scene("Object on a place of its own class", "should stay right"),
    "mixed_rand": Scene("Object on the place of any class", "should be as right as on a place of its own class"),
    "cue_removed": Scene("Cue removed", "should stay right"),
    "cue_moved": Scene("Another class's cue put in", "should stay right"),
}
ON_PLACES = ("mixed_same", "mixed_rand")
RIM = 1  # pixels: the softness of an edge


def place_of(images: Tensor, hidden: Tensor) -> Tensor:
    """The images without their objects: the bounding box of what is hidden filled from around it."""
    return fill_in(images, _box(hidden))


def object_on(images: Tensor, own: Tensor, places: Tensor) -> Tensor:
    """The objects of the images, where they are, on other places (or on a colour ``(1, 3, 1, 1)``)."""
    alpha = softened(own.to(images), RIM)
    return alpha * images + (1 - alpha) * places


def without_cue(images: Tensor, cue: Tensor) -> Tensor:
    """The images with the cue filled in from around it."""
    return fill_in(images, softened(grown(cue.to(images), 2 * RIM), RIM))


def with_cue_of(images: Tensor, cue: Tensor, others: Tensor, other_cue: Tensor) -> Tensor:
    """The images with their own cue filled in, and the others' cue where it is in the others."""
    return object_on(others, other_cue, without_cue(images, cue))


def _box(mask: Tensor) -> Tensor:
    """``(B, 1, H, W)`` float32: 1 in the bounding box of each mask."""
    top, bottom, left, right = extent(mask.float())[:, :, None].unbind(1)
    rows, columns = (torch.arange(side, device=mask.device) for side in mask.shape[2:])
    inside_rows, inside_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None].float()
