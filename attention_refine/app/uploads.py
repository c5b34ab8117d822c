"""Photographs that people drop on the page: judged before they are decoded."""

from __future__ import annotations

from PIL import Image

from attention_refine.data import DataError, read_image
from attention_refine.data.images import open_image

MOST_BYTES = 20 * 2**20
MOST_PIXELS = 50_000_000


def opened(content: bytes, name: str) -> Image.Image:
    """The photograph in a file's bytes, upright and RGB.

    Raises:
        DataError: no image, or one with too many pixels, which is said before any is decoded.
    """
    cell = {"bytes": content, "path": None}
    try:
        with open_image(cell) as image:
            width, height = image.size
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, DecompressionBombError, ...
        raise DataError(f"{name} cannot be read as an image: drop a JPEG, PNG, WebP, GIF, TIFF or BMP file") from error
    if width * height > MOST_PIXELS:
        raise DataError(
            f"{name} has {width} x {height} pixels, and at most {MOST_PIXELS:,} are taken: make it smaller first"
        )
    return read_image(cell, name)
