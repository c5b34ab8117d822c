"""Forward passes that can be differentiated twice, on networks whose fast kernels cannot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


@contextmanager
def twice_differentiable(enabled: bool = True, attention: bool = True) -> Iterator[None]:
    """Inside, attention and hardsigmoid run in forms that have a second derivative; the values stay the same.

    Fused attention has none, so the MATH kernel is selected; ``hardsigmoid`` has none, so it runs as
    ``relu6(x + 3) / 6``. Only the forward pass needs the context: derivatives may be taken after it.

    ``torch.compile`` cannot be differentiated twice at all: pass the module before compilation. Gradient checkpointing
    runs the forward pass again, outside the context: switch it off, or keep the context around the backward pass too.

    Args:
        enabled: False makes the context do nothing.
        attention: False leaves attention in its fast kernels, for a pass whose attention is differentiated once.
    """
    if not enabled:
        yield
        return
    with math_attention() if attention else nullcontext(), _DifferentiableHardsigmoid():
        yield


def math_attention() -> AbstractContextManager[None]:
    """Inside, fused attention runs in the one kernel that has a second derivative."""
    return sdpa_kernel(SDPBackend.MATH)


_INPLACE = torch._C._nn.hardsigmoid_
_HARDSIGMOIDS = {F.hardsigmoid, torch._C._nn.hardsigmoid, _INPLACE}


class _DifferentiableHardsigmoid(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _HARDSIGMOIDS:
            return func(*args, **kwargs)
        return _hardsigmoid(*args, **kwargs | ({"inplace": True} if func is _INPLACE else {}))


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    gate = (input + 3).clamp(0, 6) / 6  # clamp, not relu6: this is a gate, which guided backprop must not take for one
    return input.copy_(gate) if inplace else gate
