"""What a batch says its maps should be: edited maps, masks, boxes and cues as targets on a map's grid."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..drawing.compositing import grown
from ..metrics.ground_truth import inside_boxes

TARGETS = {"edited": "edited_map", "mask": "mask", "boxes": "boxes"}  # the first that an image has counts


def map_targets(batch: dict[str, Any], kind: str = "auto", dilation: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Where the maps of a batch should be.

    Args:
        batch: with ``pixel_values`` and, if it has targets, ``edited_map`` (B, 1, h, w) with flags ``edited`` (B,)
            (all, where there are none), ``mask`` (B, 1, h, w) of 0, 1 and 255 for void, ``boxes``, or ``cue``
            (B, 1, h, w) of 0 and 1.
        kind: ``"edited"``, ``"mask"`` or ``"boxes"``; ``"auto"`` takes of each image the first of these that it has;
            ``"cue"`` is everywhere but on the cue.
        dilation: by how much what was annotated is larger on every side, as a share of the image's shorter side; void
            stays void.

    Returns:
        ``target`` (B, 1, h, w) in [0, 1]; ``known`` of its shape, 0 where void; ``given`` (B,), 1 for the images that
        have a target. All float32.
    """
    target, known, given = _first_of_each(batch) if kind == "auto" else _of_kind(batch, kind)
    pixels = round(dilation * min(target.shape[-2:]))
    if pixels:
        target = 1 - _grown(1 - target, pixels) if kind == "cue" else _grown(target, pixels) * known
    return target, known, given


def _grown(target: Tensor, pixels: int) -> Tensor:
    """Grown in the picture, and not in time: frame by frame on clips."""
    if target.ndim == 4:
        return grown(target, pixels)
    return grown(target.flatten(0, 2)[:, None], pixels).reshape(target.shape)


def on_grid(target: Tensor, known: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A target on the grid of a map: the mean over each cell of what is known there, and where anything is.

    Args:
        target, known: of :func:`map_targets`.
        grid: ``maps.shape[2:]``, ``(h, w)``, or ``(t, h, w)`` of a clip, whose frames share a target.
    """
    if len(grid) == 3 and target.ndim == 4:
        target, known = target[:, :, None], known[:, :, None]
    pool: Callable[..., Tensor] = F.adaptive_avg_pool2d if len(grid) == 2 else F.adaptive_avg_pool3d
    share = pool(known, grid)
    return pool(target * known, grid) / share.clamp_min(1e-6), (share > 0).float()


def columns_of(kind: str) -> tuple[str, ...]:
    """The columns that targets of a kind are read from."""
    if kind == "cue":
        return ("cue",)
    return tuple(TARGETS.values()) if kind == "auto" else (TARGETS[kind],)


def _first_of_each(batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    size = tuple(batch["pixel_values"].shape[-2:])
    kinds = [kind for kind, column in TARGETS.items() if batch.get(column) is not None]
    if len(kinds) == 1:  # at its own resolution
        return _of_kind(batch, kinds[0])
    target, known, given = _nothing(batch["pixel_values"], size)
    for kind in reversed(kinds):  # the first has the last word
        own, seen, there = _of_kind(batch, kind)
        own, seen = on_grid(own, seen, size)
        chosen = there.reshape(-1, 1, 1, 1) > 0
        target, known, given = own.where(chosen, target), seen.where(chosen, known), there.where(there > 0, given)
    return target, known, given


def _of_kind(batch: dict[str, Any], kind: str) -> tuple[Tensor, Tensor, Tensor]:
    pixels = batch["pixel_values"]
    found = batch.get(columns_of(kind)[0])
    if found is None:
        return _nothing(pixels, (1, 1))
    if kind == "boxes":
        found = torch.stack([inside_boxes(boxes.to(pixels.device), pixels.shape[-2:]) for boxes in found])[
            :, None
        ].float()
    found = found.to(pixels.device)
    if kind != "boxes":
        found = _planes(columns_of(kind)[0], found, pixels)
    if kind == "cue":
        cue = (found == 1).float()
        return 1 - cue, torch.ones_like(cue), cue.flatten(1).amax(1)
    if kind == "mask":
        _check_mask(found)
    known = (found != 255).float() if kind == "mask" else torch.ones_like(found, dtype=torch.float32)
    given = known.flatten(1).amax(1)
    if kind == "boxes":
        given = torch.tensor([len(boxes) > 0 for boxes in batch["boxes"]]).to(given)
    if kind == "edited" and batch.get("edited") is not None:
        given = batch["edited"].to(given)
    return found.float() * known, known, given


def _planes(name: str, found: Tensor, pixels: Tensor) -> Tensor:
    """A mask, map or cue of each image as ``(B, 1, ...)``; one without a channel would meet every other image's.

    Raises:
        ValueError: another shape.
    """
    if found.ndim == pixels.ndim - 1 and pixels.ndim == 4 and len(found) == len(pixels):
        found = found[:, None]
    if found.ndim not in (4, pixels.ndim) or len(found) != len(pixels) or found.shape[1] != 1:
        raise ValueError(f"{name} must be ({len(pixels)}, 1, h, w) for {len(pixels)} images, got {tuple(found.shape)}")
    return found


def _check_mask(mask: Tensor) -> None:
    """Refuse values that mean nothing, and say what 255 means where it may be the object.

    Raises:
        ValueError: a value above 1 that is not 255.
    """
    if torch.compiler.is_compiling():
        return
    strange = mask[(mask > 1) & (mask != 255)]
    if len(strange):
        raise ValueError(f"masks hold 1 (object), 0 (background) and 255 (void), got {float(strange[0]):g}")
    if mask.dtype != torch.bool and not (mask > 0).logical_and(mask <= 1).any():
        void = mask.flatten(1) == 255
        if bool((void.any(1) & ~void.all(1)).any()):
            warnings.warn(
                "the masks of a batch hold 0 and 255 alone: 255 is void, so no object is known. If it is the object, as in "
                "image files, give mask == 255",
                stacklevel=2,
            )


def _nothing(pixels: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    nothing = pixels.new_zeros((len(pixels), 1, *size), dtype=torch.float32)
    return nothing, nothing, nothing[:, 0, 0, 0]
