"""Score-CAM: every channel weighted by the score of the image seen through it (Wang et al. 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ._baselines import baseline_like
from ._conditions import full_precision, map_conditions
from ._pixels import channel_axis, image_size
from ._progress import counted
from ._registry import register_map
from ._scale import normalize, resize
from ._site import Site, logits_of, read
from ._target import FixedTarget, Target, fixed, repeated, rows, score
from .gradient import copies_at_once


@register_map(kind="sampled")
def score_cam(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str | Site = "auto",
    create_graph: bool = False,
    relu: bool = False,
    probability: str = "softmax",
    top_channels: int | None = None,
    chunk_size: int | None = None,
    progress: bool = False,
) -> Tensor:
    """``sum_k w_k A_k`` with ``w_k`` the score of the image masked by channel k, less a blank one's (eq. 3 to 5).

    A mask is the channel resized to the image and scaled to [0, 1]; a constant channel masks everything away and so has
    weight zero. One forward pass for each channel: ``top_channels`` keeps those that vary most over locations, an
    approximation that costs that much less.

    Args:
        net, pixel_values, target, site, relu: as in :func:`grad_cam`.
        create_graph: keep the graph of every forward pass.
        probability: ``"softmax"``, ``"sigmoid"`` (multi-label) or ``"none"``: what is made of the logits before the
            target reads its score. The official code uses softmax.
        top_channels: how many channels of each image to use; None is all of them.
        chunk_size: masked images forwarded at once, which bounds the memory; None is one copy of the batch.
        progress: show a progress bar.

    Returns:
        ``(B, T, h, w)`` at the site's resolution; clips ``(B, T, t, h, w)``.

    Raises:
        ValueError: the target, the site or an option does not fit.
    """
    axis = channel_axis(pixel_values)
    with map_conditions(net, pixel_values, create_graph) as (net, pixels), torch.set_grad_enabled(create_graph):
        reading = read(net, pixels, site, cut=False)
        wanted = fixed(target, reading.logits)
        feature = reading.grid(reading.raw)
        blank = scores_in_chunks(net, baseline_like(pixels, "zero"), wanted, probability, chunk_size)
        n_channels = min(top_channels or feature.shape[1], feature.shape[1])
        if n_channels < feature.shape[1]:
            spread = feature.detach().flatten(2).var(2)
            chosen = spread.topk(n_channels, dim=1).indices.sort(1).values  # (B, k)
            feature = torch.stack([image[channels] for image, channels in zip(feature, chosen)])
        size = image_size(pixels)
        maps = torch.zeros(())
        at_once = copies_at_once(pixels, chunk_size)
        for first in counted(range(0, n_channels, at_once), -(-n_channels // at_once), progress, "score_cam"):
            channels = feature[:, first : first + at_once]
            masks = resize(normalize(channels), size).transpose(0, 1).flatten(0, 1).unsqueeze(axis)  # (k B, 1, H, W)
            copies = pixels.repeat(channels.shape[1], *[1] * (pixels.ndim - 1))
            count = channels.shape[1]
            seen = scores_in_chunks(net, copies * masks, repeated(wanted, count), probability, chunk_size)
            weights = seen.unflatten(0, (count, len(pixels))) - blank  # (k, B, T)
            maps = maps + torch.einsum("kbt,bk...->bt...", weights, channels)
    return full_precision(maps.relu() if relu else maps)


def scores_of(net: nn.Module, pixels: Tensor, target: Any, probability: str) -> Tensor:
    """The target's scores ``(B, T)``, read off probabilities where asked.

    Raises:
        ValueError: unknown ``probability``.
    """
    logits = logits_of(net(pixels))
    if probability == "softmax":
        logits = logits.softmax(1)
    elif probability == "sigmoid":
        logits = logits.sigmoid()
    elif probability != "none":
        raise ValueError(f"probability {probability!r} is not 'softmax', 'sigmoid' or 'none'")
    return score(logits, target)


def scores_in_chunks(
    net: nn.Module, pixels: Tensor, target: FixedTarget, probability: str, chunk_size: int | None
) -> Tensor:
    """:func:`scores_of`, no more than ``chunk_size`` images at once."""
    size = chunk_size or len(pixels)
    parts = [slice(first, first + size) for first in range(0, len(pixels), size)]
    return torch.cat([scores_of(net, pixels[part], rows(target, part), probability) for part in parts])
