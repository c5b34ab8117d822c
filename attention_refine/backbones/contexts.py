"""States a network is put into for a moment, and taken out of whatever happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_CHECKPOINTING = ("grad_checkpointing", "gradient_checkpointing")  # timm's flag and transformers'


def _checkpointed(net: nn.Module) -> list[tuple[nn.Module, str]]:
    return [(module, flag) for module in net.modules() for flag in _CHECKPOINTING if vars(module).get(flag)]


def checkpoints(module: nn.Module) -> bool:
    """Whether timm's or transformers' gradient checkpointing is on in a module itself."""
    held = vars(module)
    return bool(held.get(_CHECKPOINTING[0]) or held.get(_CHECKPOINTING[1]))


def is_checkpointed(net: nn.Module) -> bool:
    """Whether it is on anywhere in a network.

    Asked at every pass in training, so by a walk that takes a tenth of the time of ``net.modules()``.
    """
    ahead: list[nn.Module] = [net]
    while ahead:
        module = ahead.pop()
        if checkpoints(module):
            return True
        ahead += [inner for inner in vars(module)["_modules"].values() if inner is not None]
    return False


@contextmanager
def without_checkpointing(net: nn.Module) -> Iterator[None]:
    """Gradient checkpointing is off inside: what runs again in the backward pass would run without our hooks."""
    flags = _checkpointed(net)
    for module, flag in flags:
        setattr(module, flag, False)
    try:
        yield
    finally:
        for module, flag in flags:
            setattr(module, flag, True)


@contextmanager
def quiet(net: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own training flag restored afterwards, also after an exception."""
    flags = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        with without_checkpointing(net):
            yield
    finally:
        net.train()  # some networks cache what they computed in evaluation mode, and forget it here
        for module, flag in flags:
            module.training = flag


class output_hook:
    """``hook(module, args, output)`` on one module's forward, removed afterwards; what it returns is the output.

    The module's dict of hooks is exchanged for one with a hook more, which ``torch.compile`` can follow;
    ``register_forward_hook`` counts its handles in a class, which it cannot. A class, as every pass of a wrapped network
    enters one, and a generator takes twice the time.
    """

    def __init__(self, module: nn.Module, hook: Callable[..., Any]):
        self.module, self.hook = module, hook

    def __enter__(self) -> None:
        self.own = self.module._forward_hooks
        self.module._forward_hooks = {**self.own, -1 - len(self.own): self.hook}

    def __exit__(self, *error: Any) -> None:
        self.module._forward_hooks = self.own


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Random numbers drawn inside come from seed 0 and leave the generators as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
