"""Clips the one way this library writes them, for networks that want them the other way."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class FramesFirst(nn.Module):
    """A network that takes clips as ``(B, T, C, H, W)``, given ``(B, C, T, H, W)``: transformers' video models."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.training = net.training

    def forward(self, pixel_values: Tensor) -> Any:
        return self.net(pixel_values.transpose(1, 2))
