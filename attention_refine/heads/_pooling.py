"""Heads that pool the feature themselves and classify what they pooled: nothing of the backbone runs after them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.adapter import Backbone
from ..backbones.contexts import quiet
from ..backbones.pooling import classifier_of_the_mean
from ..backbones.sites import Site
from ..core.registry import check_choice
from ._base import Head


@dataclass(frozen=True)
class Pooled:
    """What such a head makes of a feature.

    Attributes:
        vectors: ``(B, K, C)``, one a part.
        scores: ``(B, K)``, how much each part counts; ``None`` where a person drew the maps.
    """

    vectors: Tensor
    scores: Tensor | None = None


@dataclass(frozen=True)
class PoolingConfig:
    """Options that every pooling head has.

    Args:
        site: module whose output is pooled, or ``"auto"``: the last grid that everything flows through.
        parts: K, the vectors and maps of an image.
        classifier_init: ``"copy"`` starts from the backbone's own classifier, a K-th of it for each part, where that is
            a linear layer on the mean of the feature; ``"scratch"``, and where there is no such layer, from new
            weights.
        bias: whether the classifier has one.
        dropout: share of the pooled values that are dropped in training.
        fade_in_steps: training passes over which the prediction goes over from the backbone's classifier to this one;
            0 for at once.
    """

    site: str = "auto"
    parts: int = 3
    classifier_init: str = "copy"
    bias: bool = True
    dropout: float = 0.0
    fade_in_steps: int = 100

    def __post_init__(self) -> None:
        owner = type(self).__name__.removesuffix("Config")
        check_choice(owner, "classifier_init", self.classifier_init, ("copy", "scratch"))
        if self.parts < 1:
            raise ValueError(f"{owner}: parts must be at least 1, got {self.parts}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"{owner}: dropout must be at least 0 and below 1, got {self.dropout}")
        if self.fade_in_steps < 0:
            raise ValueError(f"{owner}: fade_in_steps must be 0 or more, got {self.fade_in_steps}")


class PoolingHead(Head):
    """Pools the feature into K vectors, a map each, and classifies them side by side: ``W [r_1 ... r_K] + b``.

    No classifier of K vectors is the backbone's classifier of one, so a fresh head cannot in general give the
    backbone's logits by itself. Instead the prediction goes over, ``(1 - s) backbone + s head``, with ``s`` rising
    from 0 to 1 over ``fade_in_steps`` training passes: a freshly wrapped network is still that network, and once ``s``
    is 1 what follows the site has no part in it. A given map always acts through this head's classifier.
    """

    where = "last_grid"
    classifies = True

    def locate(self, backbone: Backbone) -> Site:
        return backbone.locate(self.config.site, None, self.where)

    def attach(self, backbone: Backbone, num_classes: int, resolved: dict[str, Any] | None = None) -> None:
        start = None
        if resolved is None:
            with torch.no_grad(), quiet(backbone.net):
                feature = backbone.features(backbone.example())
                self.check(feature.grid)
                if self.config.classifier_init == "copy":
                    start = classifier_of_the_mean(backbone, feature, num_classes)
            resolved = {"channels": feature.grid.shape[1]}
        self.resolved = resolved
        self.num_maps = parts = self.config.parts
        channels = resolved["channels"]
        self.make_layers(channels, backbone.found_site().layout.grid_rank)
        self.dropout = nn.Dropout(self.config.dropout)
        self.classifier = nn.Linear(parts * channels, num_classes, bias=self.config.bias)
        self.register_buffer("begun_steps", torch.zeros((), dtype=torch.long))
        if start is not None:
            weight, bias = start
            with torch.no_grad():
                self.classifier.weight.copy_(weight.repeat(1, parts) / parts)
                if self.config.bias:
                    self.classifier.bias.copy_(bias)
        parameter = next(backbone.net.parameters())
        self.to(parameter.device, parameter.dtype)

    def make_layers(self, channels: int, grid_rank: int) -> None:
        """Layers of the head's own beside the classifier; none by default."""

    def check(self, feature: Tensor) -> None:
        """Refuse a feature that has fewer locations than there are parts."""
        cells = math.prod(feature.shape[2:])
        if self.config.parts > cells:
            raise ValueError(
                f"{type(self).__name__}: parts={self.config.parts}, but the feature has {cells} locations "
                f"({'x'.join(map(str, feature.shape[2:]))}); take fewer parts or a larger image"
            )

    @property
    def weight(self) -> float:
        return 1.0

    def strength(self) -> Tensor | float:
        """How far the prediction is this head's: 0 for a fresh head, 1 after ``fade_in_steps`` training passes."""
        if self.config.fade_in_steps == 0:
            return 1.0
        # the pass under way does not count yet
        finished = self.begun_steps - 1 if self.training else self.begun_steps
        return (finished / self.config.fade_in_steps).clamp(0.0, 1.0)

    def has_come_in(self) -> bool:
        """From the first training pass on: the maps are the feature's own, and the prediction begins to go over."""
        return int(self.begun_steps) > 0

    def classify(self, refined: Pooled) -> Tensor:
        vectors = refined.vectors.flatten(1).to(self.classifier.weight.dtype)
        return self.classifier(self.dropout(vectors))
