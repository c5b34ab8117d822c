"""Occlusion: how much the score drops when a window slides over the image (Zeiler and Fergus 2014)."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from ._baselines import baseline_like
from ._conditions import full_precision, map_conditions
from ._pixels import channel_axis, image_size
from ._progress import counted
from ._registry import register_map
from ._site import refuse_site
from ._target import Target, repeated
from .gradient import clean_target, copies_at_once
from .score_cam import scores_in_chunks


@register_map(kind="sampled")
def occlusion(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str = "auto",
    create_graph: bool = False,
    window: int | tuple[int, ...] = 32,
    stride: int | tuple[int, ...] = 16,
    baseline: str | Tensor = "zero",
    probability: str = "none",
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """At each pixel the mean drop of the score over the windows that hide it; positive where the class needs the pixel.

    Windows start every ``stride`` pixels; the last one of a row or column ends at the border, so all pixels are hidden
    at least once as long as the stride does not exceed the window.

    Args:
        net: any classifier whose output is logits or has ``.logits``.
        pixel_values: images ``(B, 3, H, W)``, or clips ``(B, 3, T, H, W)`` or ``(B, T, 3, H, W)``.
        target: classes to explain, see :mod:`attention_refine.maps._target`; None is the class predicted for the image.
        site: only ``"auto"``: the map is of the pixels.
        create_graph: keep the graph of every forward pass.
        window, stride: in pixels, one number or one a side (``(T, H, W)`` for clips).
        baseline: what a window shows: ``"zero"``, ``"blur"``, ``"noise"`` or a tensor.
        probability: ``"none"`` for logits, ``"softmax"`` or ``"sigmoid"``.
        chunk_size: images forwarded at once, which bounds the memory; None is one copy of the batch.
        seed: of the noise baseline.
        progress: show a progress bar.

    Returns:
        ``(B, T, H, W)`` at the pixels' resolution; clips ``(B, T, frames, H, W)``.

    Raises:
        ValueError: the target or an option does not fit.
    """
    refuse_site(site, "occlusion")
    axis = channel_axis(pixel_values)
    size = image_size(pixel_values)
    windows, strides = _per_side("window", window, size), _per_side("stride", stride, size)
    if any(s > w < side for s, w, side in zip(strides, windows, size)):
        raise ValueError(f"stride {stride} exceeds window {window}: pixels between windows would never be hidden")
    starts = [_starts(side, w, s) for side, w, s in zip(size, windows, strides)]
    places = list(product(*starts))
    with map_conditions(net, pixel_values, create_graph) as (net, pixels), torch.set_grad_enabled(create_graph):
        wanted = clean_target(net, pixels, target, chunk_size)
        hidden_by = baseline_like(pixels, baseline, seed)
        whole = scores_in_chunks(net, pixels, wanted, probability, chunk_size)
        at_once = copies_at_once(pixels, chunk_size)
        groups = [places[i : i + at_once] for i in range(0, len(places), at_once)]
        total, counts = torch.zeros(()), torch.zeros(())
        for group in counted(groups, len(groups), progress, "occlusion"):
            hide = torch.zeros(len(group), *size, dtype=pixels.dtype, device=pixels.device)
            for mask, corner in zip(hide, group):
                mask[tuple(slice(c, c + w) for c, w in zip(corner, windows))] = 1
            copies = torch.where(hide.unsqueeze(axis).unsqueeze(1) > 0, hidden_by, pixels)  # (n, B, ...)
            seen = scores_in_chunks(net, copies.flatten(0, 1), repeated(wanted, len(group)), probability, chunk_size)
            drop = whole - seen.unflatten(0, (len(group), len(pixels)))  # (n, B, T)
            total = total + torch.einsum("nbt,n...->bt...", drop, hide)
            counts = counts + hide.sum(0)
        return full_precision(total / counts)


def _per_side(name: str, value: int | tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
    sides = (value,) * len(size) if isinstance(value, int) else tuple(value)
    if len(sides) != len(size) or min(sides) < 1:
        raise ValueError(
            f"{name} {value} does not fit an input of size {size}; give one positive number, or {len(size)}"
        )
    return tuple(min(side, limit) for side, limit in zip(sides, size)) if name == "window" else sides


def _starts(side: int, window: int, stride: int) -> list[int]:
    starts = list(range(0, side - window + 1, stride))
    if starts[-1] + window < side:
        starts.append(side - window)
    return starts
