"""The attention weights of any transformer, fused or not, seen as its forward pass computes them."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ..backbones.adapter import Backbone
from ..backbones.attention import class_row_attention
from ..backbones.contexts import quiet
from ._site import logits_of

ROWS = ("auto", "class", "mean")
_WITHOUT_ATTENTION: WeakSet[nn.Module] = WeakSet()
_SOFTMAX = {torch.softmax, Tensor.softmax, F.softmax}
_FUSED = F.scaled_dot_product_attention
_MULTI_HEAD = F.multi_head_attention_forward
_MULTI_HEAD_NAMES = tuple(signature(_MULTI_HEAD).parameters)
_UNCOMMON = [
    "bias_k",
    "bias_v",
    "add_zero_attn",
    "key_padding_mask",
    "use_separate_proj_weight",
    "static_k",
    "static_v",
]


class AttentionWeights(TorchFunctionMode):
    """Hands every attention matrix ``(B, heads, queries, keys)`` that is computed inside to ``seen``, in order.

    Fused attention keeps no weights, so it runs unfused here: softmax(q k^T / sqrt(d) + mask) v, the same to rounding.
    An explicit softmax over the last axis of a 4-D tensor counts as attention. Scores can be differentiated with
    respect to what is handed out.

    In a refined model it is the backbone's attention that is seen, with what the map does to it; the head's own (the
    copied blocks of an attention branch) leads to the map, not to the logits.

    Args:
        batch: images in the forward pass; attention within windows folds them into this axis, which gives it away.
        seen: called with each matrix, which is the very tensor the network goes on with.
        net: the network that runs inside, where it may be a refined model.
    """

    def __init__(self, batch: int, seen: Callable[[Tensor], None], net: nn.Module | None = None):
        super().__init__()
        self.batch = batch
        self.seen = seen
        self.windowed = 0
        self.head = _head_of(net)
        self.inside_head = False
        self.handles: list[RemovableHandle] = []

    def __enter__(self) -> Any:
        if self.head is not None:
            self.handles = [
                self.head.register_forward_pre_hook(lambda *_: self._in_head(True)),
                self.head.register_forward_hook(lambda *_: self._in_head(False), always_call=True),
            ]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for handle in self.handles:
            handle.remove()
        return super().__exit__(*error)

    def _in_head(self, inside: bool) -> None:
        self.inside_head = inside

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside_head:
            return func(*args, **kwargs)
        if func is _FUSED or func is class_row_attention:
            return self._unfused(*args, **kwargs)
        if func is _MULTI_HEAD:
            return self._multi_head(**dict(zip(_MULTI_HEAD_NAMES, args)), **kwargs)
        output = func(*args, **kwargs)
        if func in _SOFTMAX and _over_last_axis(args, kwargs, output):
            self._look(output)
        return output

    def _look(self, weights: Tensor) -> None:
        if weights.shape[0] == self.batch:
            self.seen(weights)
        else:
            self.windowed += 1

    def _unfused(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False, class_row: Tensor | None = None,
        changed: Any = None,
    ) -> Tensor:  # fmt: skip
        if enable_gqa:  # grouped queries: each key and value head serves several query heads
            repeats = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        logits = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
        if attn_mask is not None:
            hidden = attn_mask.logical_not() if attn_mask.dtype == torch.bool else None
            logits = logits + attn_mask if hidden is None else logits.masked_fill(hidden, float("-inf"))
        if class_row is not None:
            logits = torch.cat([logits[..., :1, :] + class_row, logits[..., 1:, :]], dim=-2)
        weights = logits.softmax(-1)
        if weights.ndim == 4:
            self._look(weights)
        return weights @ value

    def _multi_head(
        self, query: Tensor, key: Tensor, value: Tensor, num_heads: int, in_proj_weight: Tensor,
        in_proj_bias: Tensor | None, out_proj_weight: Tensor, out_proj_bias: Tensor | None, **rest: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """torch's own multi-head attention, whose insides are out of a mode's sight: projections, then attention."""
        if query.ndim != 3 or any(rest.get(name) not in (None, False) for name in _UNCOMMON):
            raise ValueError("only torch.nn.MultiheadAttention in its common form, batched and packed, can be read")
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        split: list[Tensor] = []
        for tokens, weight, bias in zip((query, key, value), in_proj_weight.chunk(3), biases):
            tokens = F.linear(tokens, weight, bias)  # (N, B, C)
            split.append(tokens.unflatten(2, (num_heads, -1)).permute(1, 2, 0, 3))  # (B, heads, N, C / heads)
        queries, keys, values = split
        masked = {"attn_mask": rest.get("attn_mask"), "is_causal": rest.get("is_causal", False)}
        attended = self._unfused(queries, keys, values, **masked)
        output = F.linear(attended.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias)
        return output, None


def _head_of(net: nn.Module | None) -> nn.Module | None:
    """The head of a refined model; a bare network's own ``head`` is its classifier."""
    backbone = getattr(net, "backbone", None)
    return getattr(net, "head", None) if isinstance(getattr(backbone, "net", None), nn.Module) else None


def _over_last_axis(args: Any, kwargs: Any, output: Tensor) -> bool:
    axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return output.ndim == 4 and axis in (-1, 3)


def pools_a_token(backbone: Backbone) -> bool:
    """Whether the logits read the class token of the last attention alone; takes a pass of one image.

    That a network has no attention over all tokens is remembered, so that a convolutional one is asked once.
    """
    if backbone.net in _WITHOUT_ATTENTION:
        return False
    try:
        with torch.enable_grad(), quiet(backbone.net):
            return probe(backbone.net, backbone.example(), "auto")[0] == "class"
    except ValueError:  # no attention over all tokens
        _WITHOUT_ATTENTION.add(backbone.net)
        return False


def probe(net: nn.Module, pixels: Tensor, row: str) -> tuple[str, list[bool]]:
    """Which rows the logits read, ``"class"`` or ``"mean"``, and which attention layers reach the logits at all.

    Asked of one image, by gradients. With respect to the rows of the last attention they are zero everywhere but in row
    0 where the class token alone is pooled; a pooling head whose result is not used has none.

    Raises:
        ValueError: unknown ``row``, or no attention over all tokens was seen.
    """
    if row not in ROWS:
        raise ValueError(f"row {row!r} is not one of {', '.join(ROWS)}")
    layers: list[Tensor] = []
    with torch.enable_grad(), AttentionWeights(1, layers.append, net) as attention:
        logits = logits_of(net(pixels[:1].detach().requires_grad_()))
    if layers and not attention.windowed:
        scales = torch.linspace(1, 2, logits.shape[1]).to(logits)  # no sum of plain logits: it may be constant
        found = torch.autograd.grad((logits * scales).sum(), layers, allow_unused=True)
        live = [gradient is not None for gradient in found]
        if any(live):
            last = [gradient for gradient in found if gradient is not None][-1]
            if row == "auto":
                row = "mean" if bool(last[:, :, 1:].any()) else "class"
            return row, live
    why = "its attention stays within windows" if attention.windowed else "no attention over all tokens was seen"
    raise ValueError(f"{type(net).__name__} has no attention to read: {why}; use maps.grad_cam")


def only(live: list[bool], seen: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """``seen`` for those of a forward pass's attention layers that are live."""
    turns = iter(live)

    def chosen(weights: Tensor) -> None:
        if next(turns):
            seen(weights)

    return chosen
