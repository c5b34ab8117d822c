"""ATCON's Table 4: how each consistency loss moves with the validation cross-entropy along a supervised run.

python benchmarks/consistency_ablation.py --data FOLDER --weights resnet18.safetensors

The folder is an imagefolder with train/. A part of it is held out; after each epoch of supervised training the
cross-entropy and the twelve losses are measured there. The table holds, for each loss, Pearson's correlation between
its curve and the cross-entropy's, in per cent: mean and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from torch.utils.data import DataLoader

import attention_refine as ar
from attention_refine import data
from attention_refine.objectives.consistency.correlation import CORRELATIONS, correlation
from attention_refine.objectives.consistency.matching import MATCHINGS, Classes, MapChoice, matched


@torch.no_grad()
def measured(model: ar.RefinedModel, loader: DataLoader) -> dict[str, float]:
    """Cross-entropy, accuracy and every loss, means over the images."""
    first, second = MapChoice("grad_cam", {}, "auto"), MapChoice("guided_backprop", {}, "auto")
    totals: dict[str, float] = {}
    for batch in loader:
        pixels, labels = batch["pixel_values"], batch["labels"]
        logits = model(pixels).logits
        found = {
            "cross_entropy": torch.nn.functional.cross_entropy(logits, labels, reduction="none"),
            "accuracy": (logits.argmax(1) == labels).float(),
        }
        for matching in MATCHINGS:
            classes = Classes("top1", 1, None, model.num_labels)
            config = ar.AttentionConsistency(matching=matching).config
            pairs = matched(model, pixels, classes, first, second, config)
            for kind in CORRELATIONS:
                found[f"{matching}/{kind}"] = -correlation(pairs.a, pairs.b, kind)[0]
        for name, value in found.items():
            totals[name] = totals.get(name, 0.0) + float(value.sum()) / len(loader.dataset)
    return totals


def one_run(given: argparse.Namespace, seed: int) -> list[dict[str, float]]:
    """What was measured after each epoch."""
    torch.manual_seed(seed)
    train, held_out = data.split_train_validation(data.load_dataset(given.data, "train"), 0.2, seed)
    if given.per_class:
        train, _ = data.split_few_labels(train, given.per_class, seed)
    held_out = held_out.shuffle(seed=seed).select(range(min(given.images, len(held_out))))
    preprocessing = {"input_size": [3, given.size, given.size]}
    model = ar.wrap(
        given.network or given.weights.stem,
        pretrained=given.weights or False,
        labels=data.class_names(train),
        preprocessing=preprocessing,
    )
    loader = DataLoader(data.prepare(held_out, model.preprocessing), given.batch, collate_fn=data.collate)
    with tempfile.TemporaryDirectory() as folder:
        config = ar.TrainingConfig(
            output_dir=folder, epochs=given.epochs, batch_size=given.batch, learning_rate=given.learning_rate,
            optimizer="adam", weight_decay=0.0, schedule="constant", seed=seed, monitor="accuracy", progress=False,
        )  # fmt: skip
        prepared = data.prepare(train, model.preprocessing, train=True)
        result = ar.finetune(model, prepared, config, evaluate=lambda model, _: measured(model, loader))
    curves = [{key.removeprefix("eval/"): value for key, value in entry.items()} for entry in result.history]
    print(
        f"seed {seed}: cross-entropy {curves[0]['cross_entropy']:.3f} to {curves[-1]['cross_entropy']:.3f}, "
        f"accuracy {curves[-1]['accuracy']:.3f}",
        flush=True,
    )
    return curves


def together(curves: list[dict[str, float]], name: str) -> float:
    """Pearson's correlation, in per cent, of a loss and the cross-entropy over the epochs."""
    rows = torch.tensor([[entry[name], entry["cross_entropy"]] for entry in curves], dtype=torch.float64).T
    return 100 * float(torch.corrcoef(rows)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="an imagefolder, or shapes for the embedded dataset")
    parser.add_argument("--weights", type=Path, help="a safetensors file of ImageNet weights; fresh ones if not given")
    parser.add_argument("--network", help="timm's name; the name of the file of weights if not given")
    parser.add_argument("--per-class", type=int, help="training images of each class; all if not given")
    parser.add_argument("--images", type=int, default=120, help="held-out images")
    parser.add_argument("--epochs", type=int, default=20, help="supervised epochs, a point of the curve each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=160, help="side in pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if given.network is None and given.weights is None:
        parser.error("give --network, --weights, or both")
    torch.set_num_threads(given.threads)
    runs = [one_run(given, seed) for seed in range(given.seeds)]
    print("\n| loss | " + " | ".join(CORRELATIONS) + " |\n|---|" + "---|" * len(CORRELATIONS))
    for matching in MATCHINGS:
        cells = []
        for kind in CORRELATIONS:
            values = [together(curves, f"{matching}/{kind}") for curves in runs]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        print(f"| {matching} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
