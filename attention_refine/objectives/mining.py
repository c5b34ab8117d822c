r"""Attention mining branch (Iwayoshi et al., *Attention Mining Branch for Optimizing Attention Map*).

Hide what the map highlights and ask the network again: what is left should not show the class. With the map ``A`` and
the feature ``F`` at the site,

.. math::

    T(A) &= 1 / (1 + \exp(-100 (A - \sigma)))                 & (1) \\
    F^* &= F - T(A) \odot F                                   & (2) \\
    L_{am} &= \sum_i S_i^{c_i}, \quad S = softmax(P(F^*))     & (3) \\
    L &= L_{att} + L_{per} + \alpha L_{am}                    & (4)

where ``P`` is the perception branch itself, not a copy: the mining branch has no weights of its own.

Where this differs from the paper, and why:

* The paper sets :math:`\sigma` by data set (0.78 for CUB-200-2010, 0.40 for Stanford Dogs). Here it is by default a
  quantile of each image's own map: outside a band of 0.05 around :math:`\sigma` equation 1 has no gradient, and no one
  value suits every network. ``threshold=0.78`` is the paper's form.
* The second pass leaves batch norm's running statistics alone (``bn_second_pass``): masked features are never seen at
  inference, so they should not be counted there. The paper does not say.
* Multi-label images: the mean over their classes of the sigmoid score, as in guided attention inference.
* Maps of several parts count as one, the largest of them at each location; with a map per class each of an image's
  classes is hidden by its own map, in a pass of its own. Without a head the map is Grad-CAM of the true classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.registry import check_choice
from ..maps import resize
from ._base import objectives
from ._masking import (
    LIVE,
    Delayed,
    HidingConfig,
    class_score,
    grad_cam_at_site,
    multi_hot,
    of_class,
    one_class_each,
    scaled,
    second_pass,
    site_for,
    soft_mask,
)

if TYPE_CHECKING:
    from ..backbones.adapter import Feature
    from ..output import RefinedOutput
    from ..refined import Refined


@dataclass(frozen=True)
class AttentionMiningConfig(HidingConfig):
    """Options of :class:`AttentionMining`, beside those of :class:`~attention_refine.objectives._masking.HidingConfig`.

    ``slope`` is the 100 of eq. 1, ``weight`` the :math:`\\alpha` of eq. 4, and ``start_step`` the beginning of the
    paper's second step.

    Args:
        threshold: :math:`\\sigma` of eq. 1, or ``"auto"``: the ``quantile`` of each image's map.
        quantile: for ``"auto"``, the share of the locations that stays below the threshold, between 0 and 1.
        reduction: over the images, ``"sum"`` (eq. 3) or ``"mean"``; a sum is over the batch of one process, so with
            several, or with accumulated gradients, take ``"mean"`` and a weight as many times larger as the batch is.
        am_residual: scale the masked feature by the map once more before perception; the paper does not.
    """

    threshold: float | str = "auto"
    quantile: float = 0.75
    slope: float = 100.0
    reduction: str = "sum"
    am_residual: bool = False
    second_order: bool = True
    weight: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("AttentionMining", "reduction", self.reduction, ("sum", "mean"))
        if not 0 < self.quantile < 1:
            raise ValueError(f"AttentionMining: quantile must be between 0 and 1, both excluded, got {self.quantile}")
        if isinstance(self.threshold, str):
            check_choice("AttentionMining", "threshold", self.threshold, ("auto", "a number"))


@objectives.register("mining")
class AttentionMining(Delayed):
    """The mining loss ``L_am`` of eq. 3. Options: :class:`AttentionMiningConfig`.

    Losses: ``mining``, and ``mining_area`` with ``area_penalty``. Measures: ``mining_hidden``, the mean of T;
    ``mining_live``, the share of locations where T still has a gradient; ``mining_threshold``. The mined logits are in
    ``aux_logits["mined"]`` (of each image's first class where there is a map for each).
    """

    config_class = AttentionMiningConfig

    def attach(self, model: Refined) -> None:
        self.takes_gradients = model.head is None
        self.second_order = model.head is None and self.config.second_order
        if self.config.am_residual and model.head is None:
            raise ValueError("AttentionMining: am_residual=True scales by a head's map, and this model has no head")
        site_for(model, self.config.site, "AttentionMining")

    def weight_of(self, loss: str) -> float:
        return self.config.area_penalty if loss == "mining_area" else self.weight

    def forward(self, model: Refined, batch: dict[str, Any], output: RefinedOutput) -> dict[str, Tensor]:
        nothing = output.logits.new_zeros((), dtype=torch.float32)
        names = ["mining", "mining_area"] if self.config.area_penalty else ["mining"]
        if self.waits():
            output.measures.update(dict.fromkeys(("mining_hidden", "mining_live", "mining_threshold"), nothing))
            return dict.fromkeys(names, nothing)
        labels = batch["labels"]
        positive = multi_hot(labels, output.logits.shape[1])
        scores = hidden = live = level = passes = nothing
        for maps, gain, wanted in self._maps(model, output, positive):
            threshold = self._threshold(maps)
            mask = soft_mask(maps, threshold, self.config.slope)
            logits = self._perceive_hidden(model, output.site_feature, mask, gain)
            output.aux_logits.setdefault("mined", logits)
            scores = scores + class_score(logits, wanted, self.config.score, labels.ndim > 1)
            counts = wanted.amax(1)  # 0 for an image without a class, or without a further one
            hidden = hidden + (counts * mask.flatten(1).mean(1)).sum()
            steep = (self.config.slope * (maps - threshold)).detach().abs() < LIVE
            live = live + (counts * steep.flatten(1).to(counts.dtype).mean(1)).sum()
            level = level + (counts * threshold.flatten(1).mean(1)).sum()
            passes = passes + counts.sum()
        passes = passes.clamp_min(1)
        output.measures["mining_hidden"] = hidden.detach() / passes
        output.measures["mining_live"] = live / passes
        output.measures["mining_threshold"] = level / passes
        scores = scores / positive.sum(1).clamp_min(1)
        losses = {"mining": scores.sum() if self.config.reduction == "sum" else scores.mean()}
        if self.config.area_penalty:
            losses["mining_area"] = hidden / passes
        return losses

    def _maps(
        self, model: Refined, output: RefinedOutput, positive: Tensor
    ) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """For each pass the map ``(B, 1, h, w)``, the gain of ``am_residual``, and the classes it hides."""
        if model.head is None:
            (maps,) = grad_cam_at_site(model, output, [positive], self.config.second_order)
            yield scaled(maps, self.config.map_norm, from_head=False), None, positive
            return
        grid = output.site_feature.grid.shape[2:]
        maps = resize(scaled(output.head_maps, self.config.map_norm, from_head=True), grid)
        gain = model.head.gain(output.head_maps) if self.config.am_residual else None
        if not model.head.per_class or maps.shape[1] == 1:
            yield maps.amax(1, keepdim=True), None if gain is None else gain.mean(1, keepdim=True), positive
            return
        for classes, wanted in one_class_each(positive):
            yield of_class(maps, classes), None if gain is None else of_class(gain, classes), wanted

    def _threshold(self, maps: Tensor) -> Tensor:
        """``(B, 1, 1, 1)``, a constant: the map is to move, not the bar it is measured by."""
        flat = maps.detach().flatten(1)
        if self.config.threshold == "auto":
            levels = flat.quantile(self.config.quantile, dim=1)
        else:
            levels = flat.new_full((len(flat),), self.config.threshold)
        return levels.reshape(-1, *[1] * (maps.ndim - 1))

    def _perceive_hidden(self, model: Refined, feature: Feature, mask: Tensor, gain: Tensor | None) -> Tensor:
        """``P(F - T * F)``: equation 2, and perception with its own weights."""
        with second_pass(model, self.config.bn_second_pass, self.config.am_grad):
            grid = feature.grid.detach() if self.config.am_grad == "map_only" else feature.grid
            grid = grid - mask.to(grid.dtype) * grid
            if gain is None:
                return model.perceive(feature.with_grid(grid))
            if model.backbone.found_site().mechanism == "attention":
                return model.perceive(feature.with_grid(grid), gain=gain)
            return model.perceive(feature.with_grid(grid * gain.to(grid.dtype)))
