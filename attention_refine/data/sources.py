"""Where datasets come from: a folder of images or videos, the Hub or the embedded datasets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tarfile import TarError
from typing import Any
from zipfile import BadZipFile

import datasets

from attention_refine.data.boxes import as_boxes, check_box_format, from_corners
from attention_refine.data.clip_reading import frame_boxes
from attention_refine.data.columns import (
    as_canonical,
    check_groups,
    declares_classes,
    group_indices,
    label_names,
    video_feature,
    whole_numbers,
)
from attention_refine.data.folders import field_value, label_field, left_out_lines, of_videos, read_split
from attention_refine.data.labels import ClassIndex, DataError, as_list, check_lists, sorted_names
from attention_refine.data.listing import check_source, has_tables, split_folders
from attention_refine.data.published import published_classes
from attention_refine.embedded import clips, shapes

EMBEDDED = {"shapes": shapes, "clips": clips}


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
    group_column: str | None = None,
    box_format: str = "xywh",
    mask_values: int | Sequence[int] | None = None,
    void: int | Sequence[int] | None = None,
    media: str = "auto",
) -> datasets.Dataset | datasets.IterableDataset:
    """A split of a dataset with canonical columns: ``image`` (or ``video``), ``label`` or ``labels``, and where the source
    has them ``mask``, ``bbox``, ``cue_mask``, ``cue_bbox``, ``maps`` with ``edited``, ``start`` and ``end``, and ``group``.

    Args:
        source: a folder, the id of a dataset on the Hub, ``"shapes"`` (the embedded images; ``"shapes:test"`` names a
            split) or ``"clips"`` (the embedded videos). A folder holds images in class folders, or with
            ``metadata.jsonl`` (or ``.csv``, ``.parquet``) beside them, or both: a line an image with ``file_name``,
            ``label`` or ``labels`` (default: the class folder), and if wanted ``mask_file_name``, ``bbox``,
            ``cue_mask_file_name`` and ``cue_bbox`` (what should not be looked at), ``maps_file_name`` (see
            :mod:`attention_refine.data.edits`) and ``group``. Files in folders ``masks/``, ``cue_masks/`` and
            ``maps/`` go to the image with their stem. Splits are subfolders (train, validation, test or their usual
            short names), and without any the whole folder is ``train``. A folder of parquet files or one written by
            ``save_to_disk`` is read as such, and a published set, such as CUB_200_2011, as its archive unpacks
            (:mod:`attention_refine.data.published`). Folders of images are read anew at every call: nothing is cached.
            What is left out of a folder is said by :func:`describe`.
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
        group_column: column with the group of an image, such as breed/place, that every row has; by default ``group``
            where the source has that, and rows without one have no group.
        box_format: of ``bbox`` and ``cue_bbox`` in the source: ``"xywh"`` [x, y, width, height], or ``"xyxy"`` [left,
            top, right, bottom].
        mask_values: values of a mask's pixels that are object, such as a class id; every other is then background. By
            default all but 0 and void are object; what a mask without a clear meaning is refused for is told in
            :mod:`attention_refine.data.masks`.
        void: value, or values, of a mask's pixels that are void: 128 by default, 255 in PASCAL VOC.
        media: of a folder, ``"image"`` or ``"video"``: what is read of it. ``"auto"`` reads videos where the metadata
            names them, or where there are some and no images that stand still; a folder of GIFs alone is one of images.
            Masks and boxes of videos: see :mod:`attention_refine.data.clip_reading`.

    Raises:
        DataError: no such folder, dataset, split, column or file; a metadata line that cannot be read; a label that is
            missing or outside the classes; a layout with two readings. The message is one sentence that names the file
            and row.
        ValueError: an unknown ``box_format`` or ``media``.
    """
    check_box_format(box_format)
    check_source(source)
    columns: dict[str, Any] = {"label_column": label_column, "image_column": image_column}
    more: dict[str, Any] = {
        "group_column": group_column,
        "box_format": box_format,
        "mask_values": mask_values,
        "void": void,
    }
    folder = Path(source).expanduser()
    if folder.is_dir() and not has_tables(folder):
        dataset = _read_folder(folder, split, class_names, media=media, **columns, **more)
        return _stream(dataset) if streaming else dataset
    options: dict[str, Any] = {"streaming": streaming, "revision": revision, "token": token}
    dataset = load_source(source, split, **options)
    if class_names is None and split != "train" and not declares_classes(dataset, label_column):
        train = load_source(source, "train", missing_ok=True, **options)
        class_names = None if train is None else label_names(as_canonical(train, **columns))
    return as_canonical(dataset, class_names=class_names, **columns, **more)


def load_source(
    source: str | Path, split: str, *, streaming: bool = False, missing_ok: bool = False, **options: Any
) -> Any:
    """A split of the embedded dataset, of tables or from the Hub, with the columns it has.

    Raises:
        DataError: no such source or split; None for the latter with ``missing_ok``.
    """
    source, folder = str(source), Path(source).expanduser()
    word, _, named_split = source.partition(":")
    if word in EMBEDDED and not folder.exists():
        dataset = _embedded(word, named_split or split)
        return _stream(dataset) if streaming else dataset
    if not folder.is_dir() and (folder.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1):
        raise DataError(f"dataset {source!r} is not a folder that exists: give one, or the id of a dataset on the Hub")
    return _load_by_datasets(source, split, streaming=streaming, missing_ok=missing_ok, **options)


def _embedded(name: str, split: str) -> datasets.Dataset:
    try:
        return EMBEDDED[name].make(split)
    except ValueError as error:
        raise DataError(str(error)) from None


def _stream(dataset: datasets.Dataset) -> datasets.IterableDataset:
    return dataset.to_iterable_dataset(num_shards=min(len(dataset), 16))  # shards, so that workers can share them


def _load_by_datasets(
    source: Any, split: Any, *, streaming: Any, revision: Any = None, token: Any = None, missing_ok: Any = False
) -> Any:
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
    except (ValueError, OSError, BadZipFile, TarError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        if "split" in reason.lower():
            if missing_ok:
                return None
            raise DataError(f"dataset {source!r} has no split {split!r} ({reason})") from error
        raise DataError(f"dataset {source!r} cannot be read, from a folder or from the Hub ({reason})") from error


def _read_folder(
    folder: Path,
    split: str,
    names: Any,
    *,
    label_column: Any,
    image_column: Any,
    group_column: Any,
    box_format: Any,
    mask_values: Any,
    void: Any,
    media: Any,
) -> datasets.Dataset:
    asked = {"image_column": image_column, "label_column": label_column, "media": media}
    found = split_folders(folder, split, image_column)
    rows, left_out = read_split(folder, split, **asked)
    field = label_field(rows, label_column)
    check_lists((row.get(field) for row in rows), field)
    if names is None:
        names = published_classes(folder, split, image_column, label_column)
    if names is None:
        other = "train" in found and found["train"] != found[split]
        train = read_split(folder, "train", **asked)[0] if other else rows
        names = sorted_names((value for row in train for value in as_list(field_value(row, field))), field)
    multi = any(isinstance(row.get(field), list) for row in rows)
    index = ClassIndex(names)
    encoded = [[index(v, field, row["_at"]) for v in as_list(field_value(row, field))] for row in rows]
    videos = of_videos(rows)
    name, picture = ("video", video_feature()) if videos else ("image", datasets.Image())
    columns: dict[str, list] = {name: [row["_image"] for row in rows]}
    features: dict = {name: picture}

    def add(name: str, values: list, kind: Any) -> None:
        if any(value is not None for value in values):
            columns[name], features[name] = values, kind

    label = datasets.ClassLabel(names=index.names)
    columns["labels" if multi else "label"] = encoded if multi else [e[0] for e in encoded]
    features["labels" if multi else "label"] = datasets.List(label) if multi else label
    for name, boxes in (("mask", "bbox"), ("cue_mask", "cue_bbox")):
        add(name, [row.get(f"_{name}") for row in rows], picture)
        one = datasets.List(datasets.List(datasets.Value("float32")))
        add(boxes, [_boxes(row, boxes, box_format, videos) for row in rows], datasets.List(one) if videos else one)
    add("maps", [row.get("_maps") for row in rows], datasets.Value("string"))
    if "maps" in columns:
        columns["edited"] = [bool(row.get("_maps")) and str(row.get("edited")).lower() != "false" for row in rows]
        features["edited"] = datasets.Value("bool")
    for name, numbers in (("mask_values", mask_values), ("mask_void", void)):
        default = None if numbers is None else whole_numbers(numbers, name)
        values = [
            default if row.get(name) is None else whole_numbers(row[name], f"{row['_at']}: {name}") for row in rows
        ]
        if "mask" in columns:
            add(name, values, datasets.List(datasets.Value("int64")))
    for name, (values, kind) in _other_columns(rows, {*columns, field}).items():
        columns[name], features[name] = values, kind
    groups = _groups(rows, group_column)
    if groups is not None:
        columns["group"], features["group"] = groups
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    # The one place that a dataset keeps whatever is done with its rows.
    dataset.info.description = "\n".join(f"left out: {line}" for line in left_out_lines(left_out, folder))
    return dataset


def _other_columns(rows: list[dict], read: set[str]) -> dict[str, tuple[list, datasets.Value]]:
    """What the metadata says beside: fields of text or numbers, as columns; in a field of several types all is text."""
    found: dict[str, tuple[list, datasets.Value]] = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name) for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if name.startswith("_") or name.endswith("file_name") or name in read or not kinds <= {str, int, float, bool}:
            continue
        kind = {frozenset([bool]): "bool", frozenset([int]): "int64", frozenset([float]): "float64",
                frozenset([int, float]): "float64"}.get(frozenset(kinds), "string")  # fmt: skip
        if kind == "string":
            values = [None if value is None else str(value) for value in values]
        if kinds:
            found[name] = values, datasets.Value(kind)
    return found


def _boxes(row: dict, field: str, box_format: str, videos: bool) -> list | None:
    value = row.get(field)
    if value is None:
        return None
    if videos:
        value = from_corners(value, row["_at"]) if box_format == "xyxy" else value
        return frame_boxes(value, f"{row['_at']}: {field}")
    return as_boxes(from_corners(value, row["_at"]) if box_format == "xyxy" else value, row["_at"])


def _groups(rows: list[dict], group_column: str | None) -> tuple[list[int | None], datasets.ClassLabel] | None:
    name = group_column or "group"
    if not any(row.get(name) is not None for row in rows):
        if group_column is None:
            return None
        have = sorted({key for row in rows for key in row if not key.startswith("_")})
        raise DataError(f"no row has a field {group_column!r} (group_column): they have {', '.join(have)}")
    if group_column is not None:
        check_groups(((row.get(name), row["_at"]) for row in rows), name)
    cells, names = group_indices([row.get(name) for row in rows])
    return cells, datasets.ClassLabel(names=names)
