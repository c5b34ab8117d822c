"""Maps from the attention of a transformer: rollout, its gradient-weighted form, and the class token's last look."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layouts import Layout, infer_layout, to_grid
from ._attention_weights import AttentionWeights, only, probe
from ._conditions import full_precision, map_conditions
from ._pixels import image_size
from ._registry import register_map
from ._site import logits_of, refuse_site, with_order
from ._target import Target, fixed, refuse_target, score
from .gradient import in_graph

HEAD_FUSIONS = ("mean", "max", "min")


@register_map(kind="attention", differentiable=True, per_class=False, of_some_networks=True)
def attention_rollout(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str = "auto",
    create_graph: bool = False,
    heads: str = "mean",
    discard: float = 0.0,
    row: str = "auto",
) -> Tensor:
    """Attention rollout (Abnar and Zuidema 2020, eq. 1): the product over layers of ``(A + I) / 2``, rows normalised.

    Needs no class and no gradient, and one matrix of memory whatever the depth.

    Args:
        net: a transformer whose attention spans all tokens; timm, transformers and torch's own, fused or not.
        pixel_values: images ``(B, 3, H, W)``, or clips ``(B, 3, T, H, W)`` or ``(B, T, 3, H, W)``.
        target, site: only None and ``"auto"``: the map is of no class and no site.
        create_graph: keep the graph, down to the parameters and the pixels, so that the map can be trained.
        heads: how heads become one matrix: ``"mean"`` (the paper), ``"max"`` or ``"min"``.
        discard: share of each layer's weights, the smallest, set to zero first (0 in the paper; ATCON's code has 0.9).
            Weights towards the class token stay.
        row: whose attention is the map: ``"class"`` (token 0), ``"mean"`` of the patches' rows, or ``"auto"``: the
            class token where the logits read token 0 alone, the mean otherwise.

    Returns:
        ``(B, 1, h, w)`` at the resolution of the patches, not negative.

    Raises:
        ValueError: no attention over all tokens was seen, tokens change between layers, or an option is unknown.
    """
    refuse_site(site, "attention_rollout")
    refuse_target(target, "attention_rollout")
    if heads not in HEAD_FUSIONS:
        raise ValueError(f"heads {heads!r} is not one of {', '.join(HEAD_FUSIONS)}")
    if not 0 <= discard < 1:
        raise ValueError(f"discard must be at least 0 and below 1, got {discard}")
    rolled = _Rolled()

    def roll(weights: Tensor) -> None:
        matrix = weights.mean(1) if heads == "mean" else weights.amax(1) if heads == "max" else weights.amin(1)
        rolled.add(_without_smallest(matrix, discard), normalise=True)

    with map_conditions(net, pixel_values, create_graph) as (net, pixels):
        row, live = probe(net, pixels, row)
        with torch.set_grad_enabled(create_graph), AttentionWeights(len(pixels), only(live, roll), net):
            net(pixels)
        assert rolled.product is not None, "probe says which layers reach the logits"
        return full_precision(_on_grid(rolled.product, row, net, pixels))


@register_map(kind="attention", differentiable=True, of_some_networks=True)
def gradient_rollout(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str = "auto",
    create_graph: bool = False,
    row: str = "auto",
) -> Tensor:
    """Rollout of attention weighted by its gradient (Chefer et al. 2021, "Generic attention-model explainability").

    From ``R = I``, each layer adds ``mean over heads of relu(dA * A)`` times R (eq. 5 and 6), with dA the gradient of
    the class score.

    Args:
        net, pixel_values, row: as in :func:`attention_rollout`.
        target: classes to explain, see :mod:`attention_refine.maps._target`; None is each image's predicted class.
        site: only ``"auto"``.
        create_graph: keep the graph, down to the parameters and the pixels, so that the map can be trained.

    Returns:
        ``(B, T, h, w)`` at the resolution of the patches, not negative.

    Raises:
        ValueError: as :func:`attention_rollout`, or the target does not fit.
    """
    refuse_site(site, "gradient_rollout")
    layers: list[Tensor] = []
    with map_conditions(net, pixel_values, create_graph) as (net, pixels):
        row, live = probe(net, pixels, row)
        with AttentionWeights(len(pixels), only(live, layers.append), net):
            logits = logits_of(net(in_graph(pixels)))
        scores = score(logits, fixed(target, logits))
        found_maps = []
        for column in range(scores.shape[1]):
            total = scores[:, column].sum()
            found = torch.autograd.grad(total, layers, create_graph=create_graph, retain_graph=True, allow_unused=True)
            rolled = _Rolled()
            for weights, gradient in zip(layers, found):
                relevance = torch.zeros_like(weights) if gradient is None else (gradient * weights).relu()
                rolled.add(relevance.mean(1), normalise=False)
            product = rolled.product
            assert product is not None, "probe says which layers reach the logits"
            if product.shape[-2] > 1:
                product = product - _identity(product)  # a token's own relevance is not evidence
            found_maps.append(_on_grid(product, row, net, pixels))
        maps = torch.cat(found_maps, dim=1)
        return full_precision(maps if create_graph else maps.detach())


@register_map(kind="attention", differentiable=True, per_class=False, of_some_networks=True)
def class_attention(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str = "auto",
    create_graph: bool = False,
    layer: int = -1,
    row: str = "auto",
) -> Tensor:
    """The attention of one layer, the last unless asked: where the class token looks, head by head.

    Args:
        net, pixel_values, target, site, create_graph, row: as in :func:`attention_rollout`.
        layer: which of the attention layers that reach the logits, counted as they run; negative from the end.

    Returns:
        ``(B, heads, h, w)`` at the resolution of the patches; each head's weights add up to at most 1.

    Raises:
        ValueError: as :func:`attention_rollout`, or there is no such layer.
    """
    refuse_site(site, "class_attention")
    refuse_target(target, "class_attention")
    with map_conditions(net, pixel_values, create_graph) as (net, pixels):
        row, live = probe(net, pixels, row)
        rows: list[Tensor] = []  # (B, heads, keys) of every layer

        def keep(weights: Tensor) -> None:
            rows.append(_row(weights, row, pixels))

        with torch.set_grad_enabled(create_graph), AttentionWeights(len(pixels), only(live, keep), net):
            net(pixels)
        if not -len(rows) <= layer < len(rows):
            raise ValueError(f"layer {layer} of {len(rows)} attention layers; use {-len(rows)} to {len(rows) - 1}")
        tokens = rows[layer].transpose(1, 2)
        return full_precision(as_map(tokens, net, pixels))


class _Rolled:
    """The product of the layers' attention so far, the later ones on the left, each with its residual path."""

    def __init__(self) -> None:
        self.product: Tensor | None = None

    def add(self, attention: Tensor, normalise: bool) -> None:
        """Go through one layer more.

        Args:
            attention: ``(B, N, N)``, or ``(B, 1, N)`` from a query that pools all tokens and is none of them.
            normalise: make rows add up to 1.

        Raises:
            ValueError: queries and keys are different tokens, or not those of the layer before.
        """
        queries, keys = attention.shape[-2:]
        tokens = keys if self.product is None else self.product.shape[-2]
        if keys != tokens or queries not in (1, keys):
            raise ValueError(
                f"{queries} tokens attend to {keys}, after a layer of {tokens}, which rollout does not define; use "
                "maps.class_attention where a class token joins in the last layers, else maps.grad_cam"
            )
        matrix = attention + _identity(attention) if queries == keys else attention
        if normalise:
            matrix = matrix / matrix.sum(-1, keepdim=True)
        self.product = matrix if self.product is None else matrix @ self.product


