"""Published sets as their archives unpack: a folder is known by its own files and read where it lies, a file a set.

:data:`PUBLISHED` lists them; :func:`recognise` says which one a folder is. What they give is what a folder of images
gives: the columns, the splits, ``check`` and everything behind it are the same.
"""

from __future__ import annotations

from pathlib import Path

from attention_refine.data.labels import DataError
from attention_refine.data.published import (
    cifar,
    cub_2010,
    cub_2011,
    imagenet,
    imagenet9,
    market1501,
    spawrious,
    stanford_dogs,
    svhn,
    voc,
    waterbirds,
)
from attention_refine.data.published._layout import Found, PublishedSet

PUBLISHED: tuple[PublishedSet, ...] = (
    cub_2010.SET,
    cub_2011.SET,
    stanford_dogs.SET,
    voc.SET,
    imagenet.SET,
    cifar.CIFAR10,
    cifar.CIFAR100,
    *cifar.PICKLES,
    svhn.SET,
    waterbirds.SET,
    spawrious.SET,
    imagenet9.SET,
    market1501.SET,
)


def recognise(folder: str | Path) -> Found | None:
    """The published set that a folder is, or that lies in it as its archive unpacks; None for any other folder.

    Raises:
        DataError: several lie in it.
    """
    folder = Path(folder).expanduser()
    for each in PUBLISHED:
        if each.known(folder):
            return Found(each, folder)
    places = ((each, folder / name) for each in PUBLISHED for name in each.within)
    inside = [Found(each, place) for each, place in places if place.is_dir() and each.known(place)]
    if len(inside) > 1:
        raise DataError(f"{folder} holds {' and '.join(str(found.folder) for found in inside)}: give one of them")
    return inside[0] if inside else None


def published_classes(
    folder: str | Path, split: str, image_column: str | None, label_column: str | None
) -> list[str] | None:
    """The classes of a split of a published set; None of any other folder, or where columns of its own are asked for."""
    if image_column is not None or label_column not in (None, "label", "labels"):
        return None
    found = recognise(folder)
    return None if found is None else found.classes(split)


__all__ = ["PUBLISHED", "Found", "PublishedSet", "published_classes", "recognise"]
