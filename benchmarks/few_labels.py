"""Consistency fine-tuning with few labels: prediction and maps before and after, on photographs.

    python benchmarks/few_labels.py --data pets3 cub20 --weights resnet18.safetensors --per-class 2 4 8 16 --seeds 0 1 2 3 4 --output runs/few

For each seed ``n`` images a class are drawn from train/, and ``--validation`` a class of the rest for choosing. The
network is trained on the ``n`` (supervised, augmented); then by the consistency loss alone, without labels, on the same
images (``--pool same``, the paper's) or on all of train/ that is not validation (``--pool all``). Both times the epoch
with the best macro F1 on the validation images is kept; the second time the start competes too. ``--also-last`` judges the
last epoch as well. Judged once on test/: accuracy, macro F1, and Grad-CAM of the predicted class: correlation with the
mask or box, IoU at half the maximum and in ATCON's median form on the images right before and after. One JSON a run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch

import attention_refine as ar
from attention_refine import recipe as recipes
from attention_refine.metrics import intervals

MEASURES = ("accuracy", "macro_f1", "mask_correlation", "iou", "iou_true_positives")
PAIRED = ("iou", "iou_true_positives")  # over the images that are right before and after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders with train/ and test/")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="files named as timm names the networks")
    parser.add_argument("--per-class", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--validation", type=int, default=5, help="images a class for choosing the epoch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, nargs=2, default=[160, 160], help="supervised and consistency steps")
    parser.add_argument("--learning-rate", type=float, default=2e-5, help="of the consistency steps")
    parser.add_argument("--pool", choices=("same", "all"), default="same")
    parser.add_argument("--objective", default="{}", help="options of AttentionConsistency, as JSON")
    parser.add_argument("--test-images", type=int, default=300)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--no-test", action="store_true", help="judge on the validation images instead: for choosing")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    files = []
    for seed in given.seeds:
        for folder in given.data:
            for weights in given.weights:
                for count in given.per_class:
                    file = given.output / f"{folder.name}-{weights.stem}-{count}-{seed}.json"
                    if not file.exists():
                        started = time.time()
                        found = one_run(folder, weights, count, seed, given)
                        file.write_text(json.dumps(found))
                        print(file.stem, {k: v["summary"] for k, v in found.items()}, f"{time.time() - started:.0f} s", flush=True)  # fmt: skip
                    files.append(file)
    table(files)


def one_run(folder: Path, weights: Path, count: int, seed: int, given: argparse.Namespace) -> dict:
    recipe = settings(folder, weights, seed)
    train = ar.data.load_dataset(str(folder), "train")
    names = ar.data.class_names(train)
    validation, rest = ar.data.split_few_labels(train, given.validation, seed)
    few, _ = ar.data.split_few_labels(rest, count, seed)
    torch.manual_seed(seed)
    model = recipes.build_model(recipe.model, names)
    judged = recipes.prepare_evaluation(recipe, model, validation)
    if not given.no_test:
        test = ar.data.load_dataset(str(folder), "test", class_names=names)
        test = test.select([i * len(test) // given.test_images for i in range(min(given.test_images, len(test)))])
        judged = recipes.prepare_evaluation(recipe, model, test)
    chosen_on = recipes.prepare_evaluation(recipe, model, validation)
    with tempfile.TemporaryDirectory() as scratch:
        fit(recipe, model, few, chosen_on, Path(scratch) / "supervised", given.steps[0])
        found = {"before": judge(model, judged)}
        model.add_objective(ar.AttentionConsistency(**json.loads(given.objective)))
        recipe.training.optimizer, recipe.training.learning_rate = "adam", given.learning_rate
        recipe.training.weight_decay, recipe.training.head_learning_rate_multiplier = 0.0, 1.0
        recipe.training.strategy, recipe.training.freeze_batch_norm = "finetune", True
        recipe.training.schedule, recipe.training.warmup_ratio = "constant", 0.0
        recipe.training.eval_start = True  # the start competes
        pool = few if given.pool == "same" else rest
        result = fit(recipe, model, pool, chosen_on, Path(scratch) / "consistency", given.steps[1])
        found["after, last"] = judge(ar.load(result.last_path), judged)
        found["after"] = judge(model, judged)
        found["history"] = {"summary": None, "values": result.history}
    return found


def settings(folder: Path, weights: Path, seed: int) -> recipes.Recipe:
    transformer = weights.stem.startswith(("deit", "vit"))
    return recipes.Recipe.load(
        recipes.shipped("abn_resnet18_folder"),
        {
            "model": {
                "backbone": weights.stem, "pretrained": str(weights), "head": None,
                "image_size": 224 if transformer else 160,
            },
            "data": {"source": str(folder)},
            "training": {
                "seed": seed, "batch_size": 8, "optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 0.01,
                "head_learning_rate_multiplier": 10.0, "warmup_ratio": 0.1, "monitor": "macro_f1", "progress": False,
                "save_every_epochs": None, "eval_batch_size": 32, "mixed_precision": "no", "channels_last": True,
            },
        },
    )  # fmt: skip


def fit(recipe: recipes.Recipe, model: ar.RefinedModel, images, validation, output: Path, steps: int):
    """``steps`` optimiser steps, ten looks at the validation images."""
    per_epoch = max(1, len(images) // recipe.training.batch_size)
    recipe.training.output_dir, recipe.training.max_steps = str(output), steps
    recipe.training.eval_every = max(1, round(steps / per_epoch / 10))
    return ar.finetune(model, recipes.prepare_training(recipe, model, images), recipe.training, eval_dataset=validation)


def judge(model: ar.RefinedModel, items) -> dict:
    """Means, and the values an image; the median form of the IoU is of the images that are right."""
    measures = {name: {} for name in ("accuracy", "macro_f1", "mask_correlation", "iou")}
    measures["iou_true_positives"] = {"normalise": "median"}
    judged = ar.evaluate(model, items, measures=measures, maps=["grad_cam"], batch_size=16, progress=False)
    summary = {**judged.summary["classification"], **judged.summary["maps"]["grad_cam"]}
    values = {name: judged.values(f"grad_cam/{name}").tolist() for name in PAIRED}
    right = [sample["prediction"] == sample["label"] for sample in judged.samples]
    return {"summary": {name: summary[name]["value"] for name in MEASURES}, "values": {**values, "right": right}}


def table(files: list[Path]) -> None:
    """Means over seeds, and the paired difference with its 95 % bootstrap interval over seeds."""
    rows = defaultdict(lambda: defaultdict(list))
    for file in files:
        data, network, count, _seed = file.stem.rsplit("-", 3)
        found = json.loads(file.read_text())
        for when in ("after", "after, last"):
            for name in MEASURES:
                rows[data, network, int(count), when][name].append(pair(found["before"], found[when], name))
    print("| data | backbone | per class | after | seeds | " + " | ".join(f"{n.replace('_', ' ')}" for n in MEASURES) + " |")
    print("|---" * (5 + len(MEASURES)) + "|")
    for key, row in sorted(rows.items()):
        cells = []
        for name in MEASURES:
            pairs = 100 * torch.tensor(row[name], dtype=torch.float64)
            change = intervals.bootstrap(pairs[:, 1] - pairs[:, 0], n_resamples=10_000)
            before, after = pairs.mean(0).tolist()
            cells.append(f"{before:.1f} → {after:.1f} ({change.value:+.1f}; {change.low:+.1f} to {change.high:+.1f})")
        which = {"after": "chosen", "after, last": "last"}[key[3]]
        print(f"| {key[0]} | {key[1]} | {key[2]} | {which} | {len(row['iou'])} | " + " | ".join(cells) + " |")


def pair(before: dict, after: dict, name: str) -> tuple[float, float]:
    if name not in PAIRED:
        return before["summary"][name], after["summary"][name]
    both = torch.tensor(before["values"]["right"]) & torch.tensor(after["values"]["right"])
    return tuple(float(torch.tensor(each["values"][name])[both].nanmean()) for each in (before, after))


if __name__ == "__main__":
    main()
