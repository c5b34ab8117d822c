"""How well masks that nobody drew fit, where no training of ``methods`` says it: another network, or one fine-tuned before.

    python benchmarks/made_masks.py --data shared/data --weights shared/weights       # a JSON line a cell in results/made_masks.jsonl

Of the training images of one draw (seed 0) boxes of 5 %, or nothing, are known; the mean IoU of the masks made of them with
the true ones. ``fine-tuned``: the features are those of the network after the plain training of ``methods``, shortcut and all.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from methods.protocol import Cell, Places, annotated, fit, image_size, training_rows, true_iou, wrapped
from repeated import fill

from attention_refine import data
from attention_refine.mending.propagation import propagation

RESULTS = Path(__file__).parent / "results" / "made_masks.jsonl"
DEIT, RESNET = "deit_tiny_patch16_224", "resnet18"
CELLS = [
    {"network": network, "dataset": dataset, "annotation": annotation, "features": features, "seed": 0}
    for network, dataset, features in (
        (DEIT, "places3", "published"), (DEIT, "pets3", "published"), (RESNET, "places3", "fine-tuned"),
    )
    for annotation in ("boxes 5 %", "none")
]  # fmt: skip


def cell(network: str, dataset: str, annotation: str, features: str, seed: int, places: Places) -> dict[str, Any]:
    own = Cell(dataset, network, "plain", annotation, seed=seed, image_size=image_size(network))
    full = training_rows(own, places)
    rows = annotated(full, annotation, seed)
    model = wrapped(own, places, data.class_names(full))
    if features == "fine-tuned":
        fit(model, annotated(full, "none", seed), own, own.steps)
    found = propagation(
        model, rows, method="unsupervised" if annotation == "none" else "segmenter",
        image_size=None if own.transformer else 224, seed=seed, flip=False, progress=False,
    )  # fmt: skip
    return {"cut": found.cut, "empty": found.empty, "true_iou": round(true_iou(found.dataset, full), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    fill(RESULTS, CELLS, lambda **each: cell(**each, places=Places(arguments.data, arguments.weights)))


if __name__ == "__main__":
    main()
