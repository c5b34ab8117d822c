"""Two maps of an image brought together: attention consistency's four ways, and the classes they are maps of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import maps
from ...backbones import Site
from ...core.registry import check_choice
from ...maps._conditions import full_precision, map_conditions
from ...maps._pixels import channel_axis
from ...metrics.agreement import standardise
from ...refined import Refined
from .._masking import multi_hot
from .correlation import is_constant

MATCHINGS = ("mask", "cam_mask", "upsampling", "pooling")
MASK_NORMS = ("std", "variance", "code")
# Options that differ here from the map's own: those of ATCON's published code.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 5, "reduce": "abs"},
    "smooth_grad": {"samples": 25, "spread": 0.15, "squared": True},
}


@dataclass(frozen=True)
class MapChoice:
    """A map by name, with its options and the site where it is read."""

    name: str
    options: dict[str, Any]
    site: str | Site

    def __call__(self, net: torch.nn.Module, pixels: Tensor, target: Any, graph: bool) -> Tensor:
        """``(B, T, h, w)`` for ``T`` classes an image; clips ``(B, T, t, h, w)``."""
        if self.name == "head":
            assert isinstance(net, Refined), "a network of another library has no head"
            return _head_map(net, pixels, target, graph)
        chosen = maps.by_name(self.name)
        site = {"site": self.site} if chosen.kind == "site" else {}
        target = target if chosen.per_class else None
        found = chosen(net, pixels, target, create_graph=graph, **site, **self.all_options())
        return found if chosen.per_class else found.mean(1, keepdim=True)  # class_attention has one a head

    def all_options(self) -> dict[str, Any]:
        return {**_DEFAULTS.get(self.name, {}), **self.options}


def check_map(owner: str, field: str, name: str, options: dict[str, Any]) -> None:
    """Refuse a map that cannot be trained, and an option that it does not take."""
    check_choice(
        owner, field, name, ("head", *(each for each in maps.list_maps() if maps.by_name(each).differentiable))
    )
    known = [] if name == "head" else maps.by_name(name).options
    for key in options:
        if key not in known:
            raise ValueError(
                f"{owner}: {field}_options has {key!r}, which is no option of {name!r}; "
                f"it takes {', '.join(known) or 'none'}"
            )


def at_a_site() -> list[str]:
    """The differentiable maps that are read at a layer."""
    made = map(maps.by_name, maps.list_maps())
    return [each.name for each in made if each.kind == "site" and each.differentiable]


def _chooses_the_class(name: str) -> bool:
    """Whether the map's one forward pass is of the image itself, so that its logits can choose the class."""
    return name == "head" or maps.by_name(name).per_class and maps.by_name(name).kind != "sampled"


def _head_map(model: Refined, pixels: Tensor, target: Any, graph: bool) -> Tensor:
    """The head's own map: of each class where it has one a class, else the largest of its parts."""
    with map_conditions(model, pixels, graph, attention=False) as (_, pixels):
        output = model(pixels, compute_losses=False)
        found = output.head_maps
        if not model.found_head().per_class or found.shape[1] == 1:
            if isinstance(target, Classes):
                target(output.logits)  # which chooses
            return full_precision(found.amax(1, keepdim=True))
        if isinstance(target, Classes):
            target(output.logits)
            target = target.index
        index = target.reshape(len(target), -1, *[1] * (found.ndim - 2)).expand(-1, -1, *found.shape[2:])
        return full_precision(found.gather(1, index))


