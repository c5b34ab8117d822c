"""Ground truth for localisation: masks with void pixels, or boxes, in one form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._maps import VOID

Boxes = Sequence[Tensor]


class Truth(NamedTuple):
    """``object`` and ``valid`` (B, H, W) bool; ``usable`` (B,) bool: object and background are both there."""

    object: Tensor
    valid: Tensor
    usable: Tensor

    @property
    def size(self) -> tuple[int, int]:
        height, width = self.object.shape[-2:]
        return height, width


def boxes_to_mask(boxes: Boxes, image_size: tuple[int, int]) -> Tensor:
    """``(B, 1, H, W)`` uint8: 1 where a pixel's centre lies in any of its image's boxes.

    Args:
        boxes: one ``(n, 4)`` tensor an image, ``x1, y1, x2, y2`` in pixels; ``n`` may be 0.
        image_size: ``(H, W)``.
    """
    found = []
    for sample, box in enumerate(boxes):
        if box.ndim != 2 or box.shape[1] != 4:
            raise ValueError(f"boxes of sample {sample} must have shape (n, 4), x1 y1 x2 y2, got {tuple(box.shape)}")
        found.append(inside_boxes(box.cpu().double(), image_size))
    masks = torch.stack(found) if found else torch.zeros(0, *image_size, dtype=torch.bool)
    return masks[:, None].to(torch.uint8)


def inside_boxes(boxes: Tensor, image_size: tuple[int, ...]) -> Tensor:
    """``(H, W)`` bool: pixels whose centre lies in one of ``boxes`` (n, 4), left, top, right, bottom.

    Raises:
        ValueError: boxes of another shape.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes of an image must be (n, 4), left, top, right, bottom, got {tuple(boxes.shape)}")
    y, x = (torch.arange(side, device=boxes.device) + 0.5 for side in image_size)
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return (rows[:, :, None] & columns[:, None, :]).any(0)


def read_truth(maps: Tensor, truth: Tensor | Boxes, image_size: tuple[int, int] | None = None) -> Truth:
    """The one form of ground truth, on the maps' device.

    Args:
        maps: ``(B, K, h, w)``, for its batch and device only.
        truth: masks ``(B, 1, H, W)`` of 1 object, 0 background, 255 void, of any dtype (bool is fine); or boxes, one
            ``(n, 4)`` an image. Masks of 0 and 255 alone, as image files have them, are refused: their objects would
            be void.
        image_size: ``(H, W)``, needed with boxes, which are in its pixels.

    Raises:
        ValueError: wrong shape, another value in a mask, another batch, or boxes without the image size.
    """
    if not isinstance(truth, Tensor):
        if image_size is None:
            raise ValueError("boxes need image_size=(H, W), the size of the image whose pixels they count")
        truth = boxes_to_mask(truth, image_size)
    if truth.ndim != 4 or truth.shape[1] != 1:
        raise ValueError(f"masks must have shape (B, 1, H, W), got {tuple(truth.shape)}")
    if len(truth) != len(maps):
        raise ValueError(f"{len(truth)} ground truths for {len(maps)} maps: give one an image")
    truth = truth[:, 0].to(maps.device)
    inside, outside, void = truth == 1, truth == 0, truth == VOID
    if truth.dtype != torch.bool and not (inside | outside | void).all():
        raise ValueError(f"masks hold 1 (object), 0 (background) and {VOID} (void), got {truth.unique().tolist()[:8]}")
    if (
        truth.dtype != torch.bool
        and bool((void.flatten(1).any(1) & outside.flatten(1).any(1)).any())
        and not inside.any()
    ):
        raise ValueError(
            f"the masks hold 0 and {VOID} alone, and in a tensor {VOID} is void: if it is the object, as in image files, "
            f"give mask == {VOID}; if no object is known, make these masks {VOID} all over"
        )
    return Truth(inside, ~void, inside.flatten(1).any(1) & outside.flatten(1).any(1))


def measurable(masks: Tensor) -> Tensor:
    """Masks as measures take them: of those without an object, void and background are both background.

    They are no ground truth either way. So what is left of a mask when its object is cut off is not taken for a mask of
    0 and 255.
    """
    return torch.where((masks == 1).flatten(1).any(1)[:, None, None, None], masks, torch.zeros_like(masks))


def standing_in(truth: Tensor | Boxes) -> Tensor:
    """A tensor of the truth's batch and device, where no map is measured."""
    return torch.empty(len(truth), 1, 1, 1, device=truth.device if isinstance(truth, Tensor) else None)


def usable(truth: Tensor | Boxes, image_size: tuple[int, int] | None = None) -> Tensor:
    """``(B,)`` bool: the samples that localisation measures count; the others (no object, or nothing else) are NaN."""
    return read_truth(standing_in(truth), truth, image_size).usable


def true_positives(logits: Tensor, labels: Tensor) -> Tensor:
    """``(B,)`` bool: the first class is right, or is among the labels of a multi-hot ``(B, classes)`` row.

    For ATCON's table, keep ``iou(...)[true_positives(logits, labels)]``, of both models where two are compared.
    """
    first = logits.argmax(1)
    return first == labels if labels.ndim == 1 else labels.gather(1, first[:, None])[:, 0] > 0
