"""What modules return: the tensor inside an output, and the logits inside a network's output."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def first_tensor(output: Any) -> Tensor | None:
    """The feature inside a module's output: the tensor itself, or the first entry of a tuple or model output."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    return None


def with_first_tensor(output: Any, tensor: Tensor) -> Any:
    """``output`` with the tensor :func:`first_tensor` finds replaced by ``tensor``; the original is left alone."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, dict):
        first = next(iter(output))
        return type(output)(**{key: tensor if key == first else value for key, value in output.items()})
    return type(output)((tensor, *output[1:]))


def logits_of(output: Any) -> Tensor:
    """The ``(B, classes)`` logits of a network's output: the tensor itself, ``output.logits``, or the first it holds.

    Raises:
        TypeError: there are no logits (a feature-only network, say).
    """
    if isinstance(output, Tensor):
        logits = output
    else:
        logits = getattr(output, "logits", None)
        if logits is None:
            logits = output.get("logits") if isinstance(output, dict) else None
        if logits is None:
            logits = first_tensor(output)  # features in the place of logits have more dimensions and are refused below
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise TypeError(
            f"the network returned {shape} where logits (batch, classes) were expected: it has no classifier; "
            "wrap it with num_labels=... to add one"
        )
    return logits
