"""PASCAL VOC (Everingham et al. 2010): 20 classes, several an image, boxes, and masks of the part that has them.

Objects that are marked difficult give neither label nor box, as in the challenge. In a mask 255 is the border between
objects, which is void; any class is object.
"""

from __future__ import annotations

from pathlib import Path

from attention_refine.data.labels import DataError
from attention_refine.data.published._files import Folder, has, lines, xml_objects
from attention_refine.data.published._layout import PublishedSet, Row, Rows

CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip
SPLITS = {"train": "train", "validation": "val", "trainval": "trainval", "test": "test"}
YEARS = ("VOC2012", "VOC2007")


def _known(root: Path) -> bool:
    return has(root, "JPEGImages", "Annotations", "ImageSets/Main")


def _splits(root: Path) -> list[str]:
    return [name for name, file in SPLITS.items() if (root / "ImageSets" / "Main" / f"{file}.txt").exists()]


def _read(root: Path, split: str) -> Rows:
    file = root / "ImageSets" / "Main" / f"{SPLITS[split]}.txt"
    images, masks = Folder(root / "JPEGImages"), Folder(root / "SegmentationClass")
    rows: list[Row] = []
    difficult: list[str] = []
    for at, line in lines(file):
        name = line.split()[0]
        annotation = root / "Annotations" / f"{name}.xml"
        if split == "test" and not annotation.exists():
            raise DataError(f"{annotation} is missing: the labels of this test split are not published; use validation")
        objects = xml_objects(annotation)
        strange = [each["name"] for each in objects if each["name"] not in CLASSES]
        if strange:
            raise DataError(f"{annotation} has an object {strange[0]!r}, which is not one of VOC's 20 classes")
        sure = [each for each in objects if not each["difficult"]]
        row: Row = {
            "_at": at,
            "_image": images.path(f"{name}.jpg", at),
            "labels": [label for label in CLASSES if label in {each["name"] for each in sure}],
            "bbox": [each["bbox"] for each in sure],
        }
        mask = masks.optional(f"{name}.png")
        if mask is not None:
            row |= {"_mask": mask, "mask_void": [255]}
        if not sure:
            difficult.append(row["_image"])
            continue
        rows.append(row)
    return rows, {"images whose objects are all difficult": difficult} if difficult else {}


SET = PublishedSet(
    name="PASCAL VOC",
    files="`JPEGImages/`, `Annotations/`, `ImageSets/Main/`; `SegmentationClass/`",
    known=_known,
    splits=_splits,
    classes=lambda root, split: CLASSES,
    read=_read,
    within=(*YEARS, *(f"VOCdevkit/{year}" for year in YEARS)),
    holds="several labels an image, boxes, masks of some",
)
