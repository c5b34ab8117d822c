"""Edited maps: where a person says the network should look, kept beside the images.

A map has one value in [0, 1] a location and covers the whole upright image at any resolution. In a folder it is a file
that the image's metadata line names, ``"maps_file_name": "maps/0.png.npy"`` with ``"edited": true``; in a ``datasets``
dataset it is the column ``maps`` (an image, a file's path, or rows of numbers) with a column ``edited`` of flags. A map
without a flag counts as edited; one whose flag is false (the network's own, kept to start from) does not.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image
from torch import Tensor

from attention_refine.data.columns import DataError, undecoded
from attention_refine.data.folders import read_split
from attention_refine.data.images import open_image
from attention_refine.data.listing import split_folders
from attention_refine.data.metadata import metadata_lines
from attention_refine.data.sources import load_dataset
from attention_refine.files import atomic_files

FORMATS = ("npy", "png")


def save_edits(
    dataset: str | Path | datasets.Dataset,
    index: int | Sequence[int],
    maps: Tensor | np.ndarray | Sequence[Any],
    *,
    split: str = "train",
    format: str = "npy",
) -> datasets.Dataset:
    """Keep edited maps with their images, so that :class:`~attention_refine.objectives.MapSupervision` learns them.

    In a folder the maps are written as files under ``maps/`` and named in its ``metadata.jsonl`` or ``.csv`` (made,
    with every image's label, where the folder has class folders alone). Each file is replaced whole or not at all, the
    metadata last: a write that breaks off leaves the edits that were there before.

    Args:
        dataset: a folder of images, or a dataset in memory, which is not changed.
        index: the row, or rows, as in a batch's ``index``.
        maps: a map of ``(h, w)`` or ``(1, h, w)`` in [0, 1] a row, at any resolution, covering the whole upright image.
        split: of the folder.
        format: ``"npy"`` keeps the numbers as they are, ``"png"`` to 1/65535, for people and for viewers on the Hub.

    Returns:
        The dataset, or the folder's split, with its edits.

    Raises:
        DataError: no such row, a map that is not one in [0, 1], or a folder or metadata file that cannot hold edits.
        ValueError: an unknown format.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    indices = [index] if isinstance(index, (int, np.integer)) else [int(i) for i in index]
    given = [maps] if isinstance(index, (int, np.integer)) else list(maps)
    if len(given) != len(indices):
        raise DataError(f"{len(given)} maps are given for {len(indices)} rows: they must agree")
    edits = {i: _checked(map, f"the map for row {i}") for i, map in zip(indices, given)}
    if isinstance(dataset, datasets.Dataset):
        return _in_memory(dataset, edits)
    if isinstance(dataset, datasets.IterableDataset):
        raise DataError("a stream cannot be edited: load the dataset without streaming, or give its folder")
    folder = Path(dataset).expanduser()
    if not folder.is_dir():
        raise DataError(f"{str(dataset)!r} is not a folder that exists: give one, or a dataset in memory")
    _in_folder(folder, split, edits, format)
    return load_dataset(folder, split)


def read_map(cell: Any, where: str = "the map") -> np.ndarray:
    """A stored map as (h, w) float32 in [0, 1].

    Args:
        cell: a path (``.npy``, or an image), rows of numbers, or an image as :func:`read_image` takes it. 16-bit images
            are scaled by 65535, others by 255.
        where: what to call it in a message.

    Raises:
        DataError: it cannot be read, or is no map in [0, 1].
    """
    if isinstance(cell, (list, np.ndarray)):
        return _checked(cell, where)
    path = cell if isinstance(cell, (str, Path)) else cell.get("path") if isinstance(cell, dict) else None
    try:
        if path is not None and str(path).endswith(".npy") and not (isinstance(cell, dict) and cell.get("bytes")):
            values = np.load(path, allow_pickle=False)
        else:
            with open_image(cell) as image:
                wide = image.mode.startswith("I")
                values = np.asarray(image if wide else image.convert("L"), dtype=np.float32) / (65535 if wide else 255)
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, EOFError, ...
        raise DataError(f"{where} cannot be read ({' '.join(str(error).split()) or type(error).__name__})") from error
    return _checked(values, where)


def map_from_clicks(clicks: Sequence[Sequence[float]], image_size: Sequence[int], spread: float = 0.08) -> np.ndarray:
    """A map from points a person clicked: at each location the largest of Gaussian bumps around them.

    Args:
        clicks: ``(x, y)`` in pixels of the upright image; none give an empty map.
        image_size: ``(height, width)``.
        spread: standard deviation of a bump, as a share of the image's shorter side.

    Returns:
        ``(height, width)`` float32 in [0, 1], 1 at a click.
    """
    if spread <= 0:
        raise ValueError(f"spread must be above 0, got {spread}")
    height, width = image_size
    y, x = np.mgrid[:height, :width]
    made = np.zeros((height, width), np.float32)
    for at_x, at_y in clicks:
        distance = (x - at_x) ** 2 + (y - at_y) ** 2
        made = np.maximum(made, np.exp(-distance / (2 * (spread * min(height, width)) ** 2)))
    return made.astype(np.float32)


def is_edited(flag: Any, cell: Any) -> bool:
    """Whether a row's map is one to learn from: there is one, and no flag says otherwise."""
    return cell is not None and str(flag).lower() not in ("false", "0")


def _checked(map: Any, where: str) -> np.ndarray:
    try:
        values = np.asarray(map.detach().cpu().float() if isinstance(map, Tensor) else map, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} is not a table of numbers ({error})") from None
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2 or values.size == 0:
        raise DataError(f"{where} has the shape {values.shape}: give one map, (h, w)")
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise DataError(f"{where} has values from {values.min():.3g} to {values.max():.3g}: a map lies in [0, 1]")
    return values


def _in_memory(dataset: datasets.Dataset, edits: dict[int, np.ndarray]) -> datasets.Dataset:
    _check_rows(edits, len(dataset))
    plain = undecoded(dataset.with_format(None))
    cells = list(plain["maps"]) if "maps" in plain.column_names else [None] * len(plain)
    flags = list(plain["edited"]) if "edited" in plain.column_names else [None] * len(plain)
    flags = [is_edited(flag, cell) for flag, cell in zip(flags, cells)]
    rows = [None if cell is None else read_map(cell, f"the map of row {i}").tolist() for i, cell in enumerate(cells)]
    for i, values in edits.items():
        rows[i], flags[i] = values.tolist(), True
    dataset = dataset.remove_columns([name for name in ("maps", "edited") if name in dataset.column_names])
    table = datasets.List(datasets.List(datasets.Value("float32")))
    return dataset.add_column("maps", rows, feature=table).add_column("edited", flags, feature=datasets.Value("bool"))


def _in_folder(folder: Path, split: str, edits: dict[int, np.ndarray], format: str) -> None:
    here = split_folders(folder, split)[split]
    rows, _ = read_split(folder, split)
    _check_rows(edits, len(rows))
    wanted = {Path(rows[i]["_image"]): values for i, values in edits.items()}
    for file, lines in _metadata(here, folder, rows).items():
        mine = {line["file_name"]: wanted[file.parent / line["file_name"]] for line in lines
                if file.parent / line["file_name"] in wanted}  # fmt: skip
        if not mine:
            continue
        if file.suffix == ".parquet":
            raise DataError(f"{file} cannot be edited in place: store the metadata as metadata.jsonl or .csv")
        targets = {name: file.parent / "maps" / f"{name}.{format}" for name in mine}
        for line in lines:
            if line["file_name"] in mine:
                target = targets[line["file_name"]].relative_to(file.parent)
                line.update(maps_file_name=target.as_posix(), edited=True)
        for target in targets.values():
            target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_files(*targets.values(), file) as (*paths, metadata):
            for path, values in zip(paths, mine.values()):
                with open(path, "wb") as out:
                    _write_map(out, values, format)
            _write_lines(metadata, lines, file.suffix)


def _metadata(here: Path, root: Path, rows: list[dict]) -> dict[Path, list[dict]]:
    """The lines of each metadata file of a split; of one to be made where it has class folders alone."""
    if here != root and not any(here.rglob("metadata.*")):
        files = sorted(root.glob("metadata.*"))
    else:
        files = sorted(here.rglob("metadata.*"))
    if files:
        return {file: [line for _, line in metadata_lines(file)] for file in files}
    lines = [{"file_name": Path(row["_image"]).relative_to(here).as_posix(), "label": row["label"]} for row in rows]
    return {here / "metadata.jsonl": lines}


def _write_map(out, values: np.ndarray, format: str) -> None:
    if format == "npy":
        np.save(out, values)
    else:
        Image.fromarray(np.round(values * 65535).astype(np.uint16)).save(out, "PNG")


def _write_lines(path: Path, lines: list[dict], suffix: str) -> None:
    with open(path, "w", encoding="utf-8", newline="") as out:
        if suffix == ".jsonl":
            out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            return
        table = csv.DictWriter(out, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
        table.writeheader()
        for line in lines:
            table.writerow({name: json.dumps(v) if isinstance(v, (list, bool)) else v for name, v in line.items()})


def _check_rows(edits: dict[int, np.ndarray], rows: int) -> None:
    for i in edits:
        if not 0 <= i < rows:
            raise DataError(f"there is no row {i}: the dataset's rows are 0 to {rows - 1}")
