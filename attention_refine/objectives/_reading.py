"""The map that an objective supervises: the head's, Grad-CAM at the site, or any differentiable one of ``ar.maps``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..maps import by_name, list_maps
from ..maps._attention_weights import pools_a_token
from ..maps._conditions import full_precision
from ._masking import class_map, grad_cam_at_site, multi_hot, site_for

if TYPE_CHECKING:
    from ..output import RefinedOutput
    from ..refined import Refined

OWN = ("auto", "head", "grad_cam")  # read off the forward pass that the model makes anyway


def check_maps(owner: str, maps: str | dict[str, Any]) -> None:
    """Refuse what is no map to train: an unknown name, or one that cannot be differentiated.

    Raises:
        ValueError: with the names there are.
    """
    if isinstance(maps, dict) and "name" not in maps:
        raise ValueError(f"{owner}: maps given with options needs a name: {{name: integrated_gradients, steps: 8}}")
    name = maps["name"] if isinstance(maps, dict) else maps
    known = [*OWN, *(each for each in list_maps() if each not in OWN and by_name(each).differentiable)]
    if name not in known:
        raise ValueError(f"{owner}: maps={name!r} is not one of {', '.join(map(repr, known))}")
    if isinstance(maps, dict) and name in OWN and len(maps) > 1:
        raise ValueError(f"{owner}: maps={name!r} takes no options, got {', '.join(sorted(maps.keys() - {'name'}))}")


def chosen_map(model: Refined, maps: str | dict[str, Any], site: str, owner: str) -> str:
    """The name of the map for this model; gives a model without a head the site where Grad-CAM is read.

    ``"auto"`` is the head's where there is a head, gradient rollout where a class token alone is pooled (Grad-CAM of
    such a network hardly says where it looks), else Grad-CAM.

    Raises:
        ValueError: ``"head"`` without one, or a site that is no place to read a map.
    """
    name = maps["name"] if isinstance(maps, dict) else maps
    if name == "auto":
        name = "head" if model.head is not None else "gradient_rollout" if pools_a_token(model.backbone) else "grad_cam"
    if name == "head" and model.head is None:
        raise ValueError(f"{owner}: maps='head' needs a head, and this model has none; use maps='grad_cam', or a head")
    if name in OWN:
        site_for(model, site, owner)
    return name


def needs_class(model: Refined, name: str) -> bool:
    """Whether the map of that name is one of a class, so that images need labels."""
    return model.found_head().per_class if name == "head" else by_name(name).per_class


def read_map(
    model: Refined, batch: dict[str, Any], output: RefinedOutput, name: str, rows: Tensor, second_order: bool,
    options: dict[str, Any],
) -> Tensor:  # fmt: skip
    """``(B, 1, h, w)``, 0 or more, inside the graph: one map an image, of its true classes together where it has any.

    Args:
        name: of :func:`chosen_map`.
        rows: ``(B,)`` bool, the images whose map is needed. A map that takes passes of its own is made of these alone,
            under the running statistics and in full precision; the others get zeros.
        second_order: for ``"grad_cam"``, differentiate its weights too.
        options: for the function in ``ar.maps``.
    """
    labels = batch["labels"]
    if name == "head":
        return class_map(model, output, labels).relu()
    if name == "grad_cam":
        return grad_cam_at_site(model, output, [multi_hot(labels, output.logits.shape[1])], second_order)[0]
    chosen = by_name(name)
    target = _score_of_classes(labels[rows], output.logits.shape[1]) if chosen.per_class else None
    with torch.enable_grad():
        found = chosen(model, batch["pixel_values"][rows], target, create_graph=True, **options)
    found = full_precision(found).mean(1, keepdim=True).relu()  # one map but for the heads of class_attention
    return found.new_zeros(len(rows), *found.shape[1:]).index_put((rows.nonzero()[:, 0],), found)


def _score_of_classes(labels: Tensor, classes: int) -> Any:
    """The target of a map: the sum of the logits of an image's classes, for any number of copies of the batch."""
    positive = multi_hot(labels, classes)

    def score(logits: Tensor) -> Tensor:
        return (logits * positive.to(logits).repeat(len(logits) // len(positive), 1)).sum(1)

    return score
