"""Masks that a machine made, in a dataset beside those that people drew: who made each, how sure it was, and its pixels.

Three columns: ``mask`` (or ``bbox``), ``mask_source`` (:data:`SOURCES`, null where a row has none) and ``mask_confidence``
(1 for a person's, 0 for none).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from attention_refine.data.columns import undecoded
from attention_refine.data.images import open_image
from attention_refine.maps import resize

SOURCES = ("person", "model", "words")  # "model": attention_refine.propagate; "words": attention_refine.data.annotate
TURNED = (5, 6, 7, 8)  # EXIF orientations that lie on their side


def without_made(dataset: datasets.Dataset, by: Sequence[str]) -> datasets.Dataset:
    """The dataset without the masks of these sources, and without the boxes of ``"words"`` where it is one of them.

    A column that then holds nothing is gone. Who made the others, and how sure it was, stays.
    """
    if "mask_source" not in dataset.column_names:
        return dataset
    sources = dataset["mask_source"]
    gone = {"mask": [source in by for source in sources]}
    gone["bbox"] = [source == "words" and source in by for source in sources]  # the other source makes no boxes
    for name, flags in gone.items():
        if name in dataset.column_names and any(flags):
            cells = undecoded(dataset).select_columns([name])[name]
            kept = [None if flag else cell for flag, cell in zip(flags, cells)]
            kind = dataset.features[name]
            dataset = dataset.remove_columns(name)
            dataset = dataset.add_column(name, kept, feature=kind) if any(kept) else dataset
    return dataset


def with_made(
    dataset: datasets.Dataset, column: str, cells: list[Any], kind: Any, sources: list[str | None],
    confidences: list[float],
) -> datasets.Dataset:  # fmt: skip
    """The dataset with these masks, or boxes, and who made them, in place of the columns that it has."""
    names = (column, "mask_source", "mask_confidence")
    dataset = dataset.remove_columns([name for name in names if name in dataset.column_names])
    dataset = dataset.add_column(column, cells, feature=kind)
    dataset = dataset.add_column("mask_source", sources, feature=datasets.Value("string"))
    return dataset.add_column("mask_confidence", confidences, feature=datasets.Value("float32"))


def cut_mask(map: Tensor, size: tuple[int, int], level: float) -> tuple[dict[str, Any] | None, float]:
    """A map ``(1, h, w)`` in [0, 1] as a mask: a PNG of ``size`` (height, width), 255 where the map is at ``level`` or above.

    Returns:
        The mask as a cell of an image column, ``None`` where nothing is so high, and how sure it is: the overlap to be
        expected if the map were the probability of each pixel to be object.
    """
    values = resize(map[None], size)[0, 0].clamp(0, 1)
    inside = values >= level
    if not inside.any():
        return None, 0.0
    sure = float(values[inside].sum() / (inside.sum() + values[~inside].sum()))
    out = io.BytesIO()
    Image.fromarray(inside.numpy().astype(np.uint8) * 255).save(out, "PNG")
    return {"path": None, "bytes": out.getvalue()}, sure


def upright_size(cell: Any) -> tuple[int, int]:
    """``(height, width)`` of an image as it is looked at; its pixels are not read."""
    with open_image(cell) as image:
        width, height = image.size
        return (width, height) if image.getexif().get(0x0112) in TURNED else (height, width)


def file_identity(cell: dict[str, Any]) -> str:
    """Of an image file its path, size and time; of one in memory its bytes."""
    if cell.get("bytes") is not None:
        return hashlib.blake2b(cell["bytes"], digest_size=16).hexdigest()
    state = Path(cell["path"]).stat()
    return f"{cell['path']} {state.st_size} {state.st_mtime_ns}"


def weights_digest(net: nn.Module) -> str:
    """The same for the same names and values of all tensors, bit for bit."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in net.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
