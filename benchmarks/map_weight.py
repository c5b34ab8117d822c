"""The weight of the energy loss beside a repair or alone: looked for on training images that are held out, one JSON line a cell.

    python benchmarks/map_weight.py --data shared/data --weights shared/weights/resnet18.safetensors
    python benchmarks/map_weight.py --table            # the lines, as a table

A quarter of the training images, drawn with seed 7, is held out and judged; of the rest 5 % have boxes, from which a
segmenter makes the masks of all. Trained as in ``methods``: "repair + energy" has the weight that was taken with copies,
"made energy" that without. With a branch ("made abn") the loss is binary cross-entropy on its map. ``plain`` has neither
copies nor a loss, weight 0 the copies alone. Lines that were ``"judged": "test"`` are no choice but a
warning: weight 3 was judged on test images before 2, and with a branch 10, was settled.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods.protocol import Cell, Places, annotated, fit, segmented, wrapped
from repeated import fill, lines

import attention_refine as ar
from attention_refine import data

RESULTS = Path(__file__).parent / "results" / "map_weight.jsonl"
VARIED = ("dataset", "weight", "slack", "copies", "branch", "seed")
CELLS = {  # weight, slack, with copies, with a branch
    "pets3": [
        ("plain", 0.0, False, False), (0.0, 0.0, True, False), (1.0, 0.0, True, False), (5.0, 0.0, True, False),
        (4.0, 0.3, True, False), (4.0, 0.0, False, False), (3.0, 0.0, False, True), (10.0, 0.0, False, True),
    ],
    "cub20": [
        ("plain", 0.0, False, False), (0.0, 0.0, True, False), (2.0, 0.0, True, False), (3.0, 0.0, True, False),
        (4.0, 0.3, True, False), (3.0, 0.0, False, True), (10.0, 0.0, False, True),
    ],
}  # fmt: skip


def split(rows: Any) -> tuple[Any, Any]:
    """Three quarters of every class to train on, and the rest."""
    rng, labels, held = np.random.default_rng(7), np.array(rows["label"]), set()
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        held.update(of_class[: len(of_class) // 4].tolist())
    return rows.select([row for row in range(len(rows)) if row not in held]), rows.select(sorted(held))


def cell(
    dataset: str, weight: float | str, slack: float, copies: bool, branch: bool, seed: int, arguments: argparse.Namespace
) -> dict[str, Any]:  # fmt: skip
    places = Places(arguments.data, arguments.weights.parent)
    own = Cell(
        dataset,
        arguments.weights.stem,
        "repair + energy",
        "boxes 5 %",
        "all",
        seed,
        arguments.steps,
        arguments.image_size,
    )
    train, held_out = split(data.load_dataset(arguments.data / dataset, "train"))
    train = annotated(train, own.annotation if weight != "plain" else "none", seed)
    objectives: list[Any] = []
    if weight != "plain":
        train, _ = segmented(own, places, train)
    if copies:
        objectives.append(ar.Transplant(replace=True, copies=0.75))
    if weight not in ("plain", 0.0):
        norm = "bce" if branch else "energy"
        objectives.append(ar.MapSupervision(norm=norm, target="mask", weight=weight, slack=slack))
    head = ar.AttentionBranch(fade_in_steps=20) if branch else None
    model = wrapped(own, places, data.class_names(train), head, objectives)
    fit(model, train, own, own.steps)
    measures = ["accuracy", "mask_correlation", "energy_inside"]
    judged = ar.evaluate(
        model, held_out, groups=[], perturbation_images=0, progress=False, measures=measures
    )  # fmt: skip
    of_map = judged.summary["maps"]["model"]
    return {
        "accuracy": round(float(judged.values("correct").mean()), 3),
        **{name: round(of_map[name]["value"], 3) for name in measures[1:]},
        "judged": "held out", "torch": torch.__version__.split("+")[0], "version": ar.__version__,
    }  # fmt: skip


def table(found: list[dict[str, Any]]) -> list[str]:
    columns = (
        "dataset",
        "weight",
        "slack",
        "copies",
        "branch",
        "judged",
        "accuracy",
        "mask_correlation",
        "energy_inside",
    )
    out = ["| " + " | ".join(columns).replace("_", " ") + " |", "|---" * len(columns) + "|"]
    return out + ["| " + " | ".join(str(line[column]) for column in columns) + " |" for line in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of pets3 and cub20")
    parser.add_argument("--weights", type=Path, help="a safetensors file of ImageNet weights, named as in timm")
    parser.add_argument("--dataset", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=75)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table of the lines there are, and stop")
    arguments = parser.parse_args()
    if arguments.table:
        print("\n".join(table(lines(RESULTS))))
        return
    torch.set_num_threads(arguments.threads)
    of_all = {"network": arguments.weights.stem, "steps": arguments.steps, "image_size": arguments.image_size}
    cells = [
        dict(zip(VARIED, (dataset, *varied, seed)))
        for seed in arguments.seeds
        for dataset in arguments.dataset
        for varied in CELLS[dataset]
    ]
    for each in cells:
        fill(RESULTS, [each | of_all], lambda **_: cell(**each, arguments=arguments))  # noqa: B023  # called at once


if __name__ == "__main__":
    main()