def _identity(matrix: Tensor) -> Tensor:
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def _without_smallest(matrix: Tensor, discard: float) -> Tensor:
    """The smallest share of each image's weights set to zero, those towards token 0 excepted."""
    count = int(discard * matrix[0].numel())
    if count == 0:
        return matrix
    smallest = matrix.detach().flatten(1).topk(count, dim=1, largest=False).indices
    keep = torch.ones_like(matrix).flatten(1).scatter(1, smallest, 0.0).view_as(matrix)
    keep[:, :, 0] = 1.0
    return matrix * keep


def _on_grid(matrix: Tensor, row: str, net: nn.Module, pixels: Tensor) -> Tensor:
    """One row of a token matrix ``(B, N, N)`` as a map ``(B, 1, h, w)``."""
    return as_map(_row(matrix, row, pixels).unsqueeze(-1), net, pixels)


def as_map(tokens: Tensor, net: nn.Module, pixels: Tensor) -> Tensor:
    """Tokens ``(B, N, C)`` as ``(B, C, h, w)``, without those that stand for no patch."""
    layout = with_order(net, _layout(tokens.shape[1], pixels), pixels)
    return to_grid(tokens, layout, image_size(pixels))


def _row(matrix: Tensor, row: str, pixels: Tensor) -> Tensor:
    if row == "class" or matrix.shape[-2] == 1:
        return matrix[..., 0, :]
    return matrix[..., _layout(matrix.shape[-2], pixels).prefix :, :].mean(-2)


def _layout(tokens: int, pixels: Tensor) -> Layout:
    layout = infer_layout(torch.empty(1, tokens, 2), image_size(pixels))
    if layout is None:
        raise ValueError(f"{tokens} tokens do not tile an input of size {image_size(pixels)}; use maps.grad_cam")
    return layout
