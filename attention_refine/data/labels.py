"""Labels as people write them: names, numbers and lists of them, and the classes they make."""

from __future__ import annotations

import json
import math
import re
import string
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np


class DataError(ValueError):
    """Something is wrong with a dataset or a file of it: a sentence that names the file, row or field."""

    def __init__(self, message: str):
        # A DataLoader worker's error arrives as the text of its traceback, which ends in the sentence.
        super().__init__(message.rpartition("DataError: ")[2].strip())


UNSEEN = "\u00ad\u061c\u200b\u200c\u200d\u200e\u200f\u2060\ufe0f\ufeff"  # marks without a width, which copies from pages and tables leave behind


def label_text(value: Any, at: str = "a label") -> str | None:
    """A label as a name: spaces around it taken off, accents and spaces in it in one form, 1.0 as 1; None where there
    is no label.

    Raises:
        DataError: a number with a fraction: a quantity is no class; a list, or keys and values.
    """
    if isinstance(value, (float, np.floating)):
        if math.isnan(value):
            return None
        if not float(value).is_integer():
            raise DataError(f"{at}: label {value} is a number with a fraction, a quantity: classes are names")
        value = int(value)
    if value is None:
        return None
    if isinstance(value, (list, tuple, dict, bytes)):
        raise DataError(f"{at}: label {value!r} is a {type(value).__name__}: give a name or a number")
    return _one_form(str(value)) or None


@lru_cache(maxsize=4096)  # of 50,000 images a few hundred names
def _one_form(text: str) -> str:
    text = " ".join(unicodedata.normalize("NFC", text).strip(UNSEEN + string.whitespace).split())
    return re.sub(r"^(-?\d+)\.0+$", r"\1", text)


class ClassIndex:
    """Label values, names or numbers, to indices of a class list."""

    def __init__(self, names: Sequence[str]):
        self.names = [str(n) for n in names]
        self.index = {label_text(name): i for i, name in enumerate(self.names)}
        if not self.names:
            raise DataError("the list of class names is empty")
        if None in self.index or len(self.index) < len(self.names):
            counts = Counter(label_text(name) for name in self.names)
            twice = [name for name in self.names if counts[label_text(name)] > 1 or label_text(name) is None]
            raise DataError(
                f"class names repeat {twice[0]!r}" if label_text(twice[0]) else "one of the class names is empty"
            )

    def __call__(self, value: Any, field: str, at: str) -> int:
        name = label_text(value, at)
        if name is None:
            raise DataError(
                f"{at}: {field} is {value!r}: give it one of the {len(self.names)} classes, or drop the row"
            )
        found = self.index.get(name)
        if found is None and name == "-1":
            raise not_known(at, field)
        # A number may be an index instead, unless the names are numbers themselves.
        if found is None and type(value) is int and 0 <= value < len(self.names) and not _numeric(self.names):
            found = value
        if found is None:
            shown = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
            raise DataError(f"{at}: {field} {value!r} is not one of the {len(self.names)} classes ({shown})")
        return found


def not_known(at: str, field: str) -> DataError:
    """What to say of a label of -1, which ``datasets`` writes where there is none."""
    return DataError(
        f"{at}: {field} is -1, which says that the class is not known: leave such rows out, dataset.filter(lambda row: "
        f"row[{field!r}] != -1), or give them as images without labels"
    )


def as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


MANY_NUMBERS = 20
NO_LABEL = ("nan", "null", "<na>", "#n/a", "n/a", "nat")  # what tables write where there is nothing


def sorted_names(values: Iterable, field: str = "label") -> list[str]:
    """Distinct labels as sorted names; in numeric order where all are whole numbers.

    Raises:
        DataError: names that differ in case alone or are the same number (``1`` and ``01``), several names in one text,
            or numbers with fractions. Warns of many numbers: they may be a quantity.
    """
    counts = Counter(filter(None, (label_text(v) for v in values)))
    names = sorted(counts)
    by_case: dict[str, list[str]] = {}
    for name in names:
        by_case.setdefault(name.casefold(), []).append(name)
    alike = next((found for found in by_case.values() if len(found) > 1), None)
    if alike is not None:
        shown = " and ".join(f"{name!r} ({counts[name]} rows)" for name in alike)
        raise DataError(f"{field} holds {shown}, which differ in case alone: write them alike, or give class_names=")
    nothing = next((by_case[word][0] for word in NO_LABEL if word in by_case), None)
    if nothing is not None:
        raise DataError(f"{field} holds {nothing!r} in {counts[nothing]} rows: label or drop them")
    booleans, bits = {"True", "False"} & set(names), {"0", "1"} & set(names)
    if booleans and bits:
        raise DataError(f"{field} holds {booleans.pop()} as well as {bits.pop()}: write them alike")
    listed = next((name for name in names if _is_list(name)), None)
    if listed is not None:
        raise DataError(
            f"{field} holds {listed!r} ({counts[listed]} rows), a list that is written as text: give a list"
        )
    if "-1" in counts and set(names) != {"-1", "1"}:
        raise DataError(
            f"{field} is -1 in {counts['-1']} of {counts.total()} rows, which in many datasets says that the class is not "
            "known: leave these rows out (or give them as images without labels), or give class_names= if it is a class"
        )
    if names and all(_is_number(name) for name in names) and not _numeric(names):
        odd = next(name for name in names if not _numeric([name]))
        raise DataError(f"{field} holds numbers with fractions, such as {odd}: a quantity is no class")
    if not _numeric(names):
        for name in names:
            parts = [label_text(part) for part in re.split("[,;|]", name)]
            if len(parts) > 1 and set(parts) <= set(names):
                raise DataError(
                    f"{field} holds {name!r} ({counts[name]} rows), and {' and '.join(map(repr, parts))} are classes "
                    f"themselves: several labels are a list, such as {json.dumps(parts, ensure_ascii=False)}"
                )
        return names
    same = Counter(map(int, names))
    alike = [name for name in names if same[int(name)] > 1]
    if alike:
        shown = " and ".join(f"{name!r} ({counts[name]} rows)" for name in alike[:3])
        raise DataError(f"{field} holds {shown}, the same number: write them alike, or give class_names=")
    if len(names) > MANY_NUMBERS:
        warnings.warn(
            f"{field} holds {len(names)} different numbers, and each becomes a class: are they a quantity, such as an "
            "age? class_names= says that they are classes",
            stacklevel=2,
        )
    return sorted(names, key=int)


def check_lists(labels: Iterable, field: str) -> None:
    """Refuse lists of 0 and 1 for each class where lists of the classes that are there are wanted.

    Raises:
        DataError: all are lists of 0 and 1 of one length, and one has a number twice.
    """
    lists = [label for label in labels if isinstance(label, list)]
    numbers = {value for label in lists for value in label if isinstance(value, (int, float))}
    plain = all(isinstance(value, (int, float)) for label in lists for value in label)
    if len({len(label) for label in lists}) != 1 or not plain or not numbers <= {0, 1}:
        return
    hot = next((label for label in lists if len(set(label)) < len(label)), None)
    if hot is not None:
        raise DataError(
            f"{field} holds {hot}, which seems to be 0 or 1 for each class: give the names of the classes that an image "
            'has, such as ["cat", "dog"], or their numbers'
        )


def _is_list(name: str) -> bool:
    try:
        return isinstance(json.loads(name.replace("'", '"')), list)
    except json.JSONDecodeError:
        return False


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def _numeric(names: Iterable[str]) -> bool:
    return all(name.lstrip("-").isdecimal() for name in names)
