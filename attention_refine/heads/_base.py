"""What every head is: a module that stands in the forward pass at the site and makes the map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.adapter import Backbone
from ..backbones.sites import Site
from ..core.registry import Registry, checked_options, show_options

heads: Registry[type[Head]] = Registry("head")


@dataclass(frozen=True)
class Action:
    """What a head does with the feature at its site.

    Attributes:
        maps: ``(B, K, h, w)``.
        aux_logits: further predictions by name.
        feature: what goes on from the site in place of the feature; the same object where nothing is put in its place.
        gain: ``(B, 1, h, w)``, by how much more or less the attention that follows looks at each location.
        others: with a map for each class, the gains of the classes after the first, each for a pass of its own.
        logits: the head's own, where it classifies.
        share: of those in the prediction; the rest is the backbone's.
        scores, embedding: of a head that classifies, as in :class:`~attention_refine.output.RefinedOutput`.
    """

    maps: Tensor
    aux_logits: dict[str, Tensor]
    feature: Tensor
    gain: Tensor | None = None
    others: tuple[Tensor, ...] = field(default=())
    logits: Tensor | None = None
    share: Tensor | float = 1.0
    scores: Tensor | None = None
    embedding: Tensor | None = None

    @property
    def needs_backbone(self) -> bool:
        """Whether what follows the site has a part in the prediction."""
        return self.logits is None or isinstance(self.share, Tensor)

    def predict(self, backbone: Tensor | None) -> Tensor:
        """``(B, classes)`` from the backbone's logits; with a map for each class, from those of the first pass."""
        if self.logits is not None and not isinstance(self.share, Tensor):
            return self.logits
        assert backbone is not None, "asked for where needs_backbone says so"
        if self.logits is None:
            return backbone
        share = torch.as_tensor(self.share)
        return torch.where(share.eq(1), self.logits, backbone + share * (self.logits - backbone))


def mean_gain(gain: Tensor) -> Tensor:
    """``(B, 1, h, w)``, the mean over the maps' gains ``(B, K, h, w)``."""
    return gain if gain.shape[1] == 1 else gain.mean(1, keepdim=True)


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
        per_class: logit ``k`` comes from map ``k`` alone, in a pass of its own; evaluation, explain and objectives look
            at the map of the class in question. Else the maps are ranked, and the first stands for them.
        has_aux: ``forward`` makes auxiliary logits, and takes ``compute_aux=False`` to leave them out.
        classifies: the logits are the head's own (:meth:`classify`), in the place of the backbone's pooling and
            classifier; what ``forward`` returns first is then a :class:`~attention_refine.heads._pooling.Pooled`.
    """

    name: str
    config_class: type[Any]
    begun_steps: Tensor
    where = "before_last_stage"
    num_maps = 1
    per_class = False
    has_aux = False
    classifies = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        show_options(cls)

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

    def forward(self, feature: Tensor, maps: Tensor | None = None) -> tuple[Any, Tensor, dict[str, Tensor]]:
        """``(B, C, h, w)`` to the refined feature, the maps ``(B, K, h, w)`` and auxiliary logits by name.

        With ``maps`` given, those act in place of the head's own, and there are no auxiliary logits.
        """
        raise NotImplementedError

    def act(
        self, feature: Tensor, mechanism: str = "scale", maps: Tensor | None = None, compute_aux: bool = True
    ) -> Action:
        """What this head does at its site, in every pass: training, inference and export.

        Args:
            feature: ``(B, C, h, w)``.
            mechanism: of the site, ``"scale"`` or ``"attention"``.
            maps: as in :meth:`forward`.
            compute_aux: whether the auxiliary logits are wanted.
        """
        options = {"compute_aux": compute_aux} if self.has_aux else {}
        refined, made, aux_logits = self(feature, maps, **options)
        if self.classifies:
            share = 1.0 if maps is not None else self.strength()
            if isinstance(share, Tensor) and not torch.compiler.is_compiling() and share == 1:
                share = 1.0  # the backbone's classifier stays out of the graph
            return Action(
                made, aux_logits, feature, logits=self.classify(refined), share=share, scores=refined.scores,
                embedding=refined.vectors.flatten(1),
            )  # fmt: skip
        if mechanism == "scale" and not self.per_class:
            return Action(made, aux_logits, refined)
        gain = self.gain(made, maps is not None)
        if not self.per_class:
            return Action(made, aux_logits, feature, mean_gain(gain))
        first, *others = gain.split(1, dim=1)
        return Action(made, aux_logits, *self.put(feature, first, mechanism), others=tuple(others))

    @staticmethod
    def put(feature: Tensor, gain: Tensor, mechanism: str) -> tuple[Tensor, Tensor | None]:
        """A gain ``(B, 1, h, w)`` on the feature, or beside it for the attention that follows."""
        return (feature, gain) if mechanism == "attention" else (feature * gain.to(feature.dtype), None)

    def gain(self, maps: Tensor, given: bool = False) -> Tensor:
        """``(B, K, h, w)``: by how much each location counts more or less, for a map that acts inside attention."""
        return 1 + maps

    def classify(self, refined: Any) -> Tensor:
        """``(B, classes)`` from what ``forward`` returned first; only for heads that classify."""
        raise NotImplementedError(f"{type(self).__name__} leaves the logits to the backbone")

    def count(self) -> None:
        """One more training pass has begun, for a head with a buffer ``begun_steps``.

        In a compiled graph the buffer is a new tensor: written in place, it would be read as it is after the write when
        the backward pass computes again what depends on it.
        """
        if self.training and torch.compiler.is_compiling():
            self.begun_steps = self.begun_steps + 1
        elif self.training:
            self.begun_steps += 1

    def strength(self) -> Tensor | float:
        """How far the head's mechanism has come in, 0 to 1; a head that classifies is asked for its share."""
        return 1.0

    def has_come_in(self) -> bool:
        """Whether the map is what training made of it; until then ``explain`` shows Grad-CAM unless asked for it."""
        return float(self.strength()) == 1
