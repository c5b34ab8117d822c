"""A backbone cut in two at its site: ``features`` runs what comes before, ``resume`` what comes after.

Neither half is a copy. ``features`` stops the network's own forward when the site returns; ``resume`` runs the
forward again with every module before the site answering at once, so a second pass (mining) costs only the part after
the site. This is exact because the site is a cut: nothing but its output reaches the logits, so what the earlier
modules answer only needs the right shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..layouts import from_grid, to_grid
from .attention import ClassRowGain
from .outputs import first_tensor, logits_of, with_first_tensor
from .sites import Site, check_site, find_site, image_size_of
from .spec import BackboneSpec


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


class _Reached(Exception):
    def __init__(self, output: Any):
        self.output = output


class Backbone(nn.Module):
    """A network with a site. ``backbone(x)`` is the network, unchanged.

    Args:
        net: a classifier from timm or transformers, or any module whose output :func:`logits_of` understands.
        spec: what rebuilds ``net``; ``None`` for a module that cannot be rebuilt (it cannot be saved then).
        site: where a map acts; ``None`` for a backbone that is only read.
    """

    def __init__(self, net: nn.Module, spec: BackboneSpec | None, site: Site | None = None):
        super().__init__()
        self.net = net
        self.spec = spec
        self.site = site

    def forward(self, pixel_values: Tensor) -> Tensor:
        return logits_of(self.net(pixel_values))

    def example(self) -> Tensor:
        """One black image of the size the network was made for, on its device, for probing."""
        channels, height, width = self.spec.preprocessing["input_size"] if self.spec else (3, 224, 224)
        parameter = next(self.net.parameters())
        return torch.zeros(1, channels, height, width, device=parameter.device, dtype=parameter.dtype)

    def locate(self, name: str = "auto", mechanism: str | None = None, where: str = "before_last_stage") -> Site:
        """Find or check a site for a head; the answer is returned, not kept."""
        if name == "auto":
            return find_site(self.net, self.example(), where)
        return check_site(self.net, self.example(), name, mechanism)

    def features(self, pixel_values: Tensor) -> Feature:
        """Run the network up to and including its site."""
        site = self._site()
        earlier: dict[str, list[Any]] = {}
        with ExitStack() as stack:
            for name in _before(self.net, site.name):
                stack.enter_context(_recording(self.net.get_submodule(name), earlier.setdefault(name, [])))
            stack.enter_context(_stopping(self.net.get_submodule(site.name)))
            try:
                self.net(pixel_values)
            except _Reached as reached:
                output = reached.output
            else:
                raise RuntimeError(f"the forward pass never called {site.name!r}, where the map acts")
        grid = to_grid(first_tensor(output), site.layout, image_size_of(pixel_values))
        return Feature(grid, output, pixel_values, {name: calls for name, calls in earlier.items() if calls})

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
            for name, calls in feature.earlier.items():
                stack.enter_context(_answering(self.net.get_submodule(name), calls))
            stack.enter_context(_answering(self.net.get_submodule(site.name), [output], blank=False))
            if gain is not None:
                stack.enter_context(ClassRowGain(gain, site.layout.prefix))
            return logits_of(self.net(feature.pixel_values))

    def _site(self) -> Site:
        if self.site is None:
            raise RuntimeError("this backbone has no site: wrap it with a head, or pass site=... to wrap")
        return self.site


def _before(net: nn.Module, site: str) -> list[str]:
    """Names of the largest modules that are neither the site nor above it: the ones to record and to answer for."""
    path = site.split(".")
    names = []
    for depth in range(len(path)):
        prefix = ".".join(path[:depth])
        for child, module in net.get_submodule(prefix).named_children():
            if child != path[depth]:
                names += _callable_names(f"{prefix}.{child}" if prefix else child, module)
    return names


def _callable_names(name: str, module: nn.Module) -> list[str]:
    """The module itself, or its children where it is a list or dict, which is never called."""
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return [inner for child, sub in module.named_children() for inner in _callable_names(f"{name}.{child}", sub)]
    return [name]


@contextmanager
def _recording(module: nn.Module, calls: list[Any]) -> Iterator[None]:
    """Note the shape of every output; the values are not kept, so nothing is held in memory."""
    handle = module.register_forward_hook(lambda module, args, output: calls.append(tree_map(_shape, output)))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _stopping(module: nn.Module) -> Iterator[None]:
    def stop(module, args, output):
        raise _Reached(output)

    handle = module.register_forward_hook(stop)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _answering(module: nn.Module, calls: list[Any], blank: bool = True) -> Iterator[None]:
    """The module returns the recorded outputs in turn instead of running, and runs as usual once they are used up."""
    remaining = iter(calls)
    own = module.__dict__.get("forward")
    run = module.forward

    def answer(*args, **kwargs):
        for output in remaining:
            return tree_map(_blank, output) if blank else output
        return run(*args, **kwargs)

    module.forward = answer
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@dataclass(frozen=True)
class _Shape:
    size: torch.Size
    dtype: torch.dtype
    device: torch.device


def _shape(value: Any) -> Any:
    return _Shape(value.shape, value.dtype, value.device) if isinstance(value, Tensor) else value


def _blank(value: Any) -> Any:
    return torch.zeros(value.size, dtype=value.dtype, device=value.device) if isinstance(value, _Shape) else value
