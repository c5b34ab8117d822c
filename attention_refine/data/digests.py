"""What a dataset holds, in a few digests, so that a run or an evaluation does not go on with other images or labels.

Names count from the folder that holds all files, so a dataset that was moved is the same one. Files are not read but for
those of 256 images, spread over the dataset; of the others name, size and the time of the last change count. Of a stream
that is read from shards these count, of one that is read from a table its rows.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.compute
import torch
from PIL import Image
from torch import nn

from attention_refine.data.adopting import Listed
from attention_refine.data.class_matching import listed
from attention_refine.data.columns import VIDEO, inner, is_multi_label, label_names, undecoded
from attention_refine.data.items import Prepared, Reader
from attention_refine.data.shards import Shards, shards_difference, shards_of

READ = 256  # images whose files are read
MOST = 1 << 20  # bytes of each
HEAD = 1 << 16  # bytes of a shard
NAMED = 4096  # shards that a print names; of more, runs of them
STATED = 100_000  # files of a column whose size and time are looked at
FILES = ("image", "video", "mask", "cue_mask", "maps")
VALUES = ("bbox", "cue_bbox", "edited", "group", "mask_values", "mask_void", "mask_confidence", "start", "end")


@dataclass(frozen=True)
class _Files:
    """A column of files, or of what is in memory in their place: ``paths`` of those, ``sizes`` of these, else None."""

    paths: Sequence[str | None]
    sizes: Sequence[Any]
    content: Callable[[int], bytes]


@dataclass(frozen=True)
class _Known:
    """What is known of a dataset's rows: the names of each row's classes, columns of files and of values."""

    classes: Sequence[Sequence[str]]
    files: dict[str, _Files] = field(default_factory=dict)
    values: dict[str, Iterable[Any]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def fingerprint(dataset: Any) -> dict[str, Any] | None:
    """Plain values that are equal, by :func:`difference`, for the same images, labels, annotations and preprocessing.

    Args:
        dataset: what :func:`attention_refine.data.as_prepared` gives. Of a torch dataset of one's own only ``samples``
            (paths and labels), ``targets`` or ``labels`` are known, through ``Subset`` as well; of a stream of one's own
            ``shards`` or ``urls``.

    Returns:
        None of what says nothing of its rows.
    """
    if isinstance(dataset, torch.utils.data.IterableDataset):
        shards = shards_of(dataset)
        return None if shards is None else _of_stream(dataset, shards)
    known = _known(dataset)
    return None if known is None else _print(known)


def _print(known: _Known) -> dict[str, Any]:
    marks, times, largest = _stated(known.files)
    images = marks.pop("image", [""] * len(known.classes))
    classes: dict[str, Any] = {}
    order = hashlib.blake2b(digest_size=8)
    for row, (names, image) in enumerate(zip(known.classes, images, strict=True)):
        mark = f"{image or row}\n".encode()
        order.update(mark)
        for name in names:
            classes.setdefault(name, hashlib.blake2b(digest_size=8)).update(mark)
    return {
        "images": len(images),
        "classes": {name: classes[name].hexdigest() for name in sorted(classes)},
        "order": order.hexdigest(),
        "annotations": {name: _digest(column) for name, column in {**marks, **known.values}.items()},
        "options": known.options,
        "contents": _contents(known.files, len(images)),
        "whole": len(images) <= READ and largest <= MOST,
        "times": _digest(times),
        "oldest": min(times, default=0),
        "newest": max(times, default=0),
    }


def difference(before: dict[str, Any] | None, now: dict[str, Any] | None) -> str | None:
    """How two datasets differ, as a clause; None where they do not, or where one of them says nothing of its rows."""
    if before is None or now is None:
        return None
    shards = shards_difference(before.get("shards"), now.get("shards"))
    if shards is not None:
        return shards
    if before["images"] != now["images"]:
        return f"there are {now['images']} images now, and were {before['images']}"
    old, new = before["classes"], now["classes"]
    if old.keys() != new.keys():
        return f"the classes are {listed(sorted(new))} now, and were {listed(sorted(old))}"
    if before.get("order of rows") != now.get("order of rows"):
        return "rows are shuffled, or parts of them taken, in another way (seed, buffer size, number of shards)"
    others = [name for name in new if new[name] != old[name]]
    if others:
        return f"images of {listed(others)} have another name, size or label"
    if before["order"] != now["order"]:
        return "the images come in another order"
    for name in sorted({*before["annotations"], *now["annotations"]}):
        if before["annotations"].get(name) != now["annotations"].get(name):
            return f"the column {name!r} has changed"
    for name, value in now["options"].items():
        if before["options"].get(name) != value:
            return f"{name} is {value} now, and was {before['options'].get(name)}"
    if before["contents"] != now["contents"]:
        return "files have other contents under the same names and sizes"
    # A copy is newer as a whole; where single files were written, the others have kept their times.
    copied = now["oldest"] > before["newest"]
    if before["times"] != now["times"] and not (now["whole"] or copied):
        return "files have been written since, under the same names and sizes"
    return None


def shared(one: Any, other: Any) -> int:
    """How many images of ``one`` are in ``other`` too: of files by their path, else all or none by what is in them."""
    if one is other:
        return len(one) if hasattr(one, "__len__") else 0
    known = [found for each in (one, other) if (found := _known(each)) is not None and "image" in found.files]
    if len(known) < 2:
        return 0
    mine, theirs = ([os.path.realpath(path) for path in each.files["image"].paths if path] for each in known)
    if mine and theirs:
        known_paths = set(theirs)
        both = sum(path in known_paths for path in mine)
        if both or len(mine) != len(theirs):
            return both
    elif mine or theirs:
        return 0
    first, second = fingerprint(one), fingerprint(other)
    if first is None or second is None:
        return 0
    same = all(first[key] == second[key] for key in ("images", "contents", "order"))
    return first["images"] if same else 0


def _digest(values: Iterable[Any]) -> str:
    found = hashlib.blake2b(digest_size=8)
    for value in values:
        found.update(f"{value!r}\n".encode())
    return found.hexdigest()


# streams ---------------------------------------------------------------------------------------------------------------


def _of_stream(dataset: Any, shards: Shards) -> dict[str, Any]:
    """The print of a table's rows, or none, and of files that hold the rest, which are not read but for their heads."""
    reader = getattr(dataset, "_reader", None)
    options = {} if reader is None else _options(reader)
    found = _print(_of_parts(shards.tables, options) if shards.tables else _Known([], options=options))
    files = _Files(shards.names, [None] * len(shards.names), lambda row: _head(shards.names[row], HEAD))
    marks, times, _ = _stated({"shard": files})
    if shards.names:
        found |= {"contents": _digest([found["contents"], _contents({"shard": files}, len(shards.names))])}
        found |= {"whole": False, "times": _digest(times)}
        found |= {"oldest": min(times, default=0), "newest": max(times, default=0)}
    choices = [*shards.choices, f"{len(shards.tables)} tables"] if shards.choices else []
    return {**found, "shards": _named(marks["shard"]), "order of rows": _digest(choices)}


