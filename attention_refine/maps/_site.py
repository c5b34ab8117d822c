"""The feature at a site, taken from one forward pass, inside the graph of the logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import Site, infer_layout, logits_of, reading_site
from ..backbones.contexts import own_randomness, quiet
from ..backbones.outputs import first_tensor, with_first_tensor
from ..backbones.trace import frames_last
from ..backbones.video import FramesFirst
from ..layouts import Layout, to_grid
from ._pixels import channel_axis, image_size
from ._second_order import math_attention


@dataclass(frozen=True)
class Reading:
    """One forward pass: ``logits (B, classes)`` and the ``raw`` feature they were computed from."""

    logits: Tensor
    raw: Tensor
    layout: Layout
    image_size: tuple[int, ...]

    def grid(self, raw: Tensor) -> Tensor:
        """The feature, or a gradient of its shape, as ``(B, C, h, w)`` (clips ``(B, C, t, h, w)``)."""
        return to_grid(raw, self.layout, self.image_size)


def read(net: nn.Module, pixels: Tensor, site: str | Site, cut: bool, twice: bool = False) -> Reading:
    """Forward ``pixels`` once and keep the feature at ``site``.

    Args:
        site: ``"auto"``, a module's name, or a :class:`Site`.
        cut: start the graph at the site, so that nothing below it is kept. False leaves the graph whole.
        twice: attention after the site is twice differentiable; before it, it runs as it would have.

    Raises:
        ValueError: no such module, it did not run, or what it returns is no grid.
    """
    layout = None
    if site == "auto":
        if channel_axis(pixels) != 1:
            raise ValueError(
                f"site='auto' needs clips (B, C, T, H, W), got {tuple(pixels.shape)}; name the site, or wrap the "
                "network so that it takes channels first"
            )
        with torch.enable_grad():
            site = reading_site(net, pixels.detach())
    if isinstance(site, Site):
        name, layout = site.name, site.layout
    else:
        name = module_name(net, site)
    with tapped(net.get_submodule(name), cut, twice) as features:
        logits = logits_of(net(pixels))
    if not features:
        raise ValueError(f"site {name!r} did not run in the forward pass; choose a module on the way to the logits")
    size = image_size(pixels)
    layout = layout or infer_layout(features[0], size)
    if layout is None:
        raise ValueError(
            f"site {name!r} returns {tuple(features[0].shape)}, no spatial grid of a {size} input; try site='auto'"
        )
    if not isinstance(site, Site):
        layout = with_order(net, layout, pixels)
    return Reading(logits, features[0], layout, size)


def with_order(net: nn.Module, layout: Layout, pixels: Tensor) -> Layout:
    """A layout found in a shape, with what no shape says: whether a clip's tokens run over time first or last.

    Raises:
        ValueError: it cannot be told.
    """
    if layout.format != "NLC" or layout.grid_rank == 2:
        return layout
    axis = channel_axis(pixels)
    with quiet(net), own_randomness(pixels.device):
        last = frames_last(net if axis == 1 else FramesFirst(net), pixels[:1].detach().movedim(axis, 1))
    if last is None:
        raise ValueError(
            f"the order in which the tokens of {type(net).__name__} run over the frames cannot be told, so a map would "
            "be scrambled; use a map of the pixels such as integrated_gradients"
        )
    return replace(layout, frames_last=last)


@contextmanager
def tapped(module: nn.Module, cut: bool, twice: bool = False) -> Iterator[list[Tensor]]:
    """Collects the module's output while the context lasts.

    Where it runs several times the first counts: a refined model replays the modules below its head's site with blanks.
    """
    features: list[Tensor] = []
    after = ExitStack()

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        if features:
            return output
        raw = first_tensor(output)
        if raw is None:
            raise ValueError(
                f"the site returns a {type(output).__name__} without a tensor; choose another, or site='auto'"
            )
        feature = raw.detach().requires_grad_() if cut or not raw.requires_grad else raw
        features.append(feature)
        if twice:
            after.enter_context(math_attention())
        return with_first_tensor(output, feature.clone())  # a copy goes on: the next activation may be in place

    handle = module.register_forward_hook(keep)
    try:
        with after:
            yield features
    finally:
        handle.remove()


def module_name(net: nn.Module, site: str) -> str:
    """The full name of the module called ``site``; the end of a name will do where it is unique (``layer4``)."""
    names = [name for name, _ in net.named_modules() if name]
    if site in names:
        return site
    endings = [name for name in names if name.endswith(f".{site}")]
    if len(endings) == 1:
        return endings[0]
    problem = f"names several modules ({', '.join(endings[:5])})" if endings else "is not a module"
    children = ", ".join(name for name, _ in net.named_children())
    raise ValueError(
        f"site {site!r} {problem} of {type(net).__name__}; use 'auto' or a full name below one of: {children}"
    )


def refuse_site(site: str | Site, method: str) -> None:
    """Methods that read no site take ``"auto"`` alone, so that all maps are called alike and nothing is ignored."""
    if site != "auto":
        raise ValueError(f"{method} reads no site, so site={site!r} is refused; leave it out, or use maps.grad_cam")
