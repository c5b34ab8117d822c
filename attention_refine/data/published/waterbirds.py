"""Waterbirds (Sagawa et al. 2020), and its form without exceptions in training (Waterbirds-100): a table beside CUB's folders.

``metadata.csv`` has ``y`` (0 landbird, 1 waterbird), ``place`` (0 land, 1 water) and ``split`` (0 train, 1 validation, 2
test). The images have the names and the size of CUB's, so CUB's ``segmentations`` in the folder, beside it or in
``CUB_200_2011`` beside it are their masks, and the boxes of that are theirs.
"""

from __future__ import annotations

import csv
from pathlib import Path

from attention_refine.data.labels import DataError
from attention_refine.data.metadata import metadata_lines
from attention_refine.data.published._files import Folder
from attention_refine.data.published._layout import PublishedSet, Row, Rows
from attention_refine.data.published.cub_2011 import boxes_beside, mask_of, segmentations

BIRDS = ["landbird", "waterbird"]
PLACES = ["land", "water"]
SPLITS = ["train", "validation", "test"]
FIELDS = ("img_filename", "y", "place", "split")


def _known(root: Path) -> bool:
    file = root / "metadata.csv"
    if not file.is_file():
        return False
    with open(file, encoding="utf-8-sig", errors="replace", newline="") as table:
        return {*FIELDS, "place_filename"} <= set(next(csv.reader(table), []))


def _coded(line: dict, field: str, names: list[str], at: str) -> str:
    code = str(line.get(field))
    if code not in map(str, range(len(names))):
        meant = ", ".join(f"{number} {name}" for number, name in enumerate(names))
        raise DataError(f"{at}: {field} is {line.get(field)!r}, not one of {meant}")
    return names[int(code)]


def _read(root: Path, split: str) -> Rows:
    images, masks, boxes = Folder(root), segmentations(root), boxes_beside(root)
    rows = []
    for at, line in metadata_lines(root / "metadata.csv"):
        bird, place = _coded(line, "y", BIRDS, at), _coded(line, "place", PLACES, at)
        if _coded(line, "split", SPLITS, at) != split:
            continue
        name = str(line["img_filename"])
        row: Row = {
            "_at": at, "_image": images.path(name, at), "label": bird, "place": place, "group": f"{bird}/{place}",
        }  # fmt: skip
        if name in boxes:
            row["bbox"] = [boxes[name]]
        rows.append(row | mask_of(name, masks))
    return rows, {}


SET = PublishedSet(
    name="Waterbirds",
    files="`metadata.csv` with `img_filename`, `y`, `place`, `split`, `place_filename`; `CUB_200_2011/` or its `segmentations/` beside it",
    known=_known,
    splits=lambda root: SPLITS,
    classes=lambda root, split: BIRDS,
    read=_read,
    within=("waterbird_complete95_forest2water2", "waterbird_1.0_forest2water2"),
    holds="groups bird/place, CUB's masks and boxes",
)
