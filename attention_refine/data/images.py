"""One image file and its mask, whatever their format."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from attention_refine.data.labels import DataError
from attention_refine.data.masks import object_pixels


def read_image(cell: Any, where: str = "the image") -> Image.Image:
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
    cell: Any, where: str = "the mask", values: Sequence[int] | None = None, void: Sequence[int] | None = None
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


def _decoded(cell: Any, where: str, convert: Callable[[Image.Image], object]) -> Any:
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


def open_image(cell: Any) -> Image.Image:
    """The file of a cell, opened and not yet decoded; decoders' own errors."""
    if isinstance(cell, Image.Image):
        return cell.copy()
    if isinstance(cell, dict):
        content, path = cell.get("bytes"), cell.get("path")
        if content is None and path is not None and "://" in path:  # a file of a stream: let datasets fetch it
            import datasets  # takes a second, which looking at a folder should not

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
