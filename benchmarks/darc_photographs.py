"""DARC on photographs and on the embedded dataset: iterations, occlusion sizes, weights, after the same first step.

    python benchmarks/darc_photographs.py --data pets3 cub20 --weights resnet18.safetensors --output runs/darc
    python benchmarks/darc_photographs.py --data shapes --weights resnet10t --epochs 6 1 --output runs/darc   # from scratch

Step 1 trains an attention branch network; every arm then goes on from it for the same number of updates: ``plain`` without
DARC, ``occlusion alone`` with the task's images occluded and nothing predicted, the others with DARC of weight 10, the task
seeing the image but in ``occluded task``. Each arm is judged as it is at the end: on the test images, and, to choose
settings by, on the validation images, which nothing was trained on. Integrated gradients (50 steps, their mass inside the
object and their detail there) are taken of ``--images`` of the test images, evenly spread.
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

ARMS = {  # of weight 10 and --size unless they say otherwise
    "plain": None,
    "occlusion alone": {"iterations": 1, "task": "occluded", "weight": 0.0},
    "N 1, occluded task": {"iterations": 1, "task": "occluded"},
    "N 1": {"iterations": 1},
    "N 2": {"iterations": 2},
    "N 3": {"iterations": 3},
    "N 5": {"iterations": 5},
    "N 1, sides 2 to 10 %": {"iterations": 1, "size": (0.02, 0.1), "min_cells": 0},
    "N 1, sides 30 to 50 %": {"iterations": 1, "size": (0.3, 0.5)},
    "N 3, sides 30 to 50 %": {"iterations": 3, "size": (0.3, 0.5)},
    "N 1, sides 30 to 50 %, weight 1": {"iterations": 1, "size": (0.3, 0.5), "weight": 1.0},
    "N 1, weight 0.1": {"iterations": 1, "weight": 0.1},
}
ON_MAP = ("mask_correlation", "iou", "energy_inside", "pointing_game")
ATTRIBUTION = ("attribution_mass", "attribution_detail")
COLUMNS = {"accuracy": 100, **dict.fromkeys((*ON_MAP, *ATTRIBUTION), 1),
           "validation accuracy": 100, "validation mask_correlation": 1}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, seeds=[0, 1, 2])
    parser.add_argument("--epochs", type=int, nargs=2, default=[4, 3], help="of step 1 and of each arm")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument(
        "--size", type=float, nargs=2, default=[0.1, 0.3], help="of the rectangles' sides, shares of the image's"
    )
    parser.add_argument("--images", type=int, default=32, help="for integrated gradients; 0 for none")
    parser.add_argument("--image-size", type=int, default=128, help="of photographs")
    given = parser.parse_args()
    table(each(given, one_seed), COLUMNS, against="plain")


def one_seed(folder: Path, weights: Path, seed: int, given: argparse.Namespace) -> Figures:
    if folder.name == "shapes":
        recipe = from_scratch(seed, given.epochs[0])
    else:
        recipe = first_step(folder, weights, seed, given.epochs[0])
        recipe.model.image_size = given.image_size
    splits = recipes.load_splits(recipe.data, seed)
    torch.manual_seed(seed)
    model = recipes.build_model(recipe.model, ar.data.class_names(splits["train"]))
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        fit(recipe, model, splits, Path(scratch) / "step1")
        model.save_pretrained(Path(scratch) / "start")
        training = recipe.training
        training.epochs, training.learning_rate = given.epochs[1], training.learning_rate / 2
        training.batch_size, training.head_learning_rate_multiplier = 16, 10.0  # the decoder begins from nothing
        for arm in given.arms:
            torch.manual_seed(seed)  # the decoder's weights, and the rectangles
            model = ar.load(Path(scratch) / "start").train()
            if ARMS[arm] is not None:
                model.add_objective(ar.DARC(**{"weight": 10.0, "size": given.size, **ARMS[arm]}))
            fit(recipe, model, splits, Path(scratch) / arm)
            found[arm] = judge(recipe, model, splits["test"], (*ON_MAP, *ATTRIBUTION), given.images)
            chosen_by = judge(recipe, model, splits["validation"], ON_MAP, 0)
            found[arm] |= {f"validation {name}": value for name, value in chosen_by.items()}
    return found


def from_scratch(seed: int, epochs: int) -> recipes.Recipe:
    """The embedded dataset: nothing is pretrained, and the cue lies at test."""
    training = {"epochs": epochs, "seed": seed, "eval_every": 100, "save_every_epochs": None, "progress": False}
    return recipes.Recipe.load(recipes.shipped("abn_shapes"), {"training": training})


def judge(recipe, model: ar.RefinedModel, split, measures: tuple[str, ...], images: int) -> dict[str, float]:
    judged = ar.evaluate(
        model, recipes.prepare_evaluation(recipe, model, split), measures=["accuracy", *measures], batch_size=16,
        perturbation_images=images, progress=False,
    ).summary  # fmt: skip
    found = {"accuracy": judged["classification"]["accuracy"]["value"]}
    for cells in judged["maps"].values():  # the model's, and integrated gradients
        found |= {name: cell["value"] for name, cell in cells.items() if name in measures}
    return found


if __name__ == "__main__":
    main()
