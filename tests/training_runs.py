"""Small training runs for test_training.py, importable by the processes that it starts and kills."""

from __future__ import annotations

import atexit
import contextlib
import functools
import multiprocessing
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("ACCELERATE_USE_CPU", "1")  # the laws to the bit are about the CPU

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_model
from torch import Tensor, nn
from torch.nn import functional

from attention_refine.core import files
from attention_refine.data import DataError
from attention_refine.training import TrainingConfig, TrainingError, checkpoints, finetune
from attention_refine.training.interruption import Interrupted


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    maps: Tensor | None = None


class TinyModel(nn.Module):
    """The contract of a refined model in a few hundred weights: a backbone, a head that makes a map, two losses."""

    def __init__(self, norm: str = "layer", dropout: float = 0.0, classes: int = 3, spare: bool = False):
        super().__init__()
        if spare:  # weights that no loss reaches, as of an objective that is switched off
            self.spare = nn.Linear(2, 2)
        norms = {"layer": nn.GroupNorm(1, 6), "batch": nn.BatchNorm2d(6)}
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3), norms[norm], nn.GELU(), nn.Dropout(dropout))
        self.head = nn.Conv2d(6, 1, 1)
        self.classifier = nn.Linear(6, classes)
        self.labels = [f"class {row}" for row in range(classes)]

    def forward(self, pixel_values, labels=None, smoothing=0.0, mixed_classes=None, mixed_share=None):
        feature = self.backbone(pixel_values)
        maps = self.head(feature).sigmoid()
        logits = self.classifier((feature * (1 + maps)).mean((2, 3)))
        if labels is None:
            return Output(logits, maps=maps)
        task = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        if mixed_classes is not None:
            other = functional.cross_entropy(logits, mixed_classes, label_smoothing=smoothing)
            task = (1 - mixed_share) * task + mixed_share * other
        losses = {"task": task, "sparsity": 0.1 * maps.mean()}
        return Output(logits, sum(losses.values()), losses, maps)

    def save_pretrained(self, folder):
        save_model(self, str(Path(folder) / "model.safetensors"))


class TinyImages(torch.utils.data.Dataset):
    """Images whose mean colour tells the class, with noise that differs at every visit (augmentation)."""

    def __init__(self, size: int = 24, masks: bool = False, noise: float = 0.3):
        generator = torch.Generator().manual_seed(7)
        self.labels = torch.randint(0, 3, (size,), generator=generator)
        self.images = 0.5 * torch.randn(size, 3, 8, 8, generator=generator)
        self.images += functional.one_hot(self.labels, 3)[:, :, None, None]
        self.masks, self.noise = masks, noise

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        image = self.images[row] + self.noise * torch.randn(3, 8, 8)
        item = {"pixel_values": image, "labels": self.labels[row], "index": torch.tensor(row)}
        if self.masks:
            item["mask"] = torch.zeros(1, 8, 8, dtype=torch.uint8)
            item["mask"][:, 2:6, 2:6] = 1
        return item


def train(folder, *, norm="batch", dropout=0.2, spare=False, size=22, evaluated=True, accelerator=None, **options):
    """A run that uses everything random at once: order, augmentation, dropout, batch statistics."""
    torch.manual_seed(3)  # the weights that the run starts from
    defaults = {"batch_size": 4, "epochs": 3, "learning_rate": 0.02, "progress": False, "keep_last": 3}
    config = TrainingConfig(output_dir=str(folder), **{**defaults, **options})
    model = TinyModel(norm, dropout, spare=spare)
    eval_dataset = TinyImages(10, masks=True) if evaluated else None
    result = finetune(model, TinyImages(size), config, eval_dataset=eval_dataset, accelerator=accelerator,
                      collate=torch.utils.data.default_collate)  # fmt: skip
    return model, result


def last_weights(folder) -> dict[str, Tensor]:
    return load_file(str(Path(folder) / "last" / "model.safetensors"))


def assert_same(weights, expected):
    assert weights.keys() == expected.keys()
    for name in expected:
        assert torch.equal(weights[name], expected[name]), name


def largest_difference(weights, expected) -> float:
    assert weights.keys() == expected.keys()
    return max((weights[name].double() - expected[name].double()).abs().max().item() for name in expected)


