"""Where datasets come from: a folder of images, the Hub or the embedded dataset."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets
import pyarrow.parquet
from PIL import Image

from attention_refine import shapes
from attention_refine.data.columns import (
    ClassIndex,
    DataError,
    as_canonical,
    as_list,
    declares_classes,
    label_names,
    sorted_names,
)
from attention_refine.data.images import as_boxes

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval"),
}


_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def load_dataset(
    source: str | Path,
    split: str = "train",
    *,
    streaming: bool = False,
    revision: str | None = None,
    token: str | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    class_names: Sequence[str] | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """A split of a dataset with canonical columns: ``image``, ``label`` or ``labels``, and ``mask``, ``bbox`` if there.

    Args:
        source: a folder, the id of a dataset on the Hub, or ``"shapes"`` (the embedded dataset; ``"shapes:test"`` names
            a split). A folder holds images in class folders, or images with ``metadata.jsonl`` (or ``.csv``,
            ``.parquet``) beside them: one line an image with ``file_name``, ``label`` or ``labels``, and if wanted
            ``mask_file_name``, ``bbox``, ``cue_bbox`` (boxes of what should not be looked at) and ``maps_file_name``
            (see :mod:`attention_refine.data.edits`); its splits are subfolders (train, validation, test or their usual
            short names), and without any the whole folder is ``train``. A folder of parquet files or one written by
            ``save_to_disk`` is read as such. Folders of images are read anew at every call: nothing is cached.
        split: name of the split.
        streaming: give an iterable dataset; from the Hub nothing is downloaded beforehand.
        revision, token: of the Hub.
        label_column: column with the label or labels, when it is not ``label`` or ``labels`` (or the only class
            column).
        image_column: column with the image, when it is not ``image`` (or the only image column). In a folder's
            metadata: the field with the file name, when it is not ``file_name``.
        class_names: the classes, in order. By default those of the training split, whatever split is read: its own
            where the source declares them, otherwise its labels sorted. Streaming from the Hub reads a whole label
            column for that, so pass them there.

    Raises:
        DataError: no such folder, dataset, split, column or file; a metadata line that cannot be read; a label that is
            missing or outside the classes. The message is one sentence that names the file and row.
    """
    columns = {"label_column": label_column, "image_column": image_column}
    folder = Path(source).expanduser()
    if folder.is_dir() and not has_tables(folder):
        dataset = _read_folder(folder, split, class_names, **columns)
        return _stream(dataset) if streaming else dataset
    options = {"streaming": streaming, "revision": revision, "token": token}
    dataset = load_source(source, split, **options)
    if class_names is None and split != "train" and not declares_classes(dataset, label_column):
        train = load_source(source, "train", missing_ok=True, **options)
        class_names = None if train is None else label_names(as_canonical(train, **columns))
    return as_canonical(dataset, class_names=class_names, **columns)


def load_source(source: str | Path, split: str, *, streaming: bool = False, missing_ok: bool = False, **options):
    """A split of the embedded dataset, of tables or from the Hub, with the columns it has.

    Raises:
        DataError: no such source or split; None for the latter with ``missing_ok``.
    """
    source, folder = str(source), Path(source).expanduser()
    word, _, named_split = source.partition(":")
    if word == "shapes" and not folder.exists():
        dataset = _shapes(named_split or split)
        return _stream(dataset) if streaming else dataset
    if not folder.is_dir() and (folder.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise DataError(f"dataset {source!r} is not a folder that exists: give one, or the id of a dataset on the Hub")
    return _load_by_datasets(source, split, streaming=streaming, missing_ok=missing_ok, **options)


def _shapes(split: str) -> datasets.Dataset:
    try:
        return shapes.make(split)
    except ValueError as error:
        raise DataError(str(error)) from None


def _stream(dataset: datasets.Dataset) -> datasets.IterableDataset:
    return dataset.to_iterable_dataset(num_shards=min(len(dataset), 16))  # shards, so that workers can share them


def has_tables(folder: Path) -> bool:
    """Whether the folder holds tables that ``datasets`` reads, rather than image files."""
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
        return True
    kinds = [f"{at}*.{kind}" for kind in ("parquet", "arrow", "tar", "zip") for at in ("", "*/")]
    return any(path.name not in _METADATA for kind in kinds for path in folder.glob(kind))


def _load_by_datasets(source, split, *, streaming, revision=None, token=None, missing_ok=False):
    folder = Path(source)
    try:
        if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
            dataset = datasets.load_from_disk(source)
            if isinstance(dataset, datasets.DatasetDict):
                if split not in dataset:
                    raise ValueError(f"Unknown split; it has {', '.join(dataset)}")
                dataset = dataset[split]
            elif split != "train":
                raise ValueError("Unknown split; it was saved without splits and is read as train")
            return _stream(dataset) if streaming else dataset
        return datasets.load_dataset(source, split=split, streaming=streaming, revision=revision, token=token)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        if "split" in reason.lower():
            if missing_ok:
                return None
            raise DataError(f"dataset {source!r} has no split {split!r} ({reason})") from error
        raise DataError(f"dataset {source!r} cannot be read, from a folder or from the Hub ({reason})") from error


def split_folders(folder: Path, split: str) -> dict[str, Path]:
    """The folder of each split, the one asked for also under the name it was asked by.

    Raises:
        DataError: the folder has no such split.
    """
    found = {name: folder / s for name, short in SPLITS.items() for s in short if (folder / s).is_dir()}
    if found and (folder / split).is_dir():
        found.setdefault(split, folder / split)
    found = found or {"train": folder}
    name = next((name for name, short in SPLITS.items() if split in short), split)
    if name not in found:
        raise DataError(f"dataset folder {folder} has no split {name!r}: it has {', '.join(found)}")
    return {**found, split: found[name]}


def _read_folder(folder: Path, split: str, names, *, label_column, image_column) -> datasets.Dataset:
    found = split_folders(folder, split)
    split = next((name for name, short in SPLITS.items() if split in short), split)
    rows = folder_rows(found[split], folder, image_column)
    field = label_column or ("labels" if "labels" in rows[0] and "label" not in rows[0] else "label")
    if names is None:
        train = folder_rows(found["train"], folder, image_column) if split != "train" and "train" in found else rows
        names = sorted_names(value for row in train for value in as_list(_field(row, field)))
    multi = any(isinstance(row.get(field), list) for row in rows)
    index = ClassIndex(names)
    encoded = [[index(v, field, row["_at"]) for v in as_list(_field(row, field))] for row in rows]
    columns = {"image": [row["_image"] for row in rows]}
    features = {"image": datasets.Image()}
    label = datasets.ClassLabel(names=index.names)
    columns["labels" if multi else "label"] = encoded if multi else [e[0] for e in encoded]
    features["labels" if multi else "label"] = datasets.List(label) if multi else label
    if any(row.get("_mask") for row in rows):
        columns["mask"], features["mask"] = [row.get("_mask") for row in rows], datasets.Image()
    for name in ("bbox", "cue_bbox"):
        if any(row.get(name) is not None for row in rows):
            columns[name] = [None if row.get(name) is None else as_boxes(row[name], row["_at"]) for row in rows]
            features[name] = datasets.List(datasets.List(datasets.Value("float32")))
    if any(row.get("_maps") for row in rows):
        columns["maps"], features["maps"] = [row.get("_maps") for row in rows], datasets.Value("string")
        columns["edited"] = [bool(row.get("_maps")) and str(row.get("edited")).lower() != "false" for row in rows]
        features["edited"] = datasets.Value("bool")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def folder_rows(here: Path, root: Path, image_column: str | None) -> list[dict]:
    """A split's rows, each with ``_image``, ``_mask`` and ``_maps`` (paths that exist) and ``_at`` (for messages)."""
    files, shared = metadata_files(here, root)
    rows = []
    for file in files:
        for at, row in metadata_lines(file):
            name = _file_field(row, image_column, at)
            if shared and Path(str(row[name])).parts[:1] != (here.name,):
                continue
            row |= {"_at": at, "_image": _existing(file, row[name], name, at)}
            if row.get("mask_file_name"):
                row["_mask"] = _existing(file, row["mask_file_name"], "mask_file_name", at)
            if row.get("maps_file_name"):
                row["_maps"] = _existing(file, row["maps_file_name"], "maps_file_name", at)
            rows.append(row)
    if not files:
        if image_column is not None:
            raise DataError(f"{here} has no metadata file, so no field {image_column!r} to take image files from")
        for path in sorted(p for p in here.rglob("*") if is_image(p, here)):
            if path.parent == here:
                raise DataError(f"{path} lies in no class folder, and {here} has no metadata.jsonl that labels it")
            rows.append({"_at": str(path), "_image": str(path), "label": path.parent.name})
    if not rows:
        raise DataError(f"dataset folder {here} is empty: no images in class folders, and no lines in a metadata.jsonl")
    return rows


