"""Attention consistency with few labels: prediction and maps before and after, on photographs.

    python benchmarks/few_labels.py --data pets3 cub20 --weights resnet18.safetensors --per-class 2 4 8 16 --output runs/few

For each seed ``n`` images a class are drawn from train/, and a network is trained on them: the arm ``start``. From there
every arm goes on for the same number of steps on the same images: ``supervised`` as before, the control; ``consistency`` by
the consistency loss alone, without labels, the paper's best; ``both`` by the sum of the two losses; ``alternated`` now by
the one, now by the other, the paper's third strategy. ``consistency, pool`` and ``both, pool`` take that loss on the images
of train/ that were not drawn. Each arm is judged as it is at the end, once, on test/. With ``--validation 100`` the start is
the epoch whose macro F1 is best on as many images of train/ that were not drawn, and each arm is also judged at its best
epoch by that measure (``..., chosen``), as the paper does; it may be the start. With ``--rest`` the images that are left of
train/ are judged (and are in no pool), to choose settings by. Accuracy, macro F1, and the predicted class's map against the
mask or box: correlation, IoU at half the maximum, and ATCON's IoU, in the median form on the images that are right. The map
is Grad-CAM, of a transformer gradient rollout; the loss compares the same. With ``--sigmoid`` every class has a sigmoid and
a binary loss, and F1 counts what is above a half, as in the paper; mean average precision does not depend on that half.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
from repeated import Figures, add_arguments, once, table
from safetensors.torch import load_file

import attention_refine as ar
from attention_refine import recipe as recipes

ARMS = {  # strategy, whether the loss is there, and whether it is taken on images that were not drawn
    "supervised": ("combined", False, False),
    "consistency": ("finetune", True, False),
    "both": ("combined", True, False),
    "alternated": ("alternated", True, False),
    "consistency, pool": ("finetune", True, True),
    "both, pool": ("combined", True, True),
}
ON_LABELS = {"accuracy": "accuracy", "macro_f1": "macro_f1"}  # evaluate's names, and those here
ON_SIGMOIDS = {"precision_at_1": "accuracy", "macro_f1": "macro_f1", "mean_average_precision": "mean_average_precision"}
ON_MAP = {"mask_correlation": {}, "iou": {}, "iou_true_positives": {"normalise": "median"}}
CHOSEN, LAST = "chosen", "last"
COLUMNS = {**dict.fromkeys(ON_SIGMOIDS.values(), 100), **dict.fromkeys(ON_MAP, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, seeds=[0, 1, 2, 3, 4])
    parser.add_argument("--per-class", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument(
        "--arms", nargs="+", default=["supervised", "consistency", "both"],
        help=f"of {', '.join(ARMS)}; both@1e-4 is at that learning rate",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, nargs=2, default=[100, 80], help="of the start and of each arm, 8 images each"
    )
    parser.add_argument("--start-learning-rate", type=float, default=1e-4, help="of the start's backbone")
    parser.add_argument("--learning-rate", type=float, default=2e-5, help="of arms that do not name theirs")
    parser.add_argument("--image-size", type=int, help="default: 224 for transformers, 160 for others")
    parser.add_argument("--mixed-precision", default="bf16", help="no where the machine has no fast bf16")
    parser.add_argument("--objective", default="{}", help="options of AttentionConsistency, as JSON")
    parser.add_argument("--test-images", type=int, default=300, help="at most, evenly spread over the test set")
    parser.add_argument(
        "--validation", type=int, default=0, help="images to choose each run's best epoch by; 0: the last"
    )
    parser.add_argument("--every", type=int, default=10, help="steps between two looks at them, about")
    parser.add_argument("--sigmoid", action="store_true", help="a sigmoid a class, as the paper: F1 at 0.5")
    parser.add_argument("--rest", action="store_true", help="judge on the rest of train/, for choosing")
    parser.add_argument("--against", default="start", help="the arm that the others are compared with")
    given = parser.parse_args()
    for arm in given.arms:
        if arm.partition("@")[0] not in ARMS:
            parser.error(f"--arms: {arm!r} is not one of {', '.join(ARMS)}")
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
    train = ar.data.load_dataset(str(folder), "train")
    names = ar.data.class_names(train)
    test = ar.data.load_dataset(str(folder), "test", class_names=names)
    if given.sigmoid:
        train, test = one_hot(train), one_hot(test)
    few, pool = ar.data.split_few_labels(train, count, seed)
    validation, pool = spread(pool, given.validation)
    if given.rest:
        judged, pool = spread(pool, min(given.test_images, len(pool) // 2 if needs_pool(given.arms) else len(pool)))
    else:
        judged, _ = spread(test, given.test_images)
    recipe = settings(folder, weights, seed, given)
    torch.manual_seed(seed)
    start = recipes.build_model(recipe.model, names)
    run = Run(
        recipe, few, pool, every=given.every, shown="gradient_rollout" if is_transformer(weights) else "grad_cam",
        judged=list(recipes.prepare_evaluation(recipe, start, judged)),
        validation=list(recipes.prepare_evaluation(recipe, start, validation)) if given.validation else None,
    )  # fmt: skip
    found = {"start": run.fit(start, given.steps[0])[CHOSEN]}
    training = recipe.training
    training.optimizer, training.weight_decay = "adam", 0.0
    training.head_learning_rate_multiplier, training.freeze_batch_norm = 1.0, True
    training.schedule, training.warmup_ratio, training.eval_start = "constant", 0.0, given.validation > 0
    for arm in given.arms:
        kind, _, rate = arm.partition("@")
        training.learning_rate = float(rate or given.learning_rate)
        training.strategy, consistent, from_pool = ARMS[kind]
        model = copy.deepcopy(start)
        if consistent:
            options = {"first": run.shown, "detach_mask": True, **json.loads(given.objective)}
            model.add_objective(ar.AttentionConsistency(**options))
        fitted = run.fit(model, given.steps[1], from_pool)
        found[arm] = fitted[LAST]
        if given.validation:
            found[f"{arm}, chosen"] = fitted[CHOSEN]
    return found


@dataclass
class Run:
    """The images of one seed, and how a model is trained and judged on them."""

    recipe: recipes.Recipe
    few: datasets.Dataset
    pool: datasets.Dataset
    judged: list[dict[str, Any]]
    validation: list[dict[str, Any]] | None
    shown: str
    every: int

    def fit(self, model: ar.RefinedModel, steps: int, from_pool: bool = False) -> Figures:
        """Trains ``model``, which ends as it was at the chosen step, and judges it there and at the last step."""
        recipe, training = self.recipe, self.recipe.training
        seen = self.pool if from_pool and training.strategy == "finetune" else self.few  # in an epoch
        training.eval_every = max(1, self.every * training.batch_size // len(seen))
        unlabeled = recipes.prepare_training(recipe, model, self.pool, labeled=False) if from_pool else None
        with tempfile.TemporaryDirectory() as scratch:
            training.output_dir, training.max_steps = scratch, steps
            labeled = recipes.prepare_training(recipe, model, self.few)
            done = ar.finetune(model, labeled, training, eval_dataset=self.validation, unlabeled=unlabeled)
            found = {CHOSEN: self.judge(model)}
            if done.best_step in (None, done.steps):
                return {**found, LAST: found[CHOSEN]}
            ended = copy.deepcopy(model)
            ended.load_state_dict(load_file(Path(done.last_path) / "model.safetensors"))
            return {**found, LAST: self.judge(ended)}

    def judge(self, model: ar.RefinedModel) -> dict[str, float]:
        on_labels = ON_SIGMOIDS if self.judged[0]["labels"].ndim else ON_LABELS
        measures = {**dict.fromkeys(on_labels, {}), **ON_MAP}
        cells = ar.evaluate(
            model, self.judged, measures=measures, maps=[self.shown], batch_size=16, progress=False
        ).summary
        found = {ours: cells["classification"][name]["value"] for name, ours in on_labels.items()}
        return found | {name: cells["maps"][self.shown][name]["value"] for name in ON_MAP}


def needs_pool(arms: Sequence[str]) -> bool:
    return any(ARMS[arm.partition("@")[0]][2] for arm in arms)


def spread(images: Any, number: int) -> tuple[Any, Any]:
    """``number`` of the images, evenly spread (files lie in the order of their classes), and all others."""
    number = min(number, len(images))
    rows = [i * len(images) // number for i in range(number)]
    taken = set(rows)
    return images.select(rows), images.select([row for row in range(len(images)) if row not in taken])


def is_transformer(weights: Path) -> bool:
    return weights.stem.startswith(("deit", "vit"))


def settings(folder: Path, weights: Path, seed: int, given: argparse.Namespace) -> recipes.Recipe:
    """The supervised start."""
    return recipes.Recipe.load(
        recipes.shipped("abn_resnet18_folder"),
        {
            "model": {
                "backbone": weights.stem, "pretrained": str(weights), "head": None,
                "image_size": given.image_size or (224 if is_transformer(weights) else 160),
            },
            "data": {"source": str(folder)},
            "training": {
                "seed": seed, "batch_size": 8, "optimizer": "adamw", "weight_decay": 0.01,
                "learning_rate": given.start_learning_rate,
                "head_learning_rate_multiplier": 10.0, "warmup_ratio": 0.1, "progress": False,
                "save_every_epochs": None, "mixed_precision": given.mixed_precision, "channels_last": True,
                "monitor": "macro_f1",
            },
        },
    )  # fmt: skip


def one_hot(images: datasets.Dataset) -> datasets.Dataset:
    """Labels as lists of one: what follows takes a sigmoid and a binary loss for each class."""
    kind = datasets.List(images.features["label"])
    return images.add_column("labels", [[label] for label in images["label"]], feature=kind).remove_columns("label")


if __name__ == "__main__":
    main()
