"""Edited maps: where a person says the network should look, kept beside the images.

A map has one value in [0, 1] a location and covers the whole upright image at any resolution. In a folder it is a file
that the image's metadata line names, ``"maps_file_name": "maps/0.png.npy"`` with ``"edited": true``; in a ``datasets``
dataset it is the column ``maps`` (an image, a file's path, or rows of numbers) with a column ``edited`` of flags. A map
without a flag counts as edited; one whose flag is false (the network's own, kept to start from) does not.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attention_refine.core.files import atomic_file, atomic_files, save_array
from attention_refine.data.columns import undecoded
from attention_refine.data.folders import read_split
from attention_refine.data.labels import DataError
from attention_refine.data.listing import list_folder, split_folders
from attention_refine.data.map_files import checked_map, is_edited, read_map
from attention_refine.data.metadata import METADATA, existing, metadata_lines
from attention_refine.data.published import recognise
from attention_refine.data.sources import load_dataset
from attention_refine.data.split_names import canonical_split

FORMATS = ("npy", "png")


def save_edits(
    dataset: str | Path | datasets.Dataset,
    index: int | str | Path | Sequence[int | str | Path],
    maps: Any,
    *,
    split: str | None = None,
    format: str = "npy",
) -> datasets.Dataset:
    """Keep edited maps with their images, so that :class:`~attention_refine.objectives.MapSupervision` learns them.

    In a folder the maps are written as files under ``maps/`` and named in its ``metadata.jsonl`` or ``.csv`` (made,
    with every image's label, where the folder has class folders alone). Each file is replaced whole or not at all, the
    metadata last: a write that breaks off leaves the edits that were there before.

    Args:
        dataset: a folder of images, or a dataset in memory, which is not changed.
        index: the image, or images: the name of the file, with as many of its folders as tell it apart
            (``"cat/1.jpg"``), or the row, as in a batch's ``index``.
        maps: one an image, at any resolution, covering the whole upright image: numbers ``(h, w)`` or ``(1, h, w)`` in
            [0, 1]; a mask of whole numbers, 0 and 255 (or of bool); a PIL image; or the path of one, or of an ``.npy``.
        split: of the folder. Needed for rows where the folder has several splits: each counts from 0.
        format: ``"npy"`` keeps the numbers as they are, ``"png"`` to 1/65535, for people and for viewers on the Hub.

    Returns:
        The dataset, or the folder's split, with its edits.

    Raises:
        DataError: no such image, or several that could be meant; a map that is not one in [0, 1]; a folder or metadata
            file that cannot hold edits.
        ValueError: an unknown format.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    single = isinstance(index, (int, np.integer, str, Path))
    wanted = [index] if isinstance(index, (int, np.integer, str, Path)) else list(index)
    given = [maps] if single else list(maps)
    if len(given) != len(wanted):
        raise DataError(f"{len(given)} maps are given for {len(wanted)} rows: they must agree")
    edits = [(each, _as_map(map, f"the map for {_called(each)}")) for each, map in zip(wanted, given)]
    if isinstance(dataset, datasets.Dataset):
        return _in_memory(dataset, edits)
    if isinstance(dataset, datasets.IterableDataset):
        raise DataError("a stream cannot be edited: load the dataset without streaming, or give its folder")
    folder = Path(dataset).expanduser()
    if not folder.is_dir():
        raise DataError(f"{str(dataset)!r} is not a folder that exists: give one, or a dataset in memory")
    split = _in_folder(folder, split, edits, format)
    return load_dataset(folder, split)


def discard_edits(
    folder: str | Path, index: str | Path | Sequence[str | Path], *, split: str | None = None
) -> datasets.Dataset:
    """Take the edits of images back: their lines get ``"edited": false``, so that nothing learns them; the maps stay.

    Args:
        folder: of images.
        index: the image's file, or several, named as in :func:`save_edits`; one without an edit stays as it is.
        split: of the folder.

    Returns:
        The folder's split.

    Raises:
        DataError: as :func:`save_edits`.
    """
    wanted = [index] if isinstance(index, (str, Path)) else list(index)
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"{str(folder)!r} is not a folder that exists")
    split, rows = _split_of(folder, split, wanted)
    chosen = _found(wanted, [row["_image"] for row in rows], f"the split {split!r} of {folder}")
    images = {rows[i]["_image"] for i in chosen if is_edited(rows[i].get("edited"), rows[i].get("_maps"))}
    for file, of_line, lines in _lines_of(folder, split, rows, images):
        for image, line in zip(of_line, lines):
            if image in images:
                line.update(edited=False)
        with atomic_file(file) as path:
            _write_lines(path, lines, file.suffix)
    return load_dataset(folder, split)


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


