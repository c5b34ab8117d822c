"""Annotating a folder, in a process that is killed on the way."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import transformers  # noqa: F401 - the server of processes loads it once

from attention_refine.data import annotate, load_dataset
from attention_refine.data.writing import write_images


def run(data: Path, model: Path, cache: Path, out: Path) -> None:
    rows = load_dataset(data).select_columns(["image", "label"])  # without the masks that it has
    options = {"model": model, "cache": cache, "threshold": 0.01, "batch_size": 1, "device": "cpu", "progress": False}
    found = annotate(rows, "a bird", **options)
    write_images(found, out)


def killed(count: int, *given: Path) -> None:
    """Die by ``kill -9`` after ``count`` flushes and renames, which are what writing does to the disk."""
    seen = [0]

    def deadly(function):
        def call(*args, **kwargs):
            seen[0] += 1
            if seen[0] > count:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
    run(*given)
