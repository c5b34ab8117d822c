"""The precision that a network's parameters have, which what it is given must have as well."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def precision(net: nn.Module, pixels: Tensor) -> torch.dtype:
    """The type of the first floating parameter; of the pixels where there is none."""
    return next((p.dtype for p in net.parameters() if p.is_floating_point()), pixels.dtype)
