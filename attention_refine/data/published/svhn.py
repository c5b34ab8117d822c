"""SVHN's cropped digits (Netzer et al. 2011): MATLAB arrays of 32 x 32 pixels, in which the label 10 is the digit 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from attention_refine.data.labels import DataError
from attention_refine.data.published._files import mat, picture
from attention_refine.data.published._layout import PublishedSet, Rows

DIGITS = [str(digit) for digit in range(10)]
SPLITS = ("train", "test", "extra")


def _file(root: Path, split: str) -> Path:
    return root / f"{split}_32x32.mat"


def _splits(root: Path) -> list[str]:
    return [split for split in SPLITS if _file(root, split).exists()]


def _read(root: Path, split: str) -> Rows:
    file = _file(root, split)
    found = mat(file, "X", "y", squeeze=False)
    pixels, labels = found["X"], found["y"].ravel()
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[2] != 3 or pixels.shape[3] != len(labels):
        raise DataError(
            f"{file} holds X of {pixels.dtype}, {pixels.shape}, and {len(labels)} labels: SVHN's is uint8, (32, 32, 3, n), "
            "with n labels"
        )
    odd = labels[(labels < 1) | (labels > 10)]
    if len(odd):
        raise DataError(f"{file} has the label {odd[0]}, not one of 1 to 10 (10 is the digit 0)")
    rows = []
    for number, (image, label) in enumerate(zip(pixels.transpose(3, 0, 1, 2), labels), 1):
        name = f"{file}/{number:06d}"
        rows.append(
            {"_at": name, "_image": picture(np.ascontiguousarray(image), name), "label": DIGITS[int(label) % 10]}
        )
    return rows, {}


SET = PublishedSet(
    name="SVHN (cropped digits)",
    files="`train_32x32.mat`, `test_32x32.mat`, `extra_32x32.mat`",
    known=lambda root: bool(_splits(root)),
    splits=_splits,
    classes=lambda root, split: DIGITS,
    read=_read,
)
