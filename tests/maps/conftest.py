"""Small networks whose every parameter matters, so that an error anywhere shows in a map."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn


def _lively(net: nn.Module) -> nn.Module:
    """Random affine parameters and running statistics: a fresh network's ones and zeros hide whole branches."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in net.named_parameters():
        if parameter.ndim <= 1:
            uniform = torch.rand(parameter.shape, generator=generator)
            parameter.data = 0.2 * (uniform - 0.5) if name.endswith("bias") else 0.5 + uniform
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return net


@pytest.fixture(scope="session")
def lively():
    return _lively


@pytest.fixture
def cnn() -> nn.Module:
    """Convolutions, batch norm, in-place ReLU, dropout, global pooling and one linear layer."""
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)))
    net.add_module("stage", nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(inplace=True)))
    net.add_module("drop", nn.Dropout(0.5))
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    net.add_module("fc", nn.Linear(12, 5))
    return _lively(net).eval()


@pytest.fixture
def vit() -> nn.Module:
    torch.manual_seed(0)
    return _lively(timm.create_model("test_vit", num_classes=5, img_size=64)).eval()


@pytest.fixture
def swin() -> nn.Module:
    torch.manual_seed(0)
    options = dict(
        img_size=32, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window_size=4, num_classes=5
    )
    return _lively(timm.create_model("swin_tiny_patch4_window7_224", **options)).eval()


@pytest.fixture
def smooth() -> nn.Module:
    """Float64, GELU and SiLU: no kinks, so that finite differences are exact to many digits."""
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module("stem", nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.GELU()))
    net.add_module("stage", nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.SiLU()))
    net.add_module("above", nn.Sequential(nn.Conv2d(6, 6, 1), nn.GELU()))
    net.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)))
    return net.double().eval()
