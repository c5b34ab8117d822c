r"""Maps towards given maps (Mitsuhara et al., *Embedding Human Knowledge in Deep Neural Network via Attention Map*).

A person edits the maps of images that went wrong; training then pulls the network's map ``M`` to the edited ``M'``:

.. math:: L = L_{att} + L_{per} + \gamma \| M' - M \|_2

:math:`\gamma` is ``weight``; the paper brings the term to the scale of the others with it. Only images that carry a
target take part, so edited and unedited ones mix in a batch; the sum over them is divided by the size of the batch, as
for the other losses, which keeps an image's say the same in any batch and on any number of processes.

The target may be an edited map, an object mask or boxes. The paper trains the attention and perception branches and
keeps the extractor as it is: ``TrainingConfig(freeze_extractor=True)``, as in ``hub_configs/supervision_folder.yaml``.

Without a head the map is Grad-CAM of the true class, or, with ``norm="input_gradient"``, no map at all: the gradient of
the log-probabilities at the pixels outside the target is made small (Ross et al. 2017, *Right for the Right Reasons*,
eq. 2),

.. math:: \sum_d \big( (1 - M'_d) \, \frac{\partial}{\partial x_d} \sum_k \log p_k \big)^2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..maps import resize
from ..maps.conditions import full_precision
from ..maps.second_order import twice_differentiable
from ..registry import check_choice
from .base import Objective, objectives
from .hiding import NORMS, class_map, scaled, second_pass, site_for

if TYPE_CHECKING:
    from ..model import RefinedModel, RefinedOutput

TARGETS = {"edited": "edited_map", "mask": "mask", "boxes": "boxes"}


@dataclass(frozen=True)
class MapSupervisionConfig:
    """Options of :class:`MapSupervision`.

    Args:
        target: ``"edited"``, the batch's ``edited_map`` where its flag ``edited`` is set; ``"mask"``, object against
            background with void left out; or ``"boxes"``, what lies in one.
        norm: ``"l2"`` (the paper's norm, not squared), ``"mse"`` (mean of squares), ``"bce"`` (binary cross-entropy),
            or ``"input_gradient"`` (no map; right for the right reasons).
        eps: under the root of ``"l2"``, whose gradient at a perfect map would not be finite, and as far as ``"bce"``
            keeps from log 0.
        map_norm: ``"none"`` takes the map as it is, ``"minmax"`` stretches each to [0, 1]; ``"auto"`` stretches
            Grad-CAM only.
        second_order: Grad-CAM only; differentiate its weights too.
        site: without a head, where Grad-CAM is read: a module's name, or ``"auto"``.
        weight: :math:`\\gamma`.
    """

    target: str = "edited"
    norm: str = "l2"
    eps: float = 1e-6
    map_norm: str = "auto"
    second_order: bool = True
    site: str = "auto"
    weight: float = 1.0

    def __post_init__(self):
        check_choice("MapSupervision", "target", self.target, tuple(TARGETS))
        check_choice("MapSupervision", "norm", self.norm, ("l2", "mse", "bce", "input_gradient"))
        check_choice("MapSupervision", "map_norm", self.map_norm, NORMS)
        if not 0 < self.eps < 0.5:
            raise ValueError(f"MapSupervision: eps must be between 0 and 0.5, both excluded, got {self.eps}")
        if self.weight < 0:
            raise ValueError(f"MapSupervision: weight must be 0 or more, got {self.weight}")


@objectives.register("map_supervision")
class MapSupervision(Objective):
    """The distance of the map to a given one. Options: :class:`MapSupervisionConfig`.

    Loss: ``map_supervision``. Measure: ``map_supervision_images``, the share of images that had a target. A batch
    without the column of the target (an evaluation on data that has none) counts as one without targets.
    """

    config_class = MapSupervisionConfig

    @property
    def annotations(self) -> tuple[str, ...]:
        return (TARGETS[self.config.target],)

    def attach(self, model: RefinedModel) -> None:
        from_cam = model.head is None and self.config.norm != "input_gradient"
        self.second_order = from_cam and self.config.second_order
        # A map for each class, and Grad-CAM, are maps of the true class.
        self.needs_labels = from_cam or self.config.norm != "input_gradient" and model.head.per_class
        if self.config.norm != "input_gradient":
            site_for(model, self.config.site, "MapSupervision")

    def forward(self, model: RefinedModel, batch: dict[str, Any], output: RefinedOutput) -> dict[str, Tensor]:
        target, known, given = targets(batch, self.config.target)
        output.measures["map_supervision_images"] = given.mean()
        if not given.any():
            return {"map_supervision": output.logits.new_zeros((), dtype=torch.float32)}
        if self.config.norm == "input_gradient":
            distances = self._outside(model, batch, target, known, given)
        else:
            maps = class_map(model, output, batch["labels"], self.config.second_order)
            maps = scaled(maps, self.config.map_norm, from_head=model.head is not None)
            distances = distance(maps, *fitted(target, known, maps.shape[2:]), self.config.norm, self.config.eps)
        return {"map_supervision": (distances * given).sum() / len(given)}

    def _outside(
        self, model: RefinedModel, batch: dict[str, Any], target: Tensor, known: Tensor, given: Tensor
    ) -> Tensor:
        """Squared gradients outside the target, summed over pixels, ``(B,)``; only the images that have one are run."""
        pixels, rows = batch["pixel_values"], given.bool()
        several = batch["labels"] is not None and batch["labels"].ndim > 1
        # The running statistics: the few images here are no batch to take others from.
        with torch.enable_grad(), second_pass(model, "eval", "all"), twice_differentiable():
            x = pixels[rows].detach().requires_grad_()
            logits = full_precision(model(x, compute_losses=False).logits)
            log_p = F.logsigmoid(logits) + F.logsigmoid(-logits) if several else logits.log_softmax(1)
            (gradient,) = torch.autograd.grad(log_p.sum(), x, create_graph=True)
        irrelevant = resize((1 - target) * known, pixels.shape[2:])[rows]
        found = full_precision(irrelevant * gradient).square().flatten(1).sum(1)
        return found.new_zeros(len(given)).index_put((rows.nonzero()[:, 0],), found)


def targets(batch: dict[str, Any], kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """What a batch says its maps should be.

    Args:
        batch: with ``pixel_values`` and, if it has targets, ``edited_map`` (B, 1, h, w) with flags ``edited`` (B,)
            (all, where there are none), ``mask`` (B, 1, h, w) or ``boxes``.
        kind: ``"edited"``, ``"mask"`` or ``"boxes"``; ``"auto"`` takes of each image the first of these that it has.

    Returns:
        ``target`` (B, 1, h, w) in [0, 1]; ``known`` of its shape, 0 where void; ``given`` (B,), 1 for the images that
        have a target. All float32.
    """
    if kind != "auto":
        return _targets(batch, kind)
    pixels = batch["pixel_values"]
    target, known, given = _nothing(pixels, tuple(pixels.shape[-2:]))
    for each in reversed(TARGETS):  # the first has the last word
        if batch.get(TARGETS[each]) is None:
            continue
        own, seen, there = _targets(batch, each)
        own, seen = fitted(own, seen, tuple(pixels.shape[-2:]))
        chosen = there.reshape(-1, 1, 1, 1) > 0
        target, known, given = own.where(chosen, target), seen.where(chosen, known), there.where(there > 0, given)
    return target, known, given


def _nothing(pixels: Tensor, size: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    nothing = pixels.new_zeros((len(pixels), 1, *size), dtype=torch.float32)
    return nothing, nothing, nothing[:, 0, 0, 0]


def _targets(batch: dict[str, Any], kind: str) -> tuple[Tensor, Tensor, Tensor]:
    pixels = batch["pixel_values"]
    found = batch.get(TARGETS[kind])
    if found is None:
        return _nothing(pixels, (1, 1))
    if kind == "boxes":
        found = torch.stack([inside_boxes(boxes.to(pixels.device), pixels.shape[2:]) for boxes in found])
    target = found.to(pixels.device)
    known = (target != 255).float() if kind == "mask" else torch.ones_like(target, dtype=torch.float32)
    given = known.flatten(1).amax(1)
    if kind == "boxes":
        given = torch.tensor([len(boxes) > 0 for boxes in batch["boxes"]]).to(given)
    if kind == "edited" and batch.get("edited") is not None:
        given = batch["edited"].to(given)
    return target.float() * known, known, given


def inside_boxes(boxes: Tensor, size: tuple[int, ...]) -> Tensor:
    """``(1, H, W)`` float32: 1 on pixels whose centre lies in one of ``boxes`` (n, 4), left, top, right, bottom."""
    y, x = (torch.arange(side, device=boxes.device) + 0.5 for side in size)
    left, top, right, bottom = boxes[:, :, None].unbind(1)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return (rows[:, :, None] & columns[:, None, :]).any(0, keepdim=True).float()


def fitted(target: Tensor, known: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A target on the grid of a map: the mean over each cell of what is known there, and where anything is."""
    if len(grid) == 3 and target.ndim == 4:  # one target for all frames of a clip
        target, known = target[:, :, None], known[:, :, None]
    pool = F.adaptive_avg_pool2d if len(grid) == 2 else F.adaptive_avg_pool3d
    share = pool(known, grid)
    return pool(target * known, grid) / share.clamp_min(1e-6), (share > 0).float()


def distance(maps: Tensor, target: Tensor, known: Tensor, norm: str, eps: float) -> Tensor:
    """``(B,)``: how far each map is from its target over the known cells; ``"l2"``, ``"mse"`` or ``"bce"``."""
    if norm == "bce":
        maps = maps.clamp(eps, 1 - eps)
        parts = -(target * maps.log() + (1 - target) * (1 - maps).log())
    else:
        parts = (target - maps).square()
    total = (parts * known).flatten(1).sum(1)
    if norm == "l2":
        return (total + eps**2).sqrt()
    return total / known.flatten(1).sum(1).clamp_min(1)
