"""Small runs of the training strategies for test_training_strategies.py, importable by the processes that it starts."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import sys
from dataclasses import dataclass

os.environ.setdefault("ACCELERATE_USE_CPU", "1")  # the laws to the bit are about the CPU

import timm
import torch
from accelerate import Accelerator
from torch import nn
from training_runs import TinyImages

import attention_refine as ar
from attention_refine.objectives._base import objectives
from attention_refine.training import TrainingConfig, finetune

STRATEGIES = {
    "combined": {"strategy": "combined"},
    "finetune": {"strategy": "finetune"},
    "alternated": {"strategy": "alternated", "alternated_alpha": 1.5},
}


@dataclass(frozen=True)
class ToyConfig:
    noise: float = 0.0
    weight: float = 0.5


class Entropy(ar.Objective):
    """Label-free, with a layer of its own and noise: the entropy of a second prediction."""

    config_class = ToyConfig
    needs_labels = False

    def attach(self, model):
        self.layer = nn.Linear(model.num_labels, model.num_labels)

    def forward(self, model, batch, output):
        logits = self.layer(output.logits)
        if self.config.noise:
            logits = logits + self.config.noise * torch.randn_like(logits)
        return {"toy_entropy": -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()}


class Margin(ar.Objective):
    """Needs labels: how far the true class is from the mean of all."""

    config_class = ToyConfig

    def forward(self, model, batch, output):
        margin = output.logits.gather(1, batch["labels"][:, None])[:, 0] - output.logits.mean(1)
        return {"toy_margin": torch.nn.functional.softplus(-margin).mean()}


def register():
    """Give the toys their names, once in a process."""
    for name, cls in {"toy_entropy": Entropy, "toy_margin": Margin}.items():
        if name not in objectives.names():
            objectives.register(name)(cls)


class Pictures(TinyImages):
    """The tiny images at a size that a network with five strides can read; ``labeled=False`` leaves the labels out."""

    def __init__(self, size: int, noise: float = 0.3, labeled: bool = True, first: int = 0):
        super().__init__(size + first, noise=noise)
        self.labels, self.images, self.labeled = self.labels[first:], self.images[first:], labeled

    def __getitem__(self, row):
        item = super().__getitem__(row)
        item["pixel_values"] = nn.functional.interpolate(item["pixel_values"][None], (32, 32))[0]
        return item if self.labeled else {name: value for name, value in item.items() if name != "labels"}


def make_model(noise: float = 0.0, dropout: float = 0.0, given=("toy_entropy", "toy_margin")) -> ar.RefinedModel:
    register()
    torch.manual_seed(3)
    net = timm.create_model("test_resnet", num_classes=3, drop_rate=dropout)
    made = [objectives.build(name, {"noise": noise} if name == "toy_entropy" else {}) for name in given]
    return ar.wrap(net, objectives=made, preprocessing={"input_size": [3, 32, 32]})


def train(folder, strategy, *, separate=True, evaluated=False, accelerator=None, noise=0.2, dropout=0.2, **options):
    """A run with everything random at once: orders, augmentation, dropout, batch statistics, the objective, draws."""
    defaults = {"batch_size": 4, "epochs": 2, "learning_rate": 0.01, "progress": False, "keep_last": 3}
    config = TrainingConfig(output_dir=str(folder), **{**defaults, **STRATEGIES[strategy], **options})
    model = make_model(noise, dropout)
    unlabeled = Pictures(11, labeled=False, first=16) if separate else None
    result = finetune(model, Pictures(16), config, unlabeled=unlabeled, accelerator=accelerator,
                      eval_dataset=Pictures(6) if evaluated else None)  # fmt: skip
    return model, result


def killed_at_forward(folder, strategy, count: int, options: dict):
    """Die by ``kill -9`` as the model's ``count``-th training forward begins."""
    forward, seen = ar.RefinedModel.forward, [0]

    @functools.wraps(forward)
    def counted(self, *args, **kwargs):
        seen[0] += self.training
        if seen[0] > count:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(self, *args, **kwargs)

    ar.RefinedModel.forward = counted
    train(folder, strategy, **options)


# Batch statistics are per process, and so are dropout's draws: without them two processes are one.
DIVISIBLE = {"noise": 0.0, "dropout": 0.0, "freeze_batch_norm": True, "optimizer": "sgd", "evaluated": True}
DIVISIBLE |= {"eval_objectives": True, "max_prediction_drift": 1.0}


def two_processes(folder: str):
    """What test_two_processes_equal_one compares; each process of torchrun calls this."""
    for strategy in STRATEGIES:
        train(f"{folder}/{strategy}", strategy, batch_size=3, **DIVISIBLE)
    noisy = {"batch_size": 2, "save_every_steps": 4, "keep_last": 9}
    train(f"{folder}/noisy", "alternated", **noisy)
    if Accelerator().is_main_process:
        shutil.copytree(f"{folder}/noisy/checkpoints/step-00000008", f"{folder}/resumed/checkpoints/step-00000008")
    Accelerator().wait_for_everyone()
    train(f"{folder}/resumed", "alternated", resume=True, **noisy)


if __name__ == "__main__":
    two_processes(sys.argv[1])