def _as_map(map: Any, where: str) -> np.ndarray:
    """A map in any of the forms that :func:`save_edits` takes."""
    if isinstance(map, (str, Path)) and Path(map).suffix or isinstance(map, Image.Image):
        return read_map(str(map) if isinstance(map, Path) else map, where)
    if isinstance(map, Tensor):
        map = map.detach().cpu().numpy() if map.dtype != torch.bfloat16 else map.detach().cpu().float().numpy()
    whole = isinstance(map, np.ndarray) and map.dtype.kind in "ui" and map.size and map.min() >= 0 and map.max() <= 255
    if whole and map.max() > 1:
        map = map.astype(np.float32) / 255
    return checked_map(map, where)


def _called(index: int | str | Path) -> str:
    return f"row {index}" if isinstance(index, (int, np.integer)) else f"{str(index)!r}"


def _found(wanted: Sequence[int | str | Path], files: Sequence[str | None], what: str) -> list[int]:
    """The rows of images given by row or by file name.

    Raises:
        DataError: no such row or name, or a name that several have.
    """
    found = []
    for each in wanted:
        if isinstance(each, (int, np.integer)):
            if not 0 <= each < len(files):
                raise DataError(f"there is no row {each}: the dataset's rows are 0 to {len(files) - 1}")
            found.append(int(each))
            continue
        end = PurePath(str(each)).parts
        rows = [i for i, file in enumerate(files) if file and PurePath(file).parts[-len(end) :] == end]
        if not rows:
            raise DataError(f"no image of {what} is called {str(each)!r}")
        if len(rows) > 1:
            raise DataError(f"{str(each)!r} could be {files[rows[0]]} or {files[rows[1]]}: give more of its folders")
        found += rows
    return found


def _in_memory(dataset: datasets.Dataset, edits: list[tuple[Any, np.ndarray]]) -> datasets.Dataset:
    plain = undecoded(dataset.with_format(None))
    wanted, values = zip(*edits) if edits else ((), ())
    files = [None] * len(plain)
    if any(not isinstance(each, (int, np.integer)) for each in wanted) and "image" in plain.column_names:
        files = [cell.get("path") for cell in plain.select_columns(["image"])["image"]]
    chosen = _found(wanted, files, "the dataset")
    cells = list(plain["maps"]) if "maps" in plain.column_names else [None] * len(plain)
    flags = list(plain["edited"]) if "edited" in plain.column_names else [None] * len(plain)
    flags = [is_edited(flag, cell) for flag, cell in zip(flags, cells)]
    rows = [None if cell is None else read_map(cell, f"the map of row {i}").tolist() for i, cell in enumerate(cells)]
    for i, map in zip(chosen, values):
        rows[i], flags[i] = map.tolist(), True
    dataset = dataset.remove_columns([name for name in ("maps", "edited") if name in dataset.column_names])
    table = datasets.List(datasets.List(datasets.Value("float32")))
    return dataset.add_column("maps", rows, feature=table).add_column("edited", flags, feature=datasets.Value("bool"))


def _in_folder(folder: Path, split: str | None, edits: list[tuple[Any, np.ndarray]], format: str) -> str:
    """Write the edits; the split that they are in."""
    wanted = [each for each, _ in edits]
    split, rows = _split_of(folder, split, wanted)
    chosen = _found(wanted, [row["_image"] for row in rows], f"the split {split!r} of {folder}")
    edited = {rows[i]["_image"]: values for i, (_, values) in zip(chosen, edits)}
    for file, of_line, lines in _lines_of(folder, split, rows, edited):
        if (file.parent / "maps").is_file():
            raise DataError(f"{file.parent / 'maps'} is a file, where the maps would be written: move it")
        mine = {image: edited[image] for image in of_line if image is not None and image in edited}
        targets = {image: file.parent / "maps" / f"{Path(image).relative_to(file.parent)}.{format}" for image in mine}
        for image, line in zip(of_line, lines):
            if image is not None and image in mine:
                line.update(maps_file_name=targets[image].relative_to(file.parent).as_posix(), edited=True)
        for target in targets.values():
            target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_files(*targets.values(), file) as (*paths, metadata):
            for path, values in zip(paths, mine.values()):
                _write_map(path, values, format)
            _write_lines(metadata, lines, file.suffix)
    return split


