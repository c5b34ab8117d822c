"""CUB-200 (Welinder et al. 2010), 6,033 birds: lists of files, and for each a MATLAB file with its box and a rough mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attention_refine.data.labels import DataError
from attention_refine.data.published._files import Folder, has, lines, mat, picture
from attention_refine.data.published._layout import PublishedSet, Rows

SIDES = ("left", "top", "right", "bottom")


def _known(root: Path) -> bool:
    return has(root, "images", "lists/train.txt", "lists/test.txt") and (
        has(root, "annotations-mat") or has(root, "lists/files.txt") or has(root, "lists/classes.txt")
    )


def _list(root: Path, split: str) -> list[tuple[str, str]]:
    """(where, ``001.Black_footed_Albatross/<file>.jpg``) of each line."""
    file = root / "lists" / f"{split}.txt"
    found = list(lines(file))
    flat = next((at for at, name in found if "/" not in name), None)
    if flat is not None:
        raise DataError(f"{flat} is not the folder of a bird, a stroke and a file: unpack the lists again")
    return found


def _classes(root: Path, split: str) -> list[str]:
    """The folders of both lists: their names begin with the number of the bird."""
    return sorted({name.partition("/")[0] for each in ("train", "test") for _, name in _list(root, each)})


def _read(root: Path, split: str) -> Rows:
    images, annotations = Folder(root / "images"), root / "annotations-mat"
    rows = []
    for at, name in _list(root, split):
        row = {"_at": at, "_image": images.path(name, at), "label": name.partition("/")[0]}
        if annotations.is_dir():
            row |= _annotation(annotations / f"{name.rpartition('.')[0]}.mat")
        rows.append(row)
    return rows, {}


def _annotation(file: Path) -> dict:
    found = mat(file, "bbox", "seg")
    if not set(SIDES) <= set(np.asarray(found["bbox"]).dtype.names or ()):
        raise DataError(f"{file}: bbox has no {', '.join(SIDES)}: it is not an annotation of CUB-200 (2010)")
    left, top, right, bottom = (float(found["bbox"][side]) for side in SIDES)
    mask = (np.atleast_2d(found["seg"]) != 0).astype(np.uint8) * 255
    return {"bbox": [[left, top, right - left, bottom - top]], "_mask": picture(mask, f"{file}/seg")}


SET = PublishedSet(
    name="CUB-200 (2010)",
    files="`lists/train.txt`, `lists/test.txt`, `images/`; `annotations-mat/`",
    known=_known,
    splits=lambda root: ["train", "test"],
    classes=_classes,
    read=_read,
    holds="boxes, masks",
)
