"""Which cells there are, and which of those without a line is the next."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

from .protocol import DATASETS, NETWORKS, Cell, image_size
from .registry import FIRST, METHODS

LABELS: tuple[int | str, ...] = ("all", 4, 16, 2, 8)
SEEDS = 3
# What is wanted first has the smaller number; a cell's turn is the sum of its numbers. A further seed of a cell that has
# one tells less than the first of another, so seeds count most.
WANTED = {
    "seed": 3.0,
    "dataset": {"places3": 0.0, "pets3": 0.5, "cub20": 1.0, "shapes": 6.0},
    "network": {"resnet18": 0.0, "deit_tiny_patch16_224": 4.0, "resnet50": 8.0, "mobilenetv2_100": 9.0},
    "labels": {"all": 0.0, 4: 4.0, 16: 6.0, 2: 10.0, 8: 11.0},
    "annotation": 2.5,  # for every one before it in the method's row
}


def cells(
    datasets: Iterable[str] = DATASETS, networks: Iterable[str] = NETWORKS, methods: Iterable[str] = tuple(METHODS),
    labels: Iterable[int | str] = LABELS, seeds: Iterable[int] = tuple(range(SEEDS)), mixed_precision: str = "bf16",
) -> list[Cell]:  # fmt: skip
    """All that can be run of these, the most wanted first."""
    found = []
    for dataset, network, name, per_class, seed in product(datasets, networks, methods, labels, seeds):
        method = METHODS[name]
        if dataset not in method.datasets or network not in method.networks:
            continue
        if per_class != "all" and (name == "ceiling" or "groups" in method.annotations):
            continue  # groups of four images are those of one place
        for annotation in offered(name, dataset):
            own = {"image_size": image_size(network), "mixed_precision": mixed_precision}
            found.append(Cell(dataset, network, name, annotation, per_class, seed, **own))
    return sorted(found, key=turn)


def offered(method: str, dataset: str) -> list[str]:
    """The annotations of a method that a set can have: cub20 has no masks."""
    return [each for each in METHODS[method].annotations if dataset != "cub20" or not each.startswith("masks")]


def turn(cell: Cell) -> float:
    """How early a cell comes: the smaller the earlier."""
    if cell.method in FIRST:
        own = -1.0
    else:
        own = WANTED["annotation"] * offered(cell.method, cell.dataset).index(cell.annotation)
    return (
        WANTED["seed"] * cell.seed + WANTED["dataset"][cell.dataset] + WANTED["network"][cell.network]
        + WANTED["labels"][cell.labels_per_class] + own
    )  # fmt: skip


def missing(wanted: Iterable[Cell], lines: Iterable[dict[str, Any]]) -> list[Cell]:
    """Those without a line, in the order given. A line in another precision is one, too, but of what others are compared with."""
    there = list(lines)
    return [cell for cell in wanted if not any(_key(cell).items() <= line.items() for line in there)]


def _key(cell: Cell) -> dict[str, Any]:
    return {key: value for key, value in cell.key.items() if key != "mixed_precision" or cell.method in FIRST}
