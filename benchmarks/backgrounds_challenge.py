"""The Backgrounds Challenge (Xiao et al. 2020): a network of ImageNet's on ImageNet-9 with its backgrounds changed. Nothing is trained.

    python benchmarks/backgrounds_challenge.py --data bg_challenge --map in_to_in9.json --network resnet50.tv_in1k
    python benchmarks/backgrounds_challenge.py --data bg_challenge --network runs/plain_imagenet9/best

``bg_challenge`` is the folder of the release as it unpacks, ``in_to_in9.json`` the file of its repository that says which
of the nine classes each of the 1000 belongs to (-1: to none, which is never right). A network of the nine classes needs
no map. Images are judged as they are, 224 pixels, as there. It prints the accuracy of each variation and the gap.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import attention_refine as ar

VARIATIONS = ("original", "mixed_same", "mixed_rand")
SIDE = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="bg_challenge")
    parser.add_argument("--network", required=True, help="timm name, Hub id or folder")
    parser.add_argument("--map", type=Path, help="in_to_in9.json, for a network of ImageNet's 1000 classes")
    parser.add_argument("--splits", nargs="+", default=list(VARIATIONS))
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    model = ar.load(given.network) if Path(given.network).is_dir() else ar.wrap(given.network)
    of_class = None if given.map is None else json.loads(given.map.read_text(encoding="utf-8"))
    found = {
        split: accuracy(model.to(given.device).eval(), given.data, split, of_class, given.batch_size)
        for split in given.splits
    }
    print("\n".join(f"{split:12} {100 * share:.1f} %" for split, share in found.items()))
    if {"mixed_same", "mixed_rand"} <= found.keys():
        print(f"{'gap':12} {100 * (found['mixed_same'] - found['mixed_rand']):.1f} points")


@torch.inference_mode()
def accuracy(
    model: ar.RefinedModel, folder: str | Path, split: str, of_class: dict[str, int] | None, batch_size: int = 64
) -> float:
    """Share of the images of a variation whose first class belongs to theirs.

    Args:
        of_class: from the index of a network's class, as text, to that of one of the nine, or -1; None for a network of the
            nine classes themselves.

    Raises:
        ValueError: a network of other classes than the nine without ``of_class``, or with one of another length.
    """
    dataset = ar.data.load_dataset(folder, split)
    names, labels = ar.data.class_names(dataset), list(model.labels)
    if of_class is None:
        if sorted(labels) != sorted(names):
            raise ValueError(f"the network has {len(labels)} classes, not ImageNet-9's: say --map in_to_in9.json")
        places = [names.index(label) for label in labels]
    else:
        if len(of_class) != len(labels):
            raise ValueError(f"the map is of {len(of_class)} classes and the network has {len(labels)}")
        places = [of_class[str(index)] for index in range(len(labels))]
    as_they_are = {**model.preprocessing, "input_size": (3, SIDE, SIDE), "crop_pct": 1.0}
    items = ar.data.prepare(dataset, as_they_are, train=False)
    where = torch.tensor(places)
    device = next(model.parameters()).device
    right = 0
    for batch in torch.utils.data.DataLoader(items, batch_size=batch_size, collate_fn=ar.data.collate):
        first = model(batch["pixel_values"].to(device)).logits.argmax(-1).cpu()
        right += int((where[first] == batch["labels"]).sum())
    return right / len(items)


if __name__ == "__main__":
    main()
