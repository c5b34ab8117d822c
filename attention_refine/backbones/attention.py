"""A map that acts inside attention: the class token's weights are scaled by a gain, whatever the network.

Scaling patch tokens cannot move the logits of a network that pools its class token (a LayerNorm undoes the scale, the
last block drops the patches). Adding ``log(gain)`` to the class row of the attention logits does: the class token
then looks ``gain`` times as hard at a location, ``a_j -> a_j g_j / sum(a g)``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from ..layouts import MAX_PREFIX, Layout, in_token_order

_SOFTMAX = {torch.softmax, Tensor.softmax, F.softmax}


class ClassRowGain(TorchFunctionMode):
    """While active, the class token's attention over the patches is scaled by ``gain``.

    Two kinds of attention are recognised by their shapes: self-attention over ``prefix + h*w`` tokens, whose row 0 is
    the class token's (none where ``prefix`` is 0), and a single query over the patches and at most a few tokens before
    them (class-attention layers, attention pooling). Both the fused form (``scaled_dot_product_attention``) and an
    explicit softmax over attention logits are caught, so timm and transformers need no rewriting. Where the gain is 1
    everywhere the result is the network's own, bit for bit.

    Args:
        gain: ``(B, 1, h, w)`` or ``(B, 1, t, h, w)``, positive.
        layout: of the site: how many tokens come before the grid, and in which order those of the grid come.

    Attributes:
        calls: attentions that were changed so far.
    """

    def __init__(self, gain: Tensor, layout: Layout):
        super().__init__()
        flat = in_token_order(gain.float(), layout).flatten(1)
        # float32: log of a bf16 gain near 1 loses the map; the clamp keeps a gain of 0 (product form) finite.
        self.row = flat.clamp_min(1e-6).log()  # (B, h*w)
        self.changed = (flat != 1).any(1)
        self.prefix = layout.prefix
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key = (kwargs.get(n, args[i] if i < len(args) else None) for i, n in enumerate(("query", "key")))
            if self._concerns(query.shape[0], query.ndim, query.shape[-2], key.shape[-2]):
                self.calls += 1
                return self._fused(args, kwargs)
        elif func in _SOFTMAX:
            logits = kwargs.get("input", args[0] if args else None)
            if logits.ndim >= 3 and self._concerns(logits.shape[0], logits.ndim, *logits.shape[-2:]):
                self.calls += 1
                logits = torch.cat(
                    [logits[..., :1, :] + self._bias(logits, logits.shape[-1]), logits[..., 1:, :]], dim=-2
                )
                if "input" in kwargs:
                    return func(*args, **{**kwargs, "input": logits})
                return func(logits, *args[1:], **kwargs)
        return func(*args, **kwargs)

    def again(self) -> ClassRowGain:
        """The mode itself, which can be entered any number of times."""
        return self

    def _concerns(self, batch: int, rank: int, queries: int, keys: int) -> bool:
        before = keys - self.row.shape[1]
        if rank < 3 or batch != self.row.shape[0]:  # shape, not len: torch.export leaves the batch open
            return False
        return 0 <= before < MAX_PREFIX if queries == 1 else queries == keys and before == self.prefix > 0

    def _bias(self, like: Tensor, keys: int) -> Tensor:
        row = F.pad(self.row, (keys - self.row.shape[1], 0)).to(like.dtype)
        return row.view(row.shape[0], *[1] * (like.ndim - 2), keys)

    def _fused(self, args: Any, kwargs: Any) -> Any:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        call = {**dict(zip(names, args)), **kwargs}
        bias = self._bias(call["query"], call["key"].shape[-2])
        return class_row_attention(**call, class_row=bias, changed=self.changed)


def class_row_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, *, class_row: Any, changed: Any, **options: Any
) -> Tensor:
    """``F.scaled_dot_product_attention`` with ``class_row`` added to the class row of the attention logits.

    Every other row comes from the fused kernel, and so does all of an image that is not ``changed``, bit for bit. A
    torch function mode sees the whole as one function, as it sees the fused one.

    Args:
        query, key, value, attn_mask, options: as there.
        class_row: ``(B, 1, 1, keys)``.
        changed: ``(B,)`` bool, whether an image's row is anything but 0.
    """
    tensors = (query, key, value)
    if not torch.compiler.is_compiling() and has_torch_function(tensors):
        options = {"attn_mask": attn_mask, "class_row": class_row, "changed": changed, **options}
        return handle_torch_function(class_row_attention, tensors, *tensors, **options)
    output = F.scaled_dot_product_attention(*tensors, attn_mask=attn_mask, **options)
    bias = class_row
    if attn_mask is not None:
        mask = attn_mask[..., :1, :] if attn_mask.shape[-2] > 1 else attn_mask
        bias = bias + (torch.zeros_like(mask, dtype=bias.dtype).masked_fill(~mask, float("-inf"))
                       if mask.dtype == torch.bool else mask)  # fmt: skip
    options = {**options, "is_causal": False}
    row = F.scaled_dot_product_attention(query[..., :1, :], key, value, attn_mask=bias, **options)
    changed = changed.view(-1, *[1] * (row.ndim - 1))
    same = output[..., :1, :]
    if row.requires_grad:
        same = same.detach() + (row - row.detach())  # the network's own value, the gain's gradient
    return torch.cat([torch.where(changed, row, same), output[..., 1:, :]], dim=-2)
