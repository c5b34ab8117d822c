"""Guided activations: a context in which gradients pass activation functions by a rule of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

RULES = ("guided", "strict", "clamp", "plain")

# Every spelling of an activation; gates (sigmoid, hardsigmoid, softmax) are not among them.
_ACTIVATIONS = frozenset(
    [F.relu, F.relu_, F.relu6, F.hardtanh, F.hardtanh_, F.leaky_relu, F.leaky_relu_, F.elu, F.elu_, F.celu, F.selu]
    + [F.gelu, F.silu, F.hardswish, F.mish, F.softplus, F.rrelu, F.prelu]
    + [torch.relu, torch.relu_, torch.celu, torch.celu_, torch.selu, torch.selu_, torch.prelu]
    + [Tensor.relu, Tensor.relu_, Tensor.prelu]
    + [torch._C._nn.relu6, torch._C._nn.relu6_, torch._C._nn.hardswish, torch._C._nn.silu, torch._C._nn.mish]
)


class guided_activations(TorchFunctionMode):
    """Guided backpropagation's rule (Springenberg et al. 2015) on every activation that runs inside.

    Activations are intercepted as functions, so modules (``nn.ReLU``), functionals (``F.relu``), methods
    (``x.relu_()``) and in-place forms are all caught, and the network itself is never touched. Forward values are
    unchanged. With ``g`` the incoming gradient and ``f'`` the activation's derivative, the outgoing gradient is

    * ``"guided"``: ``relu(g) f'(x)``, which is the published rule where f is ReLU (its only published case);
    * ``"strict"``: ``relu(g) relu(f'(x))``, for GELU, SiLU, Hardswish and Mish, whose derivative dips below zero;
    * ``"clamp"``: ``relu(g f'(x))``;
    * ``"plain"``: ``g f'(x)``, the ordinary gradient.

    The rule holds for gradients taken inside the context, never after it: a loss built on a guided map is
    differentiated a second time by the true derivatives. An activation spelled out in arithmetic, such as
    ``x * sigmoid(1.702 x)``, is not an activation call and keeps its own gradient.

    Args:
        rule: one of the four above.

    Attributes:
        count: how many activation calls were guided (those inside the graph of the gradient).

    Raises:
        ValueError: unknown rule.
    """

    def __init__(self, rule: str = "guided"):
        if rule not in RULES:
            raise ValueError(f"rule {rule!r} is not one of {', '.join(RULES)}")
        super().__init__()
        self.rule = rule
        self.count = 0
        self._active = False

    def __enter__(self) -> guided_activations:
        self._active = True
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self._active = False
        return super().__exit__(*error)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Gradients taken inside are the ordinary ones; a map of an inner layer is read this way."""
        active, self._active = self._active, False
        try:
            yield
        finally:
            self._active = active

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _ACTIVATIONS:
            return func(*args, **kwargs)
        value, *rest = args if args else (kwargs.pop("input"),)
        if not value.requires_grad or not torch.is_grad_enabled():
            return func(value, *rest, **kwargs)
        self.count += 1
        # relu(g) before the activation's own derivative, relu of the product after it; doing both is the strict rule,
        # because relu(g) is not negative.
        before = value
        if self.rule in ("strict", "clamp"):
            before = value.clone()  # the hook must see this use of the value alone, not the shortcut beside it
            before.register_hook(self._positive)
        after = func(before, *rest, **kwargs)
        if self.rule in ("guided", "strict"):
            after.register_hook(self._positive)
        if after is before and before is not value:  # in place: whoever holds the value expects it overwritten
            return value.copy_(after)
        return after

    def _positive(self, gradient: Tensor) -> Tensor:
        return gradient.clamp(min=0) if self._active else gradient
