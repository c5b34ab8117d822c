"""BR-NPA on photographs beside plain pooling and bilinear pooling, at the usual resolution and at a finer one.

    python benchmarks/brnpa_photographs.py --data pets3 cub20 --weights resnet18.safetensors resnet50.safetensors --output runs/brnpa

Every arm has the same images, epochs and optimiser; ``high`` is twice as fine a grid, ``distilled`` learns from the arm
``low`` of the same seed. The last epoch is judged, once, on the test images: the head's first map and all its maps at
once (the largest of them), Grad-CAM where there is no head. Insertion and deletion are BR-NPA's (``iauc``, ``dauc``), on
``--perturbed`` images.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from repeated import Figures, add_arguments, each, table

import attention_refine as ar
from attention_refine import recipe as recipes

PARTS = {"name": "brnpa", "fade_in_steps": 0}
ARMS = {
    "plain": {},
    "plain, high": {"resolution": 2},
    "bilinear": {"head": {"name": "bilinear", "fade_in_steps": 0, "block": False}},
    "low": {"head": PARTS},
    "high": {"head": PARTS, "resolution": 2},
    "distilled": {"head": PARTS, "resolution": 2, "objectives": [{"name": "distillation"}]},
}
ON_MAP = ("mask_correlation", "box_iou", "energy_inside", "pointing_game", "sparsity", "iauc", "dauc")
COLUMNS = {"accuracy": 100, **dict.fromkeys(ON_MAP, 1), **{f"all parts, {name}": 1 for name in ON_MAP[:3]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, seeds=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--perturbed", type=int, default=24, help="images for insertion and deletion")
    parser.add_argument("--mixed-precision", default="bf16", help="no where the machine has no fast bf16")
    given = parser.parse_args()
    table(each(given, one_seed), COLUMNS, against="plain")


def one_seed(folder: Path, weights: Path, seed: int, given: argparse.Namespace) -> Figures:
    found, teacher = {}, None
    for arm in given.arms:
        recipe = settings(folder, weights, seed, arm, given)
        splits = recipes.load_splits(recipe.data, seed)
        torch.manual_seed(seed)
        objectives, recipe.model.objectives = recipe.model.objectives, []
        model = recipes.build_model(recipe.model, ar.data.class_names(splits["train"]))
        if objectives:
            model.add_objective(ar.Distillation(teacher=teacher))
        with tempfile.TemporaryDirectory() as scratch:
            recipe.training.output_dir = scratch
            ar.finetune(model, recipes.prepare_training(recipe, model, splits["train"]), recipe.training)
        teacher = model.eval() if arm == "low" else teacher
        found[arm] = judge(model, recipes.prepare_evaluation(recipe, model, splits["test"]), given.perturbed)
    return found


def settings(folder: Path, weights: Path, seed: int, arm: str, given: argparse.Namespace) -> recipes.Recipe:
    return recipes.Recipe.load(
        recipes.shipped("abn_resnet18_folder"),
        {
            "model": {"backbone": weights.stem, "pretrained": str(weights), "head": None, **ARMS[arm]},
            "data": {"source": str(folder)},
            "training": {
                "epochs": given.epochs, "seed": seed, "eval_every": 100, "save_every_epochs": None, "progress": False,
                "mixed_precision": given.mixed_precision,
            },
        },
    )  # fmt: skip


def judge(model: ar.RefinedModel, items, perturbed: int) -> dict[str, float]:
    maps = {"model": None}
    if model.head is not None:
        maps["all parts"] = _all_parts
    measures = ("accuracy", *ON_MAP)
    judged = ar.evaluate(
        model, items, measures=measures, maps=maps, batch_size=16, perturbation_images=perturbed,
        perturbation_steps=10, progress=False,
    ).summary  # fmt: skip
    found = {"accuracy": judged["classification"]["accuracy"]["value"]}
    found |= {name: judged["maps"]["model"][name]["value"] for name in ON_MAP if name in judged["maps"]["model"]}
    together = judged["maps"].get("all parts", {})
    return found | {f"all parts, {name}": together[name]["value"] for name in ON_MAP[:3] if name in together}


def _all_parts(model: ar.RefinedModel, pixel_values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return model(pixel_values).maps.amax(1, keepdim=True)


if __name__ == "__main__":
    main()
