"""Whether a clip's map finds the moment, whatever it makes of the place."""

from __future__ import annotations

import torch
from torch import Tensor

from ._maps import VOID
from ._registry import register_measure
from ._volume import to_volume


@register_measure(title="Temporal pointing", better=True, needs="volume")
def temporal_pointing(maps: Tensor, mask: Tensor) -> Tensor:
    """1 where the frame with most of a clip's map has the object in it, else 0.

    The pointing game in time. A clip whose object is in every frame, or in none, has no moment to be found and is NaN. The
    frame is that of the largest sum; the first of several. What a map that points at random gets is the share of the
    frames that have the object.

    Args:
        maps: ``(B, 1, t, h, w)``, no value below 0; resized in time and space to the masks.
        mask: ``(B, 1, T, H, W)`` uint8: 1 object, 0 background, 255 void. A frame with void and no object may have it or
            not, and is left out.

    Returns:
        ``(B,)``.
    """
    amounts = to_volume(maps, mask.shape[2:]).sum((1, 3, 4))
    there = (mask == 1).any(4).any(3).any(1)
    known = there | ~(mask == VOID).any(4).any(3).any(1)
    pointed = amounts.masked_fill(~known, -torch.inf).argmax(1, keepdim=True)
    hits = there.gather(1, pointed)[:, 0].to(maps.dtype)
    one_moment = there.any(1) & (known & ~there).any(1)
    return hits.masked_fill(~one_moment, torch.nan)
