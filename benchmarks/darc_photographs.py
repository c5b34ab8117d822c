"""DARC on photographs: iterations and occlusion sizes, after the same first step and for the same number of updates.

    python benchmarks/darc_photographs.py --data pets3 cub20 --weights resnet18.safetensors --output runs/darc

Step 1 trains an attention branch network; every arm then goes on from it for the same epochs: ``plain`` without DARC, the
others with it. Each arm is judged once, on the test images, as it is at the end; integrated gradients (50 steps, their mass
inside the object and their detail there) are taken of ``--images`` of them, evenly spread.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from mining_photographs import first_step, fit
from repeated import Figures, add_arguments, each, table

import attention_refine as ar
from attention_refine import recipe as recipes

ARMS = {
    "plain": None,
    "N 1": {"iterations": 1},
    "N 2": {"iterations": 2},
    "N 3": {"iterations": 3},
    "N 5": {"iterations": 5},
    "N 3, sides 2 to 10 %": {"iterations": 3, "size": (0.02, 0.1), "min_cells": 0},
    "N 3, sides 30 to 50 %": {"iterations": 3, "size": (0.3, 0.5)},
    "N 3, weight 1": {"iterations": 3, "weight": 1.0},
    "N 3, occluded task": {"iterations": 3, "task": "occluded"},
}
COLUMNS = {"accuracy": 100, "mask_correlation": 1, "iou": 1, "energy_inside": 1, "pointing_game": 1,
           "attribution_mass": 1, "attribution_detail": 1}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, seeds=[0, 1, 2])
    parser.add_argument("--epochs", type=int, nargs=2, default=[4, 3], help="of step 1 and of each arm")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--images", type=int, default=32, help="for integrated gradients")
    parser.add_argument("--validate", action="store_true", help="judge on the validation images: for choosing")
    given = parser.parse_args()
    table(each(given, one_seed), COLUMNS, against="plain")


def one_seed(folder: Path, weights: Path, seed: int, given: argparse.Namespace) -> Figures:
    recipe = first_step(folder, weights, seed, given.epochs[0])
    recipe.data.validation = 0.2
    splits = recipes.load_splits(recipe.data, seed)
    torch.manual_seed(seed)
    model = recipes.build_model(recipe.model, ar.data.class_names(splits["train"]))
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        fit(recipe, model, splits, Path(scratch) / "step1")
        model.save_pretrained(Path(scratch) / "start")
        recipe.training.epochs, recipe.training.learning_rate = given.epochs[1], 0.005
        recipe.training.head_learning_rate_multiplier = 10.0  # the decoder's
        for arm in given.arms:
            model = ar.load(Path(scratch) / "start").train()
            if ARMS[arm] is not None:
                model.add_objective(ar.DARC(**ARMS[arm]))
            fit(recipe, model, splits, Path(scratch) / arm)
            judged_on = splits["validation" if given.validate else "test"]
            found[arm] = judge(model, recipes.prepare_evaluation(recipe, model, judged_on), given.images)
    return found


def judge(model: ar.RefinedModel, items, images: int) -> dict[str, float]:
    judged = ar.evaluate(model, items, measures=list(COLUMNS), batch_size=16, perturbation_images=images, progress=False).summary
    found = {"accuracy": judged["classification"]["accuracy"]["value"]}
    for cells in judged["maps"].values():
        found |= {name: cell["value"] for name, cell in cells.items() if name in COLUMNS}
    return found


if __name__ == "__main__":
    main()
