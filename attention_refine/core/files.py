"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


class DiskFull(OSError):
    """There is no room for a file: how much is left, and what to do."""

    def __init__(self, target: Path, reason: str, then: str = ""):
        self.reason = reason
        folder = next(path for path in (target, *target.absolute().parents) if path.is_dir())
        free = shutil.disk_usage(folder).free / 2**20
        super().__init__(
            f"{target} was not written, and what was there before is as it was: {reason}; {free:,.0f} MiB are free in "
            f"{folder}. Make room, or write to another disk{then}"
        )


# What the system, and the writers of files above it that say no more than their text, call a lack of room.
NO_ROOM = {
    "the disk is full": (errno.ENOSPC, r"os error 28\b|\bno space left|requested and \d+ written"),
    "your quota of the disk is used up": (errno.EDQUOT, r"os error 122\b|quota exceeded"),
    "a file is larger than may be there": (errno.EFBIG, r"os error 27\b|file too large"),
}


@contextmanager
def room_for(target: Path, then: str = "") -> Iterator[None]:
    """Say in a sentence that a disk is full, whoever finds it within the block; of several blocks the outer one.

    Args:
        target: what is written.
        then: what to do once there is room, the end of the sentence.

    Raises:
        DiskFull: it is.
    """
    try:
        yield
    except DiskFull as error:  # of a file within what is written
        raise DiskFull(target, error.reason, then) from error
    except Exception as error:
        for reason, (number, text) in NO_ROOM.items():
            if getattr(error, "errno", None) == number or re.search(text, str(error), re.IGNORECASE):
                raise DiskFull(target, reason, then) from error
        raise


@contextmanager
def atomic_files(*targets: Path, flush: bool = True) -> Iterator[list[Path]]:
    """Paths to write to that take their targets' places together when the block ends well, and are gone when not.

    Args:
        flush: to disk, before they take them; not needed of what is made anew where it is damaged.

    Raises:
        DiskFull: there is no room for one of them.
    """
    paths: list[Path] = []
    try:
        with room_for(targets[0]):
            for target in targets:
                handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
                os.close(handle)
                paths.append(Path(name))
            yield paths
            for path in paths:
                os.chmod(path, 0o666 & ~_umask())  # mkstemp makes it private
                if flush:
                    with open(path, "rb") as written:
                        os.fsync(written.fileno())
            for path, target in zip(paths, targets):
                os.replace(path, target)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


@contextmanager
def atomic_file(target: Path, flush: bool = True) -> Iterator[Path]:
    """:func:`atomic_files` for one file."""
    with atomic_files(target, flush=flush) as (path,):
        yield path


def atomic_text(target: Path, text: str) -> None:
    """A small file, as :func:`atomic_file` writes it."""
    with atomic_file(target) as path:
        path.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """A folder that the block makes is gone where the block ends in an error.

    Raises:
        DiskFull: there is no room for what is in it.
    """
    try:
        with room_for(folder):
            yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def save_array(path: Path, values: np.ndarray) -> None:
    """A ``.npy`` file. NumPy's own writing does not notice that the last of a small array found no room."""
    content = io.BytesIO()
    np.save(content, values)
    path.write_bytes(content.getvalue())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
