"""How wide an attention branch must be for its map to find the object: one JSON line a cell, on held-out training images.

    python benchmarks/abn_width.py --data shared/data --weights shared/weights/resnet18.safetensors \
        --dataset pets3 places3 cub20 --width plain classes 32 128
    python benchmarks/abn_width.py --table         # the table of docs/abn.md, from the lines

A fifth of the training images is held out, the same for all cells, and judges; the test split is not read. 60 updates of
32 images (SGD 0.01, momentum 0.9, weight decay 1e-4, warm-up 0.1, cosine), 128 px, a fade-in of 20 updates; a transformer:
40 updates at 224 px, AdamW 5e-5, the branch's rate ten times that, a fade-in of 13. ``plain`` is the network without a
head, whose map is Grad-CAM; ``classes`` is the paper's channel a class. A cell that has its line is not run again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from repeated import fill, lines, spread

import attention_refine as ar
from attention_refine import data

RESULTS = Path(__file__).parent / "results" / "abn_width.jsonl"
CONVOLUTIONAL = {
    "max_steps": 60, "optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4, "warmup_ratio": 0.1,
    "channels_last": True,
}  # fmt: skip
TRANSFORMER = {
    "max_steps": 40, "optimizer": "adamw", "learning_rate": 5e-5, "weight_decay": 0.05, "warmup_ratio": 0.1,
    "head_learning_rate_multiplier": 10.0,
}  # fmt: skip


def cell(dataset: str, width: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    network = arguments.weights.stem
    transformer = "vit" in network or "deit" in network
    side, training = (224, TRANSFORMER) if transformer else (128, CONVOLUTIONAL)
    rows = data.load_dataset(arguments.data / dataset, "train")
    order = np.random.default_rng(100).permutation(len(rows)).tolist()
    held_out, train = (rows.select(sorted(part)) for part in (order[: len(rows) // 5], order[len(rows) // 5 :]))
    head = None
    if width != "plain":
        hidden = width if width == "classes" else int(width)
        head = ar.AttentionBranch(fade_in_steps=training["max_steps"] // 3, hidden_channels=hidden)
    torch.manual_seed(seed)
    size = {"input_size": [3, side, side], "interpolation": "bilinear"}
    labels = data.class_names(rows)
    model = ar.wrap(network, head=head, labels=labels, pretrained=arguments.weights, preprocessing=size)
    start = {f"start_{key}": value for key, value in judged(model, held_out).items() if key.startswith("map")}
    with tempfile.TemporaryDirectory() as folder:
        config = ar.TrainingConfig(output_dir=folder, batch_size=32, seed=seed, progress=False, **training)
        ar.finetune(model, data.prepare(train, model.preprocessing, train=True, seed=seed), config)
    return {
        **start, **judged(model, held_out), "torch": torch.__version__.split("+")[0], "version": ar.__version__,
    }  # fmt: skip


def judged(model: ar.RefinedModel, rows: Any) -> dict[str, float]:
    maps = ["grad_cam"] if model.head is None else ["model", "grad_cam"]
    summary = ar.evaluate(
        model, rows, maps=maps, groups=[], perturbation_images=0, progress=False,
        measures=["accuracy", "mask_correlation", "energy_inside"],
    ).summary  # fmt: skip
    found = {"accuracy": summary["classification"]["accuracy"]["value"]}
    for name, key in ((maps[0], "map"), ("grad_cam", "grad_cam")):
        for measure in ("mask_correlation", "energy_inside"):
            found[f"{key}_{measure}"] = summary["maps"][name][measure]["value"]
    return found


def table(found: list[dict[str, Any]]) -> list[str]:
    out = [
        "| network | images | channels | seeds | accuracy | correlation of the map | before training | energy inside | "
        "correlation of Grad-CAM |",
        "|---" * 9 + "|",
    ]
    for key in dict.fromkeys((line["network"], line["dataset"], line["width"]) for line in found):
        of = [line for line in found if (line["network"], line["dataset"], line["width"]) == key]
        network, dataset, width = key
        titles = {"plain": "no head", "classes": "one a class"}
        columns = [spread([100 * line["accuracy"] for line in of], 100)]
        columns += [
            spread([line[name] for line in of], 1) if name in of[0] else "-"
            for name in (
                "map_mask_correlation",
                "start_map_mask_correlation",
                "map_energy_inside",
                "grad_cam_mask_correlation",
            )
        ]
        out.append(f"| {network} | {dataset} | {titles.get(width, width)} | {len(of)} | " + " | ".join(columns) + " |")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of pets3, places3 and cub20")
    parser.add_argument("--weights", type=Path, help="a safetensors file of ImageNet weights, named as in timm")
    parser.add_argument("--dataset", nargs="+", default=["pets3", "places3", "cub20"])
    parser.add_argument("--width", nargs="+", default=["plain", "classes", "32", "128"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table of the lines there are, and stop")
    arguments = parser.parse_args()
    if arguments.table:
        print("\n".join(table(lines(RESULTS))))
        return
    torch.set_num_threads(arguments.threads)
    cells = [
        {"dataset": dataset, "network": arguments.weights.stem, "width": width, "seed": seed}
        for seed in arguments.seeds
        for dataset in arguments.dataset
        for width in arguments.width
    ]
    fill(RESULTS, cells, lambda dataset, network, width, seed: cell(dataset, width, seed, arguments))


if __name__ == "__main__":
    main()
