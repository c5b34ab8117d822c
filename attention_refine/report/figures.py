"""Charts of a report as inline SVG: text and axes take the page's colour, so that they read on light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attention_refine.metrics._registry import described

# Told apart by lightness as well as hue, and each legible on white and on near-black.
LINES = ("#3b7dc4", "#d2691e", "#2a9d6f", "#b0579c", "#a08a1c", "#c0504d")
_INK = "#010203"  # stands for the page's text colour until the SVG is written
SHOWING = (
    "insertion",
    "token_insertion",
    "tube_insertion",
    "insertion_mining",
    "iauc",
)  # their curves start from nothing

Series = Mapping[str, tuple[Sequence[float], ...]]


def chart(
    series: Series, title: str, x_label: str, y_label: str = "", y_range: tuple[float, float] | None = None
) -> str:
    """``{name: (x, y)}`` as lines, an ``<svg>`` element; ``(x, y, low, high)`` has a band round its line.

    The order of the names decides the colours.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": title + "|".join(series), "font.family": "sans-serif", "font.size": 9,
        "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10, "axes.titlelocation": "left",
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.2, 2.6), layout="constrained")
        axes = figure.add_subplot()
        for number, (x, y, *band) in enumerate(series.values()):
            if band:
                axes.fill_between(x, band[0], band[1], color=LINES[number % len(LINES)], alpha=0.18, linewidth=0)
            axes.plot(x, y, color=LINES[number % len(LINES)], linewidth=1.8, marker="o" if len(x) < 25 else None,
                      markersize=3, linestyle="-" if number < len(LINES) else "--")  # fmt: skip
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(color=_INK, alpha=0.12, linewidth=0.6)
        if y_range is not None:
            axes.set_ylim(*y_range)
        if x_label == "epoch":
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'(<svg [^>]*?) width="[^"]*"', r"\1", svg, count=1)  # the page sets the size; viewBox keeps the shape
    svg = re.sub(r'(<svg [^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg ", '<svg role="img" ', 1)


def colour_of(number: int) -> str:
    """The line colour of the series with that number."""
    return LINES[number % len(LINES)]


def training_charts(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A chart for every number a training history holds, losses first, then the measures on the validation images."""
    keys = list(dict.fromkeys(key for history in histories.values() for entry in history for key in entry))
    counts = ("epoch", "step", "seconds", "images", "mask_correlation_images")
    keys = [key for key in keys if key.rpartition("/")[2] not in counts]
    rank = {"train/loss": 0, "eval/loss": 1}
    keys.sort(key=lambda key: rank.get(key, 2 if key.startswith("eval/") else 3 if key.startswith("train/") else 4))
    charts = []
    for key in keys:
        series = {}
        for name, history in histories.items():
            found = [
                (entry.get("epoch", i + 1), entry[key]) for i, entry in enumerate(history) if _is_number(entry.get(key))
            ]
            series[name] = tuple(zip(*found)) if found else ((), ())
        if any(y for _, y in series.values()):
            charts.append(chart(series, _title(key), "epoch"))
    return charts


def perturbation_charts(evaluations: Mapping[str, Any], map_name: str = "model") -> list[str]:
    """A chart of the mean curve and its interval for every perturbation measure that an evaluation has of that map."""
    measures = list(dict.fromkeys(m for e in evaluations.values() for m in e.curves.get(map_name, {})))
    charts = []
    for measure in measures:
        series = {}
        for name, evaluation in evaluations.items():
            curve = evaluation.curves.get(map_name, {}).get(measure)
            # results of earlier versions have no interval
            band = (curve["low"], curve["high"]) if curve and "low" in curve else ()
            series[name] = (curve["fractions"], curve["mean"], *band) if curve else ((), ())
        better = "higher is better" if described(measure).better else "lower is better"
        what = "tokens" if measure.startswith("token") else "pixels"
        shown = f"share of {what} {'shown' if measure in SHOWING else 'removed'}"
        charts.append(chart(series, f"{described(measure).title} ({better})", shown, "probability of the class"))
    return charts


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _title(key: str) -> str:
    kind, _, name = key.partition("/")
    if not name:
        return key.replace("_", " ")
    return f"{name.replace('_', ' ')}, {'validation' if kind == 'eval' else 'training'}"
