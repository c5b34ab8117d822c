"""Grad-CAM++ (Chattopadhay et al. 2018) and LayerCAM (Jiang et al. 2021), which tell locations apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ._conditions import full_precision, map_conditions
from ._registry import register_map
from ._site import Site, read
from ._target import Target, fixed, score
from .grad_cam import site_gradients


@register_map(kind="site", differentiable=True)
def grad_cam_plus_plus(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str | Site = "auto",
    create_graph: bool = False,
    relu: bool = False,
) -> Tensor:
    """Grad-CAM++: channel weights that favour locations whose gradient is positive (eq. 5, 6 and 10).

    The score passes an exponential, so that its higher derivatives are powers of the gradient g (eq. 19); the common
    factor exp(score) is left out, as it only scales the map. With ``S_k`` the sum of the feature over locations,
    ``w_k = sum_ij g^2 / (2 g^2 + S_k g^3) relu(g)``, a location with a zero denominator counting nothing.

    Args:
        net, pixel_values, target, site, create_graph, relu: as in :func:`grad_cam`.

    Returns:
        ``(B, T, h, w)`` at the site's resolution; clips ``(B, T, t, h, w)``.

    Raises:
        ValueError: as :func:`grad_cam`.
    """

    def weighted(feature: Tensor, gradient: Tensor) -> Tensor:
        locations = tuple(range(2, feature.ndim))
        # g^2 / (2 g^2 + S g^3) = 1 / (2 + S g): no powers of a gradient of 1e-5
        denominator = 2 + feature.sum(locations, keepdim=True) * gradient
        counts = (gradient != 0) & (denominator != 0)
        alpha = torch.where(counts, 1 / torch.where(counts, denominator, 1.0), 0.0)
        return ((alpha * gradient.relu()).sum(locations, keepdim=True) * feature).sum(1)

    return _from_gradients(net, pixel_values, target, site, create_graph, relu, weighted)


@register_map(kind="site", differentiable=True)
def layer_cam(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str | Site = "auto",
    create_graph: bool = False,
    relu: bool = False,
) -> Tensor:
    """LayerCAM: every location weighted by its own positive gradient, ``sum_k relu(g_k) A_k`` (eq. 5 and 6).

    Made for early sites, whose resolution it keeps usable.

    Args:
        net, pixel_values, target, site, create_graph, relu: as in :func:`grad_cam`.

    Returns:
        ``(B, T, h, w)`` at the site's resolution; clips ``(B, T, t, h, w)``.

    Raises:
        ValueError: as :func:`grad_cam`.
    """

    def weighted(feature: Tensor, gradient: Tensor) -> Tensor:
        return (gradient.relu() * feature).sum(1)

    return _from_gradients(net, pixel_values, target, site, create_graph, relu, weighted)


def _from_gradients(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target,
    site: str | Site,
    create_graph: bool,
    relu: bool,
    weighted: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    with map_conditions(net, pixel_values, create_graph) as (net, pixels):
        reading = read(net, pixels, site, cut=not create_graph)
        scores = score(reading.logits, fixed(target, reading.logits))
        feature = reading.grid(reading.raw if create_graph else reading.raw.detach())
        found = [weighted(feature, gradient) for gradient in site_gradients(reading, scores, create_graph)]
        maps = torch.stack(found, dim=1)
    return full_precision(maps.relu() if relu else maps)
