"""ImageNet's ILSVRC 2012 (Russakovsky et al. 2015) where the validation images lie in one folder.

As unpacked by hand: ``train/n01440764/`` and ``val/ILSVRC2012_val_00000001.JPEG`` with the labels in the development kit
(``ILSVRC2012_devkit_t12/data``). As Kaggle packs it: ``ILSVRC/Data/CLS-LOC`` with ``LOC_val_solution.csv`` beside
``ILSVRC``, whose boxes are read too. With validation images in class folders it is a plain folder, and read as one.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from attention_refine.data.labels import DataError
from attention_refine.data.published._files import Folder, as_numbers, folders_in, has, images_in, lines, mat
from attention_refine.data.published._layout import PublishedSet, Row, Rows

SYNSET = re.compile(r"n\d{8}")
KIT = "ILSVRC2012_devkit_t12/data"
KAGGLE = "ILSVRC/Data/CLS-LOC"
FIRST = "ILSVRC2012_val_00000001.JPEG"


def _known(root: Path) -> bool:
    return has(root, "train", f"val/{FIRST}", KIT) or has(root, KAGGLE, "LOC_val_solution.csv")


def _images(root: Path) -> Path:
    return root / KAGGLE if (root / KAGGLE).is_dir() else root


def _classes(root: Path, split: str) -> list[str]:
    """WordNet's numbers, sorted, as every pretrained network counts them."""
    names = [name for name in folders_in(_images(root) / "train") if SYNSET.fullmatch(name)]
    if not names:
        raise DataError(f"{_images(root) / 'train'} has no folders such as n01440764: unpack the archive of each class")
    return names


def _read(root: Path, split: str) -> Rows:
    classes, images = _classes(root, split), _images(root)
    boxes = _solutions(root, split) if (root / KAGGLE).is_dir() else {}
    if split == "train":
        found = [(path, name) for name in classes for path in images_in(images / "train" / name)]
    elif (root / KAGGLE).is_dir():
        within = Folder(images / "val")
        found = [(within.path(f"{name}.JPEG", str(root / "LOC_val_solution.csv")), boxes[name][0]) for name in boxes]
    else:
        found = list(_validation(root))
    rows, known = [], set(classes)
    for path, label in found:
        if label not in known:
            raise DataError(f"{path} is of the class {label}, which has no folder in {images / 'train'}")
        row: Row = {"_at": path, "_image": path, "label": label}
        box = boxes.get(os.path.splitext(os.path.basename(path))[0])
        if box is not None:
            row["bbox"] = box[1]
        rows.append(row)
    return rows, {}


def _validation(root: Path) -> Iterator[tuple[str, str]]:
    """(path, class) of the validation images by the development kit: line n is the class of image n, counted from 1."""
    truth = root / KIT / "ILSVRC2012_validation_ground_truth.txt"
    meta = np.atleast_1d(mat(root / KIT / "meta.mat", "synsets")["synsets"])
    of_number = {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in meta if int(each["num_children"]) == 0}
    images = Folder(root / "val")
    for number, (at, line) in enumerate(lines(truth), 1):
        if not line.isdecimal() or int(line) not in of_number:
            raise DataError(f"{at} is {line!r}, which is not the number of a class in meta.mat")
        yield images.path(f"ILSVRC2012_val_{number:08d}.JPEG", at), of_number[int(line)]


def _solutions(root: Path, split: str) -> dict[str, tuple[str, list[list[float]]]]:
    """(class, boxes) by the image's name, of Kaggle's table: ``n01978287 240 170 260 240 n0... `` left, top, right, bottom."""
    file = root / f"LOC_{'train' if split == 'train' else 'val'}_solution.csv"
    if not file.exists():
        return {}
    found: dict[str, tuple[str, list[list[float]]]] = {}
    with open(file, encoding="utf-8", newline="") as table:
        for number, line in enumerate(csv.DictReader(table), 2):
            words = (line.get("PredictionString") or "").split()
            if not line.get("ImageId") or not words or len(words) % 5:
                raise DataError(f"{file} line {number} is not an image and, for each box, a class and four numbers")
            given = [" ".join(words[start + 1 : start + 5]) for start in range(0, len(words), 5)]
            boxes = [as_numbers(each, 4, f"{file} line {number}") for each in given]
            found[line["ImageId"]] = words[0], [[x, y, right - x, lower - y] for x, y, right, lower in boxes]
    return found


SET = PublishedSet(
    name="ImageNet (ILSVRC 2012)",
    files="`train/`, `val/` and `ILSVRC2012_devkit_t12/data/`, or Kaggle's `ILSVRC/Data/CLS-LOC/` and `LOC_val_solution.csv`",
    known=_known,
    splits=lambda root: ["train", "validation"],
    classes=_classes,
    read=_read,
    holds="boxes, in Kaggle's form",
)
