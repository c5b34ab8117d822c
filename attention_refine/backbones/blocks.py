"""The blocks a network is built of, one after the other: what is gathered at a time where a model is in shards."""

from __future__ import annotations

from torch import nn


def has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def block_classes(net: nn.Module) -> list[str]:
    """Names of the classes of which a chain or list in the network holds several, single layers left out."""
    found = set()
    for module in net.modules():
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            classes = [type(part) for part in module if any(map(has_weights, part.children()))]
            found |= {each.__name__ for each in classes if classes.count(each) > 1}
    return sorted(found - {nn.Sequential.__name__, nn.ModuleList.__name__})
