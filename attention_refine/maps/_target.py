"""Targets: which scores a map explains, and their gradients.

A target is ``None`` (each image's predicted class), an ``int`` (that class for every image), a tensor or list of
``B`` classes, a ``(B, T)`` tensor or list of lists for several maps an image, or a callable ``logits (n, classes) ->
(n,)`` or ``(n, T)`` that treats rows independently (methods that forward an image several times call it on other
``n``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Target: TypeAlias = int | Tensor | Sequence[int] | Sequence[Sequence[int]] | Callable[[Tensor], Tensor] | None
FixedTarget: TypeAlias = Tensor | Callable[[Tensor], Tensor]  # (B, T) classes, or what scores the logits


def fixed(target: Target, logits: Tensor) -> FixedTarget:
    """The target as ``(B, T)`` classes, the predicted class filled in for None; a callable is returned as it is.

    Args:
        target: see the module's docstring.
        logits: ``(B, classes)``.

    Raises:
        ValueError: shape or type do not fit the logits.
    """
    if target is None:
        return logits.detach().argmax(1, keepdim=True)
    return given(target, len(logits), logits.device)


def given(target: Target, images: int, device: torch.device) -> FixedTarget:
    """:func:`fixed` for a target other than None, which needs no logits.

    Raises:
        ValueError: shape or type do not fit the images.
    """
    if callable(target):
        return target
    try:
        classes = torch.as_tensor(target, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"target {target!r} is not None, classes (B,) or (B, T), or a callable on logits") from error
    if classes.is_floating_point() or classes.dtype == torch.bool:
        raise ValueError(
            f"target of type {classes.dtype} is not class indices; pass int64 classes (B,) or (B, T), "
            "or a callable such as lambda logits: (logits * weights).sum(1)"
        )
    if classes.ndim == 0:
        classes = classes.expand(images)
    if classes.ndim > 2 or classes.shape[0] != images or classes.numel() == 0:
        raise ValueError(f"target of shape {tuple(classes.shape)} does not fit {images} images; use (B,) or (B, T)")
    return classes.long().reshape(images, -1)


def score(logits: Tensor, target: FixedTarget) -> Tensor:
    """The explained scores ``(B, T)`` of a target already :func:`fixed`.

    Raises:
        ValueError: a class is out of range, or the callable does not return one score an image.
    """
    if not callable(target):
        if target.min() < 0 or target.max() >= logits.shape[1]:
            raise ValueError(f"target classes {target.unique().tolist()} must lie between 0 and {logits.shape[1] - 1}")
        return logits.gather(1, target)
    scores = target(logits)
    if not isinstance(scores, Tensor) or scores.shape[:1] != logits.shape[:1] or scores.ndim not in (1, 2):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(
            f"the target callable returned {shape} for logits {tuple(logits.shape)}; return one score an image"
        )
    return scores.reshape(len(scores), -1)


def rows(target: FixedTarget, index: Tensor | slice) -> FixedTarget:
    """The target of some of the images."""
    return target if callable(target) else target[index]


def repeated(target: FixedTarget, copies: int) -> FixedTarget:
    """The target of several copies of the batch, one after the other."""
    return target if callable(target) else target.repeat(copies, 1)


def gradients(scores: Tensor, source: Tensor, create_graph: bool = False, keep_graph: bool = False) -> Iterator[Tensor]:
    """The gradient of each column of ``scores (B, T)`` with respect to ``source (B, ...)``, one at a time.

    Images do not see each other under evaluation statistics, so the gradient of a column's sum is every image's own.

    Args:
        keep_graph: leave the graph usable after the last gradient.

    Raises:
        ValueError: the scores do not depend on ``source``.
    """
    columns = scores.unbind(1)
    for number, column in enumerate(columns, start=1):
        if not column.requires_grad:
            raise ValueError("the target's score has no gradient; does the network, or the target callable, detach?")
        (gradient,) = torch.autograd.grad(
            column.sum(),
            source,
            retain_graph=create_graph or keep_graph or number < len(columns),
            create_graph=create_graph,
            allow_unused=True,
        )
        if gradient is None:
            raise ValueError("the logits do not depend on this site; choose a site on the way to them, or site='auto'")
        yield gradient


def refuse_target(target: Target, method: str) -> None:
    """Methods that explain no class take None alone, so that all maps are called alike and nothing is ignored."""
    if target is not None:
        raise ValueError(f"{method} is the same for every class, so target={target!r} is refused; leave it out")
