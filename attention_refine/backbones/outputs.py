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


def feature_of(output: Any) -> Tensor:
    """:func:`first_tensor` of a module that has to return one.

    Raises:
        TypeError: it returned none.
    """
    feature = first_tensor(output)
    if feature is None:
        raise TypeError(
            f"a module returned {type(output).__name__} where a feature was expected: a tensor, or one first"
        )
    return feature


def with_first_tensor(output: Any, tensor: Tensor) -> Any:
    """``output`` with the tensor :func:`first_tensor` finds replaced by ``tensor``; the original is left alone."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, dict):
        first = next(iter(output))
        return type(output)(**{key: tensor if key == first else value for key, value in output.items()})
    return type(output)((tensor, *output[1:]))


def logits_of(output: Any) -> Tensor:
    """The ``(B, classes)`` logits of a network's output: the tensor itself, ``output.logits``, or the first it holds of two
    dimensions.

    Raises:
        TypeError: there are no logits (a feature-only network, say).
    """
    if isinstance(output, Tensor):
        logits: Any = output
    else:
        logits = getattr(output, "logits", None)
        if logits is None:
            logits = output.get("logits") if isinstance(output, dict) else None
        if logits is None:
            # Features in the place of logits have more dimensions: passed over, or refused below.
            logits = next(iter(_tables(output).values()), None)
            logits = first_tensor(output) if logits is None else logits
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        remedy = "it has no classifier; wrap it with num_labels=... to add one"
        if not isinstance(logits, Tensor):
            remedy = "its forward must return a tensor, or a dict with an entry 'logits'"
        elif logits.ndim == 1:
            remedy = "its forward must keep a row for each image, with a number for each class"
        elif logits.shape[2:].numel() == 1:
            remedy = "flatten them, torch.nn.Sequential(net, torch.nn.Flatten())"
        raise TypeError(f"the network returned {shape} where logits (batch, classes) were expected: {remedy}")
    return logits


def several_logits(output: Any) -> list[str]:
    """The tensors in a network's output that might be its logits, as text, where there are several and none is named so."""
    if getattr(output, "logits", None) is not None or isinstance(output, dict) and "logits" in output:
        return []
    found = [f"{name} {tuple(tensor.shape)}" for name, tensor in _tables(output).items()]
    return found if len(found) > 1 else []


def _tables(output: Any) -> dict[str, Tensor]:
    """The ``(B, n)`` entries of a tuple, list or dict by their place; none of a model output, which names its logits."""
    if hasattr(output, "to_tuple"):
        return {}
    entries = (
        output if isinstance(output, dict) else dict(enumerate(output)) if isinstance(output, (tuple, list)) else {}
    )
    return {f"[{key!r}]": each for key, each in entries.items() if isinstance(each, Tensor) and each.ndim == 2}
