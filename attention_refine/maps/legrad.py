"""LeGrad (Bousselham et al., ICCV 2025): what each layer's attention does for the score that the layer itself would give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.blocks import has_weights
from ..backbones.partial_forward import answering
from ._attention_weights import AttentionWeights, probe
from ._conditions import full_precision, map_conditions
from ._registry import register_map
from ._site import logits_of, refuse_site
from ._target import Target, fixed, score
from .gradient import in_graph
from .rollout import as_map


@register_map(kind="attention", differentiable=True, of_some_networks=True)
def legrad(
    net: nn.Module, pixel_values: Tensor, target: Target = None, site: str = "auto", create_graph: bool = False
) -> Tensor:
    """LeGrad: the positive gradients of every layer's attention, each of the score that its layer alone leads to.

    The score ``s_l`` of layer l is what the network says where the layers after it are left out (eq. 5 to 7: its tokens
    go to the final norm, the pooling and the classifier). The map is the mean over layers, heads and queries of
    ``relu(d s_l / d A_l)``, by key (eq. 8 to 10), without the class token. One pass, then one of the classifier a layer.

    It was made for networks that texts are asked of, see :func:`attention_refine.zero_shot`, and takes any transformer
    whose blocks attend to all tokens. The paper scales a map to [0, 1]; this one is as it comes
    (:func:`attention_refine.maps.normalize` scales it).

    Args:
        net: a transformer of blocks with one attention over all tokens each; timm and transformers.
        pixel_values: images ``(B, 3, H, W)``, or clips.
        target: classes to explain, see :mod:`attention_refine.maps._target`; None is each image's predicted class.
        site: only ``"auto"``.
        create_graph: keep the graph, down to the parameters and the pixels, so that the map can be trained.

    Returns:
        ``(B, T, h, w)`` at the resolution of the patches, not negative.

    Raises:
        ValueError: no attention over all tokens was seen, no row of blocks with one each, or the target does not fit.
    """
    refuse_site(site, "legrad")
    with map_conditions(net, pixel_values, create_graph) as (net, pixels):
        blocks = _blocks(net, pixels)
        weights, outputs, logits = _read(net, pixels, blocks)
        chosen = fixed(target, logits)
        layers = []
        for own, output in zip(weights, outputs, strict=True):
            with ExitStack() as left_out:
                for block in blocks:
                    left_out.enter_context(answering(block, [output], blank=False))
                scores = score(logits_of(net(pixels)), chosen)
            found = [_gradient(column.sum(), own, create_graph) for column in scores.unbind(1)]
            layers.append(torch.stack([each.relu().mean((1, 2)) for each in found], dim=-1))  # (B, keys, T)
        maps = as_map(torch.stack(layers).mean(0), net, pixels)
        return full_precision(maps if create_graph else maps.detach())


def _read(net: nn.Module, pixels: Tensor, blocks: list[nn.Module]) -> tuple[list[Tensor], list[Any], Tensor]:
    """Each block's attention ``(B, heads, queries, keys)`` and what it returns, and the logits, of one pass."""
    weights: list[Tensor] = []
    outputs: list[Any] = []
    with ExitStack() as stack:
        now = stack.enter_context(_running(blocks))
        for block in blocks:
            stack.callback(block.register_forward_hook(lambda _module, _args, output: outputs.append(output)).remove)
        stack.enter_context(
            AttentionWeights(len(pixels), lambda each: weights.append(each) if now() is not None else None, net)
        )
        logits = logits_of(net(in_graph(pixels)))
    return weights, outputs, logits


def _gradient(total: Tensor, weights: Tensor, create_graph: bool) -> Tensor:
    (found,) = torch.autograd.grad(total, weights, create_graph=create_graph, retain_graph=True, allow_unused=True)
    return torch.zeros_like(weights) if found is None else found


def _blocks(net: nn.Module, pixels: Tensor) -> list[nn.Module]:
    """The longest row of modules in which each computes one attention over all tokens.

    Raises:
        ValueError: there is none.
    """
    probe(net, pixels, "auto")  # says what is wrong with a network that has no attention to read
    rows = [list(module) for module in net.modules() if isinstance(module, (nn.ModuleList, nn.Sequential))]
    rows = [row for row in rows if len(row) > 1 and all(map(has_weights, row))]
    seen: list[list[int | None]] = [[] for _ in rows]
    with ExitStack() as stack, torch.no_grad():
        running = [stack.enter_context(_running(row)) for row in rows]

        def look(_weights: Tensor) -> None:
            for now, places in zip(running, seen):
                places.append(now())

        stack.enter_context(AttentionWeights(1, look, net))
        net(pixels[:1])
    within = [[place for place in places if place is not None] for places in seen]
    fit = [row for row, places in zip(rows, within) if places == list(range(len(row)))]
    if not fit:
        raise ValueError(
            f"{type(net).__name__} has no row of blocks with one attention over all tokens each, which legrad reads; use "
            "maps.gradient_rollout"
        )
    return max(fit, key=len)


@contextmanager
def _running(blocks: list[nn.Module]) -> Iterator[Callable[[], int | None]]:
    """Tells, when it is called within a pass, which of the blocks is running, by its place."""
    now: int | None = None

    def enter(place: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            nonlocal now
            now = place

        return hook

    def leave(*_: Any) -> None:
        nonlocal now
        now = None

    with ExitStack() as stack:
        for place, block in enumerate(blocks):
            stack.callback(block.register_forward_pre_hook(enter(place)).remove)
            stack.callback(block.register_forward_hook(leave).remove)
        yield lambda: now
