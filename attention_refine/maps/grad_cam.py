"""Grad-CAM: a feature's channels, each weighted by the mean gradient of the class score (Selvaraju et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..backbones.classifier import LastLinear
from ._conditions import full_precision, map_conditions
from ._registry import register_map
from ._site import Reading, Site, read
from ._target import Target, fixed, gradients, score


@register_map(kind="site", differentiable=True)
def grad_cam(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str | Site = "auto",
    create_graph: bool = False,
    relu: bool = False,
    temporal_weights: str = "global",
) -> Tensor:
    """Grad-CAM, ``sum_k w_k A_k`` with ``w_k`` the mean of ``d score / d A_k`` over locations (eq. 1 and 2).

    Equation 2's ReLU is off by default: the raw map is signed, and its negative part is evidence against the class.
    One forward pass serves every target, and its graph starts at the site; where global average pooling and a linear
    layer follow the site, further targets cost no backward pass (the map is the classifier's weights on the feature).

    Args:
        net: any classifier whose output is logits or has ``.logits``.
        pixel_values: images ``(B, 3, H, W)``, or clips ``(B, 3, T, H, W)`` or ``(B, T, 3, H, W)``.
        target: classes to explain, see :mod:`attention_refine.maps._target`; None is each image's predicted class.
        site: ``"auto"``, a module's name, or a ``Site``.
        create_graph: keep the graph, down to the parameters and the pixels, so that the map can be trained.
        relu: keep the positive part only, as the paper draws it.
        temporal_weights: clips only; ``"global"`` averages gradients over time and space, ``"per_frame"`` over each
            time step's locations.

    Returns:
        ``(B, T, h, w)`` at the site's resolution with ``T`` targets an image (1 unless several were asked for); clips
        ``(B, T, t, h, w)``. Signed and unscaled.

    Raises:
        ValueError: the target or the site does not fit, or the site cannot move the logits.
    """
    if temporal_weights not in ("global", "per_frame"):
        raise ValueError(f"temporal_weights {temporal_weights!r} is not 'global' or 'per_frame'")
    # The map differentiates what follows the site, so only that must have a second derivative.
    with map_conditions(net, pixel_values, create_graph, attention=False) as (net, pixels):
        with LastLinear() as linear:
            reading = read(net, pixels, site, cut=not create_graph, twice=create_graph)
        target = fixed(target, reading.logits)
        scores = score(reading.logits, target)
        maps = None
        if scores.shape[1] > 1 and not callable(target):
            maps = _closed_form(reading, target, scores, linear)
        if maps is None:
            maps = cam(reading, scores, create_graph, temporal_weights=temporal_weights)
    maps = full_precision(maps.relu() if relu else maps)
    return maps if create_graph else maps.detach()


def cam(
    reading: Reading,
    scores: Tensor,
    create_graph: bool,
    keep_graph: bool = False,
    temporal_weights: str = "global",
) -> Tensor:
    """Grad-CAM of ``scores (B, T)`` on a forward pass already made."""
    feature = reading.grid(reading.raw)
    first = 3 if temporal_weights == "per_frame" and feature.ndim == 5 else 2
    locations = tuple(range(first, feature.ndim))
    feature = feature if create_graph else feature.detach()
    maps = [
        (gradient.mean(locations, keepdim=True) * feature).sum(1)
        for gradient in site_gradients(reading, scores, create_graph, keep_graph)
    ]
    return torch.stack(maps, dim=1)


def site_gradients(reading: Reading, scores: Tensor, create_graph: bool, keep_graph: bool = False) -> Iterator[Tensor]:
    """The gradient of each column of ``scores`` at the site, ``(B, C, h, w)``.

    Raises:
        ValueError: the locations cannot move the scores, as after the last block of a class-token transformer.
    """
    for gradient in gradients(scores, reading.raw, create_graph, keep_graph):
        gradient = reading.grid(gradient)
        if reading.layout.prefix and not gradient.any():
            raise ValueError(
                "the patch tokens of this site cannot move the logits (the class token is pooled); use site='auto', "
                "or the output of an earlier block"
            )
        yield gradient


def _closed_form(reading: Reading, target: Tensor, scores: Tensor, linear: LastLinear) -> Tensor | None:
    """Class weights on the feature, for every target at once; None unless the head is mean pooling and one linear.

    With logits = W mean(A) + b the gradient is W / (h w) everywhere, so Grad-CAM is sum_k W_ck A_k / (h w). Both halves
    are checked on the numbers: the linear layer's input is the feature's mean, and one class's autograd gradient is
    the weight row. Nothing is assumed of the network.
    """
    feature = reading.grid(reading.raw)
    locations = feature[0, 0].numel()
    pooled = feature.flatten(2).mean(2)
    read, weight = linear.input, linear.weight
    if linear.output is not reading.logits or read is None or weight is None or read.shape != pooled.shape:
        return None
    if not torch.allclose(read, pooled, rtol=1e-4, atol=1e-5 * float(pooled.detach().abs().amax())):
        return None
    (gradient,) = gradients(scores[:, :1], reading.raw, keep_graph=True)
    expected = (weight[target[:, 0]] / locations).reshape(pooled.shape + (1,) * (feature.ndim - 2))
    smallest = 1e-5 * float(expected.detach().abs().amax())
    if not torch.allclose(reading.grid(gradient), expected.expand_as(feature), rtol=1e-4, atol=smallest):
        return None
    flat = feature.flatten(2)
    if bool((target == target[:1]).all()):  # the same classes for all: no copy of their weights an image
        maps = torch.einsum("tc,bcn->btn", weight[target[0]], flat)
    else:
        maps = torch.einsum("btc,bcn->btn", weight[target], flat)
    return (maps / locations).unflatten(2, feature.shape[2:])
