"""Cells one after another, or several at once in processes of their own; every line is written as its cell ends."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

import torch
from repeated import fill

from . import running
from .protocol import Cell, Places


def ready(threads: int) -> None:
    """What every process that runs cells begins with."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


def run_all(
    cells: Sequence[Cell],
    places: Places,
    results: Path,
    minutes: float = float("inf"),
    workers: int = 1,
    threads: int = 1,
) -> None:
    """Append a line to ``results`` for each cell, in the order given; after so many ``minutes`` none is begun."""
    ends, todo = time.monotonic() + 60 * minutes, iter(cells)
    if workers == 1:
        ready(threads)
        while time.monotonic() < ends and (cell := next(todo, None)) is not None:
            _write(results, cell, running.run(cell, places))
        return
    started = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=started, initializer=ready, initargs=(threads,)) as pool:
        at_work: dict[Future, Cell] = {}
        while True:
            while len(at_work) < workers and time.monotonic() < ends and (cell := next(todo, None)) is not None:
                at_work[pool.submit(running.run, cell, places)] = cell
            if not at_work:
                return
            for each in wait(at_work, return_when=FIRST_COMPLETED).done:
                _write(results, at_work.pop(each), each.result())


def _write(results: Path, cell: Cell, found: dict) -> None:
    fill(results, [cell.key], lambda **_: found)
