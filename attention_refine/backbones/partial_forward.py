"""Running a part of a network: up to a module, or from it with the modules before it answering at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .contexts import output_hook


class Reached(Exception):
    """The forward pass came to the module it was to stop at; ``output`` is what was wanted of it there."""

    def __init__(self, output: Any):
        self.output = output


def before(net: nn.Module, site: str) -> list[str]:
    """Names of the largest modules that are neither the site nor above it: the ones to record and to answer for."""
    path = site.split(".")
    names = []
    for depth in range(len(path)):
        prefix = ".".join(path[:depth])
        for child, module in net.get_submodule(prefix).named_children():
            if child != path[depth]:
                names += _callable_names(f"{prefix}.{child}" if prefix else child, module)
    return names


def _callable_names(name: str, module: nn.Module) -> list[str]:
    """The module itself, or its children where it is a list or dict, which is never called."""
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return [inner for child, sub in module.named_children() for inner in _callable_names(f"{name}.{child}", sub)]
    return [name]


def last_called(module: nn.Module) -> nn.Module:
    """The module itself, or the last in a chain of them: it gives the chain's output also where that is unrolled.

    timm does so, to checkpoint the parts of a chain one by one.
    """
    while isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module):
        module = module[-1]
    return module


@contextmanager
def recording(module: nn.Module, calls: list[Any]) -> Iterator[None]:
    """Note the shapes of every output."""

    def note(module: nn.Module, args: Any, output: Any) -> None:
        calls.append(shapes(output))

    with output_hook(module, note):
        yield


@contextmanager
def recording_before(net: nn.Module, site: str, calls: dict[str, list[Any]]) -> Iterator[None]:
    """Note, by name, the shapes of every output of the modules before ``site``."""
    with ExitStack() as stack:
        for name in before(net, site):
            stack.enter_context(recording(last_called(net.get_submodule(name)), calls.setdefault(name, [])))
        yield


@contextmanager
def answering(module: nn.Module, calls: list[Any], blank: bool = True) -> Iterator[None]:
    """The module returns the recorded outputs in turn instead of running, and runs as usual once they are used up."""
    remaining = iter(calls)
    own = module.__dict__.get("forward")
    run = module.forward

    def answer(*args: Any, **kwargs: Any) -> Any:
        for output in remaining:
            return tree_map(_blank, output) if blank else output
        return run(*args, **kwargs)

    module.forward = answer
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@dataclass(frozen=True)
class _Shape:
    size: torch.Size
    dtype: torch.dtype
    device: torch.device


def shapes(output: Any) -> Any:
    """An output with its tensors replaced by their shapes: nothing is held in memory."""
    return tree_map(
        lambda value: _Shape(value.shape, value.dtype, value.device) if isinstance(value, Tensor) else value, output
    )


def _blank(value: Any) -> Any:
    return torch.zeros(value.size, dtype=value.dtype, device=value.device) if isinstance(value, _Shape) else value
