r"""Guided attention inference, GAIN (Li et al., CVPR 2018, arXiv 1802.10171).

Hide in the image what the map of a class highlights: the class should not be recognisable in what is left.

.. math::

    w^c &= GAP(\partial s^c / \partial f), \quad A^c = ReLU(\textstyle\sum_k w^c_k f_k)      & (1, 2) \\
    I^{*c} &= I - T(A^c) \odot I, \quad T(A) = 1 / (1 + \exp(-\omega (A - \sigma)))           & (3, 4) \\
    L_{am} &= \frac{1}{n} \sum_c s^c(I^{*c}), \quad L_{self} = L_{cl} + \alpha L_{am}         & (5, 6) \\
    L_e &= \frac{1}{n} \sum_c (A^c - H^c)^2, \quad L_{ext} = L_{cl} + \alpha L_{am} + \omega L_e   & (7, 8)

with ``c`` the ``n`` true classes of an image and ``H`` the annotation of images that have one.

What the paper leaves open, and how it is settled here: the map is stretched to [0, 1] before ``T`` and
:math:`\sigma = 0.5`, :math:`\omega = 10`, as published implementations do; the score is the softmax for one label an
image and the sigmoid for several; the weights ``w`` are constants ("does not update parameters"); batch norm's running
statistics do not see the masked images. The map is the head's, where there is one: an image is then masked once for all
its classes. ``L_e`` compares the map of all true classes together with the mask, which does not tell classes apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.registry import check_choice
from ..maps import resize
from ._annotations import TARGETS, map_targets, on_grid
from ._base import objectives
from ._masking import (
    Delayed,
    HidingConfig,
    class_map,
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
from .supervision import distance

if TYPE_CHECKING:
    from ..output import RefinedOutput
    from ..refined import Refined

FILLS = ("zero", "mean", "blur")
BLUR = 21  # pixels of the box that blurs


@dataclass(frozen=True)
class GuidedInferenceConfig(HidingConfig):
    """Options of :class:`GuidedInference`, beside those of :class:`~attention_refine.objectives._masking.HidingConfig`.

    ``slope`` is the :math:`\\omega` of eq. 4 and ``weight`` the :math:`\\alpha` of eq. 6.

    Args:
        source: ``"grad_cam"`` at the site, ``"head"``, or ``"auto"``: the head's map where there is a head.
        threshold: :math:`\\sigma` of eq. 4.
        fill: what hidden pixels become: ``"zero"`` (eq. 3; the data's mean colour, as pixels are normalised),
            ``"mean"`` (the image's own mean colour) or ``"blur"`` (the image out of focus).
        joint_mask: one mask from all true classes of an image, instead of one, and one pass, a class.
        ext_weight: weight of L_e (eq. 8; the paper's is 10); 0 leaves it out.
        ext_target: what L_e compares with: the batch's ``"mask"``, its ``"edited"`` maps, its ``"boxes"``, or
            ``"auto"``, of each image the edited map, else the mask, else the boxes.
    """

    source: str = "auto"
    threshold: float = 0.5
    fill: str = "zero"
    joint_mask: bool = False
    ext_weight: float = 0.0
    ext_target: str = "mask"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("GuidedInference", "source", self.source, ("auto", "head", "grad_cam"))
        check_choice("GuidedInference", "fill", self.fill, FILLS)
        check_choice("GuidedInference", "ext_target", self.ext_target, ("auto", *TARGETS))
        if self.ext_weight < 0:
            raise ValueError(f"GuidedInference: ext_weight must be 0 or more, got {self.ext_weight}")


@objectives.register("guided_inference")
class GuidedInference(Delayed):
    """``L_am`` of eq. 5 and ``L_e`` of eq. 7, means over the batch. Options: :class:`GuidedInferenceConfig`.

    Losses: ``guided_inference``, with ``area_penalty`` ``guided_inference_area`` and with ``ext_weight``
    ``guided_inference_ext``. Measure: ``guided_inference_hidden``, the mean of T.
    """

    config_class = GuidedInferenceConfig
    reads = (*TARGETS.values(), "edited")

    def attach(self, model: Refined) -> None:
        if self.config.source == "head" and model.head is None:
            raise ValueError("GuidedInference: source='head' needs a head, and this model has none; use 'grad_cam'")
        self.from_head = model.head is not None and self.config.source != "grad_cam"
        self.takes_gradients = not self.from_head
        self.second_order = self.config.second_order and not self.from_head
        site_for(model, self.config.site, "GuidedInference")

    def weight_of(self, loss: str) -> float:
        weights = {"guided_inference_area": self.config.area_penalty, "guided_inference_ext": self.config.ext_weight}
        return weights.get(loss, self.weight)

    def forward(self, model: Refined, batch: dict[str, Any], output: RefinedOutput) -> dict[str, Tensor]:
        nothing = output.logits.new_zeros((), dtype=torch.float32)
        parts = {"": True, "_area": self.config.area_penalty > 0, "_ext": self.config.ext_weight > 0}
        names = [f"guided_inference{part}" for part, wanted in parts.items() if wanted]
        if self.waits():
            output.measures["guided_inference_hidden"] = nothing
            return dict.fromkeys(names, nothing)
        pixels, labels = batch["pixel_values"], batch["labels"]
        positive = multi_hot(labels, output.logits.shape[1])
        rows, maps, wanted = self._maps(model, output, positive)
        masks = soft_mask(resize(maps, pixels.shape[2:]), self.config.threshold, self.config.slope)
        scores = self._hidden_score(model, pixels[rows], masks, wanted, labels.ndim > 1)
        # An image's terms are divided by its number of classes, then by the batch: its say does not depend on either.
        share = (wanted.sum(1) / positive.sum(1).clamp_min(1)[rows]).to(masks.dtype)
        hidden = (masks.flatten(1).mean(1) * share).sum() / len(pixels)
        output.measures["guided_inference_hidden"] = hidden.detach()
        losses = {"guided_inference": (scores / positive.sum(1).clamp_min(1)[rows]).sum() / len(pixels)}
        if parts["_area"]:
            losses["guided_inference_area"] = hidden
        if parts["_ext"]:
            losses["guided_inference_ext"] = self._extra(model, batch, output, positive)
        return losses

    def _maps(self, model: Refined, output: RefinedOutput, positive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each mask to be made: the image's row ``(P,)``, the map ``(P, 1, h, w)`` and the classes it hides."""
        everyone = torch.arange(len(positive), device=positive.device)
        per_class = model.head is not None and model.head.per_class and output.head_maps.shape[1] > 1
        if self.config.joint_mask or self.from_head and not per_class:
            return everyone, self._joint(model, output, positive), positive
        apart = list(one_class_each(positive))
        if self.from_head:
            maps = [of_class(output.head_maps, classes) for classes, _ in apart]
        else:
            maps = grad_cam_at_site(model, output, [wanted for _, wanted in apart], self.config.second_order)
        rows = [everyone[wanted.any(1)] for _, wanted in apart]
        kept = torch.cat([made[row] for made, row in zip(maps, rows)])
        wanted = torch.cat([wanted[row] for (_, wanted), row in zip(apart, rows)])
        return torch.cat(rows), scaled(kept, self.config.map_norm, self.from_head), wanted

    def _joint(self, model: Refined, output: RefinedOutput, positive: Tensor) -> Tensor:
        """``(B, 1, h, w)``: one map of all true classes of an image, on the threshold's scale."""
        if self.from_head:
            maps = class_map(model, output, positive, False)
        else:
            (maps,) = grad_cam_at_site(model, output, [positive], self.config.second_order)
        return scaled(maps, self.config.map_norm, self.from_head)

    def _hidden_score(self, model: Refined, pixels: Tensor, masks: Tensor, wanted: Tensor, several: bool) -> Tensor:
        """The scores of the classes after hiding, summed over each image's ``wanted``, ``(P,)``."""
        if len(pixels) == 0:  # no image has a class
            return masks.flatten(1).sum(1)
        masks = masks.to(pixels.dtype)
        hidden = pixels - masks * (pixels - filled(pixels, self.config.fill))
        with second_pass(model, self.config.bn_second_pass, self.config.am_grad):
            logits = model(hidden, compute_losses=False).logits
        return class_score(logits, wanted, self.config.score, several)

    def _extra(self, model: Refined, batch: dict[str, Any], output: RefinedOutput, positive: Tensor) -> Tensor:
        target, known, given = map_targets(batch, self.config.ext_target)
        if not given.any():
            return given.sum()
        maps = self._joint(model, output, positive)
        target, known = on_grid(target, known, maps.shape[2:])
        return (distance(maps, target, known, "mse", 0.0) * given).sum() / len(given)


def filled(pixels: Tensor, fill: str) -> Tensor:
    """What hidden pixels become, broadcastable to ``pixels``: ``"zero"``, ``"mean"`` or ``"blur"``."""
    if fill == "zero":
        return torch.zeros_like(pixels)
    if fill == "mean":
        return pixels.flatten(2).mean(2).reshape(*pixels.shape[:2], *[1] * (pixels.ndim - 2))
    frames = pixels if pixels.ndim == 4 else pixels.transpose(1, 2).flatten(0, 1)
    side = min(BLUR, *(2 * (s // 2) - 1 for s in frames.shape[2:]))  # odd, and not wider than the image
    padded = F.pad(frames, [side // 2] * 4, mode="replicate")
    blurred = F.avg_pool2d(padded, side, stride=1)
    return blurred if pixels.ndim == 4 else blurred.unflatten(0, (len(pixels), -1)).transpose(1, 2)
