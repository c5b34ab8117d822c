"""Training runs in shards for test_sharding.py; each process of torchrun runs this file."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("ACCELERATE_USE_CPU", "1")

import timm
import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType
from cases import CLASSES
from torch import nn
from training_runs import fail_if_still_together

import attention_refine as ar
from attention_refine.training import TrainingConfig, finetune
from attention_refine.training import run as training_run

NETS = {
    "resnet": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}),
    "vit": ("vit_tiny_patch16_224", {"img_size": 32, "embed_dim": 24, "depth": 3, "global_pool": "avg"}),
}
HEADS = {
    "abn": lambda: ar.AttentionBranch(fade_in_steps=5),
    "brnpa": lambda: ar.BRNPA(fade_in_steps=5),
}
CASES = [(net, head) for net in NETS for head in HEADS]


class Images(torch.utils.data.Dataset):
    def __init__(self, count: int):
        generator = torch.Generator().manual_seed(7)
        self.labels = torch.randint(0, CLASSES, (count,), generator=generator)
        colour = torch.randn(CLASSES, 3, 1, 1, generator=generator)[self.labels]
        self.images = colour + 0.5 * torch.randn(count, 3, 32, 32, generator=generator)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        return {"pixel_values": self.images[row], "labels": self.labels[row], "index": torch.tensor(row)}


def wrapped(net: str, head: str, **options) -> ar.RefinedModel:
    """A small network whose batch norms keep their statistics: those of a batch are of one process."""
    torch.manual_seed(3)
    name, sizes = NETS[net]
    made = timm.create_model(name, num_classes=CLASSES, **sizes)
    model = ar.wrap(made, HEADS[head](), preprocessing={"input_size": [3, 32, 32]}, **options)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval().train = lambda mode=True: None
    return model


def train(folder, model: ar.RefinedModel, accelerator: Accelerator | None = None, **options):
    """20 steps, and an evaluation of which one process has two batches and the other one."""
    config = TrainingConfig(
        **{
            "output_dir": str(folder),
            "max_steps": 20,
            "learning_rate": 1e-3,
            "progress": False,
            "save_every_steps": 10,
            "eval_every": 2,
        }
        | options
    )
    images, few = Images(80), Images(9)
    return finetune(
        model, images, config, eval_dataset=few, accelerator=accelerator, collate=torch.utils.data.default_collate
    )


def in_shards(version: int = 2) -> Accelerator:
    """What ``accelerate launch --use_fsdp`` makes on GPUs; on CPUs accelerate itself leaves models whole."""
    plugin = FullyShardedDataParallelPlugin(fsdp_version=version, auto_wrap_policy="TRANSFORMER_BASED_WRAP")
    accelerator = Accelerator(cpu=True)
    PartialState._shared_state["distributed_type"] = accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    return accelerator


def two_processes(folder: Path) -> None:
    atexit.register(fail_if_still_together)
    accelerator = in_shards()
    parts, divide = [], training_run.divided

    def watched(*given):
        parts.append(divide(*given))
        return parts[-1]

    training_run.divided = watched
    for net, head in CASES:
        model = wrapped(net, head)
        train(folder / f"{net}-{head}", model, accelerator, batch_size=4, clip_grad_norm=1.0)
        held = sum(value.to_local().numel() for value in parts.pop().parameters())
        every = sum(value.numel() for value in model.parameters())
        assert held < 0.6 * every, f"{held} of {every} weights are in this process: the model was whole"
    if accelerator.is_main_process:
        for at in ("checkpoints/step-00000010", "best"):
            shutil.copytree(folder / "vit-abn" / at, folder / "resumed" / at)
    accelerator.wait_for_everyone()
    train(folder / "resumed", wrapped("vit", "abn"), accelerator, batch_size=4, clip_grad_norm=1.0, resume=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    two_processes(Path(sys.argv[1]))
