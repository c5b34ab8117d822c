"""The network inside what other libraries put around one: compiled, parallel, averaged."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def unwrapped(net: Any) -> nn.Module:
    """The module inside ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and averages of weights.

    The averages are torch's ``AveragedModel`` and timm's ``ModelEmaV2`` and ``ModelEmaV3``.
    """
    while True:
        if hasattr(net, "_orig_mod"):
            net = net._orig_mod
        elif isinstance(net, _AROUND) or type(net).__name__ in _TIMM_AVERAGES:
            net = net.module
        else:
            return net


def refuse_scripted(net: nn.Module) -> None:
    """TorchScript, and what torch.export makes, run no hook, so no map can act in them.

    Raises:
        TypeError: a scripted, traced or exported network.
    """
    remedy = "in which no map can act; wrap the network it was made from, and export the refined model afterwards"
    if isinstance(net, torch.jit.ScriptModule):
        raise TypeError(f"{type(net).__name__} is TorchScript, {remedy} (attention_refine.export)")
    try:
        net.train(net.training)
    except NotImplementedError:  # "Calling train() is not supported yet."
        raise TypeError(f"{type(net).__name__} was made by torch.export, {remedy} (attention_refine.export)") from None


_AROUND = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
_TIMM_AVERAGES = ("ModelEmaV2", "ModelEmaV3")
