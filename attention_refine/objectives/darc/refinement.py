r"""Refinement at test time: a few unsupervised steps of DARC on the image at hand, on a copy of the model.

Each step is :math:`\theta_{i+1} = \theta_i - \eta \nabla_\theta L` with the loss of :mod:`attention_refine.objectives.
darc`, over occlusions that the image's own pixels decide: they stay the same from step to step, so the loss is one
function of the weights, and a loss that rises says that :math:`\eta` is too large. Such a step is taken back and
:math:`\eta` halved. No generator moves and the model stays as it was, to the bit.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .objective import DARC, Rounds

if TYPE_CHECKING:
    from ...refined import Refined

PARTS = ("model", "head")


@dataclass(frozen=True)
class Refinement:
    """What refinement did.

    Attributes:
        maps: ``(B, 1, h, w)`` in [0, 1], of the whole image, by the refined weights.
        logits: ``(B, classes)`` by the refined weights.
        losses: for each image (one list for all with ``together``) the loss before the first step and after each.
        changes: as ``losses``, the mean of ``|a_{i+1} - a_i|`` of each step; 0 for a step taken back.
        rates: as ``changes``, the learning rate each step was tried with.
    """

    maps: Tensor
    logits: Tensor
    losses: list[list[float]]
    changes: list[list[float]]
    rates: list[list[float]]


def refine(
    model: Refined,
    pixel_values: Tensor,
    steps: int = 3,
    learning_rate: float = 0.01,
    together: bool = False,
    part: str = "model",
    tolerance: float = 1e-3,
) -> Refinement:
    """Refine the maps of images.

    Args:
        model: with a DARC objective, whose options hold here too.
        pixel_values: ``(B, 3, H, W)``, normalised.
        steps: at most, for each image; 1 for real time.
        learning_rate: :math:`\\eta`, halved when the loss rises.
        together: one copy for the whole batch, in place of one for each image.
        part: ``"model"`` moves every weight; ``"head"``, faster, only what is outside the backbone.
        tolerance: stop when a step lowers the loss by less than this share of it and moves the map by less than this.

    Raises:
        ValueError: the model has no DARC objective, nothing to move, or an option is out of range.
    """
    _check(model, steps, learning_rate, part)
    with torch.inference_mode(False), torch.enable_grad():
        working = copy.deepcopy(model).eval()
        moved: list[Tensor] = []
        for name, parameter in working.named_parameters():
            chosen = parameter.is_floating_point() and (part == "model" or not name.startswith("backbone."))
            parameter.requires_grad_(chosen)
            moved += [parameter] if chosen else []
        start = [parameter.detach().clone() for parameter in moved]
        found = []
        for images in [pixel_values] if together else pixel_values.split(1):
            _put(moved, start)
            images = images.detach().clone()  # what inference mode made cannot be in a graph
            found.append(_descend(working, moved, images, steps, learning_rate, tolerance))
    maps, logits, *record = zip(*found)
    return Refinement(torch.cat(maps), torch.cat(logits), *(list(each) for each in record))


@torch.no_grad()
def iterations(model: Refined, pixel_values: Tensor) -> Rounds:
    """The N iterations of a model's DARC objective on images, in evaluation mode: to look at."""
    from ...backbones.contexts import quiet

    _check(model, 1, 1.0, "model")
    with quiet(model):
        return _look(model, pixel_values)[0]


def _look(model: Refined, images: Tensor) -> tuple[Rounds, Tensor, Tensor]:
    """The iterations, inside the graph, and the map and logits of the whole image, outside."""
    objective = _objective(model)
    with torch.no_grad():
        output = model.run(images, compute_aux=False)
        batch = {"pixel_values": images, "labels": None}
        maps = objective.map_of(model, batch, output)
    return objective.rounds(model, batch, output), maps.detach(), output.logits


def _descend(
    model: Refined, moved: list[Tensor], images: Tensor, steps: int, rate: float, tolerance: float
) -> tuple[Tensor, Tensor, list[float], list[float], list[float]]:
    """Steepest descent with the rate halved at every rise."""
    rounds, maps, logits = _look(model, images)
    loss = rounds.errors.mean()
    losses, changes, rates = [float(loss.detach())], [], []
    gradients = None
    for _ in range(steps):
        gradients = gradients or torch.autograd.grad(loss, moved, allow_unused=True)
        before = [parameter.detach().clone() for parameter in moved]
        with torch.no_grad():
            for parameter, gradient in zip(moved, gradients):
                if gradient is not None:
                    parameter -= rate * gradient
        rates.append(rate)
        found, new_maps, new_logits = _look(model, images)
        new_loss = found.errors.mean()
        if not new_loss <= loss:  # not a number is no fall either
            _put(moved, before)
            rate /= 2
            losses.append(losses[-1])
            changes.append(0.0)
            moved_by = float((new_maps - maps).abs().mean())
            if float(new_loss.detach() - loss.detach()) < tolerance * losses[-1] and moved_by < tolerance:
                break  # a rise in the last digits: nothing moves any more
            continue
        losses.append(float(new_loss.detach()))
        changes.append(float((new_maps - maps).abs().mean()))
        loss, maps, logits, gradients = new_loss, new_maps, new_logits, None
        if losses[-2] - losses[-1] < tolerance * losses[-2] and changes[-1] < tolerance:
            break
    return maps, logits, losses, changes, rates


@torch.no_grad()
def _put(parameters: list[Tensor], values: list[Tensor]) -> None:
    for parameter, value in zip(parameters, values):
        parameter.copy_(value)


def _objective(model: Refined) -> DARC:
    return next(each for each in model.objectives.values() if isinstance(each, DARC))


def _check(model: Refined, steps: int, learning_rate: float, part: str) -> None:
    if not any(isinstance(each, DARC) for each in model.objectives.values()):
        has = ", ".join(model.objectives) or "none"
        raise ValueError(
            f"refinement takes steps of the DARC objective, and this model's objectives are {has}; train it with "
            "objectives=['darc'] and save it with its training layers"
        )
    if part not in PARTS:
        raise ValueError(f"refine: part={part!r} is not one of {', '.join(map(repr, PARTS))}")
    if part == "head" and model.head is None:
        raise ValueError("refine: part='head', and this model has no head; use part='model'")
    if steps < 1 or learning_rate <= 0:
        raise ValueError(f"refine: steps must be at least 1 and learning_rate above 0, got {steps} and {learning_rate}")
