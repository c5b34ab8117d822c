"""What a refined model returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils import ModelOutput

from .backbones.adapter import Feature

_LATER: Any = (
    None  # ModelOutput wants None as every field's default; the four that have this are in all that a model returns
)


@dataclass
class RefinedOutput(ModelOutput):
    """What a refined model returns, the same in training and evaluation.

    Attributes:
        loss: weighted sum of ``losses``; ``None`` where there are none.
        logits: ``(B, classes)``, the prediction.
        maps: ``(B, K, h, w)`` in [0, 1], or ``None`` without a head.
        map_scores: ``(B, K)``, how much each map's part counts, largest first; ``None`` from heads that rank none.
        aux_logits: further predictions by name (``"attention"`` for ABN's branch), where there are losses or they were
            asked for; an absent one is absent.
        losses: scalars by name, unweighted: ``"task"``, one per auxiliary prediction, the objectives' own.
        measures: scalars by name that objectives report beside their losses (how much of the feature mining hides …);
            nothing is minimised about them, and training logs them.
        carried: columns by name that objectives hand to the next update on the same batch (:mod:`attention_refine.
            training.stepping`): constants, such as DARC's map so far.
        feature: the feature at the site, for objectives only; ``None`` in what a model returns.
        embedding: ``(B, D)``, what the classifier read, for objectives that ask for it; ``None`` in what a model returns.
    """

    loss: Tensor | None = None
    logits: Tensor = _LATER
    maps: Tensor | None = None
    map_scores: Tensor | None = None
    aux_logits: dict[str, Tensor] = _LATER
    losses: dict[str, Tensor] = _LATER
    measures: dict[str, Tensor] = _LATER
    carried: dict[str, Tensor] | None = None
    feature: Feature | None = None
    embedding: Tensor | None = None

    @property
    def site_feature(self) -> Feature:
        """``feature``, for an objective that cannot do without.

        Raises:
            RuntimeError: there is none: the model has neither a head nor a site.
        """
        if self.feature is None:
            raise RuntimeError("this pass kept no feature: the model has no site, which a head or site_for gives it")
        return self.feature

    @property
    def head_maps(self) -> Tensor:
        """``maps``, of a model that must have a head.

        Raises:
            RuntimeError: it has none.
        """
        if self.maps is None:
            raise RuntimeError("this model has no head, so its output has no maps")
        return self.maps

    def __setattr__(self, name: str, value: Any) -> None:
        """As :class:`ModelOutput`'s, which lists all fields anew for each that is set: a hundredth of a small network."""
        if value is not None and name in self.__dataclass_fields__:
            super(ModelOutput, self).__setitem__(name, value)
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """One line: what there is, as shapes, and losses as numbers."""
        said = []
        for name, value in self.items():
            if isinstance(value, dict):
                inner = ", ".join(f"{key} {_brief(one)}" for key, one in value.items())
                said += [f"{name} {{{inner}}}"] if inner else []
            else:
                said.append(f"{name} {_brief(value)}")
        return f"RefinedOutput({', '.join(said)})"


def _brief(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{value.item():.4g}" if value.ndim == 0 and not value.is_meta else str(tuple(value.shape))
