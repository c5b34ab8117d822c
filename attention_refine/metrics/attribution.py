"""Pixel attributions (integrated gradients) against the object: how much mass lies inside, and how fine it is there.

DARC reports an "integrated gradient of the attention map" without defining it. What is measured here is our definition,
to be stated wherever the numbers appear: integrated gradients of the target's logit (50 steps, zero baseline,
completeness checked; see :mod:`attention_refine.maps`), absolute values summed over the channels; then the two
functions below.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._maps import check_maps, to_size, wide
from ._registry import register_measure
from .ground_truth import Boxes, Truth, read_truth


def _magnitude(attributions: Tensor, truth: Tensor | Boxes, image_size: Any) -> tuple[Tensor, Truth]:
    magnitude = check_maps(attributions, single=False).abs().sum(1, keepdim=True)
    ground = read_truth(magnitude, truth, image_size)
    return wide(to_size(magnitude, ground.size)), ground


@register_measure(title="Attribution mass", better=True, needs="attribution")
def attribution_mass(attributions: Tensor, truth: Tensor | Boxes, image_size: tuple[int, int] | None = None) -> Tensor:
    """``(B,)`` float32 in [0, 1]: share of ``sum |attribution|`` that lies on the object.

    Args:
        attributions: ``(B, C, h, w)``, signed; the channels' absolute values are summed.
        truth: as for the localisation measures; NaN where there is no object or nothing else.

    An all-zero attribution scores the object's share of the area, as a constant one does.
    """
    magnitude, ground = _magnitude(attributions, truth, image_size)
    magnitude = magnitude[:, 0] * ground.valid
    magnitude = torch.where(magnitude.amax((1, 2), keepdim=True) > 0, magnitude, ground.valid.to(magnitude))
    share = (magnitude * ground.object).sum((1, 2)) / magnitude.sum((1, 2)).clamp_min(1e-30)
    return share.float().masked_fill(~ground.usable, torch.nan)


@register_measure(title="Attribution detail", better=None, needs="attribution")
def attribution_detail(
    attributions: Tensor, truth: Tensor | Boxes, image_size: tuple[int, int] | None = None
) -> Tensor:
    """``(B,)`` float32: mean |Laplacian| of ``|attribution|`` over the object, over the mean of ``|attribution|``.

    The Laplacian is the five-point one with replicated borders; the divisor is the mean over all pixels but void ones.
    Invariant to scale; 0 for a constant or all-zero attribution. Other arguments as for :func:`attribution_mass`.
    """
    magnitude, ground = _magnitude(attributions, truth, image_size)
    kernel = torch.tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).to(magnitude).view(1, 1, 3, 3)
    curvature = F.conv2d(F.pad(magnitude, (1, 1, 1, 1), mode="replicate"), kernel).abs()[:, 0]
    inside = (curvature * ground.object).sum((1, 2)) / ground.object.sum((1, 2)).clamp_min(1)
    level = (magnitude[:, 0] * ground.valid).sum((1, 2)) / ground.valid.sum((1, 2)).clamp_min(1)
    detail = torch.where(level > 0, inside / level.where(level > 0, torch.ones_like(level)), torch.zeros_like(level))
    return detail.float().masked_fill(~ground.usable, torch.nan)
