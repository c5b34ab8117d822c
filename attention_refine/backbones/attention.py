"""A map that acts inside attention: the class token's weights are scaled by a gain, whatever the network.

Scaling patch tokens cannot move the logits of a network that pools its class token (a LayerNorm undoes the scale, the
last block drops the patches). Adding ``log(gain)`` to the class row of the attention logits does: the class token
then looks ``gain`` times as hard at a location, ``a_j -> a_j g_j / sum(a g)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SOFTMAX = {torch.softmax, Tensor.softmax, F.softmax}


class ClassRowGain(TorchFunctionMode):
    """While active, every self-attention over ``prefix + h*w`` tokens has its class row scaled by ``gain``.

    Both the fused form (``scaled_dot_product_attention``) and an explicit softmax over square attention logits are
    caught, so timm and transformers need no rewriting. Where the gain is 1 everywhere the result is the network's own,
    bit for bit.

    Args:
        gain: ``(B, 1, h, w)``, positive.
        prefix: tokens before the grid; row 0 is the class token.
    """

    def __init__(self, gain: Tensor, prefix: int):
        super().__init__()
        flat = gain.float().flatten(1)
        # float32: log of a bf16 gain near 1 loses the map; the clamp keeps a gain of 0 (product form) finite.
        self.row = F.pad(flat.clamp_min(1e-6).log(), (prefix, 0))  # (B, tokens)
        self.changed = (flat != 1).any(1)
        self.tokens = self.row.shape[1]
        self.calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key = (kwargs.get(n, args[i] if i < len(args) else None) for i, n in enumerate(("query", "key")))
            if query.shape[-2] == key.shape[-2] == self.tokens and query.shape[0] == len(self.row):
                self.calls += 1
                return self._fused(func, args, kwargs)
        elif func in _SOFTMAX:
            logits = kwargs.get("input", args[0] if args else None)
            if logits.ndim >= 3 and logits.shape[-2:] == (self.tokens, self.tokens) and len(logits) == len(self.row):
                self.calls += 1
                row = self.row.to(logits.dtype).view(len(self.row), *[1] * (logits.ndim - 2), self.tokens)
                logits = torch.cat([logits[..., :1, :] + row, logits[..., 1:, :]], dim=-2)
                if "input" in kwargs:
                    return func(*args, **{**kwargs, "input": logits})
                return func(logits, *args[1:], **kwargs)
        return func(*args, **kwargs)

    def _fused(self, func, args, kwargs):
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        call = {**dict(zip(names, args)), **kwargs}
        output = func(**call)
        batch = len(self.row)
        bias = self.row.view(batch, *[1] * (call["query"].ndim - 2), self.tokens).to(call["query"].dtype)
        mask = call.get("attn_mask")
        if mask is not None:
            mask = mask[..., :1, :] if mask.shape[-2] > 1 else mask
            bias = bias + (torch.zeros_like(mask, dtype=bias.dtype).masked_fill(~mask, float("-inf"))
                           if mask.dtype == torch.bool else mask)  # fmt: skip
        row = func(**{**call, "query": call["query"][..., :1, :], "attn_mask": bias, "is_causal": False})
        changed = self.changed.view(batch, *[1] * (row.ndim - 1))
        return torch.cat([torch.where(changed, row, output[..., :1, :]), output[..., 1:, :]], dim=-2)
