"""What a map looks like, without any ground truth: how sparse, how spread, and how different K maps are.

Only a map's positive part counts; a map with no positive value is treated as uniform, so a dead map never looks sparse.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._maps import check_maps, positive_part, to_size, wide
from ._registry import register_measure


@register_measure(title="Mean activation", better=None, needs="map")
def mean_activation(maps: Tensor, feature_norm: Tensor | None = None) -> Tensor:
    """``(B,)`` float32 in (0, 1]: mean over maps and cells of each map divided by its maximum. LOWER is sparser.

    This is the number BR-NPA's code stores as "sparsity"; its paper prints the inverse, :func:`sparsity`. 1 for a
    uniform map, ``1 / (h * w)`` for a single cell. (BR-NPA adds 1e-5 to the maximum; here it is guarded instead.)

    Args:
        maps: ``(B, K, h, w)``.
        feature_norm: ``(B, 1, h, w)`` norm of the features, by which BR-NPA weights its maps; None for any other.
    """
    maps = check_maps(maps, single=False)
    if feature_norm is not None:
        norm = check_maps(feature_norm)
        maps = maps * to_size(positive_part(norm), maps.shape[-2:])
    maps = wide(positive_part(maps))
    return (maps / maps.amax((-2, -1), keepdim=True)).mean((1, 2, 3)).float()


@register_measure(title="Sparsity", better=None, needs="map")
def sparsity(maps: Tensor, feature_norm: Tensor | None = None) -> Tensor:
    """``(B,)`` float32, at least 1: ``1 / mean_activation``. HIGHER is sparser, ``h * w`` for a single cell.

    The reading that BR-NPA's paper prints. It grows with the map's size: compare maps of one size only.
    """
    return 1 / mean_activation(maps, feature_norm)


@register_measure(title="Entropy", better=None, needs="map")
def entropy(maps: Tensor) -> Tensor:
    """``(B,)`` float32 in [0, 1]: Shannon entropy of the map's share in each cell, over its maximum ``log hw``.

    0 for a single cell, 1 for a uniform map (and for a map of one cell). The mean over K maps.
    """
    maps = wide(positive_part(check_maps(maps, single=False))).flatten(2)
    share = maps / maps.sum(2, keepdim=True)
    cells = maps.shape[2]
    if cells == 1:
        return torch.ones(len(maps), device=maps.device)
    return (torch.special.entr(share).sum(2) / math.log(cells)).mean(1).clamp(0, 1).float()


def diversity(maps: Tensor) -> Tensor:
    """``(B,)`` float32 in [0, 1]: mean over the pairs of K maps of ``1 - cosine``.

    0 for equal maps and for K = 1, 1 for disjoint ones.
    """
    maps = wide(positive_part(check_maps(maps, single=False))).flatten(2)
    count = maps.shape[1]
    if count == 1:
        return torch.zeros(len(maps), device=maps.device)
    unit = maps / maps.norm(dim=2, keepdim=True)
    cosine = unit @ unit.transpose(1, 2)
    pairs = torch.triu(torch.ones(count, count, device=maps.device), diagonal=1).bool()
    return (1 - cosine[:, pairs]).mean(1).clamp(0, 1).float()
