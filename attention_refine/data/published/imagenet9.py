"""ImageNet-9, the Backgrounds Challenge (Xiao et al. 2020): nine classes of ImageNet with their backgrounds changed.

Each variation of the test images is a split by its folder's name: ``original``, ``mixed_same``, ``mixed_rand``,
``only_fg`` and so on. ``train`` is IN-9L, unpacked into the folder or beside it; ``mixed_rand_train`` is the training
part of a variation. Masks of ``original`` are those of ``fg_mask``.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from attention_refine.data.labels import DataError
from attention_refine.data.published._files import folders_in, images_in, picture
from attention_refine.data.published._layout import PublishedSet, Row, Rows

VARIATIONS = (
    "original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t",
)  # fmt: skip
ALL = "in9l"


def _places(root: Path) -> dict[str, Path]:
    """The folder of each split that is there."""
    training = next((place / ALL / "train" for place in (root, root.parent) if (place / ALL).is_dir()), root / ALL)
    found = {"train": training}
    found |= {name: root / name / "val" for name in VARIATIONS}
    found |= {f"{name}_train": root / name / "train" for name in VARIATIONS}
    return {name: place for name, place in found.items() if place.is_dir()}


def _known(root: Path) -> bool:
    return any((root / name / "val" / "00_dog").is_dir() for name in (*VARIATIONS, ALL))


def _classes(root: Path, split: str) -> list[str]:
    return folders_in(_places(root)[split])


def _read(root: Path, split: str) -> Rows:
    here, masks = _places(root)[split], root / "fg_mask" / "val"
    rows = []
    for label in _classes(root, split):
        for path in images_in(here / label):
            row: Row = {"_at": path, "_image": path, "label": label}
            mask = masks / label / f"{os.path.splitext(os.path.basename(path))[0]}.npy"
            if split == "original" and mask.exists():
                row["_mask"] = _mask(mask)
            rows.append(row)
    return rows, {}


def _mask(file: Path) -> dict:
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} is not an array ({error}): unpack it again") from None
    if found.ndim != 2:
        raise DataError(f"{file} is an array of {found.shape}, not (height, width): unpack it again")
    return picture((found != 0).astype(np.uint8) * 255, f"{file}/mask")


SET = PublishedSet(
    name="ImageNet-9",
    files="`original/val/00_dog/`, `mixed_same/`, `mixed_rand/`, ...; `fg_mask/`; `in9l/train/` in it or beside it",
    known=_known,
    splits=lambda root: list(_places(root)),
    classes=_classes,
    read=_read,
    within=("bg_challenge",),
    holds="masks of `original`",
)
