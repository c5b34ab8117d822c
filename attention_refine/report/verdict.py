"""What a report comes to, in sentences: how right a model is, and what is better or worse about a further one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention_refine.evaluation.comparison import Comparison, Difference
from attention_refine.evaluation.results import Evaluation
from attention_refine.metrics._registry import described

SURE = 0.05
PREDICTION = ("accuracy", "mean_average_precision", "worst_group_accuracy")
OF_MAP = ("mask_correlation", "energy_inside", "box_iou", "energy_on_cue", "insertion")
FEW = 2  # measures of the map in a sentence


def verdict(evaluations: Mapping[str, Evaluation], comparison: Comparison | None) -> list[str]:
    """A sentence a model: of the first alone its figures, of every further one its differences to the first.

    A difference is sure where its p-value, corrected for all of the comparison, is below 0.05; of a figure without a
    p-value, where its 95 % interval leaves out 0.
    """
    if comparison is None:
        return [f"{name}: {_figures(evaluation)}." for name, evaluation in evaluations.items()]
    first, *others = evaluations
    return [f"{name} against {first}: {_differences(name, comparison)}." for name in others]


def _figures(evaluation: Evaluation) -> str:
    cells = evaluation.summary["classification"]
    said = [_figure(name, cells[name]) for name in PREDICTION if name in cells]
    maps = evaluation.summary["maps"].get("model", {})
    said += [f"{_figure(name, maps[name])} of its map" for name in OF_MAP if name in maps][:FEW]
    return "; ".join(said) or f"{len(evaluation.samples)} images"


def _figure(measure: str, cell: Mapping[str, Any]) -> str:
    title = described(measure).title.lower() if measure != "iou" else "IoU"
    if cell["value"] is None:
        return f"{title} not known"
    return _plain(f"{title} {cell['value']:.3f} ({cell['low']:.3f} to {cell['high']:.3f})")


def _differences(name: str, comparison: Comparison) -> str:
    found = [comparison.of(name, measure) for measure in PREDICTION]
    found += [d for d in (comparison.of(name, measure, "model") for measure in OF_MAP) if d is not None][:FEW]
    said = [_difference(d) for d in found if d is not None and d.difference is not None]
    return "; ".join(said) or "nothing was measured in both"


def _difference(d: Difference) -> str:
    title = described(d.measure).title.lower()
    assert d.difference is not None and d.low is not None and d.high is not None, "asked of those that were measured"
    numbers = _plain(f"{d.difference:+.3f}, {d.low:+.3f} to {d.high:+.3f}")
    sure = d.low > 0 or d.high < 0 if d.p_corrected is None else d.p_corrected < SURE
    if not sure:
        return f"no sure difference in {title} ({numbers})"
    better = (d.difference > 0) == described(d.measure).better
    return f"{title} {'better' if better else 'worse'} ({numbers})"


def _plain(text: str) -> str:
    return text.replace("-", "−")
