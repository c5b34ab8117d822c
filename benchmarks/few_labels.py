"""Attention consistency with few labels: prediction and maps before and after, on photographs.

    python benchmarks/few_labels.py --data pets3 cub20 --weights resnet18.safetensors --per-class 2 4 8 16 --output runs/few

For each seed ``n`` images a class are drawn from train/, and a network is trained on them: the arm ``start``. From there
every arm goes on for the same number of steps on the same images: ``supervised`` as before, the control; ``consistency`` by
the consistency loss alone, without labels, the paper's best; ``both`` by the sum of the two losses; ``alternated`` now by
the one, now by the other, the paper's third strategy. Nothing is chosen on the way: each arm is judged as it is at the end,
once, on test/, or with ``--rest`` on the images of train/ that were not drawn, to choose settings by. Accuracy, macro F1,
and the predicted class's map against the mask or box: correlation, IoU at half the maximum, and ATCON's IoU, in the median
form on the images that are right. The map is Grad-CAM, of a transformer gradient rollout; the loss compares the same.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from functools import partial
from pathlib import Path

import torch
from repeated import Figures, add_arguments, once, table

import attention_refine as ar
from attention_refine import recipe as recipes

ARMS = {  # strategy, and whether the loss is there
    "supervised": ("combined", False),
    "consistency": ("finetune", True),
    "both": ("combined", True),
    "alternated": ("alternated", True),
}
MEASURES = {"accuracy": {}, "macro_f1": {}, "mask_correlation": {}, "iou": {}, "iou_true_positives": {"normalise": "median"}}
COLUMNS = {name: 100 if name in ("accuracy", "macro_f1") else 1 for name in MEASURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, seeds=[0, 1, 2, 3, 4])
    parser.add_argument("--per-class", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--arms", nargs="+", default=["supervised", "consistency", "both"], choices=list(ARMS))
    parser.add_argument("--steps", type=int, nargs=2, default=[100, 80], help="of the start and of each arm, 8 images each")
    parser.add_argument("--learning-rate", type=float, default=2e-5, help="of the arms")
    parser.add_argument("--objective", default="{}", help="options of AttentionConsistency, as JSON")
    parser.add_argument("--test-images", type=int, default=300, help="evenly spread over the test set")
    parser.add_argument("--rest", action="store_true", help="judge on the rest of train/, for choosing")
    parser.add_argument("--against", default="start", help="the arm that the others are compared with")
    given = parser.parse_args()
    files = [
        once(
            given.output,
            f"{folder.name}-{weights.stem}-{count}-{seed}",
            partial(one_run, folder, weights, count, seed, given),
        )
        for seed in given.seeds
        for folder in given.data
        for weights in given.weights
        for count in given.per_class
    ]
    table(files, COLUMNS, against=given.against)


def one_run(folder: Path, weights: Path, count: int, seed: int, given: argparse.Namespace) -> Figures:
    recipe = settings(folder, weights, seed)
    train = ar.data.load_dataset(str(folder), "train")
    names = ar.data.class_names(train)
    few, judged_on = ar.data.split_few_labels(train, count, seed)
    if not given.rest:
        judged_on = ar.data.load_dataset(str(folder), "test", class_names=names)
    number = min(given.test_images, len(judged_on))
    judged_on = judged_on.select([i * len(judged_on) // number for i in range(number)])
    torch.manual_seed(seed)
    start = recipes.build_model(recipe.model, names)
    judged = recipes.prepare_evaluation(recipe, start, judged_on)
    shown = "gradient_rollout" if is_transformer(weights) else "grad_cam"
    fit(recipe, start, few, given.steps[0])
    found = {"start": judge(start, judged, shown)}
    training = recipe.training
    training.optimizer, training.learning_rate, training.weight_decay = "adam", given.learning_rate, 0.0
    training.head_learning_rate_multiplier, training.freeze_batch_norm = 1.0, True
    training.schedule, training.warmup_ratio = "constant", 0.0
    for arm in given.arms:
        model = copy.deepcopy(start)
        training.strategy, consistent = ARMS[arm]
        if consistent:
            options = {"first": shown, "detach_mask": True, **json.loads(given.objective)}
            model.add_objective(ar.AttentionConsistency(**options))
        fit(recipe, model, few, given.steps[1])
        found[arm] = judge(model, judged, shown)
    return found


def is_transformer(weights: Path) -> bool:
    return weights.stem.startswith(("deit", "vit"))


def settings(folder: Path, weights: Path, seed: int) -> recipes.Recipe:
    """The supervised start."""
    return recipes.Recipe.load(
        recipes.shipped("abn_resnet18_folder"),
        {
            "model": {
                "backbone": weights.stem, "pretrained": str(weights), "head": None,
                "image_size": 224 if is_transformer(weights) else 160,
            },
            "data": {"source": str(folder)},
            "training": {
                "seed": seed, "batch_size": 8, "optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 0.01,
                "head_learning_rate_multiplier": 10.0, "warmup_ratio": 0.1, "progress": False,
                "save_every_epochs": None, "mixed_precision": "bf16", "channels_last": True,
            },
        },
    )  # fmt: skip


def fit(recipe: recipes.Recipe, model: ar.RefinedModel, images, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe.training.output_dir, recipe.training.max_steps = folder, steps
        ar.finetune(model, recipes.prepare_training(recipe, model, images), recipe.training)


def judge(model: ar.RefinedModel, items, shown: str) -> dict[str, float]:
    judged = ar.evaluate(model, items, measures=MEASURES, maps=[shown], batch_size=16, progress=False)
    cells = {**judged.summary["classification"], **judged.summary["maps"][shown]}
    return {name: cells[name]["value"] for name in MEASURES}


if __name__ == "__main__":
    main()
