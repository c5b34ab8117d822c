"""A report on one or several evaluations: one HTML file with everything in it, for a person to read."""

from __future__ import annotations

import base64
import datetime
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from attention_refine.core.files import atomic_text
from attention_refine.drawing.overlay import legend
from attention_refine.evaluation.comparison import Comparison, Difference, compare
from attention_refine.evaluation.results import Evaluation
from attention_refine.metrics._registry import described
from attention_refine.report.figures import colour_of, perturbation_charts, training_charts
from attention_refine.report.gallery import GalleryRow
from attention_refine.report.strips import Frame
from attention_refine.report.verdict import verdict

FIRST = 2  # rows of pictures that stand before the tables
CORRECTED = 0.05  # differences with a corrected p-value below it are marked


@dataclass(frozen=True)
class Cell:
    """A cell of a table: value and interval as text, whether it is the best, the difference to the first model."""

    value: str
    interval: str = ""
    best: bool = False
    difference: str = ""
    sure: bool = False


@dataclass(frozen=True)
class Line:
    """A row of a table: what was measured, an arrow for the better direction, on how many images, and its cells."""

    title: str
    arrow: str
    count: str
    cells: list[Cell]


def write_report(
    path: str | Path,
    evaluations: Mapping[str, Evaluation],
    *,
    histories: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    galleries: Mapping[str, Sequence[GalleryRow]] | None = None,
    strips: Mapping[str, Sequence[Sequence[Frame]]] | None = None,
    title: str = "Attention report",
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write one self-contained HTML file, whole or not at all, and return its path.

    Args:
        evaluations: by the models' names, in the order of the columns; the others are compared with the first. They are
            compared only where they are of the same images. May be empty (training curves alone).
        histories: ``TrainingResult.history`` by the models' names.
        galleries: rows of pictures by title: see :func:`attention_refine.gallery.galleries`.
        strips: DARC's iterations by the models' names: see :func:`attention_refine.report.strips.strips`.
        config: what the run was told, shown folded up.
    """
    names = list(evaluations)
    comparison, why_not = _comparison(evaluations)
    every = list(dict.fromkeys([*names, *(histories or {})]))
    later = {heading: list(rows) for heading, rows in (galleries or {}).items()}
    heading = next((heading for heading, rows in later.items() if rows), None)
    first_rows = [] if heading is None else later[heading][:FIRST]
    if heading is not None:
        later[heading] = later[heading][FIRST:]
    text = (
        templates("report")
        .get_template("report.html.jinja")
        .render(
            title=title,
            date=datetime.date.today().isoformat(),
            names=names,
            colours={name: colour_of(number) for number, name in enumerate(every)},
            verdict=verdict(evaluations, comparison),
            first_rows=first_rows,
            images=_images(evaluations),
            tables=_headline(evaluations, comparison),
            map_tables=[
                (name, *_maps(evaluation)) for name, evaluation in evaluations.items() if len(_judged(evaluation)) > 1
            ],
            energies=any(name.startswith("energy_") for e in evaluations.values() for name in e.settings["measures"]),
            why_not=why_not,
            compared=comparison is not None,
            training=training_charts(_all_of(every, histories)) if histories else [],
            curves=perturbation_charts({name: evaluations[name] for name in names}) if names else [],
            perturbed=_perturbed(evaluations),
            galleries={heading: rows for heading, rows in later.items() if rows},
            strips=strips or {},
            legend=legend(),
            config=json.dumps(config, indent=2, default=str) if config else "",
            settings=json.dumps({n: _settings(e) for n, e in evaluations.items()}, indent=2) if evaluations else "",
            corrected=CORRECTED,
        )
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_text(path, text)
    return path


def templates(*folders: str) -> Any:
    """The pages in folders of the package, as a ``jinja2.Environment`` that escapes what it is given."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader("attention_refine", package_path=each) for each in folders]),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["picture"] = picture
    return environment


def picture(image: Image.Image) -> str:
    """A ``data:`` address of the image: JPEG, or PNG where that is smaller."""
    encoded = {}
    for kind, options in (("jpeg", {"quality": 88}), ("png", {"optimize": True})):
        content = io.BytesIO()
        image.convert("RGB").save(content, kind, **options)
        encoded[kind] = content.getvalue()
    kind = min(encoded, key=lambda k: len(encoded[k]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode()}"


def _comparison(evaluations: Mapping[str, Evaluation]) -> tuple[Comparison | None, str]:
    if len(evaluations) < 2:
        return None, ""
    try:
        return compare(evaluations), ""
    except ValueError as error:
        return None, str(error)


def _headline(evaluations: Mapping[str, Evaluation], comparison: Comparison | None) -> list[tuple[str, list[Line]]]:
    """The measures of the prediction, its accuracy by group, and the measures of each model's own map."""
    groups = [("Prediction", None), ("Map", "model")]
    tables = []
    for heading, map_name in groups:
        cells = {name: _cells(evaluation, map_name) for name, evaluation in evaluations.items()}
        measures = list(dict.fromkeys(measure for found in cells.values() for measure in found))
        lines = [_line(measure, map_name, cells, comparison) for measure in measures]
        if lines:
            tables.append((heading, lines))
        if map_name is None:
            tables += _by_group(evaluations, comparison)
    return tables


def _by_group(evaluations: Mapping[str, Evaluation], comparison: Comparison | None) -> list[tuple[str, list[Line]]]:
    """The accuracy on each group of images, for each column that groups them."""
    found = {name: evaluation.summary.get("groups", {}) for name, evaluation in evaluations.items()}
    tables = []
    for column in dict.fromkeys(column for columns in found.values() for column in columns):
        cells = {name: columns.get(column, {}).get("accuracy", {}) for name, columns in found.items()}
        groups = dict.fromkeys(group for of_model in cells.values() for group in of_model)
        lines = [
            replace(_line("accuracy", None, cells, comparison, f"{column}: {group}", of=group), title=group)
            for group in groups
        ]
        tables.append((f"Accuracy by {column}", lines))
    return tables


def _cells(evaluation: Evaluation, map_name: str | None) -> Mapping[str, Any]:
    if map_name is None:
        return evaluation.summary["classification"]
    return evaluation.summary["maps"].get(map_name, {})


def _line(
    measure: str,
    map_name: str | None,
    cells: Mapping[str, Mapping],
    comparison: Comparison | None,
    group: str | None = None,
    of: str | None = None,
) -> Line:
    """A row of the measure; ``of`` is the cells' key where that is not the measure, but one of its groups."""
    found = {name: of_model.get(of or measure) for name, of_model in cells.items()}
    best = _best(measure, found)
    row = []
    for name, cell in found.items():
        difference = comparison.of(name, measure, map_name, group) if comparison is not None else None
        row.append(_cell(cell, name in best, difference))
    counts = sorted({cell["count"] for cell in found.values() if cell})
    return Line(described(measure).title, _arrow(measure), " / ".join(map(str, counts)), row)


def _best(measure: str, found: Mapping[str, Mapping | None]) -> set[str]:
    values = {name: round(cell["value"], 3) for name, cell in found.items() if cell and cell["value"] is not None}
    higher = described(measure).better
    if len(values) < 2 or higher is None or len(set(values.values())) == 1:
        return set()
    top = max(values.values()) if higher else min(values.values())
    return {name for name, value in values.items() if value == top}


def _cell(cell: Mapping[str, Any] | None, best: bool, difference: Difference | None = None) -> Cell:
    if cell is None or cell["value"] is None:
        return Cell("–")
    against = ""
    d = difference
    if d is not None and d.difference is not None and d.low is not None and d.high is not None:
        against = f"{_signed(d.difference)} [{_signed(d.low)}, {_signed(d.high)}]"
    sure = bool(against) and d is not None and d.p_corrected is not None and d.p_corrected < CORRECTED
    interval = f"{_plain(cell['low'])} to {_plain(cell['high'])}"
    return Cell(_plain(cell["value"]), interval, best, against, sure)


def _plain(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _arrow(measure: str) -> str:
    return {True: "↑", False: "↓", None: ""}[described(measure).better]


def _judged(evaluation: Evaluation) -> list[str]:
    return list(evaluation.summary["maps"])


def _maps(evaluation: Evaluation) -> tuple[list[str], list[Line]]:
    """One model's maps and controls side by side."""
    maps = evaluation.summary["maps"]
    measures = list(dict.fromkeys(measure for cells in maps.values() for measure in cells))
    lines = []
    for measure in measures:
        found = {name: cells.get(measure) for name, cells in maps.items()}
        best = _best(measure, found)
        counts = sorted({cell["count"] for cell in found.values() if cell})
        cells = [_cell(cell, name in best) for name, cell in found.items()]
        lines.append(Line(described(measure).title, _arrow(measure), " / ".join(map(str, counts)), cells))
    return list(maps), lines


def _images(evaluations: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    """What each model was evaluated on; one entry where that is the same for all."""
    found = [{"model": name, **e.summary["images"]} for name, e in evaluations.items()]
    alike = found and all({**entry, "model": ""} == {**found[0], "model": ""} for entry in found)
    return [{**found[0], "model": ""}] if alike else found


def _perturbed(evaluations: Mapping[str, Evaluation]) -> str:
    counts = {c["count"] for e in evaluations.values() for curves in e.curves.values() for c in curves.values()}
    return " or ".join(map(str, sorted(counts)))


def _all_of(names: Sequence[str], histories: Mapping[str, Any]) -> dict[str, Any]:
    """Histories for every model, so that its colour is the same in every chart."""
    return {name: histories.get(name, []) for name in names}


def _settings(evaluation: Evaluation) -> dict[str, Any]:
    return {**evaluation.settings, "classes": len(evaluation.settings["classes"])}
