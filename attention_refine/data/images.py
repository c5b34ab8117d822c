"""One image file, its mask and its boxes, whatever their format."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Callable, Sequence

import datasets
import numpy as np
from PIL import Image, ImageOps

from attention_refine.data.columns import DataError
from attention_refine.data.masks import object_pixels


def read_image(cell, where: str = "the image") -> Image.Image:
    """An upright 8-bit RGB image.

    Greyscale, palette, CMYK and 16-bit images are converted (16 bits scaled to 8); transparency is dropped, as timm
    does.

    Args:
        cell: a path, bytes, a PIL image, a uint8 array (H, W, 3) or (H, W), or the ``{"path", "bytes"}`` cell of a
            ``datasets.Image(decode=False)`` column.
        where: what to call it in a message.

    Raises:
        DataError: it cannot be read; the message names the file and says why.
    """
    return _decoded(cell, where, to_rgb)


def read_mask(
    cell, where: str = "the mask", values: Sequence[int] | None = None, void: Sequence[int] | None = None
) -> np.ndarray:
    """A mask file as (H, W) uint8, upright: 0 background, 1 object, 255 void. See :mod:`attention_refine.data.masks`.

    Args:
        cell: as of :func:`read_image`.
        where: what to call it in a message.
        values: the pixel values that are object; all but 0 and void where None.
        void: the pixel values that are void; 128 where both are None.

    Raises:
        DataError: it cannot be read, or its values do not say what is object.
    """
    return _decoded(cell, where, lambda image: object_pixels(image, values, void))


def _decoded(cell, where: str, convert: Callable[[Image.Image], object]):
    try:
        with open_image(cell) as image:
            if not image.width or not image.height:
                raise ValueError(f"it has no pixels, {image.width} x {image.height}")
            upright = ImageOps.exif_transpose(image)
            upright.format = image.format
            return convert(upright)
    except DataError as error:
        raise DataError(f"{where} {error}") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, DecompressionBombError, ...
        reason = re.sub(r" ?<[^<>]* object at 0x\w+>", "", " ".join(str(error).split())) or type(error).__name__
        raise DataError(f"{where} cannot be read as an image ({reason})") from error


def open_image(cell) -> Image.Image:
    """The file of a cell, opened and not yet decoded; decoders' own errors."""
    if isinstance(cell, Image.Image):
        return cell.copy()
    if isinstance(cell, dict):
        content, path = cell.get("bytes"), cell.get("path")
        if content is None and path is not None and "://" in path:  # a file of a stream: let datasets fetch it
            return datasets.Image().decode_example(cell)
        cell = path if content is None else content
    if cell is None:
        raise ValueError("there is no image in this row")
    if isinstance(cell, np.ndarray):
        if cell.dtype != np.uint8 or cell.ndim not in (2, 3) or cell.ndim == 3 and cell.shape[2] not in (3, 4):
            raise ValueError(f"an array of {cell.dtype}, {cell.shape}: it must be uint8, (H, W, 3) or (H, W)")
        return Image.fromarray(cell)
    if not isinstance(cell, (str, os.PathLike, bytes)) and not hasattr(cell, "read"):
        several = ", one at a time" if isinstance(cell, (list, tuple)) else ""
        kind = type(cell).__name__
        raise ValueError(f"{kind} is none: give a path, bytes, a PIL image or a uint8 array (H, W, 3){several}")
    return Image.open(io.BytesIO(cell) if isinstance(cell, bytes) else cell)


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        wide = np.clip(np.asarray(image, dtype=np.float64), 0, 65535)
        image = Image.fromarray((wide / 257 + 0.5).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no set range: store 8 or 16 bits")
    if image.mode in ("P", "PA") and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def as_boxes(value, where: str) -> list[list[float]]:
    """``[x, y, width, height]`` or a list of them, as a list of them."""
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{where}: bbox {value!r} is not [x, y, width, height] in pixels")
    boxes = [value] if value and not any(isinstance(v, (list, tuple)) for v in value) else value
    for box in boxes:
        numbers = isinstance(box, (list, tuple)) and all(_is_number(v) and math.isfinite(v) for v in box)
        if not numbers or len(box) != 4 or box[2] < 0 or box[3] < 0:
            raise DataError(f"{where}: bbox {box!r} is not [x, y, width, height] in pixels")
    return [[float(v) for v in box] for box in boxes]


def _is_number(value) -> bool:
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
