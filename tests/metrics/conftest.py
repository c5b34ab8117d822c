"""A tiny classifier and a batch for the measures that forward images."""

from __future__ import annotations

import pytest
import torch
from torch import nn


class Tiny(nn.Module):
    """A convolution, dropout and batch norm (both of which would show a forgotten training mode), and a classifier."""

    def __init__(self, classes: int = 6):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 5, stride=2, padding=2),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(3),
        )
        self.head = nn.Linear(54, classes)
        self.forwarded = 0

    def forward(self, pixel_values):
        self.forwarded += len(pixel_values)
        return 4 * self.head(self.features(pixel_values).flatten(1))


@pytest.fixture
def net() -> Tiny:
    torch.manual_seed(1)
    net = Tiny()
    net.features[1].running_mean.normal_()
    return net


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 20, 28, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def maps() -> torch.Tensor:
    return torch.rand(4, 1, 5, 7, generator=torch.Generator().manual_seed(3))
