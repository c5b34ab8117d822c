"""Attention mining and map supervision on photographs, after the same first step and for the same number of updates.

    python benchmarks/mining_photographs.py --data pets3 cub20 --weights resnet18.safetensors resnet50.safetensors --seeds 0 1 2 --output runs/mining

Step 1 trains an attention branch network; every arm then goes on from it for the same epochs: ``abn`` as before, ``mining``
with the mining loss, ``supervision`` towards the objects' masks or boxes with the extractor kept (the human-knowledge
paper's recipe). Each arm is judged once, on the test images, as it is at the end. ``insertion`` is the mining paper's (the
true class's probability, 11 points): on the images that the arm ``abn`` of the same seed misclassifies, and on ``--images``
others, evenly spread. Results go to one JSON a run, which is not run again; the table is printed at the end.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from repeated import Figures, add_arguments, each, table

import attention_refine as ar
from attention_refine import recipe as recipes
from attention_refine.metrics import insertion_mining

ARMS = {
    "abn": [],
    "mining": [{"name": "mining", "weight": 0.01}],
    "mining, the paper's weight": [{"name": "mining"}],
    "supervision": [{"name": "map_supervision", "target": "mask"}],  # boxes arrive as masks of their inside
}
COLUMNS = {"accuracy": 100, "insertion, missed": 1, "insertion, all": 1, "mask_correlation": 1, "iou": 1,
           "energy_inside": 1, "pointing_game": 1}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, seeds=[0, 1, 2])
    parser.add_argument("--epochs", type=int, nargs=2, default=[4, 3], help="of step 1 and of each arm")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--images", type=int, default=96, help="for insertion on all")
    given = parser.parse_args()
    table(each(given, one_seed), COLUMNS)


def one_seed(folder: Path, weights: Path, seed: int, given: argparse.Namespace) -> Figures:
    recipe = first_step(folder, weights, seed, given.epochs[0])
    splits = recipes.load_splits(recipe.data, seed)
    torch.manual_seed(seed)
    model = recipes.build_model(recipe.model, ar.data.class_names(splits["train"]))
    found, missed = {}, None
    with tempfile.TemporaryDirectory() as scratch:
        fit(recipe, model, splits, Path(scratch) / "step1")
        model.save_pretrained(Path(scratch) / "start")
        for arm in given.arms:
            model = ar.load(Path(scratch) / "start").train()
            recipe.training.epochs, recipe.training.learning_rate = given.epochs[1], 0.005
            recipe.training.freeze_extractor = arm == "supervision"
            for objective in ARMS[arm]:
                options = dict(objective)
                model.add_objective(ar.objectives.objectives.build(options.pop("name"), options))
            fit(recipe, model, splits, Path(scratch) / arm)
            found[arm], logits = judge(recipe, model, splits["test"], given.images, missed)
            missed = logits if missed is None else missed
    return found


def first_step(folder: Path, weights: Path, seed: int, epochs: int) -> recipes.Recipe:
    return recipes.Recipe.load(
        recipes.shipped("abn_resnet18_folder"),
        {
            "model": {"backbone": weights.stem, "pretrained": str(weights), "head": {"name": "abn", "fade_in_steps": 20}},
            "data": {"source": str(folder)},
            "training": {
                "epochs": epochs, "seed": seed, "eval_every": 100, "save_every_epochs": None, "progress": False,
                "mixed_precision": "bf16", "channels_last": True,
            },
        },
    )  # fmt: skip


def fit(recipe: recipes.Recipe, model: ar.RefinedModel, splits: dict, output: Path) -> None:
    recipe.training.output_dir = str(output)
    ar.finetune(model, recipes.prepare_training(recipe, model, splits["train"]), recipe.training)


def judge(recipe, model, split, images: int, plain_logits) -> tuple[dict[str, float], torch.Tensor]:
    """The measures, and the logits on the test images."""
    items = recipes.prepare_evaluation(recipe, model, split)
    summary = ar.evaluate(model, items, batch_size=16, perturbation_images=0, progress=False).summary
    found = {"accuracy": summary["classification"]["accuracy"]["value"]}
    found |= {name: cell["value"] for name, cell in summary["maps"]["model"].items() if name in COLUMNS}
    items = [items[row] for row in range(len(items))]
    labels = torch.tensor([int(item["labels"]) for item in items])
    logits, maps = predict(model, items)
    reference = logits if plain_logits is None else plain_logits
    missed = (reference.argmax(1) != labels).nonzero()[:, 0].tolist()
    everywhere = [i * len(items) // images for i in range(images)]
    for name, rows in (("insertion, missed", missed), ("insertion, all", everywhere)):
        scores = [
            insertion_mining(model, items[r]["pixel_values"][None], maps[r][None], labels[r : r + 1]) for r in rows
        ]
        found[name] = float(torch.stack([score.auc[0] for score in scores]).mean()) if rows else None
    found["missed by abn"] = len(missed)
    return found, logits


@torch.no_grad()
def predict(model: ar.RefinedModel, items: list) -> tuple[torch.Tensor, torch.Tensor]:
    model.eval()
    outputs = [model(torch.stack([i["pixel_values"] for i in items[n : n + 16]])) for n in range(0, len(items), 16)]
    return torch.cat([o.logits for o in outputs]), torch.cat([o.maps for o in outputs])


if __name__ == "__main__":
    main()
