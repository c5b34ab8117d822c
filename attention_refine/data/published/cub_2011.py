"""CUB-200-2011 (Wah et al. 2011): 200 birds, a box each, and masks where ``segmentations`` was unpacked too.

Numbers of images and classes count from 1. A pixel of a mask is 51 times the number of the five people who drew it as
bird; half of the scale and above, three of them or more, is the object here.
"""

from __future__ import annotations

from pathlib import Path

from attention_refine.data.labels import DataError
from attention_refine.data.published._files import Folder, as_numbers, has, numbered, of_image
from attention_refine.data.published._layout import PublishedSet, Row, Rows

MOST_PEOPLE = list(range(128, 256))


def _known(root: Path) -> bool:
    return has(root, "images.txt", "image_class_labels.txt", "train_test_split.txt", "images")


def _classes(root: Path, split: str) -> list[str]:
    names = numbered(root / "classes.txt")
    if sorted(names) != list(range(1, len(names) + 1)):
        raise DataError(f"{root / 'classes.txt'} does not number its classes from 1 to {len(names)}: unpack it again")
    return [names[number] for number in sorted(names)]


BESIDE = ("segmentations", "../segmentations", "../CUB_200_2011/segmentations")


def segmentations(root: Path) -> Folder:
    """The masks, unpacked into a set of CUB's images, beside it, or into CUB beside it."""
    return Folder(next((root / place for place in BESIDE if (root / place).is_dir()), root / BESIDE[0]))


def mask_of(name: str, masks: Folder) -> Row:
    """The columns of an image's mask; none where it has no mask."""
    mask = masks.optional(name.rpartition(".")[0] + ".png")
    return {} if mask is None else {"_mask": mask, "mask_values": MOST_PEOPLE}


def boxes_beside(root: Path) -> dict[str, list[float]]:
    """[x, y, width, height] by the image's name, of CUB_200_2011 beside another set of its images; empty without it."""
    cub = root.parent / "CUB_200_2011"
    files = cub / "images.txt", cub / "bounding_boxes.txt"
    if not all(file.exists() for file in files):
        return {}
    names, boxes = map(numbered, files)
    return {name: _box(boxes, number, files[1]) for number, name in names.items()}


def _box(boxes: dict[int, str], number: int, file: Path) -> list[float]:
    return as_numbers(of_image(boxes, number, file), 4, f"{file}: image {number}")


def _read(root: Path, split: str) -> Rows:
    classes = _classes(root, split)
    files = {
        name: root / f"{name}.txt" for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes")
    }
    tables = {name: numbered(file) for name, file in files.items() if name != "bounding_boxes" or file.exists()}
    images, masks = Folder(root / "images"), segmentations(root)
    rows = []
    for number, name in tables["images"].items():
        at = f"{files['images']}: image {number}"
        part = of_image(tables["train_test_split"], number, files["train_test_split"])
        if part not in ("0", "1"):
            raise DataError(f"{files['train_test_split']}: image {number} has {part!r}, not 1 for train or 0 for test")
        if (part == "1") != (split == "train"):
            continue
        label = of_image(tables["image_class_labels"], number, files["image_class_labels"])
        if not label.isdecimal() or not 1 <= int(label) <= len(classes):
            raise DataError(
                f"{files['image_class_labels']}: image {number} has the class {label!r}, not one of 1 to {len(classes)}"
            )
        row: Row = {"_at": at, "_image": images.path(name, at), "label": classes[int(label) - 1]}
        if "bounding_boxes" in tables:
            row["bbox"] = [_box(tables["bounding_boxes"], number, files["bounding_boxes"])]
        rows.append(row | mask_of(name, masks))
    return rows, {}


SET = PublishedSet(
    name="CUB-200-2011",
    files="`images.txt`, `image_class_labels.txt`, `train_test_split.txt`, `classes.txt`, `bounding_boxes.txt`, `images/`; "
    "`segmentations/` in it or beside it",
    known=_known,
    splits=lambda root: ["train", "test"],
    classes=_classes,
    read=_read,
    within=("CUB_200_2011",),
    holds="boxes, masks",
)
