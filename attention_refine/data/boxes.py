"""Boxes as people write them, held against their image."""

from __future__ import annotations

import math
from typing import Any

from attention_refine.data.labels import DataError

BOX_FORMATS = ("xywh", "xyxy")


def check_box_format(box_format: str) -> None:
    if box_format not in BOX_FORMATS:
        raise ValueError(
            f"box_format {box_format!r} is not one of xywh ([x, y, width, height]), xyxy ([left, top, right, bottom])"
        )


def from_corners(value: Any, where: str) -> Any:
    """``[left, top, right, bottom]``, or a list of them, as ``[x, y, width, height]``.

    Raises:
        DataError: a right or bottom side that is left of or above the other.
    """
    if not isinstance(value, (list, tuple)) or not value:
        return value
    if isinstance(value[0], (list, tuple)):
        return [from_corners(box, where) for box in value]
    if len(value) != 4 or any(isinstance(v, (str, bool)) or v is None for v in value):
        return value  # refused where boxes are read
    left, top, right, bottom = value
    if right < left or bottom < top:
        raise DataError(f"{where}: box {value!r} is not [left, top, right, bottom]: box_format='xyxy' asks for these")
    return [left, top, right - left, bottom - top]


def as_boxes(value: Any, where: str) -> list[list[float]]:
    """``[x, y, width, height]`` or a list of them, as a list of them."""
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{where}: bbox {value!r} is not [x, y, width, height] in pixels")
    boxes = [value] if value and not any(isinstance(v, (list, tuple)) for v in value) else value
    for box in boxes:
        numbers = isinstance(box, (list, tuple)) and all(_is_number(v) and math.isfinite(v) for v in box)
        if not numbers or len(box) != 4 or box[2] < 0 or box[3] < 0:
            raise DataError(f"{where}: bbox {box!r} is not [x, y, width, height] in pixels")
    return [[float(v) for v in box] for box in boxes]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


SLACK = 0.02  # of a side: what an annotation tool's rounding may leave a box out by


def check_boxes(boxes: list[list[float]], size: tuple[int, int], where: str) -> None:
    """Hold boxes against their image.

    Args:
        boxes: ``[x, y, width, height]`` each.
        size: (width, height) of the upright image.
        where: what to call them in a message.

    Raises:
        DataError: a box without an area, one that leaves the image by more than 2 % of a side (and 2 pixels), or one
            whose numbers are all between 0 and 1: shares, as of YOLO, are no pixels.
    """
    width, height = size
    for box in boxes:
        x, y, w, h = box
        shown = f"{where} {[round(v, 2) for v in box]} (x, y, width, height)"
        if w <= 0 or h <= 0:
            raise DataError(f"{shown} has no area: correct it, or leave it out")
        if max(box) <= 1 and min(box) >= 0 and min(size) > 1:
            raise DataError(
                f"{shown} seems to be shares of its image of {width}x{height}: give pixels. YOLO's [centre x, centre y, w, "
                "h] are pixels [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]"
            )
        if _leaves(box, width, height):
            remedy = "correct it"
            if w > x and h > y and not _leaves([x, y, w - x, h - y], width, height):
                remedy = "as left, top, right, bottom it would fit: box_format='xyxy'"
            elif not _leaves(box, height, width):
                remedy = "it fits the picture as stored, before it was turned upright (EXIF): turn the box as well"
            raise DataError(f"{shown} leaves its image of {width}x{height} (width x height, upright): {remedy}")


def _leaves(box: list[float], width: int, height: int) -> bool:
    x, y, w, h = box
    out_x, out_y = max(2, SLACK * width), max(2, SLACK * height)
    inside = x < width and y < height and x + w > 0 and y + h > 0
    return not inside or x < -out_x or y < -out_y or x + w > width + out_x or y + h > height + out_y
