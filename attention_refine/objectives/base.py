"""What every objective is: a loss the map must satisfy during training, inert at inference."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..registry import Registry, checked_options

if TYPE_CHECKING:
    from ..model import RefinedModel, RefinedOutput

objectives = Registry("objective")


class Objective(nn.Module):
    """Adds losses during training; may own training-only layers, made by :meth:`attach`.

    ``needs_labels`` says whether it can be computed on unlabelled images.
    """

    name: str
    config_class: type
    needs_labels = True

    def __init__(self, **options: Any):
        super().__init__()
        self.config = checked_options(self.config_class, options, type(self).__name__)

    @property
    def weight(self) -> float:
        """Weight of the objective's losses in the total."""
        return self.config.weight

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "options": asdict(self.config)}

    def attach(self, model: RefinedModel) -> None:
        """Make training-only layers for this model; nothing by default."""

    def forward(self, model: RefinedModel, batch: dict[str, Any], output: RefinedOutput) -> dict[str, Tensor]:
        """Scalar losses by name, each to be minimised.

        ``batch`` holds ``pixel_values``, ``labels`` where there are any, and every further column; ``output.feature`` is
        the backbone's :class:`~attention_refine.backbones.adapter.Feature`, to resume from without a second full pass.
        """
        raise NotImplementedError