class Classes:
    """The classes whose maps are compared, and each one's say in its image's loss.

    As a target for maps it explains ``index``; where that is to be the network's own choice, it is made from the first
    logits and kept.

    Attributes:
        index: ``(B, T)`` int64, or None until the network has chosen.
        share: ``(B, T)``, adding up to 1 over an image's classes (0 for one that has none); None for equal shares.
        logits: ``(B, classes)``, those that the choice was made from, a constant; None before it.
    """

    def __init__(self, kind: str, count: int, labels: Tensor | None, classes: int):
        self.count = min(count, classes) if kind == "topk" else 1
        self.index: Tensor | None = None
        self.logits: Tensor | None = None
        self.share: Tensor | None = None
        if kind == "labels":
            assert labels is not None, "images without labels are passed over"
            if labels.ndim == 1:
                self.index = labels.long()[:, None]
                return
            wanted, order = multi_hot(labels, classes).sort(dim=1, descending=True, stable=True)
            most = max(1, int(wanted.sum(1).max()))
            self.index, wanted = order[:, :most], wanted[:, :most]
            self.share = wanted / wanted.sum(1, keepdim=True).clamp_min(1)

    def __call__(self, logits: Tensor) -> Tensor:
        if self.index is None:
            self.logits = logits.detach()
            self.index = self.logits.topk(self.count, dim=1).indices
        return logits.gather(1, self.index)

    def chosen(self, model: Refined, pixels: Tensor, by: str) -> Any:
        """What the first map takes as its target: these classes, chosen by its own forward pass where it has one."""
        if self.index is None and _chooses_the_class(by):
            return self
        if self.index is None:
            with map_conditions(model, pixels, False) as (net, pixels), torch.no_grad():
                self(net(pixels, compute_losses=False).logits)
        return self.index

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Image, turn and share of each class that counts, ``(N,)`` each."""
        assert self.index is not None, "the first map has chosen"
        images, turns = self.index.shape
        if self.share is None:
            rows = torch.arange(images, device=self.index.device).repeat_interleave(turns)
            share = torch.full(rows.shape, 1.0 / turns, device=rows.device)
            return rows, torch.arange(turns, device=rows.device).repeat(images), share
        places = self.share.nonzero()
        if len(places) == 0:  # no image has a class: one stands in, and counts for nothing
            places = places.new_zeros(1, 2)
        rows, which = places.unbind(1)
        return rows, which, self.share[rows, which]


@dataclass(frozen=True)
class Pairs:
    """What is compared.

    Attributes:
        a, b: ``(N, 1, h, w)`` or ``(N, 1, t, h, w)``, of one size.
        share: ``(N,)``, each pair's in its image's loss.
        silent: ``(N,)`` bool, whether what masked the image was constant.
    """

    a: Tensor
    b: Tensor
    share: Tensor
    silent: Tensor | None = None


def soft_guide(guide: Tensor, norm: str, slope: float, offset: float) -> Tensor:
    """The mask ``P`` that a map makes of itself, each map ``(N, 1, *size)`` on its own scale (eq. 6), in (0, 1).

    Args:
        norm: ``"std"`` is ``sigmoid((g - mean) / deviation)``; ``"variance"`` divides by the variance, as printed;
            ``"code"`` is the published code's ``sigmoid(slope (g - mean - offset deviation))``. A constant map gives a
            half.
    """
    flat = full_precision(guide).flatten(1)
    if norm == "std":
        return standardise(flat).sigmoid().view_as(guide)
    centred = flat - flat.mean(1, keepdim=True)
    variance = centred.square().mean(1, keepdim=True)
    variance = variance.masked_fill(variance == 0, 1.0)
    argument = centred / variance if norm == "variance" else slope * (centred - offset * variance.sqrt())
    return argument.sigmoid().view_as(guide)


def matched(
    model: Refined, pixels: Tensor, classes: Classes, first: MapChoice, second: MapChoice, config: Any
) -> Pairs:
    """The two maps of ``config.matching``."""
    graph = torch.is_grad_enabled()
    guide = {"mask": second, "cam_mask": first}.get(config.matching)
    graphs = [graph and not (config.detach_mask and chosen is guide) for chosen in (first, second)]
    a, b = _both(model, pixels, classes, first, second, *graphs)
    rows, turns, share = classes.pairs()
    a, b = (m[rows, turns if m.shape[1] > 1 else 0][:, None] for m in (a, b))
    if config.matching == "upsampling":
        return Pairs(maps.resize(a, tuple(b.shape[2:])), b, share)
    if config.matching == "pooling":
        return Pairs(a, _pooled(b, a.shape[2:], config.pool), share)
    compared, guiding, again = (a, b, first) if guide is second else (b, a, second)
    axis = channel_axis(pixels)
    guiding = maps.resize(guiding, tuple(pixels.movedim(axis, 1).shape[2:]))
    mask = soft_guide(guiding, config.mask_norm, config.mask_slope, config.mask_offset)
    if config.detach_mask:
        mask = mask.detach()
    masked = pixels[rows] * mask.movedim(1, axis).to(pixels.dtype)
    assert classes.index is not None, "the first map has chosen"
    return Pairs(compared, again(model, masked, classes.index[rows, turns], graph), share, is_constant(guiding))


def _both(
    model: Refined,
    pixels: Tensor,
    classes: Classes,
    first: MapChoice,
    second: MapChoice,
    first_graph: bool,
    second_graph: bool,
) -> tuple[Tensor, Tensor]:
    """Both maps of the images as they are, from one forward pass where they are Grad-CAM and guided backprop."""
    target = classes.chosen(model, pixels, first.name)
    if (first.name, second.name) != ("grad_cam", "guided_backprop"):
        a = first(model, pixels, target, first_graph)
        return a, second(model, pixels, classes.index, second_graph)
    options = first.all_options() | second.all_options()
    relu = options.pop("relu", False)
    a, b = maps.grad_cam_and_guided_backprop(
        model, pixels, target, first.site, first_graph or second_graph, guided_graph=second_graph, **options
    )
    return a.relu() if relu else a, b


def _pooled(fine: Tensor, grid: tuple[int, ...], pool: str) -> Tensor:
    """A map of the pixels on a coarser grid: the largest, or the mean, of what falls into each cell."""
    pools: dict[tuple[str, int], Callable[..., Tensor]] = {
        ("max", 4): F.adaptive_max_pool2d,
        ("avg", 4): F.adaptive_avg_pool2d,
        ("max", 5): F.adaptive_max_pool3d,
        ("avg", 5): F.adaptive_avg_pool3d,
    }
    return pools[pool, fine.ndim](fine, tuple(grid))
