"""What a published set is to the rest: how its folder is known, its splits, its classes and its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_refine.data.labels import DataError
from attention_refine.data.split_names import canonical_split

Row = dict[str, Any]  # as of data.folders.read_split
Rows = tuple[list[Row], dict[str, list[str]]]  # rows, and what was left out of them: paths by reason


@dataclass(frozen=True)
class PublishedSet:
    """One set as its archives unpack.

    Args:
        name: as it is published.
        files: what its folder is known by, for people.
        known: whether a folder is one, by names alone; called of every folder that is read, so it must be quick.
        splits: the names of its splits, the one to train on first.
        classes: names of the classes of a split, in the order of the published labels.
        read: the rows of a split: ``_image`` and ``_mask`` (paths, or a cell with ``bytes`` where they lie in arrays),
            ``_at`` (for messages), ``label`` or ``labels``, ``bbox``, ``group`` and other fields.
        within: folders below the one that is given, in which it may lie as archives unpack it.
        holds: what comes with the images, for people.
    """

    name: str
    files: str
    known: Callable[[Path], bool]
    splits: Callable[[Path], list[str]]
    classes: Callable[[Path, str], list[str]]
    read: Callable[[Path, str], Rows]
    within: tuple[str, ...] = ()
    holds: str = ""


@dataclass(frozen=True)
class Found:
    """A published set in a folder."""

    set: PublishedSet
    folder: Path

    def splits(self) -> list[str]:
        return self.set.splits(self.folder)

    def split(self, word: str) -> str:
        """The published split that a word names.

        Raises:
            DataError: the set has none such; the message lists those that it has.
        """
        splits = self.splits()
        name = word if word in splits else canonical_split(word)
        if name not in splits:
            raise DataError(
                f"{self.folder} is {self.set.name} as published and has no split {word!r}: it has {', '.join(splits)}"
            )
        return name

    def classes(self, split: str) -> list[str]:
        return self.set.classes(self.folder, self.split(split))

    def rows(self, split: str) -> Rows:
        """
        Raises:
            DataError: a file of the set that is missing or broken; the sentence names it.
        """
        rows, left_out = self.set.read(self.folder, self.split(split))
        if not rows:
            raise DataError(f"{self.folder} is {self.set.name} as published, and its split {split!r} has no images")
        for row in rows:
            row["_video"] = False
        return rows, left_out