def _named(marks: list[str]) -> list[list[Any]]:
    """Name and size of each shard, or of runs of them: a stream may be of a file an image."""
    pairs = [mark.removeprefix(os.sep).rsplit(" ", 1) for mark in marks]
    shards = [[name, int(size) if size.isdigit() else None] for name, size in pairs]
    together = -(-len(shards) // NAMED)
    if together < 2:
        return shards
    runs = [shards[at : at + together] for at in range(0, len(shards), together)]
    return [[f"{run[0][0]} to {run[-1][0]} ({_digest(run)})", None] for run in runs]


def _of_parts(tables: list[datasets.Dataset], options: dict[str, Any]) -> _Known:
    """Of the tables of a stream, as they are before it renames anything."""
    table = undecoded(datasets.concatenate_datasets([table.with_format(None) for table in tables]))
    pictures = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image) and name not in FILES]
    if pictures and not {"image", "video"} & set(table.column_names):
        table = undecoded(table.rename_column(pictures[0], "image"))
    column = "labels" if is_multi_label(table) else "label"
    named = isinstance(inner((table.features or {}).get(column)), datasets.ClassLabel)
    return _of_columns(table, column if named else None, options)


# files -----------------------------------------------------------------------------------------------------------------


def _stated(columns: dict[str, _Files]) -> tuple[dict[str, list[str]], list[int], int]:
    """The name and size of each file of each column, the times of their last change, and the largest size."""
    folders = {os.path.dirname(path) for files in columns.values() for path in files.paths if path}
    try:
        base = os.path.commonpath(folders) if folders else ""
    except ValueError:  # of several drives
        base = ""
    marks: dict[str, list[str]] = {}
    times: list[int] = []
    largest = 0
    for name, files in columns.items():
        stride = -(-len(files.paths) // STATED) or 1
        marks[name] = []
        for row, (path, size) in enumerate(zip(files.paths, files.sizes, strict=True)):
            if path and row % stride == 0:
                with suppress(OSError):  # said where the file is needed
                    state = os.stat(path)
                    size = state.st_size
                    times.append(state.st_mtime_ns)
                    largest = max(largest, size)
            marks[name].append(f"{(path or '').removeprefix(base)} {size}")
    return marks, times, largest


def _contents(columns: dict[str, _Files], rows: int) -> str:
    """A digest of what is in the files of up to :data:`READ` rows, spread evenly."""
    found = hashlib.blake2b(digest_size=8)
    for i in range(min(READ, rows)):
        row = i * rows // min(READ, rows)
        for files in columns.values():
            found.update(files.content(row)[:MOST] + b"\0")
    return found.hexdigest()


def _head(path: str, most: int = MOST) -> bytes:
    """The beginning of a file; nothing of one that cannot be read, which is said where it is needed."""
    try:
        with open(path, "rb") as file:
            return file.read(most)
    except OSError:
        return b""


# what is known of each kind of dataset -----------------------------------------------------------------------------------


def _known(dataset: Any) -> _Known | None:
    if isinstance(dataset, Prepared):
        return _of_table(dataset)
    if isinstance(dataset, Listed):
        known = _of_source(dataset.source)
        return known if known is None or dataset._reader is None else replace(known, options=_options(dataset._reader))
    return _of_source(dataset)


def _options(reader: Reader) -> dict[str, Any]:
    """How rows become items, by what a message calls it."""
    transform, augment = reader.transform, reader.transform.augment
    if augment is None:
        said = "none"
    elif isinstance(augment, nn.Module):
        said = " ".join(repr(augment).split())
    else:
        said = getattr(augment, "__qualname__", type(augment).__qualname__)
    options = {f"the preprocessing's {name}": _plain(value) for name, value in transform.preprocessing.items()}
    options |= {"the augmentation": said, "the list of classes": list(reader.names)}
    options |= {"what cache_images shrinks to": None if reader.thumbnails is None else reader.thumbnails.rule}
    options |= {"the number of clips": reader.clips} if reader.sampling is not None else {}
    return options | ({"the augmentation's seed": reader.seed} if reader.random else {})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _of_table(dataset: Prepared) -> _Known:
    table = dataset.dataset.select(dataset.rows) if len(dataset.rows) < len(dataset.dataset) else dataset.dataset
    column = ("labels" if dataset.is_multi_label else "label") if dataset.labeled else None
    return _of_columns(table, column, _options(dataset._reader))


def _of_columns(table: datasets.Dataset, column: str | None, options: dict[str, Any]) -> _Known:
    """Of canonical columns, undecoded; ``column`` holds the label or labels."""
    classes: Sequence[Sequence[str]] = [["no label"]] * len(table)
    if column is not None:
        own = label_names(table)
        cells = table.select_columns([column])[column][:]
        classes = [[own[label] for label in (cell if column == "labels" else [cell])] for cell in cells]
    files = {"image" if name == "video" else name: _column(table, name) for name in FILES if name in table.column_names}
    values = {name: table.select_columns([name])[name] for name in VALUES if name in table.column_names}
    return _Known(classes, files, values, options)


def _column(table: datasets.Dataset, name: str) -> _Files:
    """A column's paths, and the sizes of what is in memory; that is not copied."""
    cells = table.data.column(name)
    one = table.select_columns([name])
    if isinstance(table.features[name], (datasets.Image, *VIDEO)):
        paths = pyarrow.compute.struct_field(cells, "path")
        sizes = pyarrow.compute.binary_length(pyarrow.compute.struct_field(cells, "bytes"))
    elif pyarrow.types.is_string(cells.type):  # of maps: paths of their files
        paths, sizes = cells, pyarrow.nulls(len(cells), pyarrow.int32())
    else:  # rows of numbers
        paths, sizes = pyarrow.nulls(len(cells), pyarrow.string()), pyarrow.compute.list_value_length(cells)
    if table._indices is not None:  # a part of a table
        rows = table._indices.column(0)
        paths, sizes = paths.take(rows), sizes.take(rows)
    paths, sizes = paths.to_pylist(), sizes.to_pylist()

    def content(row: int) -> bytes:
        if sizes[row] is None:
            return _head(paths[row]) if paths[row] else b""
        cell = one[row][name]
        return cell["bytes"] if isinstance(cell, dict) else repr(cell).encode()

    return _Files([path if size is None else None for path, size in zip(paths, sizes, strict=True)], sizes, content)


IMAGE, LABEL = ("image", "img", "video", "pixel_values"), ("label", "labels", "target")


def _of_source(source: Any) -> _Known | None:
    """Of a list of pairs or dicts, and of a torch dataset that keeps one as ``samples``, or its labels."""
    rows: Sequence[int] | None = None
    while isinstance(source, torch.utils.data.Subset):
        indices = [int(i) for i in source.indices]
        rows = indices if rows is None else [indices[row] for row in rows]
        source = source.dataset
    pairs = source if isinstance(source, (list, tuple)) else getattr(source, "samples", None)
    if isinstance(pairs, (list, tuple)) and all(isinstance(pair, (tuple, list, Mapping)) for pair in pairs):
        pairs = pairs if rows is None else [pairs[row] for row in rows]
        return _of_pairs(
            [pair if isinstance(pair, Mapping) else {"image": pair[0], "label": pair[1:]} for pair in pairs]
        )
    labels = next((getattr(source, name) for name in ("targets", "labels") if hasattr(source, name)), None)
    if isinstance(labels, (list, tuple, np.ndarray, torch.Tensor)):
        labels = labels if rows is None else [labels[row] for row in rows]
        return _Known([[_text(label)] for label in labels])
    return None


def _of_pairs(pairs: Sequence[Mapping[str, Any]]) -> _Known:
    label = next((name for name in LABEL if any(name in pair for pair in pairs)), LABEL[0])
    classes = [[_text(pair.get(label))] for pair in pairs]
    names = dict.fromkeys(name for pair in pairs for name in pair if name not in ("index", *LABEL))
    return _Known(classes, {"image" if name in IMAGE else name: _cells([p.get(name) for p in pairs]) for name in names})


def _cells(cells: Sequence[Any]) -> _Files:
    """A column of paths, pictures, numbers or text, as a list holds them."""

    def content(row: int) -> bytes:
        cell = cells[row]
        if isinstance(cell, (str, Path)):
            return _head(str(cell))
        if isinstance(cell, torch.Tensor):
            return cell.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return cell.tobytes() if isinstance(cell, (Image.Image, np.ndarray)) else b""

    paths = [str(cell) if isinstance(cell, (str, Path)) else None for cell in cells]
    return _Files(paths, [None if path else _text(cell) for path, cell in zip(paths, cells)], content)


def _text(value: Any) -> str:
    """A label, or what is in memory, in words that are the same in another process."""
    if isinstance(value, Image.Image):
        return f"{value.mode} {value.size}"
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return str(value.tolist()) if value.ndim < 2 else f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return str(value) if isinstance(value, (str, int, float, np.generic, type(None))) else type(value).__name__
