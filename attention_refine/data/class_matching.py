"""Data meets a model by the names of its classes: matched where they are the same words, refused where they are not."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from attention_refine.data.labels import ClassIndex, DataError, label_text

SHOWN = 8


def match_classes(dataset: Any, names: Sequence[str], owner: str = "the model") -> Any:
    """A prepared dataset whose labels count in ``names``: the same images, every label the place of its class's name.

    Classes may stand in another order and be fewer than ``names``. Names that are only numbers (``"0"``, ``"1"``, ...)
    are those of nobody: as many such on either side are taken in their order.

    Args:
        dataset: :class:`~attention_refine.data.Prepared` or :class:`~attention_refine.data.PreparedStream`; anything
            that does not say its classes (``class_names``) is given back as it is.
        names: the classes of what the data meets, in order; none where that has no names.
        owner: whose classes they are, for the message.

    Raises:
        DataError: a class of the dataset that ``names`` does not have, or numbered classes of another count; the message
            holds both lists.
    """
    own, names = list(getattr(dataset, "class_names", None) or []), [str(name) for name in names]
    places = class_places(own, names, owner)
    if places == list(range(len(names))) or not own or not names:
        return dataset
    if not hasattr(dataset, "_reader"):
        lists = f"the dataset has {listed(own)}; {owner}: {listed(names)}"
        raise DataError(f"the dataset's classes stand in another order: {lists}. Number its labels alike")
    matched = copy.copy(dataset)
    matched._reader = copy.copy(dataset._reader)
    matched._reader.names, matched._reader._classes = names, ClassIndex(names)
    return matched


def class_places(own: Sequence[str], names: Sequence[str], owner: str = "the model") -> list[int]:
    """The place among ``names`` of each of a dataset's own classes, by :func:`match_classes`'s rules and errors."""
    place = {label_text(name): i for i, name in enumerate(names)}
    missing = [name for name in own if label_text(name) not in place]
    numbered = (is_numbered(own) or is_numbered(names)) and len(own) == len(names)
    if not own or not names or missing and numbered:
        return list(range(len(own)))
    lists = f"the dataset has {listed(own)}; {owner}: {listed(names)}"
    if missing:
        alike = {_bare(name) for name in missing} <= {_bare(name) for name in names}
        hint = " (they differ in case, spaces or hyphens alone)" if alike else ""
        raise DataError(
            f"{len(missing)} of the dataset's {len(own)} classes are not among those of {owner}{hint}: {lists}. Rename "
            "the dataset's classes, or take a model that knows them"
        )
    return [place[label_text(name)] for name in own]


def _bare(name: str) -> str:
    return "".join(letter for letter in str(label_text(name)).casefold() if letter.isalnum())


def is_numbered(names: Sequence[str]) -> bool:
    """Whether the classes were never named: ``"0"``, ``"1"``, ... in order."""
    return list(names) == [str(i) for i in range(len(names))]


def listed(names: Sequence[str]) -> str:
    """The names in a message, cut short where they are many."""
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
