"""Small trainings with an objective, for test_refining.py; also what each process of torchrun runs there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("ACCELERATE_USE_CPU", "1")  # the laws to the bit are about the CPU

import timm
import torch
from cases import lively
from safetensors.torch import load_file
from torch import Tensor, nn

import attention_refine as ar

# A mean over the batch, so that a batch may be divided; as much weight as the other losses, so that it is seen.
OBJECTIVES = {
    "mining": lambda **options: ar.AttentionMining(**{"reduction": "mean", "slope": 10.0, "weight": 1.0, **options}),
    "guided_inference": lambda **options: ar.GuidedInference(ext_weight=1.0, ext_target="edited", **options),
    "map_supervision": lambda **options: ar.MapSupervision(norm="mse", **options),
    "darc": lambda **options: ar.DARC(
        **{"seed": 0, "iterations": 2, "min_cells": 0.0, "width": 16, "weight": 1.0, **options}
    ),
    "consistency": lambda **options: ar.AttentionConsistency(**options),
    "input_gradient": lambda **options: ar.MapSupervision(norm="input_gradient", **options),
}


class Clicked(torch.utils.data.Dataset):
    """Images with noise that differs at every visit; every third has a map that a person edited."""

    def __init__(self, size: int, noise: float = 0.3, dtype: torch.dtype = torch.float32):
        generator = torch.Generator().manual_seed(7)
        self.labels = torch.randint(0, 3, (size,), generator=generator)
        self.images = torch.randn(size, 3, 32, 32, generator=generator).to(dtype) + self.labels.view(-1, 1, 1, 1)
        self.maps = torch.rand(size, 1, 32, 32, generator=generator)
        self.noise = noise

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        item = {
            "pixel_values": self.images[row] + self.noise * torch.randn(3, 32, 32).to(self.images.dtype),
            "labels": self.labels[row],
        }
        return item | {"edited_map": self.maps[row], "edited": torch.tensor(row % 3 == 0), "index": torch.tensor(row)}


def model(objective: str, head: bool, **options) -> ar.RefinedModel:
    torch.manual_seed(3)
    net = lively(timm.create_model("test_resnet", num_classes=3, output_stride=8), torch.randn(8, 3, 32, 32))
    branch = ar.AttentionBranch(fade_in_steps=0, branch="light", map_init="normal", calibrate=False) if head else None
    return ar.wrap(net, branch, [OBJECTIVES[objective](**options)], preprocessing={"input_size": [3, 32, 32]})


def keep_statistics(head: nn.Module, inputs) -> None:
    """The head's batch norm normalises by what it has, so that images do not see each other."""
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def train(folder, objective, head, alone=True, size=13, options=None, **config) -> Path:
    """A run; its folder. With ``alone`` no norm looks at other images, so that a batch may be divided."""
    # At twice the rate DARC's run with a head leaves every bound, and magnifies what rounding differs by.
    rate = 0.001 if objective == "darc" and head else 0.002
    given = {"batch_size": 4, "epochs": 2, "learning_rate": rate, "optimizer": "sgd", "progress": False, **config}
    # Runs that are compared to rounding are in float64: a random net magnifies it.
    dtype = torch.float64 if alone else torch.float32
    made = model(objective, head, **(options or {})).to(dtype)
    if alone and head:
        made.head.register_forward_pre_hook(keep_statistics)
    given["freeze_batch_norm"] = alone
    ar.finetune(made, Clicked(size, dtype=dtype), ar.TrainingConfig(output_dir=str(folder), **given))
    return Path(folder)


def weights(folder) -> dict[str, Tensor]:
    return load_file(str(Path(folder) / "last" / "model.safetensors"))


def cases() -> list[tuple[str, bool]]:
    """Every objective with a head and without; the input gradient has no use for one."""
    return [(name, head) for name in OBJECTIVES for head in (True, False) if not (head and name == "input_gradient")]


def train_in_updates(folder, **config) -> Path:
    """DARC's loop as its text has it: several updates on a batch, and a rate that is halved where the loss rises."""
    return train(folder, "darc", True, options={"iterations": 1}, updates_per_batch=3, **config)


if __name__ == "__main__":
    for name, head in cases():
        train(Path(sys.argv[1]) / f"{name}-{head}", name, head, batch_size=2)
    train_in_updates(Path(sys.argv[1]) / "updates", batch_size=2)
