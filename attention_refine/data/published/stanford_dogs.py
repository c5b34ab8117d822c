"""Stanford Dogs (Khosla et al. 2011): 120 breeds of ImageNet, boxes in VOC's XML, 12,000 images to train on, 8,580 to test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attention_refine.data.labels import DataError
from attention_refine.data.published._files import Folder, has, mat, xml_objects
from attention_refine.data.published._layout import PublishedSet, Row, Rows


def _list(root: Path, split: str) -> Path:
    """``lists.tar`` unpacks without a folder of its own."""
    within = root / "lists" / f"{split}_list.mat"
    return within if within.exists() else root / f"{split}_list.mat"


def _known(root: Path) -> bool:
    return has(root, "Images") and any(_list(root, split).exists() for split in ("train", "test"))


def _table(root: Path, split: str) -> list[tuple[str, int]]:
    """(file, label counted from 1) of each image."""
    file = _list(root, split)
    found = mat(file, "file_list", "labels")
    names, labels = np.atleast_1d(found["file_list"]), np.atleast_1d(found["labels"])
    if len(names) != len(labels):
        raise DataError(f"{file} has {len(names)} files and {len(labels)} labels: unpack it again")
    return [(str(name), int(label)) for name, label in zip(names, labels)]


def _classes(root: Path, split: str) -> list[str]:
    """The folders, in the order of the labels; both lists have every breed."""
    of_label: dict[int, str] = {}
    for name, label in _table(root, "train" if _list(root, "train").exists() else split):
        folder = name.partition("/")[0]
        if of_label.setdefault(label, folder) != folder:
            raise DataError(
                f"{_list(root, split)}: the label {label} is {of_label[label]} and {folder}: unpack it again"
            )
    if sorted(of_label) != list(range(1, len(of_label) + 1)):
        raise DataError(f"{_list(root, split)} does not number its breeds from 1 to {len(of_label)}: unpack it again")
    return [of_label[label] for label in sorted(of_label)]


def _read(root: Path, split: str) -> Rows:
    file, classes = _list(root, split), _classes(root, split)
    images, boxes = Folder(root / "Images"), root / "Annotation"
    rows = []
    for name, label in _table(root, split):
        at = f"{file}: {name}"
        if not 1 <= label <= len(classes):
            raise DataError(f"{at} has the label {label}, not one of 1 to {len(classes)}: unpack it again")
        row: Row = {"_at": at, "_image": images.path(name, at), "label": classes[label - 1]}
        if boxes.is_dir():
            row["bbox"] = [each["bbox"] for each in xml_objects(boxes / name.rpartition(".")[0])]
        rows.append(row)
    return rows, {}


SET = PublishedSet(
    name="Stanford Dogs",
    files="`Images/`, `train_list.mat`, `test_list.mat` (or in `lists/`); `Annotation/`",
    known=_known,
    splits=lambda root: [split for split in ("train", "test") if _list(root, split).exists()],
    classes=_classes,
    read=_read,
    holds="boxes",
)
