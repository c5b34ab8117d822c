"""What a config asks for, laid out without memory, and stopped where it asks for more than its weights account for."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .config import build
from .weights import Header, header_of

# Building the networks of the tests takes 2 to 6 operations a tensor, and asks for as many bytes as the weights have.
CALLS, CALLS_PER_TENSOR = 2000, 30
BYTES, BYTES_PER_BYTE = 64 * 2**20, 4


class TooLarge(ValueError):
    """A config asks for more than the weights it came with."""


def outline(config: dict[str, Any], found: Header | None = None) -> Header:
    """Names, shapes and types of the tensors a config asks for.

    Args:
        config: as :func:`~attention_refine.hub.config.parse_config` returns it.
        found: the header of the weights beside it, which bounds what the building may spend; ``None`` for a config of
            one's own.

    Raises:
        TooLarge: the building spends more than that.
    """
    budget = Budget(math.inf, math.inf)
    if found is not None:
        size = sum(entry.size for entry in found.values())
        budget = Budget(CALLS + CALLS_PER_TENSOR * len(found), BYTES + BYTES_PER_BYTE * size)
    try:
        with budget.copy(), torch.device("meta"):
            return header_of(build(config).state_dict())
    except (NotImplementedError, RuntimeError):  # a layer that looks at values while it is made
        with budget.copy():
            return header_of(build(config).state_dict())


class Budget(TorchDispatchMode):
    """While active, at most ``calls`` operations run and at most ``size`` bytes are asked for, on any device.

    An operation on a device with memory is asked for its result's size before it runs.
    """

    def __init__(self, calls: float, size: float):
        super().__init__()
        self.calls = calls
        self.size = size

    def copy(self) -> Budget:
        return Budget(self.calls, self.size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.calls -= 1
        if self.calls < 0:
            raise TooLarge("it asks for far more layers than its weights hold")
        if math.isfinite(self.size) and not func._schema.is_mutable:
            self._spend(func, args, kwargs)
        return func(*args, **kwargs)

    def _spend(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        if any(result.alias_info is not None for result in func._schema.returns):
            return  # a view
        shadow = {key: _without_memory(value) for key, value in kwargs.items()}
        if any(argument.name == "device" for argument in func._schema.arguments):
            shadow["device"] = torch.device("meta")
        try:
            made = func(*_without_memory(args), **shadow)
        except (NotImplementedError, RuntimeError):
            return  # no size is known without values; such operations make small things
        for result in tree_leaves(made):
            if isinstance(result, Tensor):
                self.size -= result.numel() * result.element_size()
        if self.size < 0:
            raise TooLarge("it asks for far more memory than its weights hold")


def _without_memory(value: Any) -> Any:
    return tree_map(lambda leaf: leaf.detach().to("meta") if isinstance(leaf, Tensor) else leaf, value)
