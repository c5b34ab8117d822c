"""Transformer or convolutional: what decides which map shows where a network looks, and how it is trained."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from .loading import load_network

TRANSFORMER, CONVOLUTIONAL = "transformer", "convolutional"


def kind_of(source: nn.Module | str | Path) -> str:
    """``"transformer"`` where attentions outnumber convolutions (ViT, DeiT, Swin), else ``"convolutional"``.

    Hybrids with more convolutions (MobileViT, MaxViT) and networks without attention (ConvNeXt, MLP-Mixer) count as
    convolutional.

    Args:
        source: a network, or what :func:`attention_refine.wrap` takes for one. Of a timm name no weight is fetched.

    Raises:
        ValueError: nothing of that name.
        OSError: what an id stands for cannot be fetched.
    """
    if not isinstance(source, nn.Module):
        with torch.device("meta"):  # its form alone
            source = load_network(source, pretrained=False)
    modules = list(source.modules())
    convolutions = sum(isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for module in modules)
    attentions = sum("attention" in type(module).__name__.lower() for module in modules)
    return TRANSFORMER if attentions > convolutions else CONVOLUTIONAL
