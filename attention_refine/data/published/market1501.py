"""Market-1501 (Zheng et al. 2015): persons seen by six cameras, told by the names of the files.

``0002_c1s1_000451_03.jpg`` is person 2 by camera 1. Nobody of ``train`` is in ``query`` or ``gallery``
(``bounding_box_test``). In the gallery ``0000`` are people and things that nobody looks for, which stay as a class of
their own; ``-1`` is junk that the protocol passes over, which is left out.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from attention_refine.data.labels import DataError
from attention_refine.data.published._files import has, images_in
from attention_refine.data.published._layout import PublishedSet, Rows

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
NAME = re.compile(r"(-1|\d{4})_c(\d)s(\d)_(\d{6})_(\d{2})\.jpg")
JUNK = "-1"


def _named(root: Path, split: str) -> list[tuple[str, re.Match[str]]]:
    found = []
    for path in images_in(root / FOLDERS[split]):
        name = NAME.match(os.path.basename(path))  # some of the gallery end in .jpg.jpg
        if name is None:
            raise DataError(f"{path} is not named as Market-1501 names its images, such as 0002_c1s1_000451_03.jpg")
        found.append((path, name))
    return found


def _classes(root: Path, split: str) -> list[str]:
    """Those of query and gallery are together, as one is searched in the other."""
    together = [split] if split == "train" else ["query", "gallery"]
    return sorted({name[1] for each in together for _, name in _named(root, each)} - {JUNK})


def _read(root: Path, split: str) -> Rows:
    rows, junk = [], []
    for path, name in _named(root, split):
        if name[1] == JUNK:
            junk.append(path)
        else:
            rows.append({"_at": path, "_image": path, "label": name[1], "camera": int(name[2])})
    return rows, {"images of junk (-1), which the protocol passes over": junk} if junk else {}


SET = PublishedSet(
    name="Market-1501",
    files="`bounding_box_train/`, `query/`, `bounding_box_test/`",
    known=lambda root: has(root, *FOLDERS.values()),
    splits=lambda root: list(FOLDERS),
    classes=_classes,
    read=_read,
    within=("Market-1501-v15.09.15",),
    holds="a column `camera`",
)
