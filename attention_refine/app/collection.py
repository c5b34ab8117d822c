"""A dataset's split as the editor has it: images with the worst first, and the maps that people drew on them."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from attention_refine.auditing import Audit
from attention_refine.data import (
    DataError,
    class_names,
    discard_edits,
    is_multi_label,
    load_dataset,
    read_image,
    read_map,
    save_edits,
)
from attention_refine.data.columns import undecoded
from attention_refine.data.edits import refuse_published
from attention_refine.data.listing import has_tables
from attention_refine.data.map_files import is_edited


class NotHere(LookupError):
    """What a page asks for does not exist, or not any more."""


class Overtaken(ValueError):
    """Somebody else saved another map of the image in the meantime."""


@dataclass(frozen=True)
class Entry:
    """An image: its file, its label in words, its edited map's file where it has one, and what the audit found."""

    name: str
    file: str
    label: str
    map_file: str | None
    found: str = ""
    wrong: bool | None = None


class Collection:
    """A split of a folder. What it says of edits is what lies in the folder: it is read anew after each.

    Args:
        source: folder of images, with splits or without.
        split: the one that is edited.

    Raises:
        DataError: no folder of images, or no such split.
    """

    def __init__(self, source: str | Path, split: str = "train"):
        self.folder, self.split = Path(source).expanduser(), split
        if not self.folder.is_dir():
            raise DataError(
                f"{str(source)!r} is not a folder: the editor writes maps beside images, so save a dataset of the Hub as a "
                "folder of images first"
            )
        if has_tables(self.folder):
            raise DataError(f"{self.folder} holds tables; the editor writes maps beside image files: export them first")
        refuse_published(self.folder)
        self._writing = threading.Lock()
        self.rows = load_dataset(self.folder, split)
        if "image" not in self.rows.column_names:
            raise DataError(f"{self.folder} holds {', '.join(self.rows.column_names)}; the editor draws on images")
        self._entries = self._read(self.rows)
        self.order = list(self._entries)
        self._found: dict[str, tuple[str, bool]] = {}

    def __len__(self) -> int:
        return len(self.order)

    @property
    def classes(self) -> list[str]:
        return class_names(self.rows)

    @property
    def edited(self) -> int:
        """How many images have an edited map."""
        return sum(entry.map_file is not None for entry in self._entries.values())

    def worst_first(self, audit: Audit) -> None:
        """Put the images in the order of an audit of them; those that it did not look at stay behind, as they were."""
        classes = audit.settings["classes"]
        by_file = {os.path.normpath(entry.file): name for name, entry in self._entries.items()}
        for sample in audit.worst(len(audit.samples)):
            name = by_file.get(os.path.normpath(sample["file"] or ""))
            if name is not None:
                self._found[name] = _said(sample, classes), not sample["correct"]
        self.order = [*self._found, *(name for name in self.order if name not in self._found)]

    def __getitem__(self, name: str) -> Entry:
        """
        Raises:
            NotHere: no image of that name.
        """
        if name not in self._entries:
            raise NotHere(f"{name!r} is not an image of the split {self.split!r} of {self.folder}")
        entry = self._entries[name]
        found, wrong = self._found.get(name, ("", None))
        return replace(entry, found=found, wrong=wrong)

    def save(self, name: str, drawn: np.ndarray, base: str | None = None) -> str:
        """Write an edited map into the folder, whole or not at all; when this returns it is there.

        Args:
            drawn: ``(h, w)`` in [0, 1] over the whole photograph.
            base: the revision that it goes on from, empty for none; None to put it in any other's place.

        Returns:
            Its revision.

        Raises:
            Overtaken: the map has another revision by now.
            DataError: as :func:`attention_refine.data.save_edits`.
        """
        with self._writing:
            self._check(name, base)
            self._take(save_edits(self.folder, self[name].file, drawn, split=self.split, format="png"))
            return self._revision(name)

    def discard(self, name: str, base: str | None = None) -> None:
        """Take the edited map of an image back. Arguments and errors as for :meth:`save`."""
        with self._writing:
            self._check(name, base)
            self._take(discard_edits(self.folder, self[name].file, split=self.split))

    def edit(self, name: str) -> tuple[np.ndarray | None, str]:
        """The edited map of an image, ``(h, w)`` in [0, 1], and its revision; None and empty without one."""
        with self._writing:
            file = self[name].map_file
            return None if file is None else read_map(file, f"the map of {name}"), self._revision(name)

    def photograph(self, name: str) -> Any:
        """The image, upright and RGB.

        Raises:
            DataError: it cannot be read.
        """
        return read_image(self[name].file, name)

    def _check(self, name: str, base: str | None) -> None:
        if base is not None and self._revision(name) != base:
            raise Overtaken(
                f"another map of {name} was saved in the meantime, by somebody else or in another tab; it is shown now, "
                "and what you drew last is not saved"
            )

    def _revision(self, name: str) -> str:
        """Of the edited map's file, by which a later one is told."""
        file = self[name].map_file
        return hashlib.sha1(Path(file).read_bytes()).hexdigest() if file else ""

    def _take(self, rows: datasets.Dataset) -> None:
        self.rows, self._entries = rows, self._read(rows)

    def _read(self, rows: datasets.Dataset) -> dict[str, Entry]:
        names = class_names(rows)
        plain = undecoded(rows.with_format(None))
        several = is_multi_label(rows)
        column = list(plain["labels" if several else "label"])
        labels = [", ".join(names[at] for at in (each if several else [each])) for each in column]
        maps = list(plain["maps"]) if "maps" in plain.column_names else [None] * len(plain)
        flags = list(plain["edited"]) if "edited" in plain.column_names else [None] * len(plain)
        entries = {}
        for cell, label, map, flag in zip(plain.select_columns(["image"])["image"], labels, maps, flags):
            name = Path(os.path.relpath(cell["path"], self.folder)).as_posix()
            entries[name] = Entry(name, cell["path"], label, map if is_edited(flag, map) else None)
        return entries


def _said(sample: dict, classes: list[str]) -> str:
    """What an audit found of an image, in a few words."""
    taken = sample["prediction"] if isinstance(sample["prediction"], list) else [sample["prediction"]]
    words = [] if sample["correct"] else [f"taken for {', '.join(classes[at] for at in taken) or 'nothing'}"]
    words += [
        f"{100 * share:.0f} % of the map on the {part}"
        for part, share in sample["energy"].items()
        if share is not None and part != "rest"
    ]
    return "; ".join(words)
