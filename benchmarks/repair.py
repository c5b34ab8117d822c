"""Mending a shortcut from a few masks or boxes: every arm on the same images with as many updates, one JSON line a cell.

    python benchmarks/repair.py --data shared/data --weights shared/weights/resnet18.safetensors --seeds 0 1 2 3 4
    python benchmarks/repair.py --dataset pets3 --arms plain abn "masks 5 %" --data ... --weights ...
    python benchmarks/repair.py --table            # the tables of docs/results.md, from the lines

The data is places3 (the animal's breed goes with the place in training, and not at test) and places3_fair (the same
animals, places drawn at random): the network trained on that is the ceiling. On pets3
and cub20 (boxes alone) nothing is known to mislead, and there is no ceiling. A cell that has its line is not run again.
Everything was chosen on training images that were held out (docs/results.md says how); the test split is read once, at
the end of a cell. Batches of 32 in float32; SGD 0.01 with momentum 0.9 and weight decay 1e-4, a transformer AdamW
1e-4 and 0.05; warm-up 0.1, cosine.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from repeated import fill, lines, spread
from scipy import stats

import attention_refine as ar
from attention_refine import data
from attention_refine.mending.propagation import propagation

RESULTS = Path(__file__).parent / "results" / "repair.jsonl"
SHARE = 0.05  # of the training images that are annotated
TRANSPLANT = {"replace": True, "copies": 0.75}
CONVOLUTIONAL = {"optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4}
TRANSFORMER = {"optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 0.05}  # recommendations.yaml
ENERGY = {"norm": "energy", "target": "mask", "weight": 20.0}
MADE = {"norm": "energy", "target": "mask", "weight": 3.0}  # of the masks that a segmenter made, which all images have


def few(rows: datasets.Dataset, seed: int, boxes: bool = False) -> datasets.Dataset:
    """The rows with 5 % of the masks, as many of each class, or with the boxes round those."""
    rng = np.random.default_rng(seed)
    labels = np.array(rows["label"])
    kept = set()
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        kept.update(rng.choice(of_class, round(SHARE * len(of_class)), replace=False).tolist())
    if "bbox" in rows.column_names:
        given = [cell if row in kept else None for row, cell in enumerate(rows["bbox"])]
        return rows.remove_columns("bbox").add_column("bbox", given, feature=rows.features["bbox"])
    cells = rows.cast_column("mask", datasets.Image(decode=False))["mask"]
    cells = [cell if row in kept else None for row, cell in enumerate(cells)]
    bare = rows.remove_columns("mask")
    if not boxes:
        return bare.add_column("mask", cells, feature=datasets.Image())
    found = [None if cell is None else [_box(Path(cell["path"]))] for cell in cells]
    return bare.add_column("bbox", found, feature=datasets.List(datasets.List(datasets.Value("float32"))))


def _box(mask: Path) -> list[float]:
    there = np.asarray(Image.open(mask)) > 0
    y, x = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    return [float(v) for v in (x[0], y[0], x[-1] - x[0] + 1, y[-1] - y[0] + 1)]


def wrapped(arguments: argparse.Namespace, labels: list[str], seed: int, head=None, objectives=()) -> ar.RefinedModel:
    torch.manual_seed(seed)
    size = {"input_size": [3, arguments.image_size, arguments.image_size], "interpolation": "bilinear"}
    return ar.wrap(
        arguments.weights.stem, head=head, objectives=objectives, labels=labels, pretrained=arguments.weights,
        preprocessing=size,
    )  # fmt: skip


def transformer(arguments: argparse.Namespace) -> bool:
    return "vit" in arguments.weights.stem or "deit" in arguments.weights.stem


def segmented(arguments: argparse.Namespace, rows: datasets.Dataset, seed: int) -> tuple[datasets.Dataset, dict]:
    """The rows with masks for all, from a segmenter on the features of the network as it was published."""
    model = wrapped(arguments, data.class_names(rows), seed)
    side = None if transformer(arguments) else 224
    boxed = "mask" not in rows.column_names
    options = {"steps": 15} if boxed else {}
    found = propagation(
        model, rows, method="segmenter", image_size=side, segmenter=options, seed=seed, flip=False, progress=False
    )
    return found.dataset, {"cut": found.cut, "expected_iou": found.iou, "empty": found.empty}


def true_iou(rows: datasets.Dataset, found: datasets.Dataset) -> float:
    """Mean IoU of the masks that were made with the true ones, their void left out."""
    overlaps = []
    made = found.cast_column("mask", datasets.Image(decode=False))["mask"]
    true = rows.cast_column("mask", datasets.Image(decode=False))["mask"]
    for source, own, other in zip(found["mask_source"], made, true):
        if source == "model":
            a, b = data.read_mask(own), data.read_mask(other)
            a, b, known = a == 1, b == 1, b != 255
            overlaps.append((a & b & known).sum() / max(((a | b) & known).sum(), 1))
    return float(np.mean(overlaps))


def arm(name: str, arguments: argparse.Namespace, seed: int) -> tuple[ar.RefinedModel, datasets.Dataset, dict, dict]:
    """The model of an arm, its training rows, further options of the training, and what is to be said of it."""
    if name == "ceiling" and arguments.dataset != "places3":
        raise ValueError("only places3 has a ceiling")
    folder = arguments.data / ("places3_fair" if name == "ceiling" else arguments.dataset)
    rows = data.load_dataset(folder, "train")
    labels, said, training = data.class_names(rows), {}, {}
    objectives: list[Any] = []
    head = None
    if name == "repeated":
        rows, training = few(rows, seed), {"annotated_per_batch": 6}
    elif name in ("masks 5 %", "boxes 5 %", "masks 5 %, map too", "boxes 5 %, map too"):
        made, said = segmented(arguments, few(rows, seed, boxes=name.startswith("boxes")), seed)
        if "mask" in rows.column_names:
            said["true_iou"] = true_iou(rows, made)
        rows, objectives = made, [ar.Transplant(**TRANSPLANT)]
        if name.endswith("map too"):
            objectives.append(ar.MapSupervision(**MADE))
    elif name == "masks 100 %":
        objectives = [ar.Transplant(**TRANSPLANT)]
    elif name == "energy, masks 5 %":
        rows, objectives = few(rows, seed), [ar.MapSupervision(**ENERGY)]
    elif name == "input gradient, masks 100 %":
        objectives = [ar.MapSupervision(norm="input_gradient", target="mask", weight=0.001)]
    elif name in ("abn", "abn, a channel a class", "abn + mining"):
        width = {"hidden_channels": "classes"} if name == "abn, a channel a class" else {}
        head = ar.AttentionBranch(fade_in_steps=20, **width)
        objectives = [ar.AttentionMining(weight=0.01)] if name == "abn + mining" else []
    elif name == "brnpa":
        head = ar.BRNPA()
    elif name == "group balance":
        training = {"balance": "group"}
    elif name == "group DRO":
        objectives = ["group_dro"]
    elif name not in ("plain", "ceiling", "DFR"):
        raise ValueError(f"arm {name!r} is not one of {', '.join(ARMS)}")
    return wrapped(arguments, labels, seed, head, objectives), rows, training, said


ARMS = (
    "plain", "ceiling", "masks 5 %", "boxes 5 %", "masks 5 %, map too", "boxes 5 %, map too", "masks 100 %",
    "repeated", "energy, masks 5 %", "group balance",
    "group DRO", "DFR", "abn", "abn, a channel a class", "abn + mining", "brnpa", "input gradient, masks 100 %",
)  # fmt: skip


def cell(name: str, arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    began = time.process_time()
    model, rows, training, said = arm(name, arguments, seed)
    prepared = time.process_time() - began
    with tempfile.TemporaryDirectory() as folder:
        config = ar.TrainingConfig(
            output_dir=folder, max_steps=arguments.steps, batch_size=32, warmup_ratio=0.1, seed=seed, progress=False,
            channels_last=True, **(TRANSFORMER if transformer(arguments) else CONVOLUTIONAL), **training,
        )  # fmt: skip
        items = data.prepare(rows, model.preprocessing, train=True, seed=seed)
        ar.finetune(model, items, config)
    if name == "DFR":
        ar.retrain_classifier(model, rows, balance="group", seed=seed, progress=False)
    trained = time.process_time() - began - prepared
    test = arguments.data / arguments.dataset
    grouped = arguments.dataset == "places3"
    judged = ar.evaluate(
        model, test, groups=["group", "aligned"] if grouped else [], perturbation_images=0, progress=False,
        measures=["accuracy", "mask_correlation", "energy_inside"],
    )  # fmt: skip
    correct = judged.values("correct")
    found = {
        "overall": float(correct.mean()),
        **{f"map_{key}": value["value"] for key, value in judged.summary["maps"]["model"].items()},
    }  # fmt: skip
    if grouped:
        aligned = np.array([sample["aligned"] == "True" for sample in judged.samples])
        found["agrees"], found["lies"] = (float(correct[rows].mean()) for rows in (aligned, ~aligned))
        found["worst_group"] = judged.summary["groups"]["group"]["worst_group_accuracy"]["value"]
    if model.head is not None:  # beside the head's own map that which explain shows without one
        grad_cam = ar.evaluate(
            model, test, groups=[], perturbation_images=0, progress=False, maps=["grad_cam"],
            measures=["mask_correlation", "energy_inside"],
        )  # fmt: skip
        found |= {f"grad_cam_{key}": value["value"] for key, value in grad_cam.summary["maps"]["grad_cam"].items()}
    return {
        **said, **found, "cpu_prepare": round(prepared, 1), "cpu_train": round(trained, 1),
        "torch": torch.__version__.split("+")[0], "version": ar.__version__,
    }  # fmt: skip


def table(found: list[dict[str, Any]]) -> list[str]:
    """Markdown: an arm a row, means and standard deviations over its seeds, and how much of the distance it closes."""
    out = []
    for dataset, network in dict.fromkeys((each["dataset"], each["network"]) for each in found):
        of = [each for each in found if (each["dataset"], each["network"]) == (dataset, network)]
        cells = {(each["arm"], each["seed"]): each for each in of}
        grouped = dataset == "places3"
        titles = [
            "arm", "seeds", "overall", *(("place agrees", "place lies", "gap", "worst group") if grouped else ()),
            "correlation of the map", "energy inside", "Grad-CAM's correlation", "its energy inside",
            *(("closes of the distance",) if grouped else ()), "CPU s",
        ]  # fmt: skip
        out += [f"**{dataset}, {network}**", "", "| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
        for name in ARMS:
            seeds = [seed for arm, seed in cells if arm == name]
            rows = [cells[name, seed] for seed in seeds]
            if not rows:
                continue
            shown = ("overall", "agrees", "lies") if grouped else ("overall",)
            columns = [spread([100 * row[key] for row in rows], 100) for key in shown]
            if grouped:
                columns.append(spread([100 * (row["agrees"] - row["lies"]) for row in rows], 100))
                columns.append(spread([100 * row["worst_group"] for row in rows], 100))
            columns += [spread([row[f"map_{k}"] for row in rows], 1) for k in ("mask_correlation", "energy_inside")]
            columns += [
                spread([row[f"grad_cam_{k}"] for row in rows], 1) if f"grad_cam_{k}" in rows[0] else "the same"
                for k in ("mask_correlation", "energy_inside")
            ]
            if grouped:
                columns.append(closed(name, seeds, cells))
            columns.append(f"{statistics.mean(row['cpu_prepare'] + row['cpu_train'] for row in rows):.0f}")
            out.append(f"| {name} | {len(rows)} | " + " | ".join(columns) + " |")
        out.append("")
    return out


def closed(name: str, seeds: list[int], cells: dict[tuple[str, int], dict[str, Any]]) -> str:
    """Of the distance from plain to the ceiling where the place lies, seed by seed; 95 % Student interval of the mean."""
    shared = [seed for seed in seeds if ("plain", seed) in cells and ("ceiling", seed) in cells]
    if name in ("plain", "ceiling") or not shared:
        return "-"
    shares = []
    for seed in shared:
        plain, ceiling, own = (cells[each, seed]["lies"] for each in ("plain", "ceiling", name))
        shares.append(100 * (own - plain) / (ceiling - plain))
    mean = statistics.mean(shares)
    if len(shares) < 2:
        return f"{mean:.0f} %"
    half = stats.t.ppf(0.975, len(shares) - 1) * statistics.stdev(shares) / math.sqrt(len(shares))
    return f"{mean:.0f} % [{mean - half:.0f}, {mean + half:.0f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of places3 and places3_fair")
    parser.add_argument("--dataset", default="places3", choices=["places3", "pets3", "cub20"])
    parser.add_argument("--weights", type=Path, help="a safetensors file of ImageNet weights, named as in timm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--steps", type=int, default=75)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table of the lines there are, and stop")
    arguments = parser.parse_args()
    if arguments.table:
        print("\n".join(table(lines(RESULTS))))
        return
    torch.set_num_threads(arguments.threads)
    of_all = {
        "dataset": arguments.dataset, "network": arguments.weights.stem, "steps": arguments.steps,
        "image_size": arguments.image_size,
    }  # fmt: skip
    cells = [of_all | {"arm": name, "seed": seed} for seed in arguments.seeds for name in arguments.arms]
    fill(RESULTS, cells, lambda arm, seed, **_: cell(arm, arguments, seed))


if __name__ == "__main__":
    main()
