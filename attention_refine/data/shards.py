"""What a stream is read from: the names of its shards, tables in memory, and how they are shuffled. None of it is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets

# What streams, and what each is made of, hold the next in: datasets', webdataset's, and those of one's own.
INNER = ("dataset", "pipeline", "_ex_iterable", "ex_iterable", "ex_iterables", "_shuffling")
NAMES = ("kwargs", "shards", "urls")  # of a source: what it is read from
CHOICES = (
    "buffer_size",
    "n",
    "num_times",
    "probabilities",
    "generator",
)  # of what lies between: which rows, in which order


@dataclass
class Shards:
    """What a stream is read from, in its order.

    Attributes:
        names: of files and addresses.
        tables: of ``datasets``, in memory or mapped.
        choices: what decides the order of their rows, as text.
    """

    names: list[str] = field(default_factory=list)
    tables: list[datasets.Dataset] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)


def shards_of(stream: Any) -> Shards | None:
    """What a stream of ``datasets`` or of WebDataset is read from, or one of one's own that says so as ``shards`` or
    ``urls``; None where nothing is known."""
    found = Shards()
    _look(stream, found, set())
    return found if found.names or found.tables else None


def _look(part: Any, found: Shards, seen: set[int]) -> None:
    if id(part) in seen:
        return
    seen.add(id(part))
    own = getattr(part, "__dict__", {})
    found.choices += [f"{name}={_text(own[name])}" for name in CHOICES if own.get(name) is not None]
    for name in NAMES:
        _take(own.get(name), found)
    for name in INNER:
        for each in own[name] if isinstance(own.get(name), (list, tuple)) else [own.get(name)]:
            _look(each, found, seen)


def _take(held: Any, found: Shards) -> None:
    if isinstance(held, (str, os.PathLike)):
        found.names.append(os.fspath(held))
    elif isinstance(held, datasets.Dataset):
        found.tables.append(held)
    elif isinstance(held, list):
        for each in held:
            _take(each, found)
    elif isinstance(held, (dict, tuple)):  # datasets holds some lists of files twice, and files with where they lie
        before: list[Any] = []
        for each in held.values() if isinstance(held, dict) else held:
            own = Shards()
            _take(each, own)
            if [own.names, own.tables] not in before:
                before.append([own.names, own.tables])
                found.names += own.names
                found.tables += own.tables


def _text(choice: Any) -> str:
    """A number, or a generator by its state, which is that of its seed as long as the stream is only gone through."""
    bits = getattr(choice, "bit_generator", None)
    return str(choice if bits is None else bits.state)


def shards_difference(before: Sequence[Sequence[Any]] | None, now: Sequence[Sequence[Any]] | None) -> str | None:
    """How two lists of shards, (name, size in bytes or None) each, differ first, as a clause; None where they do not.

    Args:
        before, now: None of data that are no stream.
    """
    if before is None or now is None:
        return None if before is now else f"they are {'no' if now is None else 'a'} stream now"
    old, new = ({name: size for name, size in each} for each in (before, now))
    gone, came = ([name for name in one if name not in other] for one, other in ((old, new), (new, old)))
    counts = f"there {'is' if len(now) == 1 else 'are'} {len(now)} now, and {'was' if len(before) == 1 else 'were'} {len(before)}"
    if gone or came:
        said = [
            f"the shard {name!r} is {what}" for names, what in ((gone, "missing"), (came, "new")) for name in names[:1]
        ]
        return f"{' and '.join(said)} ({counts})"
    for name, size in new.items():
        if size != old[name]:
            return f"the shard {name!r} has {size} bytes now, and had {old[name]}"
    if len(before) != len(now):
        return f"shards come more than once, and not as often as before ({counts})"
    for (name, _), (was, _) in zip(now, before):
        if name != was:
            return f"the shards come in another order, {name!r} where {was!r} was: shuffle with the same seed"
    return None
