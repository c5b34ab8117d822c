"""Measures that look at the model, not only at its map: randomised copies of it, and its integrated gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from attention_refine import maps, metrics
from attention_refine.evaluation.measures import names_of
from attention_refine.refined import saved

Explain = Callable[[nn.Module, Tensor, Tensor], Tensor]

LAYERS = 4  # groups of layers that are randomised one after the other, from the logits down
ATTRIBUTION_STEPS = 50


class Sanity:
    """The randomisation tests among the measures: how alike a map and that of an altered model are.

    ``parameter_randomisation`` is the mean likeness over the steps of the cascade; options are those of
    :func:`attention_refine.metrics.parameter_randomisation`, 4 groups of layers by default.
    ``label_randomisation`` is the likeness to the map of the ``model`` saved in a folder, trained on shuffled labels.
    """

    def __init__(self, measures: Mapping[str, Mapping[str, Any]]):
        self.options = {name: dict(measures[name]) for name in names_of(measures, "sanity")}
        self.other: nn.Module | None = None
        if "label_randomisation" in self.options:
            self.other = saved(self.options["label_randomisation"].pop("model"))

    def __call__(self, net: nn.Module, explain: Explain, pixel_values: Tensor, target: Tensor) -> dict[str, Tensor]:
        """``{name: (B,)}``. The target is that of the model as it is: an altered one predicts another class."""

        def fixed(model: nn.Module, pixels: Tensor) -> Tensor:
            return explain(model, pixels, target)

        values = {}
        for name, options in self.options.items():
            if self.other is None or name == "parameter_randomisation":
                found = metrics.parameter_randomisation(net, fixed, pixel_values, **{"layers": LAYERS, **options})
                values[name] = found.similarity.mean(1)
            else:
                other = self.other.to(pixel_values.device)
                values[name] = metrics.label_randomisation(net, other, fixed, pixel_values, **options)
        return values


def attribution_maps(net: nn.Module, pixel_values: Tensor, target: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    """What the attribution measures are of (:mod:`attention_refine.metrics.attribution`), and how far it is off.

    Returns:
        ``(B, 1, H, W)`` integrated gradients from zero by 50 equal steps, both ends included, magnitudes summed over
        the channels; and ``(B,)``, how much their signed sum misses of the score's change, as a share of it.
    """
    found = maps.integrated_gradients_to_error(
        net, pixel_values, target, steps=ATTRIBUTION_STEPS, max_steps=ATTRIBUTION_STEPS, reduce="abs",
        chunk_size=chunk_size,
    )  # fmt: skip
    return found.maps, (found.error / found.gap.abs())[:, 0]
