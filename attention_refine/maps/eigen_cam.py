"""Eigen-CAM: the feature's first principal component, no class and no gradient (Muhammad and Yeasin 2020)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._conditions import full_precision, map_conditions
from ._registry import register_map
from ._site import Site, read
from ._target import Target, refuse_target


@register_map(kind="site", differentiable=True, per_class=False)
def eigen_cam(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str | Site = "auto",
    create_graph: bool = False,
    centre: bool = False,
) -> Tensor:
    """The projection of every location's feature on the first right singular vector (eq. 2 to 4).

    The singular vector comes from the smaller Gram matrix, batched. Its sign, which the paper leaves to the solver, is
    the one under which strong locations are positive: the map's sum, weighted by the features' energy, is not negative.

    Args:
        net, pixel_values, site, create_graph: as in :func:`grad_cam`.
        target: only None: the map is of no class.
        centre: take the feature's mean over locations away first (principal components proper; the paper does not).

    Returns:
        ``(B, 1, h, w)`` at the site's resolution; clips ``(B, 1, t, h, w)``.

    Raises:
        ValueError: the site does not fit, or a target is given.
    """
    refuse_target(target, "eigen_cam")
    with map_conditions(net, pixel_values, create_graph) as (net, pixels), torch.set_grad_enabled(create_graph):
        reading = read(net, pixels, site, cut=False)
        feature = full_precision(reading.grid(reading.raw))
        return principal_map(feature.flatten(2), centre).unflatten(2, feature.shape[2:])


def principal_map(feature: Tensor, centre: bool = False) -> Tensor:
    """The first principal component of ``(B, C, N)`` features, as ``(B, 1, N)``."""
    if centre:
        feature = feature - feature.mean(2, keepdim=True)
    _, channels, locations = feature.shape
    if locations <= channels:  # feature = V S U^T: the map S u is sqrt(lambda) times an eigenvector of the N x N Gram
        vector, value = _leading(feature.transpose(1, 2) @ feature)
        maps = value.clamp_min(torch.finfo(value.dtype).tiny).sqrt()[:, None] * vector
    else:
        vector, _ = _leading(feature @ feature.transpose(1, 2))
        maps = torch.einsum("bcn,bc->bn", feature, vector)
    energy = feature.detach().square().sum(1)
    sign = torch.where((maps.detach() * energy).sum(1, keepdim=True) < 0, -1.0, 1.0).to(maps)
    return (maps * sign)[:, None]


def _leading(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The leading eigenvector ``(B, n)`` and eigenvalue ``(B,)`` of symmetric matrices, with exact first derivatives.

    The derivative of ``eigh`` divides by the gaps between all eigenvalues, which are zero in a feature of low rank;
    only the gaps to the leading one matter here: du = sum_i u_i (u_i . dG u) / (lambda - lambda_i).
    """
    values, vectors = torch.linalg.eigh(gram.detach())
    leading = vectors[..., -1]
    value = torch.einsum("bi,bij,bj->b", leading, gram, leading)
    if not gram.requires_grad:
        return leading, value
    gaps = values[:, -1:] - values[:, :-1]
    smallest = torch.finfo(values.dtype).eps * values[:, -1:].abs().clamp_min(torch.finfo(values.dtype).tiny)
    others = vectors[..., :-1]
    change = torch.einsum("bij,bj->bi", gram - gram.detach(), leading)  # zero in value, dG u in derivative
    change = torch.einsum("bji,bj->bi", others, change) / gaps.clamp_min(smallest)
    return leading + torch.einsum("bij,bj->bi", others, change), value
