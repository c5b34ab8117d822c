"""Options of the methods, tried on training images that are held out, so that no test image has a part in choosing them.

A quarter of the training images of every class, drawn with seed 7, is judged; the rest is trained on as in any cell. The first
option of a method is the one that its row of the registry has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from repeated import lines

import attention_refine as ar
from attention_refine import data

from . import running
from .protocol import NETWORKS, Cell, Places, annotated, segmented, training_rows
from .registry import METHODS, Method, rate, target

RESULTS = Path(__file__).resolve().parents[1] / "results" / "validation.jsonl"
DATASETS = ("pets3", "cub20")
MEASURES = ("accuracy", "mask_correlation", "energy_inside")


def _objectives(name: str, options: dict[str, Callable[[Cell], ar.Objective]]) -> dict[str, Method]:
    """The method with another objective in the place of its own; of a second part, of that part."""
    of = METHODS[name]
    if of.then is not None:
        return {
            label: replace(of, then=replace(of.then, objectives=partial(_list, made, None)))
            for label, made in options.items()
        }
    return {label: replace(of, objectives=partial(_list, made)) for label, made in options.items()}


def _list(made: Callable[[Any], ar.Objective], cell: Any) -> list[ar.Objective]:
    return [made(cell)]


def _supervised(norm: str, weight: float) -> Callable[[Cell], ar.Objective]:
    return lambda cell: ar.MapSupervision(norm=norm, target="mask", weight=weight)


def _few(norm: str, weight: float) -> Callable[[Cell], ar.Objective]:
    """``weight`` is that with 5 % of the images annotated."""
    return lambda cell: ar.MapSupervision(norm=norm, target=target(cell), weight=weight / 20 * rate(cell))


def _weighed(
    objective: type[ar.Objective], *weights: float, **options: Any
) -> dict[str, Callable[[Cell], ar.Objective]]:
    return {f"weight {weight:g}": lambda cell, weight=weight: objective(weight=weight, **options) for weight in weights}


def _late(weight: float) -> Callable[[Cell], ar.Objective]:
    return lambda cell: ar.GuidedInference(start_step=cell.steps // 3, weight=weight)


def _parts(count: int) -> Method:
    return replace(METHODS["brnpa"], head=lambda cell: ar.BRNPA(parts=count))


TRIED: dict[str, dict[str, Method]] = {
    "plain": {"": METHODS["plain"]},
    "made abn": _objectives(
        "made abn", {f"bce {weight:g}": _supervised("bce", weight) for weight in (10.0, 3.0, 30.0)}
    ),
    "made energy": _objectives(
        "made energy",
        {
            f"{norm} {weight:g}": _supervised(norm, weight)
            for norm, weight in (("energy", 2.0), ("energy", 1.0), ("l2", 2.0))
        },
    ),
    "energy": _objectives("energy", {f"weight {weight:g}": _few("energy", weight) for weight in (20.0, 5.0, 1.0)}),
    "l2": _objectives("l2", {f"weight {weight:g}": _few("l2", weight) for weight in (5.0, 20.0, 1.0)}),
    "abn, bce": _objectives("abn, bce", {f"weight {weight:g}": _few("bce", weight) for weight in (60.0, 20.0, 5.0)}),
    "abn + mining": _objectives("abn + mining", _weighed(ar.AttentionMining, 0.01, 0.001, 0.1)),
    "guided inference": _objectives("guided inference", {f"weight {weight:g}": _late(weight) for weight in (1.0, 0.1)}),
    "consistency, beside": _objectives(
        "consistency, beside", _weighed(ar.AttentionConsistency, 1.0, 0.1, 10.0, detach_mask=True)
    ),
    "triplet": _objectives("triplet", _weighed(ar.Triplet, 0.02, 0.1, 0.5, margin="soft")),
    "brnpa": {f"{count} parts": _parts(count) for count in (3, 2, 5)},
}


def cells(datasets: Iterable[str] = DATASETS, methods: Iterable[str] = tuple(TRIED)) -> list[dict[str, Any]]:
    """The keys of all lines there can be of these: of every method the first annotation, of *made abn* nothing annotated, too."""
    found = []
    for dataset, name in product(datasets, methods):
        if dataset not in DATASETS or name not in TRIED:
            continue
        for annotation in (METHODS[name].annotations[0], *(["none"] if name == "made abn" else [])):
            key = Cell(dataset, NETWORKS[0], name, annotation, mixed_precision="bf16").key
            found += [{**key, "options": label} for label in TRIED[name]]
    return found


def run(key: dict[str, Any], places: Places) -> dict[str, Any]:
    """Train with an option, judge on what was held out."""
    cell = Cell(**{name: value for name, value in key.items() if name != "options"})
    method = TRIED[cell.method][key["options"]]
    rows, held_out = _prepared(replace(cell, method=""), method.propagate, places)
    model = running.make(cell, method, places, data.class_names(rows), rows)
    running.train(cell, method, model, rows)
    judged = ar.evaluate(model, held_out, groups=[], perturbation_images=0, progress=False, measures=list(MEASURES))
    of_map = judged.summary["maps"]["model"]
    accuracy = float(judged.values("correct").double().mean())
    return {
        "accuracy": round(accuracy, 4),
        **{name: round(of_map[name]["value"], 4) for name in MEASURES[1:]},
        "version": ar.__version__,
    }


@lru_cache(maxsize=2)
def _prepared(cell: Cell, propagate: bool, places: Places) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The images to train on, with masks for all where they are made, and those held out: the same for all options."""
    train, held_out = split(training_rows(cell, places))
    rows = annotated(train, cell.annotation, cell.seed)
    return segmented(cell, places, rows)[0] if propagate else rows, held_out


def split(rows: datasets.Dataset) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Three quarters of every class to train on, and the rest."""
    rng, labels, held = np.random.default_rng(7), np.array(rows["label"]), set()
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        held.update(of_class[: len(of_class) // 4].tolist())
    return rows.select([row for row in range(len(rows)) if row not in held]), rows.select(sorted(held))


def table(dataset: str) -> list[str]:
    """Markdown, an option a row, in the order of :data:`TRIED`; those that the rows of the registry have in bold."""
    out = ["| method | annotation | option | accuracy | map's correlation | energy inside |", "|---" * 6 + "|"]
    there = lines(RESULTS)
    for key in cells([dataset]):
        for line in there:
            if key.items() <= line.items():
                label = (
                    f"**{line['options']}**"
                    if line["options"] and line["options"] == next(iter(TRIED[line["method"]]))
                    else line["options"]
                )
                accuracy, correlation, energy = (line[name] for name in MEASURES)
                out.append(
                    f"| {line['method']} | {line['annotation']} | {label} | {100 * accuracy:.1f} | {correlation:.3f} | {energy:.3f} |"
                )
    return out
