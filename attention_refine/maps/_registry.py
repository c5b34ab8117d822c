"""Maps by name: :func:`register_map` enters a function, and evaluation, explain, objectives and pages read the registry."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..core.registry import Registry, check_choice, check_name
from ._target import Target, refuse_target

KINDS = ("site", "pixels", "attention", "sampled")
# What stands for a map elsewhere: the head's own, and the controls of an evaluation.
TAKEN = ("auto", "centre", "head", "model", "random", "segmenter", "unsupervised")
_OURS = ("net", "pixel_values", "target", "site", "create_graph", "progress")

maps: Registry[Map] = Registry("map")
list_maps = maps.names


@dataclass(frozen=True)
class Map:
    """A map's function and what is known of it before it is called.

    Attributes:
        name: what it is asked for by.
        function: ``(net, pixel_values, target=None, **options) -> (B, T, h, w)``; without ``target`` where the map is of
            no class.
        kind: ``"site"``, read in one pass at a module of the network, the function takes ``site=``; ``"pixels"``, in one
            pass at the input; ``"attention"``, in one pass in the attention's weights; ``"sampled"``, made of many passes
            of altered images.
        differentiable: the function takes ``create_graph=True`` and gives a map that can be trained.
        per_class: it explains a class; else the map is the same for all, and a target is refused.
        of_some_networks: it refuses networks without what it reads, which one black image tells.
    """

    name: str
    function: Callable[..., Tensor]
    kind: str
    differentiable: bool
    per_class: bool
    of_some_networks: bool = False

    def __call__(self, net: nn.Module, pixel_values: Tensor, target: Target = None, **options: Any) -> Tensor:
        """``(B, T, h, w)``.

        Raises:
            ValueError: a target for a map of no class; what the function raises.
        """
        if self.per_class:
            return self.function(net, pixel_values, target, **options)
        refuse_target(target, self.name)
        return self.function(net, pixel_values, **options)

    @property
    def options(self) -> list[str]:
        """The options of the function, beside what every map takes."""
        return [name for name in inspect.signature(self.function).parameters if name not in _OURS]

    @property
    def summary(self) -> str:
        """The first paragraph of the function's docstring, on one line."""
        return " ".join((inspect.getdoc(self.function) or "").partition("\n\n")[0].split())


def register_map(
    name: str | None = None,
    *,
    kind: str,
    differentiable: bool = False,
    per_class: bool = True,
    of_some_networks: bool = False,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """A decorator: the function's map can be asked for by name wherever the library's own can.

    Args:
        name: the function's own where None. A name is taken once.
        kind, differentiable, per_class, of_some_networks: as :class:`Map` has them.

    Raises:
        ValueError: a name that is taken, or that is no identifier; an unknown kind.
    """

    def add(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        called = name or function.__name__
        check_choice(f"register_map({called!r})", "kind", kind, KINDS)
        check_name("map", called, TAKEN)
        made = Map(called, function, kind, differentiable, per_class, of_some_networks)
        maps.enter(called, made, function)
        return function

    return add


def by_name(name: str) -> Map:
    """The map of that name, to be called as its function is.

    Raises:
        ValueError: none has it; the message lists those there are.
    """
    return maps.named(name)
