"""The gradient of the class score with respect to the pixels (Simonyan et al. 2014), times them, or averaged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._conditions import full_precision, map_conditions
from ._pixels import channel_axis, reduce_channels
from ._progress import counted
from ._registry import register_map
from ._site import logits_of, refuse_site
from ._target import FixedTarget, Target, fixed, given, gradients, repeated, rows, score


@register_map(kind="pixels", differentiable=True)
def gradient(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str = "auto",
    create_graph: bool = False,
    reduce: str = "abs",
) -> Tensor:
    """The gradient of the class score at every pixel.

    Args:
        net: any classifier whose output is logits or has ``.logits``.
        pixel_values: images ``(B, 3, H, W)``, or clips ``(B, 3, T, H, W)`` or ``(B, T, 3, H, W)``.
        target: classes to explain, see :mod:`attention_refine.maps._target`; None is each image's predicted class.
        site: only ``"auto"``: the map is of the pixels.
        create_graph: keep the graph, down to the parameters and the pixels, so that the map can be trained.
        reduce: colour channels to one number: ``"abs"`` sums magnitudes, ``"max"`` takes the largest magnitude (as
            the paper does), ``"sum"`` keeps the sign.

    Returns:
        ``(B, T, H, W)`` at the pixels' resolution with ``T`` targets an image; clips ``(B, T, frames, H, W)``.

    Raises:
        ValueError: the target does not fit the logits, or ``reduce`` is unknown.
    """
    refuse_site(site, "gradient")
    axis = channel_axis(pixel_values)
    with map_conditions(net, pixel_values, create_graph) as (net, pixels):
        pixels = in_graph(pixels)
        logits = logits_of(net(pixels))
        scores = score(logits, fixed(target, logits))
        maps = [reduce_channels(g, axis, reduce) for g in gradients(scores, pixels, create_graph)]
        return full_precision(torch.stack(maps, dim=1))


@register_map(kind="pixels", differentiable=True)
def input_x_gradient(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str = "auto",
    create_graph: bool = False,
    reduce: str = "sum",
) -> Tensor:
    """The pixels times the gradient of the class score with respect to them (Shrikumar et al. 2017): its first-order
    change if the pixel became zero, which is the data's mean colour in pixels that are normalised.

    Args:
        net, pixel_values, target, site, create_graph: as in :func:`gradient`.
        reduce: as in :func:`gradient`; ``"sum"`` keeps the sign.

    Returns:
        ``(B, T, H, W)``, as :func:`gradient`.

    Raises:
        ValueError: as :func:`gradient`.
    """
    refuse_site(site, "input_x_gradient")
    axis = channel_axis(pixel_values)
    with map_conditions(net, pixel_values, create_graph) as (net, pixels):
        pixels = in_graph(pixels)
        logits = logits_of(net(pixels))
        scores = score(logits, fixed(target, logits))
        found = [reduce_channels(pixels * g, axis, reduce) for g in gradients(scores, pixels, create_graph)]
        maps = torch.stack(found, dim=1)
        return full_precision(maps if create_graph else maps.detach())


@register_map(kind="sampled", differentiable=True)
def smooth_grad(
    net: nn.Module,
    pixel_values: Tensor,
    target: Target = None,
    site: str = "auto",
    create_graph: bool = False,
    reduce: str = "abs",
    samples: int = 25,
    spread: float = 0.15,
    squared: bool = False,
    chunk_size: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """SmoothGrad: the mean gradient of noisy copies of the image (Smilkov et al. 2017, eq. 3).

    Every image sees the same noise pattern, scaled to its own range, so its map does not depend on the batch; the noise
    has a generator of its own and leaves the global random state alone.

    Args:
        net, pixel_values, create_graph, reduce: as in :func:`gradient`.
        target: as in :func:`gradient`; None is the class predicted for the clean image.
        samples: noisy copies an image.
        spread: standard deviation of the noise, as a share of the image's range (the paper uses 0.1 to 0.2).
        squared: average squared gradients instead (``reduce`` then sums squares).
        chunk_size: images forwarded at once, which bounds the memory; None is one copy of the batch.
        seed: of the noise.
        progress: show a progress bar.

    Returns:
        ``(B, T, H, W)``, as :func:`gradient`.

    Raises:
        ValueError: the target does not fit the logits, ``reduce`` is unknown, or ``samples`` is below 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    refuse_site(site, "smooth_grad")
    axis = channel_axis(pixel_values)
    with map_conditions(net, pixel_values, create_graph) as (net, pixels):
        wanted = clean_target(net, pixels, target, chunk_size)
        flat = pixels.detach().flatten(1)
        sigma = (spread * (flat.amax(1) - flat.amin(1))).reshape(-1, *[1] * (pixels.ndim - 1))
        noise = torch.Generator().manual_seed(seed)
        at_once = copies_at_once(pixels, chunk_size)
        groups = [min(at_once, samples - first) for first in range(0, samples, at_once)]
        total: list[Tensor] = []
        for count in counted(groups, len(groups), progress, "smooth_grad"):
            patterns = [torch.randn(pixels.shape[1:], generator=noise).to(pixels) for _ in range(count)]
            copies = torch.cat([pixels + sigma * pattern for pattern in patterns])
            found = pixel_gradients(net, copies, repeated(wanted, count), create_graph, chunk_size)
            found = [(g.square() if squared else g).unflatten(0, (count, len(pixels))).sum(0) for g in found]
            total = [a + b for a, b in zip(total, found)] if total else found
        maps = [reduce_channels(t / samples, axis, reduce) for t in total]
        return full_precision(torch.stack(maps, dim=1))


def in_graph(pixels: Tensor) -> Tensor:
    """The pixels themselves where they are already part of a graph, else a leaf that starts one."""
    return pixels if pixels.requires_grad else pixels.detach().requires_grad_()


def clean_target(net: nn.Module, pixels: Tensor, target: Target, chunk_size: int | None) -> FixedTarget:
    """The target, with the class predicted for the clean image where None was given: fixed before the image changes."""
    if target is not None:
        return given(target, len(pixels), pixels.device)
    with torch.no_grad():
        return torch.cat([logits_of(net(piece)).argmax(1, True) for piece in pixels.split(chunk_size or len(pixels))])


def copies_at_once(pixels: Tensor, chunk_size: int | None) -> int:
    """How many copies of the batch fill a chunk; one where the batch itself is larger."""
    return max(1, (chunk_size or len(pixels)) // len(pixels))


def pixel_gradients(
    net: nn.Module, pixels: Tensor, target: FixedTarget, create_graph: bool, chunk_size: int | None
) -> list[Tensor]:
    """For each target, the gradient of its score in the shape of ``pixels``, ``chunk_size`` images at a time."""
    chunk_size = chunk_size or len(pixels)
    pieces = []
    for start in range(0, len(pixels), chunk_size):
        part = slice(start, start + chunk_size)
        piece = in_graph(pixels[part])
        scores = score(logits_of(net(piece)), rows(target, part))
        pieces.append(list(gradients(scores, piece, create_graph)))
    return [torch.cat(per_target) for per_target in zip(*pieces)]
