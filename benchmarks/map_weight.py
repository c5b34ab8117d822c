"""Which loss on made masks, and its weight: looked for on training images that are held out, one JSON line a cell.

    python benchmarks/map_weight.py --data shared/data --weights shared/weights/resnet18.safetensors
    python benchmarks/map_weight.py --table            # the lines, as a table

A quarter of the training images, drawn with seed 7, is held out and judged. Of the rest 5 % have boxes, or none is
annotated; a segmenter makes the masks of all. Trained as in ``methods``, with copies on other images' places or not, with
an attention branch or not; a loss acts on the branch's map, or on Grad-CAM where there is no branch.
"""

from __future__ import annotations

import argparse
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from methods.protocol import Cell, Places, annotated, fit, segmented, wrapped
from repeated import fill, lines

import attention_refine as ar
from attention_refine import data

RESULTS = Path(__file__).parent / "results" / "map_weight.jsonl"
BOXES = "boxes 5 %"
COLUMNS = (
    "dataset",
    "annotation",
    "copies",
    "branch",
    "losses",
    "seed",
    "accuracy",
    "mask_correlation",
    "energy_inside",
)
PLAIN = {"annotation": "none", "copies": False, "branch": False, "losses": ""}
CELLS = [
    PLAIN,
    {"annotation": BOXES, "copies": False, "branch": True, "losses": "bce 10"},
    {"annotation": BOXES, "copies": False, "branch": True, "losses": "bce 3"},
    {"annotation": BOXES, "copies": False, "branch": False, "losses": "l2 2"},
    {"annotation": BOXES, "copies": False, "branch": False, "losses": "energy 1"},
    {"annotation": BOXES, "copies": False, "branch": False, "losses": "energy 2"},
    {"annotation": BOXES, "copies": True, "branch": True, "losses": "bce 10"},
    {"annotation": "none", "copies": False, "branch": True, "losses": "bce 10"},
    {"annotation": "none", "copies": False, "branch": False, "losses": "l2 2"},
]


def split(rows: Any) -> tuple[Any, Any]:
    """Three quarters of every class to train on, and the rest."""
    rng, labels, held = np.random.default_rng(7), np.array(rows["label"]), set()
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        held.update(of_class[: len(of_class) // 4].tolist())
    return rows.select([row for row in range(len(rows)) if row not in held]), rows.select(sorted(held))


@lru_cache(maxsize=4)
def masked(own: Cell, places: Places) -> Any:
    """The images to train on with masks for all, and those held out."""
    train, held_out = split(data.load_dataset(places.data / own.dataset, "train"))
    return segmented(own, places, annotated(train, own.annotation, own.seed))[0], held_out


def cell(
    dataset: str, annotation: str, copies: bool, branch: bool, losses: str, seed: int, arguments: argparse.Namespace
) -> dict[str, Any]:  # fmt: skip
    places = Places(arguments.data, arguments.weights.parent)
    own = Cell(
        dataset, arguments.weights.stem, "made", annotation, "all", seed, arguments.steps, arguments.image_size
    )  # fmt: skip
    if copies or losses:
        train, held_out = masked(own, places)
    else:
        train, held_out = split(data.load_dataset(arguments.data / dataset, "train"))
        train = annotated(train, "none", seed)
    objectives: list[Any] = [ar.Transplant(replace=True, copies=0.75)] if copies else []
    for loss in losses.split(", ") if losses else []:
        norm, weight = loss.split()
        objectives.append(ar.MapSupervision(norm=norm, target="mask", weight=float(weight)))
    head = ar.AttentionBranch(fade_in_steps=20) if branch else None
    model = wrapped(own, places, data.class_names(train), head, objectives)
    fit(model, train, own, own.steps)
    measures = ["accuracy", "mask_correlation", "energy_inside"]
    judged = ar.evaluate(model, held_out, groups=[], perturbation_images=0, progress=False, measures=measures)
    of_map = judged.summary["maps"]["model"]
    return {
        "accuracy": round(float(judged.values("correct").mean()), 3),
        **{name: round(of_map[name]["value"], 3) for name in measures[1:]},
        "torch": torch.__version__.split("+")[0], "version": ar.__version__,
    }  # fmt: skip


def table(found: list[dict[str, Any]]) -> list[str]:
    out = ["| " + " | ".join(COLUMNS).replace("_", " ") + " |", "|---" * len(COLUMNS) + "|"]
    return out + ["| " + " | ".join(str(line[column]) for column in COLUMNS) + " |" for line in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of pets3, cub20 and places3")
    parser.add_argument("--weights", type=Path, help="a safetensors file of ImageNet weights, named as in timm")
    parser.add_argument("--dataset", nargs="+", default=["pets3", "cub20"], choices=["pets3", "cub20", "places3"])
    parser.add_argument("--annotation", nargs="+", default=[BOXES, "none"])
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
    for seed in arguments.seeds:
        for dataset in arguments.dataset:
            for varied in CELLS:
                each = {"dataset": dataset, **varied, "seed": seed}
                if varied["annotation"] in arguments.annotation:
                    fill(RESULTS, [each | of_all], lambda **_: cell(**each, arguments=arguments))  # noqa: B023  # called at once


if __name__ == "__main__":
    main()
