"""What the scripts that repeat a run over seeds share: where each run's figures go, and the tables of all of them.

Either a run has a file, ``data-network-...-seed.json``, that holds ``{arm: {measure: value}}`` (:func:`each`), or it has a
line in the file of its script in ``results/``, which is committed (:func:`fill`). A run that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from scipy import stats

Figures = dict[str, dict[str, float]]


def add_arguments(parser: argparse.ArgumentParser, seeds: list[int]) -> None:
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with train/ and test/")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="files named as timm names the networks")
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--output", type=Path, required=True, help="where every run's figures go")


def once(output: Path, name: str, make: Callable[[], Figures]) -> Path:
    """The file of run ``name``; made if it is not there."""
    output.mkdir(parents=True, exist_ok=True)
    file = output / f"{name}.json"
    if not file.exists():
        unfinished = file.with_suffix(".partial")
        unfinished.write_text(json.dumps(make(), indent=1))
        os.replace(unfinished, file)
        print(file.name, file.read_text(), flush=True)
    return file


def each(given: argparse.Namespace, one_seed: Callable[[Path, Path, int, argparse.Namespace], Figures]) -> list[Path]:
    """The files of every seed, dataset and network of :func:`add_arguments`."""
    return [
        once(given.output, f"{folder.name}-{weights.stem}-{seed}", partial(one_seed, folder, weights, seed, given))
        for seed in given.seeds
        for folder in given.data
        for weights in given.weights
    ]


def lines(file: Path) -> list[dict[str, Any]]:
    """What a script has found so far, a dict a line."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def fill(file: Path, cells: Iterable[Mapping[str, Any]], make: Callable[..., dict[str, Any]]) -> None:
    """Append a line for every cell that has none: the cell's own fields and what ``make(**cell)`` finds."""
    file.parent.mkdir(exist_ok=True)
    for cell in cells:
        if not any(cell.items() <= line.items() for line in lines(file)):
            found = json.dumps({**cell, **make(**cell)})
            with open(file, "a") as out:
                out.write(found + "\n")
            print(found, flush=True)


def table(files: list[Path], columns: Mapping[str, float], against: str | None = None) -> None:
    """Mean ± standard deviation over the seeds, each measure times its factor; a factor of 100 has one digit.

    With ``against``, the name of an arm, also the mean difference to it in the same runs, with Student's 95 % interval.
    """
    values: dict[tuple[str, ...], dict[str, list[tuple[float, float | None]]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        *key, _seed = file.stem.split("-")
        figures = json.loads(file.read_text())
        for arm, found in figures.items():
            for name, factor in columns.items():
                if found.get(name) is not None:
                    other = figures[against].get(name) if against not in (None, arm) else None
                    values[(*key, arm)][name].append((factor * found[name], other if other is None else factor * other))
    keys = ["data", "backbone", *(["setting"] if any(len(key) > 3 for key in values) else []), "arm"]
    print("| " + " | ".join([*keys, "seeds", *(name.replace("_", " ") for name in columns)]) + " |")
    print("|---" * (len(keys) + 1 + len(columns)) + "|")
    for key, row in sorted(values.items(), key=lambda item: [(len(part), part) for part in item[0][:-1]]):
        cells = [_cell(row[name], factor) for name, factor in columns.items()]
        print(f"| {' | '.join(key)} | {max(map(len, row.values()))} | " + " | ".join(cells) + " |")


def spread(values: list[float], factor: float) -> str:
    """Mean ± standard deviation, of one value the value, of none a dash."""
    digits = 1 if factor == 100 else 3
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else "-"
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _cell(pairs: list[tuple[float, float | None]], factor: float) -> str:
    found = [value for value, _ in pairs]
    text = spread(found, factor)
    if len(found) < 2:
        return text
    digits = 1 if factor == 100 else 3
    differences = [value - other for value, other in pairs if other is not None]
    if len(differences) == len(found):
        mean = statistics.mean(differences)
        half = stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
        text += f" ({mean:+.{digits}f}; {mean - half:+.{digits}f} to {mean + half:+.{digits}f})"
    return text
