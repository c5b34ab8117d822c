"""An optional progress bar for the methods that forward an image many times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def counted(items: Iterable[Item], total: int, progress: bool, name: str) -> Iterator[Item]:
    """The items, with a tqdm bar where ``progress`` is True."""
    if not progress:
        return iter(items)
    from tqdm.auto import tqdm

    return iter(tqdm(items, total=total, desc=name))
