"""The runs that test_contrastive.py and test_triplet.py divide between two processes; each process of torchrun calls this."""

from __future__ import annotations

import os
import sys

os.environ.setdefault("ACCELERATE_USE_CPU", "1")

import timm
import torch
from torch import nn

import attention_refine as ar

# In steps of 6 the last is short, and two processes' shares of it are not equal: 3 and 2.
IMAGES = 17


class Views(torch.utils.data.Dataset):
    """Images with two fixed views each, so that nothing is drawn and runs can be compared."""

    def __init__(self):
        generator = torch.Generator().manual_seed(4)
        shape = torch.randn(IMAGES, 1, 3, 4, 4, generator=generator)
        self.views = nn.functional.interpolate(
            (shape + 0.3 * torch.randn(IMAGES, 2, 3, 4, 4, generator=generator)).flatten(0, 1), (32, 32)
        ).reshape(IMAGES, 2, 3, 32, 32)

    def __len__(self):
        return IMAGES

    def __getitem__(self, row):
        return {"pixel_values": self.views[row, 0], "views": self.views[row], "labels": torch.tensor(self.labels[row])}

    @property
    def labels(self):
        return [row % 3 for row in range(IMAGES)]


def make_model(objective: ar.Objective | None = None, **options) -> ar.RefinedModel:
    torch.manual_seed(3)
    net = timm.create_model("test_resnet", num_classes=3)
    objective = objective or ar.ContrastivePretraining(dimension=8, **options)
    return ar.wrap(net, objectives=[objective], preprocessing={"input_size": [3, 32, 32]})


def train(folder, batch_size: int, strategy: str = "finetune", model: ar.RefinedModel | None = None, **options):
    # Batch statistics are per process: without them the processes are one.
    config = ar.TrainingConfig(
        output_dir=str(folder), strategy=strategy, epochs=2, batch_size=batch_size, optimizer="sgd", learning_rate=0.05,
        freeze_batch_norm=True, progress=False, **options,
    )  # fmt: skip
    model = model or make_model(temperature=0.5)
    return ar.finetune(model, Views(), config, collate=torch.utils.data.default_collate)


def train_triplet(folder, batch_size: int):
    return train(folder, batch_size, "combined", make_model(ar.Triplet(margin="soft")), images_of_a_class=3)


if __name__ == "__main__":
    size = int(sys.argv[2])
    train(f"{sys.argv[1]}/finetune", size)
    train(f"{sys.argv[1]}/combined", size, "combined")
    train_triplet(f"{sys.argv[1]}/triplet", size)
