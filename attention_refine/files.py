"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_files(*targets: Path) -> Iterator[list[Path]]:
    """Paths to write to that take their targets' places together when the block ends well, and are gone when not."""
    paths: list[Path] = []
    try:
        for target in targets:
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            os.close(handle)
            paths.append(Path(name))
        yield paths
        for path in paths:
            os.chmod(path, 0o666 & ~_umask())  # mkstemp makes it private
            with open(path, "rb") as written:
                os.fsync(written.fileno())
        for path, target in zip(paths, targets):
            os.replace(path, target)
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """:func:`atomic_files` for one file."""
    with atomic_files(target) as (path,):
        yield path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
