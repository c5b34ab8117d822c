"""The loss of a batch: the classification's, the head's and that of every objective wanted, weighted and added up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .core.classification_loss import classification_loss
from .core.model_inputs import in_inference_mode, is_inference
from .objectives._base import Objective, Objectives

if TYPE_CHECKING:
    from .output import RefinedOutput
    from .refined import Refined


def wanted_objectives(objectives: Objectives, names: Sequence[str] | None, labels: Tensor | None) -> list[Objective]:
    """Those of these names, or all; without labels those that need none.

    Raises:
        ValueError: the model has no objective of such a name.
    """
    for name in names or ():
        if name not in objectives:
            raise ValueError(f"objective {name!r} is not one of this model's: {', '.join(objectives) or '(none)'}")
    chosen = [objectives[name] for name in (objectives if names is None else names)]
    return [objective for objective in chosen if labels is not None or not objective.needs_labels]


def losing_without_labels(model: Refined) -> list[str]:
    """The parts that add losses of their own to that of the logits."""
    head = [f"the head {model.head.name!r}"] if model.head is not None and not model.head.classifies else []
    return [*head, *(f"the objective {name!r}" for name in model.objectives)]


def total_loss(
    model: Refined, wanted: Sequence[Objective], batch: dict[str, Any], output: RefinedOutput, smoothing: float
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The losses by name, and their weighted sum; None where there is none.

    Args:
        batch: ``labels`` or None, and the columns that objectives read; of images that hold a part of another,
            ``mixed_classes`` (B,) and ``mixed_share``, these others' classes and share.
        smoothing: of the labels.

    Raises:
        ValueError: two losses of one name.
        RuntimeError: an objective that takes a gradient, in inference mode.
    """
    losses: dict[str, Tensor] = {}
    total: Tensor | None = None

    def add(found: dict[str, Tensor], weight_of: Callable[[str], float]) -> None:
        nonlocal total
        for name, value in found.items():
            weight = weight_of(name)
            if name in losses:
                raise ValueError(f"two losses are named {name!r}; each objective must name its own")
            losses[name] = value
            total = weight * value if total is None else total + weight * value

    labels = batch["labels"]
    with in_inference_mode() if wanted and is_inference() else nullcontext():
        if labels is not None:
            share = math.prod([objective.task_weight for objective in wanted])
            add({"task": _loss_of_labels(output.logits, batch, smoothing)}, lambda name: share)
            of_head = share * (model.head.weight if model.head is not None else 1.0)
            for name, logits in output.aux_logits.items():
                add({name: _loss_of_labels(logits, batch, smoothing)}, lambda name: of_head)
        for objective in wanted:
            add(objective(model, batch, output), objective.weight_of)
    return losses, total


def _loss_of_labels(logits: Tensor, batch: dict[str, Any], smoothing: float) -> Tensor:
    """The classification loss; of mixed images the cross-entropy of the mixed classes, in which it is linear."""
    loss = classification_loss(logits, batch["labels"], smoothing)
    if batch.get("mixed_classes") is None:
        return loss
    return torch.lerp(
        loss, classification_loss(logits, batch["mixed_classes"], smoothing), batch["mixed_share"].to(loss)
    )
