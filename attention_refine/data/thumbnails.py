"""Images decoded once, as small as random crops of them allow, and kept in a folder.

How small: no random crop, and no centre crop, is enlarged that would not have been enlarged from the whole image. A crop
keeps at least a share s of the image, at ratios from 3:4 to 4:3, and becomes S pixels a side: so a thumbnail has at least
4/3 S^2 / s pixels, and its shorter side the length that evaluation resizes to. For 224 pixels and s = 0.35 that is 437 x 437.

Pixels are kept as they are, so that an item is the same whether its image was kept or not. A file is a PPM with the size
of the whole image and a checksum: one that was cut short or changed is made anew.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from attention_refine.core.files import atomic_file
from attention_refine.data.images import read_image
from attention_refine.data.transforms import Transform

HEADER = re.compile(rb"P6\n# of (\d+) x (\d+), crc32 (\d+)\n(\d+) (\d+)\n255\n")
WIDEST = 4 / 3  # of a random crop, width over height and the reverse


class Thumbnails:
    """The images of a dataset as a :class:`Transform` needs them.

    Any number of processes may share a folder; it may be deleted at any time. A file is known by its path, size and the
    time of its last change, an image in memory by its bytes. What has neither (an address, a PIL image) is made small each
    time.

    Args:
        folder: of the files, made where it is not there.
        transform: what the images are for.
        smallest: share of an image that a random crop keeps at least.
    """

    def __init__(self, folder: str | os.PathLike, transform: Transform, smallest: float):
        self.folder, self.transform, self.smallest = Path(folder).expanduser(), transform, smallest
        self._full = torch.zeros(1, dtype=torch.int64).share_memory_()  # workers say once for all that there is no room

    @property
    def rule(self) -> list[Any]:
        """What decides the pixels, plain values."""
        given = self.transform.preprocessing
        return [*self.transform.size, given["crop_pct"], given.get("crop_mode", "center"), self.smallest]

    def read(self, cell: Any, where: str) -> tuple[Image.Image, tuple[int, int]]:
        """The thumbnail of what :func:`read_image` takes, and (width, height) of the whole image; with its errors."""
        file = self._place(cell)
        kept = None if file is None else _kept(file)
        if kept is not None:
            return kept
        whole = read_image(cell, where)
        size = self.size(whole.width, whole.height)
        small = whole if size == whole.size else whole.resize(size, Image.Resampling.BICUBIC)
        if file is not None and not self._full:
            self._keep(file, small, whole.size)
        return small, whole.size

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the thumbnail of an image of that size."""
        pixels = WIDEST * max(self.transform.size) ** 2 / self.smallest
        down, across = self.transform.resized([height, width])
        factor = min(1.0, max(math.sqrt(pixels / (width * height)), down / height, across / width))
        return math.ceil(width * factor), math.ceil(height * factor)

    def _place(self, cell: Any) -> Path | None:
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (None, cell)
        content = path if isinstance(path, bytes) else content
        key = hashlib.blake2b(repr(self.rule).encode(), digest_size=16)
        if content is not None:
            key.update(content)
        elif isinstance(path, (str, os.PathLike)):
            try:
                state = os.stat(path)
            except OSError:
                return None
            key.update(f"{os.path.abspath(path)} {state.st_size} {state.st_mtime_ns}".encode())
        else:
            return None
        name = key.hexdigest()
        return self.folder / name[:2] / f"{name[2:]}.pixels"  # no image to whoever lists the folder

    def _keep(self, file: Path, image: Image.Image, whole: tuple[int, int]) -> None:
        pixels = image.tobytes()
        said = f"P6\n# of {whole[0]} x {whole[1]}, crc32 {zlib.crc32(pixels)}\n{image.width} {image.height}\n255\n"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(file, flush=False) as path:
                path.write_bytes(said.encode() + pixels)
        except OSError as error:
            self._full.fill_(1)
            warnings.warn(f"cache_images: no more images are kept, they are decoded each time ({error})", stacklevel=2)


def _kept(file: Path) -> tuple[Image.Image, tuple[int, int]] | None:
    """What was kept, whole; None where it was not, or is damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    found = HEADER.match(content)
    if found is None:
        return None
    width, height, checksum, *size = map(int, found.groups())
    pixels = content[found.end() :]
    if len(pixels) != 3 * size[0] * size[1] or zlib.crc32(pixels) != checksum:
        return None
    return Image.frombytes("RGB", (size[0], size[1]), pixels), (width, height)


def shrunk_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (H, W) at the (width, height) of a thumbnail, each pixel the one under its centre."""
    return F.resize_image(torch.from_numpy(mask)[None], list(size[::-1]), InterpolationMode.NEAREST_EXACT)[0].numpy()


def shrunk_boxes(boxes: list[list[float]], whole: tuple[int, int], size: tuple[int, int]) -> list[list[float]]:
    """Boxes [x, y, width, height] of a whole image, on a thumbnail of it; sizes are (width, height)."""
    factors = [now / before for now, before in zip(size, whole)] * 2
    return [[value * factor for value, factor in zip(box, factors)] for box in boxes]
