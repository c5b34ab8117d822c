"""A backbone cut in two at its site: ``features`` runs what comes before, ``resume`` what comes after.

Neither half is a copy. ``features`` stops the network's own forward when the site returns; ``resume`` runs the
forward again with every module before the site answering at once, so a second pass (mining) costs only the part after
the site. This is exact because the site is a cut: nothing but its output reaches the logits, so what the earlier
modules answer only needs the right shape.

Gradient checkpointing, as timm and transformers switch it on, acts on the first half, where most of the memory is: the
second runs without it, since modules that run again in the backward pass would find neither the answers nor the gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..layouts import from_grid, to_grid
from .attention import ClassRowGain
from .compiling import not_compiled
from .cutting import Reached, answering, before, last_called, recording, stopping
from .outputs import first_tensor, logits_of, with_first_tensor
from .scopes import is_checkpointed, quiet, without_checkpointing
from .sites import Site, check_site, find_site
from .spec import BackboneSpec
from .trace import image_size_of


@dataclass(frozen=True)
class Feature:
    """The feature at the site, and what it takes to go on from it.

    Attributes:
        grid: ``(B, C, h, w)``, or ``(B, C, t, h, w)`` for clips; prefix tokens are not in it.
        output: what the site's module returned, in its own layout.
        pixel_values: the input.
        earlier: per module before the site, what it returned at each call, as shapes.
    """

    grid: Tensor
    output: Any
    pixel_values: Tensor
    earlier: dict[str, list[Any]]

    def with_grid(self, grid: Tensor) -> Feature:
        return replace(self, grid=grid)


class Backbone(nn.Module):
    """A network with a site. ``backbone(x)`` is the network, unchanged.

    Under ``torch.compile`` ``backbone(x)`` is compiled as any network; :meth:`features` and :meth:`resume` break the
    graph and run eagerly: a compiled model with a head gives the same results, at the eager backbone's speed.

    Args:
        net: a classifier from timm or transformers, or any module whose output :func:`logits_of` understands.
        spec: what rebuilds ``net``; ``None`` for a module that cannot be rebuilt (it cannot be saved then).
        site: where a map acts; ``None`` for a backbone that is only read.
        input_size: ``(C, H, W)`` of the images the network is for; probes have this size.
    """

    def __init__(
        self,
        net: nn.Module,
        spec: BackboneSpec | None,
        site: Site | None = None,
        input_size: Sequence[int] = (3, 224, 224),
    ):
        super().__init__()
        self.net = net
        self.spec = spec
        self.site = site
        self.input_size = tuple(input_size)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return logits_of(self.net(pixel_values))

    def example(self) -> Tensor:
        """One black image of the size the network was made for, on its device, for probing."""
        parameter = next(self.net.parameters())
        return torch.zeros(1, *self.input_size, device=parameter.device, dtype=parameter.dtype)

    def locate(self, name: str = "auto", mechanism: str | None = None, where: str = "before_last_stage") -> Site:
        """Find or check a site for a head; the answer is returned, not kept."""
        if name == "auto":
            return find_site(self.net, self.example(), where)
        return check_site(self.net, self.example(), name, mechanism, where)

    @not_compiled  # stopping and answering are no graph; see the class
    def features(self, pixel_values: Tensor) -> Feature:
        """Run the network up to and including its site."""
        site = self._site()
        checkpointed = torch.is_grad_enabled() and is_checkpointed(self.net)
        earlier: dict[str, list[Any]] = {}
        with ExitStack() as stack:
            if not checkpointed:
                stack.enter_context(without_checkpointing(self.net))

            def part(name: str) -> nn.Module:
                module = self.net.get_submodule(name)
                return last_called(module) if checkpointed else module

            for name in before(self.net, site.name):
                stack.enter_context(recording(part(name), earlier.setdefault(name, [])))
            stack.enter_context(stopping(part(site.name)))
            try:
                self.net(pixel_values)
            except Reached as reached:
                output, in_graph = reached.output, reached.in_graph
            else:
                raise RuntimeError(f"the forward pass never called {site.name!r}, where the map acts")
        if checkpointed and not in_graph:
            raise RuntimeError(
                "a backbone cut at a site cannot be trained with reentrant gradient checkpointing, which gives the "
                "site no gradient; use the other kind (timm: timm.layers.set_reentrant_ckpt(False), transformers: "
                "gradient_checkpointing_enable({'use_reentrant': False}))"
            )
        grid = to_grid(first_tensor(output), site.layout, image_size_of(pixel_values))
        return Feature(grid, output, pixel_values, {name: calls for name, calls in earlier.items() if calls})

    @not_compiled
    def resume(self, feature: Feature, gain: Tensor | None = None) -> Tensor:
        """Logits from a feature, its grid rewritten or not.

        Args:
            feature: from :meth:`features`; a ``grid`` replaced by :meth:`Feature.with_grid` is what runs on.
            gain: ``(B, 1, h, w)``, for a site whose mechanism is ``"attention"``: how much harder the class token looks
                at each location.
        """
        site = self._site()
        raw = first_tensor(feature.output)
        output = with_first_tensor(feature.output, from_grid(feature.grid.to(raw.dtype), raw, site.layout))
        with ExitStack() as stack:
            stack.enter_context(without_checkpointing(self.net))
            for name, calls in feature.earlier.items():
                stack.enter_context(answering(self.net.get_submodule(name), calls))
            stack.enter_context(answering(self.net.get_submodule(site.name), [output], blank=False))
            if gain is not None:
                stack.enter_context(ClassRowGain(gain, site.layout))
            return logits_of(self.net(feature.pixel_values))

    def after_site(self) -> list[nn.Module]:
        """The largest modules that run only after the site; all else that has weights is the extractor."""
        with torch.no_grad(), quiet(self.net):
            earlier = self.features(self.example()).earlier
        return [self.net.get_submodule(name) for name in before(self.net, self._site().name) if name not in earlier]

    def _site(self) -> Site:
        if self.site is None:
            raise RuntimeError("this backbone has no site: wrap it with a head, or pass site=... to wrap")
        return self.site
