"""Classifiers on the mean of a network's last grid: made where it has none, recognised where it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..layouts import to_grid
from .contexts import output_hook, own_randomness, quiet
from .outputs import feature_of
from .probe import UnsupportedBackbone
from .sites import Site
from .trace import image_size_of, trace

if TYPE_CHECKING:
    from .adapter import Backbone, Feature


class PatchPooling(nn.Module):
    """``classifier(mean over h, w of the feature at a site)``; what the network itself answers is not used.

    A class token sees the patches through attention alone, and some networks mix the scores of several stages: neither
    leaves a map anything to act on. With the patches pooled, every location counts.

    Args:
        net: any network.
        site: module whose output is pooled.
        channels: of the feature there.
        num_labels: classes.
    """

    def __init__(self, net: nn.Module, site: Site, channels: int, num_labels: int):
        super().__init__()
        self.net = net
        self.site = site
        self.classifier = nn.Linear(channels, num_labels)

    def forward(self, pixel_values: Tensor) -> Tensor:
        features: list[Tensor] = []

        def keep(module: Any, args: Any, output: Any) -> None:
            features.append(feature_of(output))

        with output_hook(self.net.get_submodule(self.site.name), keep):
            self.net(pixel_values)
        if not features:
            raise RuntimeError(f"the forward pass never called {self.site.name!r}, whose patches are pooled")
        grid = to_grid(features[-1], self.site.layout, image_size_of(pixel_values))
        return self.classifier(grid.flatten(2).mean(2))

    def to_dict(self) -> dict[str, Any]:
        """What :meth:`from_dict` rebuilds it from, beside the network."""
        return {
            "site": self.site.to_dict(),
            "channels": self.classifier.in_features,
            "num_labels": self.classifier.out_features,
        }

    @classmethod
    def from_dict(cls, net: nn.Module, values: dict[str, Any]) -> PatchPooling:
        return cls(net, Site.from_dict(values["site"]), values["channels"], values["num_labels"]).train(net.training)

    @classmethod
    def of(cls, net: nn.Module, pixel_values: Tensor, num_labels: int) -> PatchPooling:
        """Pool the last grid the network computes: after its final norm, where it has one.

        Raises:
            UnsupportedBackbone: it computes none.
        """
        with quiet(net), own_randomness(pixel_values.device), torch.no_grad():
            noise = torch.randn_like(pixel_values[:1])
            found, _ = trace(net, noise)
        if not found:
            size = "x".join(map(str, image_size_of(pixel_values)))
            raise UnsupportedBackbone(f"{type(net).__name__} at {size} returns no grid to pool; use a larger image")
        last = found[-1]
        channels = to_grid(feature_of(last.output), last.layout, image_size_of(noise)).shape[1]
        made = cls(net, Site(last.name, last.layout), channels, num_labels)
        return made.to(device=pixel_values.device, dtype=pixel_values.dtype).train(net.training)


def classifier_of_the_mean(backbone: Backbone, feature: Feature, classes: int) -> tuple[Tensor, Tensor] | None:
    """``W (classes, C)`` and ``b (classes,)`` where the logits are ``W mean + b`` of the grid at the site.

    Recognised by its numbers, on a grid of noise in the feature's place, not by the network's family. ``None`` for a
    network that normalises what it pooled, or looks at something else.

    Args:
        backbone: in evaluation mode.
        feature: an example at the site.
    """
    with torch.no_grad(), own_randomness(feature.grid.device):
        noise = torch.randn_like(feature.grid)
        logits = backbone.resume(feature.with_grid(noise))
    mean = noise.flatten(2).mean(2)
    shape = (classes, mean.shape[1])
    for module in backbone.net.modules():
        if not isinstance(module, (nn.Linear, nn.Conv2d)) or module.weight.flatten(1).shape != shape:
            continue
        weight = module.weight.detach().flatten(1)
        bias = weight.new_zeros(classes) if module.bias is None else module.bias.detach()
        if torch.allclose(nn.functional.linear(mean, weight, bias), logits, rtol=1e-3, atol=1e-4 * float(logits.std())):
            return weight, bias
    return None
