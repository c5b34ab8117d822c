"""Guided backpropagation: pixel gradients that travel along positive evidence only (Springenberg et al. 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._conditions import full_precision, map_conditions
from ._pixels import channel_axis, reduce_channels
from ._registry import register_map
from ._site import logits_of, refuse_site
from ._target import Target, fixed, gradients, score
from .gradient import in_graph
from .guided_activations import guided_activations


@register_map(kind="pixels", differentiable=True, of_some_networks=True)
def guided_backprop(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str = "auto",
    create_graph: bool = False,
    rule: str = "guided",
    reduce: str = "abs",
) -> Tensor:
    """The gradient of the class score at every pixel, with negative gradients stopped at each activation.

    Differs from the paper on networks without ReLU, for which it gives no rule: see :class:`guided_activations`.

    Args:
        net: any classifier whose output is logits or has ``.logits``.
        pixel_values: images ``(B, 3, H, W)``, or clips ``(B, 3, T, H, W)`` or ``(B, T, 3, H, W)``.
        target: classes to explain, see :mod:`attention_refine.maps._target`; None is each image's predicted class.
        site: only ``"auto"``: the map is of the pixels.
        create_graph: keep the graph, down to the parameters and the pixels, so that the map can be trained.
        rule: ``"guided"``, ``"strict"``, ``"clamp"`` or ``"plain"``.
        reduce: colour channels to one number: ``"abs"`` (the form ATCON uses), ``"max"`` or ``"sum"`` (signed).

    Returns:
        ``(B, T, H, W)`` at the pixels' resolution with ``T`` targets an image; clips ``(B, T, frames, H, W)``.

    Raises:
        ValueError: no activation was guided, the target does not fit the logits, or an option is unknown.
    """
    refuse_site(site, "guided_backprop")
    axis = channel_axis(pixel_values)
    with map_conditions(net, pixel_values, create_graph) as (net, pixels), guided_activations(rule) as guide:
        pixels = in_graph(pixels)
        logits = logits_of(net(pixels))
        require_guided(guide, net)
        scores = score(logits, fixed(target, logits))
        maps = [reduce_channels(g, axis, reduce) for g in gradients(scores, pixels, create_graph)]
        return full_precision(torch.stack(maps, dim=1))


def require_guided(guide: guided_activations, net: nn.Module) -> None:
    """Refuse a guided map where no activation was guided: it would be the plain gradient in disguise."""
    if guide.rule != "plain" and guide.count == 0:
        raise ValueError(
            f"no activation of {type(net).__name__} was guided (0 calls of ReLU, GELU, SiLU and their kin were seen; "
            "scripted modules and activations spelled out in arithmetic are not), so the map would be the plain "
            "gradient; use maps.gradient, or rule='plain'"
        )
