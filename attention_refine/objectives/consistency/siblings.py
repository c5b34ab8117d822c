"""One map of an image compared over two views of it, at two layers, or from two models."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...maps import resize
from .matching import Classes, MapChoice, Pairs

if TYPE_CHECKING:
    from ...refined import Refined


def over_views(
    model: Refined, pixels: Tensor, classes: Classes, chosen: MapChoice, config: Any, at_random: bool
) -> Pairs:
    """The map of the image, and that of a view of it laid back where the view was taken.

    Locations the view does not show count for neither map: both have their mean there.

    Args:
        at_random: a view of each image's own; else one, always the same, for all.
    """
    graph = torch.is_grad_enabled()
    view = _views(len(pixels), config, at_random).to(pixels.device)
    a = chosen(model, pixels, classes.chosen(model, pixels, chosen.name), graph)
    b = chosen(model, seen_through(view, pixels), classes.index, graph)
    shown = seen_through(_back(view), torch.ones_like(b[:, :1].detach()), mode="nearest")
    a, b = _inside(a, shown), _inside(seen_through(_back(view), b, outside="border"), shown)
    return _pairs(a, b, classes)


def over_layers(model: Refined, pixels: Tensor, classes: Classes, chosen: MapChoice, layers: tuple[str, str]) -> Pairs:
    """The map read at two layers."""
    graph = torch.is_grad_enabled()
    target = classes.chosen(model, pixels, chosen.name)
    a = replace(chosen, site=layers[0])(model, pixels, target, graph)
    return _pairs(a, replace(chosen, site=layers[1])(model, pixels, classes.index, graph), classes)


def over_models(
    model: Refined, teacher: nn.Module, pixels: Tensor, classes: Classes, chosen: MapChoice, site: str
) -> Pairs:
    """The map, and that of a second model for the same classes, a constant, read at a ``site`` of its own."""
    a = chosen(model, pixels, classes.chosen(model, pixels, chosen.name), torch.is_grad_enabled())
    return _pairs(a, replace(chosen, site=site)(teacher, pixels, classes.index, False).detach(), classes)


def _pairs(a: Tensor, b: Tensor, classes: Classes) -> Pairs:
    """The maps of every class that counts, at the finer one's size."""
    size = max(a.shape[2:], b.shape[2:], key=lambda s: torch.Size(s).numel())
    rows, turns, share = classes.pairs()
    a, b = (resize(m, tuple(size))[rows, turns if m.shape[1] > 1 else 0][:, None] for m in (a, b))
    return Pairs(a, b, share)


def _views(count: int, config: Any, at_random: bool) -> Tensor:
    """``(count, 2, 3)``: where in the image, from -1 to 1, a view's corners lie; float32, on the CPU."""
    generator = None if at_random else torch.Generator().manual_seed(0)
    draws = torch.rand(count if at_random else 1, 4, generator=generator).expand(count, 4)
    low, high = config.view_scale
    scale = low + (high - low) * draws[:, 0]
    shift = (2 * draws[:, 1:3] - 1) * (1 - scale).abs()[:, None] * config.view_shift
    flip = torch.where(draws[:, 3] < config.view_flip, -1.0, 1.0)
    nothing = torch.zeros(count)
    across = torch.stack([flip * scale, nothing, shift[:, 0]], 1)
    down = torch.stack([nothing, scale, shift[:, 1]], 1)
    return torch.stack([across, down], 1)


def _back(view: Tensor) -> Tensor:
    """The inverse of an affine view without rotation."""
    scale = torch.stack([view[:, 0, 0], view[:, 1, 1]], 1)
    return torch.cat([torch.diag_embed(1 / scale), (-view[:, :, 2] / scale)[:, :, None]], 2)


def seen_through(view: Tensor, image: Tensor, mode: str = "bilinear", outside: str = "zeros") -> Tensor:
    """Images, clips or maps through their views ``(B, 2, 3)``; all frames of a clip through one.

    Args:
        outside: what lies beyond the image: ``"zeros"``, or its ``"border"``.
    """
    frames = image.flatten(1, 2) if image.ndim == 5 else image
    grid = F.affine_grid(view.to(frames), list(frames.shape), align_corners=False)
    seen = F.grid_sample(frames, grid, mode=mode, padding_mode=outside, align_corners=False)
    return seen.view_as(image)


def _inside(maps: Tensor, shown: Tensor) -> Tensor:
    """Maps whose locations outside ``shown`` hold the mean of those inside: Pearson's correlation does not see it."""
    locations = tuple(range(2, maps.ndim))
    total = (maps * shown).sum(locations, keepdim=True)
    return torch.where(shown > 0, maps, total / shown.sum(locations, keepdim=True).clamp_min(1))
