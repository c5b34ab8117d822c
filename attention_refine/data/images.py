"""One image file, its mask and its boxes, whatever their format."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import datasets
import numpy as np
from PIL import Image, ImageOps

from attention_refine.data.columns import DataError


def read_image(cell, where: str = "the image") -> Image.Image:
    """An upright 8-bit RGB image.

    Greyscale, palette, CMYK and 16-bit images are converted (16 bits scaled to 8); transparency is dropped, as timm
    does.

    Args:
        cell: a path, bytes, a PIL image, or the ``{"path", "bytes"}`` cell of a ``datasets.Image(decode=False)``
            column.
        where: what to call it in a message.

    Raises:
        DataError: it cannot be read; the message names the file and says why.
    """
    return _decoded(cell, where, to_rgb)


def read_mask(cell, where: str = "the mask") -> np.ndarray:
    """A mask file as (H, W) uint8, upright: 0 background, 1 object, 255 void. Palette indices count as values.

    Args and errors: see :func:`read_image`.
    """
    return _decoded(cell, where, _object)


def _decoded(cell, where: str, convert: Callable[[Image.Image], object]):
    try:
        with open_image(cell) as image:
            return convert(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, DecompressionBombError, ...
        reason = " ".join(str(error).split()) or type(error).__name__
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


def _object(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    if pixels.ndim == 3:
        pixels = pixels[..., : 1 if image.mode == "LA" else 3]
    else:
        pixels = pixels[..., None]
    background, void = (pixels == 0).all(-1), (pixels == 128).all(-1)
    return np.where(background, 0, np.where(void, 255, 1)).astype(np.uint8)


def as_boxes(value, where: str) -> list[list[float]]:
    """``[x, y, width, height]`` or a list of them, as a list of them."""
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{where}: bbox {value!r} is not [x, y, width, height] in pixels")
    boxes = [value] if value and not any(isinstance(v, (list, tuple)) for v in value) else value
    for box in boxes:
        numbers = isinstance(box, (list, tuple)) and all(isinstance(v, (int, float)) and math.isfinite(v) for v in box)
        if not numbers or len(box) != 4 or box[2] < 0 or box[3] < 0:
            raise DataError(f"{where}: bbox {box!r} is not [x, y, width, height] in pixels")
    return [[float(v) for v in box] for box in boxes]
