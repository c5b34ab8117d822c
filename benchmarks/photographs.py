"""Networks with ImageNet weights from a file, and photographs with their masks, as the scripts beside this one want them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from attention_refine import data

PREPROCESSING = {
    "input_size": [3, 224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    "interpolation": "bilinear", "crop_pct": 0.875,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", type=Path, required=True, help="a safetensors file of ImageNet weights, timm's keys"
    )
    parser.add_argument("--network", help="timm's name of the network; the file's name unless given")


def network(weights: Path, name: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The network in evaluation mode, and its preprocessing."""
    from safetensors.torch import load_file

    name = name or weights.stem
    net = timm.create_model(name)
    missing, unexpected = net.load_state_dict({k: v.float() for k, v in load_file(weights).items()}, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"{weights} is not {name}: it lacks {missing[:3]} and has {unexpected[:3]}; give --network")
    transformer = "vit" in name or "deit" in name
    return net.eval(), PREPROCESSING | ({"interpolation": "bicubic"} if transformer else {})


class Spread(Dataset):
    """``count`` items of the test split of a folder, evenly spread over it: files lie in the order of their classes."""

    def __init__(self, folder: Path, preprocessing: dict[str, Any], count: int):
        self.items = data.prepare(data.load_dataset(str(folder), "test"), preprocessing)
        count = min(count, len(self.items))
        self.rows = [i * len(self.items) // count for i in range(count)]

    def thinned(self, count: int) -> Subset:
        """``count`` of these, evenly spread: the ones ``evaluate`` takes for ``perturbation_images=count``."""
        return Subset(self, [i * len(self) // count for i in range(min(count, len(self)))])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        return self.items[self.rows[position]]


def imagenet_names() -> list[str]:
    """The 1000 class names, first synonym each."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return [info.index_to_description(i).split(",")[0] for i in range(info.num_classes())]
