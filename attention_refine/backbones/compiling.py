"""What is left out of ``torch.compile``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def not_compiled(function: Function) -> Function:
    """``torch.compiler.disable``, which imports the compiler, two seconds, the moment it decorates; here when one runs."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            return function(*args, **kwargs)
        if not hasattr(call, "disabled"):
            call.disabled = torch.compiler.disable(function)  # type: ignore[attr-defined]
        return call.disabled(*args, **kwargs)  # type: ignore[attr-defined]

    return call  # type: ignore[return-value]
