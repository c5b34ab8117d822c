"""What every head is: a module that stands in the forward pass at the site and makes the map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from ..backbones.adapter import Backbone
from ..backbones.sites import Site
from ..registry import Registry, checked_options

heads = Registry("head")


class Head(nn.Module):
    """Makes the map from the feature at the site and rewrites the feature with it.

    A head is written down first and built second: ``AttentionBranch(site="layer3")`` holds options only, and
    :meth:`attach` makes its layers once the backbone is known. ``config_class`` is a dataclass of the options; what
    ``attach`` found out (channels, which stage it copied) is in ``resolved`` and is stored beside them, so that a
    checkpoint is loaded without looking again.

    Attributes:
        where: where the site finder starts, ``"before_last_stage"`` or ``"last"``; ``"last_grid"`` for a head that
            classifies.
        num_maps: K of the maps it makes; known after :meth:`attach`.
        per_class: logit ``k`` comes from map ``k`` alone, in a pass of its own.
        classifies: the logits are the head's own (:meth:`classify`), in the place of the backbone's pooling and
            classifier; what ``forward`` returns first is then a :class:`~attention_refine.heads.pooling.Pooled`.
    """

    name: str
    config_class: type
    where = "before_last_stage"
    num_maps = 1
    per_class = False
    classifies = False

    def __init__(self, **options: Any):
        super().__init__()
        self.config = checked_options(self.config_class, options, type(self).__name__)
        self.resolved: dict[str, Any] = {}

    @property
    def weight(self) -> float:
        """Weight of the head's own losses in the total."""
        return self.config.weight

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "options": asdict(self.config), "resolved": self.resolved}

    def locate(self, backbone: Backbone) -> Site:
        """The site on this backbone: the one asked for, or where the finder puts it."""
        return backbone.locate(self.config.site, self.config.mechanism, self.where)

    def attach(self, backbone: Backbone, num_classes: int, resolved: dict[str, Any] | None = None) -> None:
        """Make the layers for this backbone; with ``resolved`` from a checkpoint, without probing it."""
        raise NotImplementedError

    def calibrate(self, backbone: Backbone, images: Callable[[], Tensor]) -> None:
        """Take from a few images what a fresh head needs for a map worth looking at; nothing by default.

        Called once, by ``wrap``, after :meth:`attach`; never for a checkpoint.

        Args:
            images: draws them, ``(n, 3, H, W)`` as the backbone is trained to see them; not called where none are
                needed, since drawing takes time.
        """

    def forward(self, feature: Tensor, maps: Tensor | None = None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """``(B, C, h, w)`` to the refined feature, the maps ``(B, K, h, w)`` and auxiliary logits by name.

        With ``maps`` given, those act in place of the head's own, and there are no auxiliary logits.
        """
        raise NotImplementedError

    def gain(self, maps: Tensor, given: bool = False) -> Tensor:
        """``(B, K, h, w)``: by how much each location counts more or less, for a map that acts inside attention."""
        return 1 + maps

    def classify(self, refined: Any) -> Tensor:
        """``(B, classes)`` from what ``forward`` returned first; only for heads that classify."""
        raise NotImplementedError(f"{type(self).__name__} leaves the logits to the backbone")

    def strength(self) -> Tensor | float:
        """How far the head's mechanism has come in, 0 to 1; a head that classifies is asked for its share."""
        return 1.0

    def has_come_in(self) -> bool:
        """Whether the map is what training made of it; until then ``explain`` shows Grad-CAM unless asked for it."""
        return float(self.strength()) == 1
