"""Which layer each weight of a network is in, counted from the image: what a rate that falls towards it goes by."""

from __future__ import annotations

from typing import Any

from timm.models import group_parameters
from torch import nn

from .blocks import block_classes
from .classifier import classifiers


def layers_of(net: Any, classes: int) -> dict[str, int]:
    """The layer of each parameter by its name, from 0 for the stem; the classifier is in the last.

    timm's networks say it themselves (``group_matcher``). Of any other the blocks are layers, one after the other, as
    timm groups them: what comes before the first is the stem, what stands between two goes with the latter, what
    follows the last goes with that.

    Raises:
        ValueError: neither a grouping nor blocks.
    """
    if callable(getattr(net, "group_matcher", None)):
        return group_parameters(net, net.group_matcher(coarse=False), reverse=True)
    blocks = _blocks(net)
    if len(blocks) < 2:
        raise ValueError(f"{type(net).__name__} has no blocks of one kind that follow each other")
    last = {id(parameter) for layer in classifiers(net, classes) for parameter in layer.parameters()}
    found: dict[str, int] = {}
    begun: list[str] = []
    between: list[str] = []
    for name, parameter in net.named_parameters():
        block = next((each for each in blocks if name.startswith(f"{each}.")), None)
        if block is not None and block not in begun:
            begun.append(block)
            found |= dict.fromkeys(between, len(begun) if len(begun) > 1 else 0)
            between = []
        if id(parameter) in last:
            found[name] = len(blocks) + 1
        elif block is not None:
            found[name] = begun.index(block) + 1
        else:
            between.append(name)
    found |= dict.fromkeys(between, len(blocks))
    return {name: layer - min(found.values()) for name, layer in found.items()}  # a stem may be of a block's kind


def _blocks(net: nn.Module) -> list[str]:
    """Names of the blocks; a stage, as transformers calls a chain of them, is none itself."""
    kinds = {kind for kind in block_classes(net) if not kind.endswith("Stage")}
    found: list[str] = []
    for name, module in net.named_modules():
        inside = found and name.startswith(f"{found[-1]}.")
        if type(module).__name__ in kinds and not inside:
            found.append(name)
    return found
