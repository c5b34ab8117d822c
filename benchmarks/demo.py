"""The demo, seed by seed, with its control: the same network trained as much further without being mended.

    python benchmarks/demo.py --seeds 0 1 2 3 4        # one JSON line a seed in benchmarks/results/demo.jsonl
    python benchmarks/demo.py --table                  # the table of the README, from the lines

A seed that has its line is not run again. What the demo trains with was chosen on seed 5, and on test images of
another seed of the dataset; that images are drawn with 96 pixels in place of 64 after notebook 09, which judges on these
test images, had lost nothing with it (seed 0).
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from repeated import fill, lines

import attention_refine as ar
from attention_refine import data, demo, shapes
from attention_refine.recipe import Recipe, prepare_training, shipped

RESULTS = Path(__file__).parent / "results" / "demo.jsonl"


def true_iou(made: datasets.Dataset) -> float:
    """Mean IoU of the masks that a model made with the true ones, which the demo does not see."""
    train = shapes.make("train", len(made), size=demo.SIDE)
    cells = [rows.cast_column("mask", datasets.Image(decode=False))["mask"] for rows in (made, train)]
    overlaps = []
    for source, found, true in zip(made["mask_source"], *cells):
        if source == "model":
            found, true = data.read_mask(found) == 1, data.read_mask(true) == 1
            overlaps.append((found & true).sum() / max((found | true).sum(), 1))
    return float(np.mean(overlaps))


def control(plain: ar.RefinedModel, seed: int, folder: Path) -> ar.RefinedModel:
    """The plain network, trained further on the same images for as many updates."""
    recipe = Recipe.load(shipped("plain_shapes"), {"training": {"seed": seed, "overwrite": True, "progress": False}})
    rows = demo.unannotated(shapes.make("train", size=demo.SIDE))
    further = copy.deepcopy(plain)
    training = demo.further(recipe.training, folder / "control")
    ar.finetune(further, prepare_training(recipe, further, rows), training)
    return further.eval()


def cell(seed: int, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        cpu, wall = time.process_time(), time.perf_counter()
        told = demo.tell(name, seed, progress=False)
        cost = {"cpu": round(time.process_time() - cpu, 1), "wall": round(time.perf_counter() - wall, 1)}
        further = control(told.models["before"], seed, Path(name))
    rows = {split: shapes.make(split, size=demo.SIDE) for split in ("test", "test_intact")}
    beside = {split: demo.judged(further, each, seed) for split, each in rows.items()}
    figures = {}
    for change in told.changes:
        figures[change.name] = {when: getattr(change, when)["value"] for when in ("before", "after")}
    for key, split in (("lies", "test"), ("holds", "test_intact")):
        figures[key]["control"] = float(beside[split].values("correct").mean())
    figures["energy_on_cue"]["control"] = float(beside["test"].values("model/energy_on_cue").nanmean())
    return {
        **figures, "boxes": told.boxes, "mask_iou": true_iou(told.masks.dataset), **cost,
        "threads": threads, "torch": torch.__version__.split("+")[0], "version": ar.__version__,
    }  # fmt: skip


def table(found: list[dict[str, Any]]) -> list[str]:
    keys = {"lies": "badge lies", "holds": "badge holds", "energy_on_cue": "map on the badge"}
    out = ["| seed | " + " | ".join(keys.values()) + " |", "|---" * (len(keys) + 1) + "|"]
    for line in found:
        cells = [" → ".join(f"{100 * line[key][when]:.1f}" for when in ("before", "after")) for key in keys]
        cells = [f"{cell} (control {100 * line[key]['control']:.1f})" for cell, key in zip(cells, keys)]
        out.append(f"| {line['seed']} | " + " | ".join(cells) + " |")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print the table of the lines there are, and stop")
    arguments = parser.parse_args()
    if arguments.table:
        print("\n".join(table(lines(RESULTS))))
        return
    torch.set_num_threads(arguments.threads)
    cells = [{"seed": seed} for seed in arguments.seeds]
    fill(RESULTS, cells, lambda seed: cell(seed, arguments.threads))


if __name__ == "__main__":
    main()
