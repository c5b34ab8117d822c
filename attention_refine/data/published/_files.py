"""Files of published sets: tables of words, XML of boxes, MATLAB's arrays, pictures out of arrays. What is broken is named."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attention_refine.data.labels import DataError


def missing(path: Path | str) -> DataError:
    return DataError(f"{path} is missing, a part of the published set: unpack the whole archive")


def lines(file: Path) -> Iterator[tuple[str, str]]:
    """(where, text) of each line that is not empty.

    Raises:
        DataError: no such file, or no text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise missing(file) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not text ({error.reason} at byte {error.start}): unpack it again") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{file} line {number}", line.strip()


def numbered(file: Path) -> dict[int, str]:
    """Lines ``<number> <text>`` as a dict."""
    found: dict[int, str] = {}
    for at, line in lines(file):
        number, _, text = line.partition(" ")
        if not number.isdecimal() or not text.strip():
            raise DataError(f"{at} is {line!r}, not a number and a text behind it: unpack the file again")
        if int(number) in found:
            raise DataError(f"{at} has the number {number} again: unpack the file again")
        found[int(number)] = text.strip()
    return found


def of_image(table: dict[int, str], number: int, file: Path) -> str:
    """What a table says of an image.

    Raises:
        DataError: it has no line for the image.
    """
    if number not in table:
        raise DataError(f"{file} has no line for image {number}: unpack it again")
    return table[number]


def as_numbers(text: str, count: int, at: str) -> list[float]:
    try:
        numbers = [float(word) for word in text.split()]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise DataError(f"{at}: {text!r} is not {count} numbers")
    return numbers


class Folder:
    """Files below a folder, of which each subfolder is listed once: a look at each file by itself takes far longer."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listed: dict[str, frozenset[str]] = {}

    def has(self, name: str) -> bool:
        place, _, file = name.rpartition("/")
        if place not in self._listed:
            try:
                self._listed[place] = frozenset(os.listdir(self.root / place))
            except (FileNotFoundError, NotADirectoryError):
                self._listed[place] = frozenset()
        return file in self._listed[place]

    def path(self, name: str, at: str) -> str:
        """The path of a file that a table names.

        Raises:
            DataError: it is not there.
        """
        if not self.has(name):
            raise DataError(f"{at} names {name}, and {self.root / name} is not there: unpack the whole archive")
        return os.path.join(self.root, *name.split("/"))

    def optional(self, name: str) -> str | None:
        return os.path.join(self.root, *name.split("/")) if self.has(name) else None


def images_in(folder: Path, endings: Iterable[str] = (".jpg", ".jpeg", ".png")) -> list[str]:
    """Paths of the image files right in a folder, sorted by name.

    Raises:
        DataError: no such folder.
    """
    if not folder.is_dir():
        raise missing(folder)
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    return [os.path.join(folder, name) for name in names if os.path.splitext(name)[1].lower() in endings]


def folders_in(folder: Path) -> list[str]:
    """Names of the folders right in a folder, sorted; without hidden ones."""
    if not folder.is_dir():
        raise missing(folder)
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__")))


def xml_objects(file: Path | str) -> list[dict[str, Any]]:
    """The objects of an annotation in PASCAL VOC's XML: ``name``, ``difficult``, and ``bbox`` [x, y, width, height].

    VOC counts pixels from 1 and a box's last pixel belongs to it: xmin 1, xmax 1 is one pixel.

    Raises:
        DataError: no such file, or what is not such an annotation.
    """
    from xml.etree import ElementTree  # only here

    try:
        tree = ElementTree.parse(file)
        found = []
        for each in tree.iter("object"):
            corners = [float(each.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
            left, top, right, bottom = corners
            if right < left or bottom < top:
                raise ValueError(f"the box {corners} has its right or lower side before the other")
            name = each.findtext("name", "").strip()
            if not name:
                raise ValueError("an object without a name")
            box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            found.append({"name": name, "difficult": each.findtext("difficult", "0").strip() == "1", "bbox": box})
        return found
    except FileNotFoundError:
        raise missing(file) from None
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{file} is not an annotation in VOC's XML ({error}): unpack it again") from None


def mat(file: Path | str, *names: str, squeeze: bool = True) -> dict[str, Any]:
    """Arrays out of a MATLAB file, without axes of one with ``squeeze``. Nothing in one is unpickled or run.

    Raises:
        DataError: no such file, one that cannot be read, or one without those names.
    """
    from scipy.io import loadmat  # a second to import

    if not os.path.exists(file):  # its reader says something else
        raise missing(file)
    try:
        found = loadmat(file, squeeze_me=squeeze, variable_names=list(names))
    except Exception as error:  # its reader raises ValueError, TypeError, struct and zlib errors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{file} cannot be read as a MATLAB file ({reason}): unpack it again") from None
    absent = [name for name in names if name not in found]
    if absent:
        raise DataError(f"{file} has no {absent[0]!r}: it is not the file of the published set")
    return {name: found[name] for name in names}


def picture(pixels: np.ndarray, name: str) -> dict[str, Any]:
    """An image out of an array as a cell: a BMP in memory, as nothing is written faster; masks as PNG, which is small.

    Args:
        pixels: (H, W, 3) or (H, W) uint8.
        name: what a message calls it; the path of no file, as ``datasets`` would read that in its place.
    """
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "BMP" if pixels.ndim == 3 else "PNG")
    return {"bytes": out.getvalue(), "path": name}


def has(folder: Path, *names: str) -> bool:
    return all((folder / name).exists() for name in names)