def _lines_of(
    folder: Path, split: str, rows: list[dict], images: Collection[str]
) -> Iterator[tuple[Path, list[str | None], list[dict]]]:
    """Each metadata file that is to hold an edit: the image of each line, None where it is not to, and the lines.

    Of several files that name an image it is the first, and those that have an edit of it already.

    Raises:
        DataError: it is a file that cannot be edited in place.
    """
    there = _metadata(split_folders(folder, split)[split], folder, rows, images)
    holders: dict[str, Path] = {}
    for file, lines in sorted(there.items(), key=lambda item: item[0].suffix == ".parquet"):
        named = [existing(file, line.get("file_name"), "file_name", str(file)) for line in lines]
        of_line: list[str | None] = [*named]
        for at, (image, line) in enumerate(zip(named, lines)):
            has_edit = line.get("maps_file_name") is not None or line.get("edited") is not None
            first = holders.setdefault(image, file) == file
            if image not in images or not (first or has_edit):
                of_line[at] = None
        if not any(of_line):
            continue
        if file.is_dir():
            raise DataError(f"{file} is a folder, where the metadata would be written: move it")
        if file.suffix == ".parquet":
            raise DataError(f"{file} cannot be edited in place: store the metadata as metadata.jsonl or .csv")
        yield file, of_line, lines


def _split_of(folder: Path, split: str | None, wanted: Sequence[int | str | Path]) -> tuple[str, list[dict]]:
    """The one split that holds all the images that are meant, and its rows.

    Raises:
        DataError: none does, or several could.
    """
    refuse_published(folder)
    names = [split] if split is not None else list(split_folders(folder, _any_split(folder)))
    rows = {name: read_split(folder, name)[0] for name in dict.fromkeys(names)}
    if len(rows) == 1:
        return next(iter(rows.items()))
    holding = {}
    for name, found in rows.items():
        try:
            _found(wanted, [row["_image"] for row in found], f"the split {name!r}")
        except DataError:
            continue
        holding[name] = found
    if len(holding) != 1:
        shown = ", ".join(map(_called, wanted[:3]))
        where = f"more than one split has {shown}" if holding else f"no split of {folder} has all of {shown}"
        raise DataError(
            f"{where} (its splits are {', '.join(rows)}): say which, split='train', and give images by their file's name"
        )
    return next(iter(holding.items()))


def refuse_published(folder: Path) -> None:
    """Refuse a published set as a place for edits: its own tables say what belongs to an image.

    Raises:
        DataError: it is one; edits of the dataset in memory are the way.
    """
    found = recognise(folder)
    if found is not None:
        raise DataError(
            f"{folder} is {found.set.name} as published, and edited maps are written beside plain folders of images alone: "
            "edit the dataset in memory, save_edits(load_dataset(folder), ...), or copy the images into class folders"
        )


def _any_split(folder: Path) -> str:
    """A split that the folder has."""
    return next(
        (name for path in sorted(folder.iterdir()) if path.is_dir() and (name := canonical_split(path.name))), "train"
    )


def _metadata(here: Path, root: Path, rows: list[dict], edited: Collection[str]) -> dict[Path, list[dict]]:
    """The lines of each metadata file of a split, those of edited images that had none added.

    Where there is no file, one is to be made, with a line for every image.
    """
    files = list_folder(here).metadata
    if here != root:
        files += [root / name for name in METADATA if (root / name).is_file()]
    if not files:
        made = here / "metadata.jsonl"
        return {made: [_line(row["_image"], row, made) for row in rows]}
    found = {file: [line for _, line in metadata_lines(file)] for file in files}
    named = {
        existing(file, line.get("file_name"), "file_name", str(file)) for file, lines in found.items() for line in lines
    }
    for row in rows:
        if row["_image"] in edited and row["_image"] not in named:
            file = next(
                (f for f in found if f.suffix != ".parquet" and Path(row["_image"]).is_relative_to(f.parent)), None
            )
            file = here / "metadata.jsonl" if file is None else file
            found.setdefault(file, []).append(_line(row["_image"], row, file))
    return found


def _line(image: str, row: dict, file: Path) -> dict:
    label = {name: row[name] for name in ("label", "labels") if row.get(name) is not None}
    return {"file_name": Path(image).relative_to(file.parent).as_posix(), **label}


def _write_map(path: Path, values: np.ndarray, format: str) -> None:
    if format == "npy":
        save_array(path, values)
    else:
        Image.fromarray(np.round(values * 65535).astype(np.uint16)).save(path, "PNG")


def _write_lines(path: Path, lines: list[dict], suffix: str) -> None:
    with open(path, "w", encoding="utf-8", newline="") as out:
        if suffix == ".jsonl":
            out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            return
        table = csv.DictWriter(out, list(dict.fromkeys(name for line in lines for name in line)), lineterminator="\n")
        table.writeheader()
        for line in lines:
            table.writerow({name: json.dumps(v) if isinstance(v, (list, bool)) else v for name, v in line.items()})
