"""``attention-refine watch``: the epochs of a run as they end, a line each."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from ._arguments import add_command

HISTORY = "history.json"
EVERY = 2.0  # seconds between two looks


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(commands, "watch", run, "print the epochs of a run as they end, a line each")
    parser.add_argument("run_folder", metavar="RUN", help="a run's output_dir; it may be waiting to begin")
    parser.add_argument("--once", action="store_true", help="print what there is and stop")


def run(arguments: argparse.Namespace) -> None:
    folder = Path(arguments.run_folder)
    if arguments.once and not (folder / HISTORY).is_file():
        raise ValueError(f"{folder} has no {HISTORY}: no epoch of a run has ended there")
    shown, columns = 0, list[str]()
    while True:
        ended = has_ended(folder)  # before reading: what is read is then all
        found = read(folder)
        if len(found) < shown:
            print("the run began anew")
            shown = 0
        for entry in found[shown:]:
            if list(entry) != columns:
                columns = list(entry)
                print(heading(columns), flush=True)
            print(line(entry), flush=True)
        shown = len(found)
        if arguments.once or ended:
            return
        time.sleep(EVERY)


def read(folder: Path) -> list[dict[str, float]]:
    """The entries of the epochs so far; the file is replaced as a whole, so it is never half."""
    try:
        return json.loads((folder / HISTORY).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []


def has_ended(folder: Path) -> bool:
    """Whether the last weights were saved after the last epoch was written."""
    last, history = folder / "last" / "model.safetensors", folder / HISTORY
    return last.is_file() and history.is_file() and last.stat().st_mtime >= history.stat().st_mtime


def heading(columns: list[str]) -> str:
    return "  ".join(f"{name:>{width(name)}}" for name in columns)


def line(entry: dict[str, float]) -> str:
    return "  ".join(f"{_number(value):>{width(name)}}" for name, value in entry.items())


def width(name: str) -> int:
    return max(len(name), 9)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