def killed_at_forward(folder, count: int, options: dict):
    """Die by ``kill -9`` as the model's ``count``-th training forward begins."""
    forward, seen = TinyModel.forward, [0]

    @functools.wraps(forward)
    def counted(self, *args, **kwargs):
        seen[0] += self.training
        if seen[0] > count:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(self, *args, **kwargs)

    TinyModel.forward = counted
    train(folder, **options)


def killed_at_disk_call(folder, count: int, options: dict):
    """Die by ``kill -9`` after ``count`` flushes, renames or deletions, which are what saving does to the disk."""
    seen = [0]

    def deadly(function):
        def call(*args, **kwargs):
            seen[0] += 1
            if seen[0] > count:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    watched = _With(os, fsync=deadly(os.fsync), rename=deadly(os.rename), replace=deadly(os.replace))
    checkpoints.os = files.os = watched
    checkpoints.shutil = _With(checkpoints.shutil, rmtree=deadly(checkpoints.shutil.rmtree))
    train(folder, **options)


def worker_killed(folder):
    """What a run says whose loading process dies by ``kill -9``, in a file ``said``."""
    read = TinyImages.__getitem__

    def killed(self, row):
        if row == 7 and torch.utils.data.get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, row)

    TinyImages.__getitem__ = killed
    multiprocessing.set_start_method("fork", force=True)  # what is put in its place here is there as well
    try:
        train(folder, num_workers=1)
    except (DataError, TrainingError) as error:
        (folder / "said").write_text(str(error))


class _With:
    """A module with some functions replaced, for one importer only."""

    def __init__(self, module, **replaced):
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name):
        return getattr(self._module, name)


def fail_if_still_together() -> None:
    """At the exit, after what finetune does there: a process group that outlives the interpreter can abort it."""
    if torch.distributed.is_initialized():
        os._exit(3)


# Options under which two processes equal one, beside those that test_training.py names.
SHARED = {
    "thawed": {"freeze_backbone": True, "unfreeze_after_epochs": 1},
    "mixed": {"mixup_alpha": 0.4, "cutmix_alpha": 1.0, "size": 36},  # neighbours: even numbers of images
}


def two_processes(folder: str):
    """The runs that test_two_processes_equal_one compares; each process of torchrun calls this."""
    atexit.register(fail_if_still_together)  # what is registered first is called last
    plain = {"norm": "layer", "dropout": 0.0, "size": 37, "optimizer": "sgd"}
    train(f"{folder}/two", batch_size=4, **plain)
    train(f"{folder}/slots", batch_size=2, gradient_accumulation_steps=2, **plain)
    for name, options in SHARED.items():
        train(f"{folder}/{name}", batch_size=4, **{**plain, **options})
    noisy = {"norm": "batch", "dropout": 0.2, "spare": True, "batch_size": 4, "evaluated": False}
    train(f"{folder}/noisy", **noisy)
    if Accelerator().is_main_process:
        shutil.copytree(f"{folder}/noisy/checkpoints/step-00000003", f"{folder}/resumed/checkpoints/step-00000003")
    Accelerator().wait_for_everyone()
    train(f"{folder}/resumed", resume=True, **noisy)
    flush = checkpoints._flush
    checkpoints._flush = lambda path: (time.sleep(0.5 * (path.name == "state.json")), flush(path))
    with pytest.raises(Interrupted), asked_to_end(5 if Accelerator().process_index == 1 else None):
        train(f"{folder}/asked", ema_decay=0.9, background_checkpoints=True, **noisy)
    checkpoints._flush = flush
    left = checkpoints.list_checkpoints(Path(folder) / "asked" / "checkpoints")
    assert left[-1].name == "step-00000005" and checkpoints.damage(left[-1]) is None, (
        "written before either process ends"
    )
    train(f"{folder}/asked", ema_decay=0.9, resume=True, background_checkpoints=True, **noisy)
    train(f"{folder}/unasked", ema_decay=0.9, **noisy)


@contextlib.contextmanager
def asked_to_end(count: int | None):
    """SIGTERM for this process as the model's forward begins for the ``count``-th time."""
    forward, seen = TinyModel.forward, [0]

    @functools.wraps(forward)
    def counted(self, *args, **kwargs):
        seen[0] += 1
        if seen[0] == count:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, *args, **kwargs)

    TinyModel.forward = counted
    try:
        yield
    finally:
        TinyModel.forward = forward


if __name__ == "__main__":
    two_processes(sys.argv[1])
