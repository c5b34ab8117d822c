"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in their binary version: a byte or two of labels, then 3072 bytes of an image.

The Python version is pickles, which run whatever code is in them: it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from attention_refine.data.labels import DataError
from attention_refine.data.published._files import has, lines, missing, picture
from attention_refine.data.published._layout import PublishedSet, Rows

SIDE = 32
TEN = {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]}
HUNDRED = {"train": ["train.bin"], "test": ["test.bin"]}


def _names(file: Path) -> list[str]:
    return [line for _, line in lines(file)]


def _records(file: Path, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, labels) and (n, 32, 32, 3) uint8."""
    if not file.exists():
        raise missing(file)
    flat, size = np.fromfile(file, np.uint8), labels + 3 * SIDE * SIDE
    if not len(flat) or len(flat) % size:
        raise DataError(f"{file} has {len(flat)} bytes, not {size} for each image: unpack it again")
    table = flat.reshape(-1, size)
    planes = table[:, labels:].reshape(-1, 3, SIDE, SIDE)
    return table[:, :labels], np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _rows(file: Path, columns: dict[str, list[str]]) -> list[dict]:
    """Rows of a file whose records begin with an index into each of ``columns``."""
    rows = []
    for number, (codes, image) in enumerate(zip(*_records(file, len(columns))), 1):
        at = f"{file}/{number:05d}"
        row = {"_at": at, "_image": picture(image, at)}
        for (column, names), code in zip(columns.items(), codes):
            if code >= len(names):
                raise DataError(f"{at} has the {column} {code}, and there are names for {len(names)}: unpack it again")
            row[column] = names[code]
        rows.append(row)
    return rows


def _ten(root: Path, split: str) -> Rows:
    names = _names(root / "batches.meta.txt")
    return [row for file in TEN[split] for row in _rows(root / file, {"label": names})], {}


def _hundred(root: Path, split: str) -> Rows:
    columns = {"superclass": _names(root / "coarse_label_names.txt"), "label": _names(root / "fine_label_names.txt")}
    return [row for file in HUNDRED[split] for row in _rows(root / file, columns)], {}


CIFAR10 = PublishedSet(
    name="CIFAR-10",
    files="`data_batch_1.bin` to `data_batch_5.bin`, `test_batch.bin`, `batches.meta.txt` (the binary version)",
    known=lambda root: has(root, "data_batch_1.bin", "batches.meta.txt"),
    splits=lambda root: list(TEN),
    classes=lambda root, split: _names(root / "batches.meta.txt"),
    read=_ten,
    within=("cifar-10-batches-bin",),
)
CIFAR100 = PublishedSet(
    name="CIFAR-100",
    files="`train.bin`, `test.bin`, `fine_label_names.txt`, `coarse_label_names.txt` (the binary version)",
    known=lambda root: has(root, "train.bin", "fine_label_names.txt"),
    splits=lambda root: list(HUNDRED),
    classes=lambda root, split: _names(root / "fine_label_names.txt"),
    read=_hundred,
    within=("cifar-100-binary",),
    holds="a column `superclass`",
)


def _refused(name: str, archive: str) -> Callable[..., list[str]]:
    def refuse(root: Path, *_: str) -> list[str]:
        raise DataError(
            f"{root} is the Python version of {name}, whose files are pickles, and to read a pickle is to run what is in "
            f"it: take the binary version, {archive}"
        )

    return refuse


def _pickles(name: str, archive: str, within: str, *files: str) -> PublishedSet:
    refuse = _refused(name, archive)
    return PublishedSet(
        name=f"{name} (Python version)",
        files=", ".join(f"`{file}`" for file in files) + f": refused, as they are pickles; take {archive}",
        known=lambda root: has(root, *files) and (root / files[0]).is_file(),
        splits=refuse,
        classes=refuse,
        read=refuse,  # type: ignore[arg-type]  # it never returns
        within=(within,),
    )


PICKLES = (
    _pickles("CIFAR-10", "cifar-10-binary.tar.gz", "cifar-10-batches-py", "data_batch_1", "batches.meta"),
    _pickles("CIFAR-100", "cifar-100-binary.tar.gz", "cifar-100-python", "train", "meta"),
)
