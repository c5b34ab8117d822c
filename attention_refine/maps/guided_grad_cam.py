"""Guided Grad-CAM (Selvaraju et al. 2017, section 3.2): both maps of one forward pass, and their product."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._conditions import full_precision, map_conditions
from ._pixels import channel_axis, reduce_channels
from ._registry import register_map
from ._scale import resize
from ._site import Reading, Site, read
from ._target import Target, fixed, gradients, score
from .grad_cam import cam
from .gradient import in_graph
from .guided_activations import guided_activations
from .guided_backprop import require_guided


@register_map(kind="site", differentiable=True, of_some_networks=True)
def guided_grad_cam(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str | Site = "auto",
    create_graph: bool = False,
    rule: str = "guided",
    reduce: str = "abs",
) -> Tensor:
    """Guided backpropagation times the positive part of Grad-CAM, which is resized bilinearly, as in the paper.

    Args:
        net, pixel_values, target, site, create_graph: as in :func:`grad_cam`.
        rule, reduce: as in :func:`guided_backprop`.

    Returns:
        ``(B, T, H, W)`` at the pixels' resolution with ``T`` targets an image; clips ``(B, T, frames, H, W)``.

    Raises:
        ValueError: as :func:`grad_cam` and :func:`guided_backprop`.
    """
    cams, guided = grad_cam_and_guided_backprop(net, pixel_values, target, site, create_graph, rule, reduce)
    return resize(cams.relu(), tuple(guided.shape[2:])) * guided


def grad_cam_and_guided_backprop(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str | Site = "auto",
    create_graph: bool = False,
    rule: str = "guided",
    reduce: str = "abs",
    temporal_weights: str = "global",
    guided_graph: bool = True,
) -> tuple[Tensor, Tensor]:
    """The two maps of :func:`grad_cam` and :func:`guided_backprop`, equal to theirs, at the cost of one of them.

    Args:
        net, pixel_values, target, site, create_graph, rule, reduce, temporal_weights: as there.
        guided_graph: False holds the guided map constant where ``create_graph`` keeps Grad-CAM's graph; nothing below
            the site is differentiated twice then.

    Returns:
        Grad-CAM ``(B, T, h, w)``, signed, at the site's resolution; guided backpropagation ``(B, T, H, W)``.
    """
    axis = channel_axis(pixel_values)
    twice = create_graph and guided_graph
    conditions = map_conditions(net, pixel_values, create_graph, attention=twice)
    with conditions as (net, pixels), guided_activations(rule) as guide:
        pixels = in_graph(pixels)
        reading: Reading = read(net, pixels, site, cut=False, twice=create_graph)
        require_guided(guide, net)
        scores = score(reading.logits, fixed(target, reading.logits))
        with guide.paused():  # the site's own gradient is the true one, whatever activations lie above it
            cams = cam(reading, scores, create_graph, keep_graph=True, temporal_weights=temporal_weights)
        guided = [reduce_channels(g, axis, reduce) for g in gradients(scores, pixels, twice, keep_graph=create_graph)]
        return full_precision(cams), full_precision(torch.stack(guided, dim=1))
