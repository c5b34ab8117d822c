"""A dataset as a folder of image files with a ``metadata.jsonl``, as people look at it, edit it and load it again."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import datasets

from attention_refine.core.files import new_folder, save_array
from attention_refine.data.columns import inner, undecoded
from attention_refine.data.images import open_image
from attention_refine.data.labels import DataError
from attention_refine.data.map_files import read_map


def write_images(dataset: datasets.Dataset, folder: str | Path, split: str = "train") -> Path:
    """Write a dataset of images as ``<folder>/<split>/``, there whole or not at all.

    Image and mask files are copied as they are, and keep their names where no two have the same; edited maps become
    ``.npy`` files. Of the other columns those of text, numbers and lists of them are kept.

    Args:
        dataset: canonical columns.
        folder: made where it is not there.
        split: a folder of this name must not be there.

    Returns:
        The split's folder.

    Raises:
        DataError: the split is there already, or an image cannot be read.
    """
    folder = Path(folder).expanduser()
    target = checked_target(folder, split)
    rows = undecoded(dataset.with_format(None))
    cells = rows.select_columns(["image"])["image"]
    given = [Path(cell.get("path") or f"{row:06d}.{_ending(cell, row)}").name for row, cell in enumerate(cells)]
    counts = Counter(name.lower() for name in given)
    names = [name if counts[name.lower()] == 1 else f"{row:06d}-{name}" for row, name in enumerate(given)]
    folder.mkdir(parents=True, exist_ok=True)
    here = Path(tempfile.mkdtemp(dir=folder, prefix=f".{split}."))
    with new_folder(here):
        here.chmod(folder.stat().st_mode & 0o777)  # mkdtemp makes it private
        with open(here / "metadata.jsonl", "w", encoding="utf-8") as metadata:
            for row, name in zip(rows, names):
                metadata.write(json.dumps(_line(row, name, rows.features, here), ensure_ascii=False) + "\n")
        os.replace(here, target)
    return target


def checked_target(folder: str | Path, split: str) -> Path:
    """Where a split is written.

    Raises:
        DataError: it is there already.
    """
    target = Path(folder).expanduser() / split
    if target.exists():
        raise DataError(f"{target} is there already: remove it, or write to another folder")
    return target


def _line(row: dict[str, Any], name: str, features: datasets.Features, here: Path) -> dict[str, Any]:
    """The line of an image, whose files are written."""
    _copy(row["image"], here / name)
    line: dict[str, Any] = {"file_name": name}
    for column, value in row.items():
        kind = features[column]
        if value is None or column in ("image", "edited"):
            continue
        if column == "maps":
            file = here / "maps" / f"{name}.npy"
            file.parent.mkdir(exist_ok=True)
            save_array(file, read_map(value, f"the map of {name}"))
            line |= {"maps_file_name": f"maps/{name}.npy", "edited": row.get("edited") is not False}
        elif column in ("mask", "cue_mask"):
            line[f"{column}_file_name"] = f"{column}s/{name}.{_ending(value, name)}"
            _copy(value, here / line[f"{column}_file_name"])
        elif isinstance(inner(kind), datasets.ClassLabel):
            classes = inner(kind).names
            line[column] = [classes[each] for each in value] if isinstance(value, list) else classes[value]
        elif isinstance(kind, datasets.Value) or column in ("bbox", "cue_bbox", "mask_values", "mask_void"):
            line[column] = value
    return line


def _ending(cell: Any, where: Any) -> str:
    if cell.get("path"):
        return Path(cell["path"]).suffix.lstrip(".") or "png"
    try:
        with open_image(cell) as image:
            return {"JPEG": "jpg", "TIFF": "tif"}.get(image.format or "PNG", (image.format or "PNG").lower())
    except Exception as error:  # decoders raise what they like
        raise DataError(f"row {where}: what is in memory cannot be read as an image") from error


def _copy(cell: dict[str, Any], file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    if cell.get("bytes") is not None:
        file.write_bytes(cell["bytes"])
    else:
        shutil.copyfile(cell["path"], file)