def metadata_files(here: Path, root: Path) -> tuple[list[Path], bool]:
    """A split's metadata; whether it is one file for all splits, whose file names begin with the split's folder."""
    files = sorted(p for p in here.rglob("metadata.*") if p.name in _METADATA)
    if files or here == root:
        return files, False
    return sorted(p for p in root.glob("metadata.*") if p.name in _METADATA), True


def is_image(path: Path, here: Path) -> bool:
    hidden = any(part.startswith((".", "__")) for part in path.relative_to(here).parts)
    return not hidden and Image.registered_extensions().get(path.suffix.lower()) in Image.OPEN and path.is_file()


def metadata_lines(file: Path) -> Iterator[tuple[str, dict]]:
    """(where, fields) of each line; where is ``<file> line <n>`` (``row <n>`` in parquet)."""
    if file.suffix == ".parquet":
        for i, row in enumerate(_parquet_rows(file)):
            yield f"{file} row {i}", row
        return
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    if file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text))
        for row in reader:
            at = f"{file} line {reader.line_num}"
            # A cell has no type: a list is written as JSON, an empty cell is no value.
            yield at, {k: _json(v, at) if v and v.startswith("[") else v or None for k, v in row.items() if k}
        return
    for n, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = _json(line, f"{file} line {n}")
            if not isinstance(row, dict):
                raise DataError(f"{file} line {n} is not a JSON object but {line.strip()[:40]!r}")
            yield f"{file} line {n}", row


def _parquet_rows(file: Path) -> list[dict]:
    try:
        return pyarrow.parquet.read_table(file).to_pylist()
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not a readable parquet file ({error})") from error


def _json(text: str, at: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{at} is not JSON ({error.msg} at column {error.colno})") from None


def _file_field(row: dict, image_column: str | None, at: str) -> str:
    wanted = [image_column, f"{image_column}_file_name"] if image_column else ["file_name"]
    for name in wanted:
        if name in row:
            return name
    raise DataError(f"{at} has no field {wanted[0]!r} with the image's file name: it has {', '.join(row)}")


def _existing(metadata: Path, name: str | None, field: str, at: str) -> str:
    path = metadata.parent / str(name)
    if not name or not path.is_file():
        raise DataError(f"{at}: {field} {name!r} is not a file in {metadata.parent}")
    return str(path)


def _field(row: dict, field: str):
    if row.get(field) is None:
        have = ", ".join(k for k in row if not k.startswith("_"))
        raise DataError(
            f"{row['_at']} has no {field!r}: it has {have or 'no fields'} (label_column= names another field)"
        )
    return row[field]
