"""Measures of a map that cost forwards of altered images: those that come of one run are taken together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from attention_refine import metrics
from attention_refine.evaluation.measures import MEASURES, names_of, read, sharing
from attention_refine.metrics._registry import STEPPED
from attention_refine.metrics._volume import on_sheets
from attention_refine.metrics.tubes import BY_TUBES


def perturb(
    measures: Mapping[str, Mapping[str, Any]],
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: Tensor,
    labels: Tensor,
    *,
    n_steps: int,
    score: str,
    batch_size: int,
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """``{name: (B,)}`` of measures that need forwards, and ``{name: (curve (B, n), fractions (n,))}`` of their curves.

    Measures that share a function share its run, and the options of the one that has some. Insertion and deletion
    share one too, unless either has options. Of clips pixels of all frames are taken out, or put back, in one order;
    measures by tubes take the clip whole.
    """
    begun: dict[str, Tensor] = {}
    whole = net, pixel_values, maps
    if pixel_values.ndim == 5:
        net, pixel_values, maps, blurred = on_sheets(net, pixel_values, maps)
        begun = {"insertion_baseline": blurred}
    given = {"target": target, "labels": labels, "n_steps": n_steps, "score": score, "batch_size": batch_size}

    def run(function: Any, takes: Iterable[str], options: Mapping[str, Any]) -> Any:
        seen = whole if function in BY_TUBES else (net, pixel_values, maps)
        return function(*seen, **{**{name: given[name] for name in takes}, **options})

    wanted = names_of(measures, "forwards")
    results: dict[str, Any] = {}
    if "insertion" in wanted and "deletion" in wanted and not measures["insertion"] and not measures["deletion"]:
        results |= run(metrics.insertion_and_deletion, STEPPED, begun)._asdict()
    for function, names in sharing(name for name in wanted if name not in results).items():
        options = next((measures[name] for name in names if measures[name]), {})
        if names == ["insertion"] and begun:
            options = {"baseline": begun["insertion_baseline"], **options}
        results |= dict.fromkeys(names, run(function, MEASURES[names[0]].takes, options))
    curves = {name: read(results[name], path) for name in wanted if (path := MEASURES[name].curve) is not None}
    return (
        {name: read(results[name], MEASURES[name].reads) for name in wanted},
        {name: (result.curve, result.fractions) for name, result in curves.items()},
    )
