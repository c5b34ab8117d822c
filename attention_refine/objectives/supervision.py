r"""Maps towards given maps (Mitsuhara et al., *Embedding Human Knowledge in Deep Neural Network via Attention Map*).

A person edits the maps of images that went wrong; training then pulls the network's map ``M`` to the edited ``M'``:

.. math:: L = L_{att} + L_{per} + \gamma \| M' - M \|_2

:math:`\gamma` is ``weight``; the paper brings the term to the scale of the others with it. Only images that carry a
target take part, so edited and unedited ones mix in a batch; the sum over them is divided by the size of the batch, as
for the other losses, which keeps an image's say the same in any batch and on any number of processes.

The target may be an edited map, an object mask or boxes, or a cue to keep off. The paper trains the attention and
perception branches and keeps the extractor as it is: ``TrainingConfig(freeze_extractor=True)``.

Beside the paper's norm there are those that Rao et al. compare (*Studying How to Efficiently and Effectively Guide
Models with Explanations*, ICCV 2023), of the positive map :math:`A^+` and :math:`\hat{A} = A^+ / \max A^+`,

.. math::

    L_{energy} = 1 - \frac{\sum M' A^+}{\sum A^+}, \quad
    L_{1} = \frac{1}{hw} \sum |M' - \hat{A}|, \quad
    L_{PPCE} = - \frac{1}{\sum M'} \sum M' \log \hat{A}

The energy loss does not say how the map is to lie inside the target: any distribution there costs nothing, which suits
boxes. The paper writes it without the 1, which changes no gradient. ``norm="input_gradient"`` reads no map at all: the
gradient of the log-probabilities at the pixels outside the target is made small (Ross et al. 2017, *Right for the Right
Reasons*, eq. 2),

.. math:: \sum_d \big( (1 - M'_d) \, \frac{\partial}{\partial x_d} \sum_k \log p_k \big)^2

With ``target="cue"`` the region is one to keep off, Ross et al.'s own direction: the energy on it, the distance of the
map to 0 on it, or the gradient on it is made small, and the rest of the image is free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.registry import check_choice
from ..maps import normalize, resize
from ..maps._conditions import full_precision
from ..maps._second_order import twice_differentiable
from ._annotations import TARGETS, columns_of, map_targets, on_grid
from ._base import Objective, objectives
from ._masking import NORMS, second_pass
from ._reading import check_maps, chosen_map, needs_class, read_map
from ._waiting import Waiting

if TYPE_CHECKING:
    from ..output import RefinedOutput
    from ..refined import Refined

DISTANCES = ("l2", "mse", "l1", "bce", "ppce", "energy")
NO_ENERGY = 1e-12  # a map whose values add up to less is one that is nowhere


@dataclass(frozen=True)
class MapSupervisionConfig:
    """Options of :class:`MapSupervision`.

    Args:
        target: ``"edited"``, the batch's ``edited_map`` where its flag ``edited`` is set; ``"mask"``, object against
            background with void left out; ``"boxes"``, what lies in one; ``"auto"``, of each image the first of these
            that it has; or ``"cue"``, off the batch's ``cue``.
        norm: ``"l2"`` (Mitsuhara et al.'s norm, not squared), ``"mse"`` (mean of squares), ``"l1"`` (mean of absolute
            values), ``"bce"`` (binary cross-entropy), ``"ppce"`` (the part of it inside the target), ``"energy"``
            (the share of the map that lies outside), or ``"input_gradient"`` (no map; right for the right reasons).
        maps: the map that is supervised: ``"head"``, ``"grad_cam"`` at the site, or one of :mod:`attention_refine.maps`
            by name, or ``{name: ..., option: value}``; those take passes of their own, under the running statistics, on
            the images that have a target. ``"auto"`` is the head's where there is a head, else gradient rollout where a
            class token is pooled, else Grad-CAM.
        dilation: by how much what was annotated is made larger on every side, as a share of the image's shorter side.
        slack: for rough boxes (as in RES, Gao et al. 2022): how far a map may be from the target at a location at no
            cost, in [0, 1); of ``"energy"``, the share of the map that may lie outside at no cost.
        eps: under the root of ``"l2"``, whose gradient at a perfect map would not be finite, and as far as ``"bce"``
            and ``"ppce"`` keep from log 0.
        map_norm: ``"none"`` takes the map as it is, ``"minmax"`` stretches each to [0, 1], ``"max"`` divides it by its
            maximum. ``"auto"`` leaves a head's map and any map under ``"energy"``, which does not see scale, as they
            are; of others it is ``"max"`` for Rao et al.'s ``"l1"`` and ``"ppce"``, else ``"minmax"``.
        second_order: Grad-CAM at the site only; differentiate its weights too.
        site: where Grad-CAM is read in a model without a head: a module's name, or ``"auto"``.
        weight: :math:`\\gamma`.
    """

    target: str = "auto"
    norm: str = "l2"
    eps: float = 1e-6
    map_norm: str = "auto"
    second_order: bool = True
    site: str = "auto"
    weight: float = 1.0
    maps: str | dict[str, Any] = "auto"
    dilation: float = 0.0
    slack: float = 0.0

    def __post_init__(self) -> None:
        check_choice("MapSupervision", "target", self.target, ("auto", *TARGETS, "cue"))
        check_choice("MapSupervision", "norm", self.norm, (*DISTANCES, "input_gradient"))
        check_choice("MapSupervision", "map_norm", self.map_norm, (*NORMS, "max"))
        check_maps("MapSupervision", self.maps)
        if not 0 < self.eps < 0.5:
            raise ValueError(f"MapSupervision: eps must be between 0 and 0.5, both excluded, got {self.eps}")
        if self.weight < 0:
            raise ValueError(f"MapSupervision: weight must be 0 or more, got {self.weight}")
        if not 0 <= self.dilation < 1:
            raise ValueError(f"MapSupervision: dilation must be 0 or more and below 1, got {self.dilation}")
        if not 0 <= self.slack < 1:
            raise ValueError(f"MapSupervision: slack must be 0 or more and below 1, got {self.slack}")
        if self.norm == "input_gradient" and (self.maps != "auto" or self.slack):
            given = f"slack={self.slack}" if self.maps == "auto" else f"maps={self.maps!r}"
            raise ValueError(
                f"MapSupervision: norm='input_gradient' reads no map, so {given} has no effect: leave it out"
            )


@objectives.register("map_supervision")
class MapSupervision(Objective):
    """The distance of the map to a given one. Options: :class:`MapSupervisionConfig`.

    Loss: ``map_supervision``. Measures: ``map_supervision_images``, the share of images that had a target, and
    ``map_supervision_empty``, the share whose map had one and was zero everywhere: under ``"energy"`` these add nothing.
    A batch without the column of the target (an evaluation on data that has none) counts as one without targets.
    """

    config_class = MapSupervisionConfig

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.waiting = Waiting()
        self.annotations = columns_of(self.config.target)

    reads = (*TARGETS.values(), "cue", "edited", "index", "update")

    def attach(self, model: Refined) -> None:
        if self.config.norm == "input_gradient":
            self.second_order = self.needs_labels = False
            self.takes_gradients = True
            return
        self.source = chosen_map(model, self.config.maps, self.config.site, "MapSupervision")
        self.takes_gradients = self.source != "head" and needs_class(model, self.source)
        self.second_order = self.source == "grad_cam" and self.config.second_order
        self.needs_labels = needs_class(model, self.source)

    def forward(self, model: Refined, batch: dict[str, Any], output: RefinedOutput) -> dict[str, Tensor]:
        target, known, given = map_targets(batch, self.config.target, self.config.dilation)
        nothing = output.logits.new_zeros((), dtype=torch.float32)
        output.measures |= {"map_supervision_images": given.mean(), "map_supervision_empty": nothing}
        if not given.any():
            if self.training:
                self.waiting.saw_none(self.name, self.annotations, batch)
            return {"map_supervision": nothing}
        self.waiting.over = True
        if self.config.norm == "input_gradient":
            distances = self._outside(model, batch, target, known, given)
        else:
            options = {key: v for key, v in self.config.maps.items() if key != "name"} if self._has_options else {}
            maps = read_map(model, batch, output, self.source, given > 0, self.config.second_order, options)
            empty = (maps.detach().flatten(1).sum(1) <= NO_ENERGY) & (given > 0)
            output.measures["map_supervision_empty"] = empty.float().mean()
            target, known = on_grid(target, known, maps.shape[2:])
            distances = self._distance(self._scaled(maps), target, known)
        return {"map_supervision": (distances * given).sum() / len(given)}

    @property
    def _has_options(self) -> bool:
        return isinstance(self.config.maps, dict)

    def _scaled(self, maps: Tensor) -> Tensor:
        norm = self.config.map_norm
        if norm == "auto" and (self.source == "head" or self.config.norm == "energy"):
            norm = "none"
        if norm == "auto":
            norm = "max" if self.config.norm in ("l1", "ppce") else "minmax"
        return maps if norm == "none" else normalize(maps, norm)

    def _distance(self, maps: Tensor, target: Tensor, known: Tensor) -> Tensor:
        norm = self.config.norm
        if self.config.target == "cue" and norm == "ppce":
            maps, target = 1 - maps, 1 - target  # away from 1 on the cue
        elif self.config.target == "cue" and norm != "energy":
            target, known = torch.zeros_like(target), known * (1 - target)  # towards 0 on the cue, the rest is free
        return distance(maps, target, known, norm, self.config.eps, self.config.slack)

    def _outside(self, model: Refined, batch: dict[str, Any], target: Tensor, known: Tensor, given: Tensor) -> Tensor:
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


def distance(maps: Tensor, target: Tensor, known: Tensor, norm: str, eps: float = 1e-6, slack: float = 0.0) -> Tensor:
    """``(B,)``: how far each map is from its target over the known cells, by one of :data:`DISTANCES`.

    Args:
        maps: ``(B, 1, h, w)``, 0 or more, and for all but ``"energy"`` at most 1.
        target, known: of its shape, see :func:`~attention_refine.objectives._annotations.on_grid`.
        norm, eps, slack: see :class:`MapSupervisionConfig`. Under ``"energy"`` a map that is zero costs nothing, under
            ``"ppce"`` an empty target.
    """
    if norm == "energy":
        energy = maps.relu() * known
        total, inside = energy.flatten(1).sum(1), (energy * target).flatten(1).sum(1)
        outside = 1 - inside / total.clamp_min(NO_ENERGY)
        return (outside - slack).relu() * (total > NO_ENERGY)
    if norm == "ppce":
        inside = -target * (maps + slack).clamp(eps, 1 - eps).log()
        return (inside * known).flatten(1).sum(1) / (target * known).flatten(1).sum(1).clamp_min(1e-6)
    if slack:  # a map that is near enough is taken for the target itself
        off = maps - target
        maps = target + off.sign() * (off.abs() - slack).relu()
    if norm == "bce":
        maps = maps.clamp(eps, 1 - eps)
        parts = -(target * maps.log() + (1 - target) * (1 - maps).log())
    else:
        parts = (target - maps).abs() if norm == "l1" else (target - maps).square()
    total = (parts * known).flatten(1).sum(1)
    if norm == "l2":
        return (total + eps**2).sqrt()
    return total / known.flatten(1).sum(1).clamp_min(1e-6)
