"""A backbone and its site: one pass in which a head acts on the feature there, and second passes from there on.

``backbone(x, act)`` is the network's own forward, run once: a hook at the site hands the feature to ``act`` and puts
what it returns in its place, or lets it weigh the attention that follows. Training, inference, export and
``torch.compile`` take this way.

A second pass (mining, a map for each class) goes on from a feature: :meth:`Backbone.resume` runs the forward again with
every module before the site answering at once, so that it costs only the part after the site. This is exact because
the site is a cut: nothing but its output reaches the logits, so what the earlier modules answer only needs the right
shape. Second passes run without gradient checkpointing; the first runs with it, as timm or transformers switch it on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..layouts import from_grid, to_grid
from .attention import ClassRowGain
from .compiling import not_compiled
from .contexts import quiet, without_checkpointing
from .outputs import feature_of, logits_of, with_first_tensor
from .partial_forward import Reached, answering, before, recording_before
from .passing import MakesContext, Passage
from .precision import precision
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
        earlier: per module before the site, what it returned at each call, as shapes; empty where nobody will resume.
    """

    grid: Tensor
    output: Any
    pixel_values: Tensor
    earlier: dict[str, list[Any]]

    def with_grid(self, grid: Tensor) -> Feature:
        return replace(self, grid=grid)


# Of the feature at the site, the grid that goes on in its place, and the gain (B, 1, h, w) of the attention that follows.
Act = Callable[[Feature], tuple[Tensor, Tensor | None]]


class Backbone(nn.Module):
    """A network with a site. ``backbone(x)`` is the network, unchanged.

    Under ``torch.compile``, ``backbone(x)`` and ``backbone(x, act)`` are one graph; :meth:`features` and :meth:`resume`
    run eagerly.

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

    def forward(
        self,
        pixel_values: Tensor,
        act: Act | None = None,
        keep: bool = False,
        after: tuple[MakesContext, ...] = (),
    ) -> Tensor:
        """``(B, classes)``, the logits, in one pass of the network.

        Args:
            act: called once, with the feature at the site; what it returns goes on.
            keep: record what :meth:`resume` needs of the feature, and let nothing that follows write into it.
            after: what makes contexts for what runs after the site.
        """
        pixel_values = pixel_values.to(precision(self.net, pixel_values))  # a network may be held in bf16
        if act is None:
            return logits_of(self.net(pixel_values))
        site = self.found_site()
        earlier: dict[str, list[Any]] = {}

        def at_site(output: Any) -> tuple[Any, tuple[MakesContext, ...]]:
            raw = feature_of(output)
            grid = to_grid(raw, site.layout, image_size_of(pixel_values))
            calls = {name: list(shapes) for name, shapes in earlier.items() if shapes}
            goes, gain = act(Feature(grid, output, pixel_values, calls))
            if goes is grid and keep:
                goes = grid.clone()  # the next activation may be in place
            if goes is not grid:
                output = with_first_tensor(output, from_grid(goes.to(raw.dtype), raw, site.layout))
            return output, after if gain is None else (*after, ClassRowGain(gain, site.layout).again)

        recorded = recording_before(self.net, site.name, earlier) if keep else nullcontext()
        with recorded, Passage(self.net, site.name, at_site) as passage:
            logits = logits_of(self.net(pixel_values))
        if passage.sent is None:
            raise RuntimeError(f"the forward pass never called {site.name!r}, where the map acts")
        return logits

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
        """Run the network up to and including its site, and no further."""

        def stop(feature: Feature) -> tuple[Tensor, None]:
            raise Reached(feature)

        try:
            self(pixel_values, stop, keep=True)
        except Reached as reached:
            return reached.output
        raise AssertionError("a pass that was to stop at its site went on")

    @not_compiled
    def resume(self, feature: Feature, gain: Tensor | None = None) -> Tensor:
        """Logits from a feature, its grid rewritten or not, for a second pass.

        Args:
            feature: from :meth:`features`, or of a pass that kept it; a ``grid`` replaced by :meth:`Feature.with_grid`
                is what runs on.
            gain: ``(B, 1, h, w)``, for a site whose mechanism is ``"attention"``: how much harder the class token looks
                at each location.
        """
        site = self.found_site()
        raw = feature_of(feature.output)
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
        return [
            self.net.get_submodule(name) for name in before(self.net, self.found_site().name) if name not in earlier
        ]

    def found_site(self) -> Site:
        """The site of a backbone that must have one.

        Raises:
            RuntimeError: it has none.
        """
        if self.site is None:
            raise RuntimeError("this backbone has no site: wrap it with a head, or pass site=... to wrap")
        return self.site
