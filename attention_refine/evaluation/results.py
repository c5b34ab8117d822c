"""What an evaluation found: every sample's values, and their means with intervals."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attention_refine import metrics
from attention_refine.core.files import atomic_files, atomic_text
from attention_refine.evaluation.config import Settings
from attention_refine.evaluation.dataset_level import MAP_STATISTICS, statistic_of
from attention_refine.evaluation.groups import by_group
from attention_refine.evaluation.measures import names_of
from attention_refine.metrics._registry import described

FORMAT = 1

Sample = dict[str, Any]


@dataclass
class Evaluation:
    """The result of :func:`attention_refine.evaluate`.

    Attributes:
        summary: ``{"images": counts, "classification": {measure: cell}, "maps": {map: {measure: cell}}}``; a cell is
            ``value``, ``low``, ``high`` (percentile bootstrap at ``level``), ``count`` (images counted) and
            ``excluded`` (images measured for which there is no value: no ground truth, or no object in view). Where
            nothing was counted ``value`` is None. With groups also ``"groups": {column: {"accuracy": {group: cell},
            "worst_group_accuracy": cell, "group_gap": cell, "worst_group": name, "best_group": name, "unknown":
            images without a group}}``.
        samples: one dict an image, in the order of the dataset: ``index``, ``file``, ``label``, ``prediction`` (class
            indices; lists where an image has several labels), ``score`` (probability of the first class), ``correct``,
            ``truth`` (whether there is a mask or a box), the group by each of ``settings["groups"]`` (text, None where
            not known), and ``<map>/<measure>``. An excluded value is None; a
            costly measure is absent from the images it was not run on. Multi-label samples keep their ``logits``, and
            ``<map>/max_box_acc`` is a list, the overlap at every threshold.
        curves: ``{map: {measure: {"fractions", "mean", "low", "high", "level", "count"}}}``, mean curves over the
            images they were run on, with a bootstrap interval at every point.
        settings: what was asked, and ``classes``, the class names: :class:`~attention_refine.evaluation.config.Settings`.
    """

    summary: dict[str, Any]
    samples: list[Sample]
    curves: dict[str, Any]
    settings: Settings

    def values(self, column: str) -> Tensor:
        """``(n,)`` float64 of one column of ``samples``, ``(n, k)`` of one of lists; NaN where a sample has no value.

        Raises:
            KeyError: no sample has the column.
        """
        if not any(column in sample for sample in self.samples):
            known = sorted({key for sample in self.samples for key in sample})
            raise KeyError(f"the evaluation has no column {column!r}; it has {', '.join(known)}")
        return column_of(self.samples, column)

    def write(self, folder: str | Path) -> None:
        """``evaluation.json`` and ``samples.csv`` in a folder, both or neither."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        texts = {"evaluation.json": self._json(), "samples.csv": self._csv()}
        with atomic_files(*(folder / name for name in texts)) as paths:
            for path, text in zip(paths, texts.values()):
                path.write_text(text, encoding="utf-8")

    def to_json(self, path: str | Path) -> None:
        """Write everything, whole or not at all."""
        _write(path, self._json())

    def _json(self) -> str:
        content = {"format": FORMAT, **{field.name: getattr(self, field.name) for field in fields(self)}}
        return json.dumps(content, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, path: str | Path) -> Evaluation:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: the file is not whole, or not of this format.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}, and this version reads {FORMAT}")
            return cls(**{field.name: content[field.name] for field in fields(cls)})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not an evaluation written by to_json ({error})") from error

    def to_csv(self, path: str | Path) -> None:
        """Write the samples as a table, labels by name; whole or not at all."""
        _write(path, self._csv())

    def _csv(self) -> str:
        classes = self.settings["classes"]

        def readable(key: str, value: Any) -> Any:
            if key in ("label", "prediction"):
                return "|".join(classes[i] for i in value) if isinstance(value, list) else classes[value]
            return "" if value is None else value

        long = ("logits", *(f"{name}/{measure}" for name in self.settings["maps"] for measure in MAP_STATISTICS))
        columns = list(dict.fromkeys(key for sample in self.samples for key in sample if key not in long))
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows({key: readable(key, value) for key, value in sample.items()} for sample in self.samples)
        return text.getvalue()

    def __str__(self) -> str:
        counts = self.summary["images"]
        lines = [f"{counts['total']} images, {counts['with_truth']} with ground truth, {counts['skipped']} skipped"]
        cells = self.summary["classification"]
        if cells:
            lines += ["", *text_table(["", "value"], [[described(n).title, _shown(c)] for n, c in cells.items()])]
        for column, found in self.summary.get("groups", {}).items():
            rows = [[f"{column}: {name}", _shown(cell), str(cell["count"])] for name, cell in found["accuracy"].items()]
            lines += ["", *text_table(["accuracy by group", "value", "images"], rows)]
        maps = self.summary["maps"]
        if maps:
            measures = list(dict.fromkeys(name for cells in maps.values() for name in cells))
            rows = [
                [described(m).title + {True: " ↑", False: " ↓", None: ""}[described(m).better]]
                + [_shown(cells[m]) if m in cells else "" for cells in maps.values()]
                + [str(max((cells[m]["count"] for cells in maps.values() if m in cells), default=0))]
                for m in measures
            ]
            lines += ["", *text_table(["map", *maps, "images"], rows)]
        return "\n".join(lines)


def summarise(samples: Sequence[Sample], settings: Settings, skipped: int) -> dict[str, Any]:
    """The summary of :class:`Evaluation` from its samples."""
    measures, names, seed = settings["measures"], settings["maps"], settings["seed"]
    on_labels = {name: cell_of(_whole_set(name, samples, settings, seed)) for name in names_of(measures, "labels")}
    groups = {name: _group_cells(samples, name, seed) for name in settings.get("groups", ())}
    if groups:
        first = next(iter(groups.values()))
        on_labels |= {name: first[name] for name in names_of(measures, "groups")}
    maps: dict[str, dict] = {}
    for name in names:
        asked = [m for m in measures if any(f"{name}/{m}" in sample for sample in samples)]
        columns = {m: column_of([s for s in samples if f"{name}/{m}" in s], f"{name}/{m}") for m in asked}
        maps[name] = {m: cell_of(_on_map(m, columns[m], measures[m], seed)) for m in asked}
    images = {"total": len(samples), "with_truth": sum(sample["truth"] for sample in samples), "skipped": skipped}
    return {
        "images": images,
        "classification": on_labels,
        "maps": {name: cells for name, cells in maps.items() if cells},
        **({"groups": groups} if groups else {}),
    }


def _group_cells(samples: Sequence[Sample], column: str, seed: int) -> dict[str, Any]:
    found = by_group(samples, column_of(samples, "correct"), column, seed)
    cells = {key: cell_of(value) if isinstance(value, metrics.Interval) else value for key, value in found.items()}
    return cells | {"accuracy": {name: cell_of(value) for name, value in found["accuracy"].items()}}


def _whole_set(measure: str, samples: Sequence[Sample], settings: Settings, seed: int) -> metrics.Interval:
    if described(measure).column:
        return metrics.bootstrap(column_of(samples, described(measure).column), seed=seed)
    statistic = statistic_of(measure, samples, len(settings["classes"]))
    return metrics.bootstrap_statistic(statistic, torch.arange(len(samples)), seed=seed)


def _on_map(measure: str, values: Tensor, options: Mapping[str, Any], seed: int) -> metrics.Interval:
    if measure not in MAP_STATISTICS:
        return metrics.bootstrap(values, seed=seed)
    kept, excluded = known(values), int(values.isnan().reshape(len(values), -1).any(1).sum())
    if len(kept) == 0:
        return metrics.bootstrap(values.flatten()[:excluded], seed=seed)
    statistic = MAP_STATISTICS[measure](kept, **options)
    return replace(metrics.bootstrap_statistic(statistic, torch.arange(len(kept)), seed=seed), excluded=excluded)


def known(values: Tensor) -> Tensor:
    """The rows without NaN of a column."""
    return values[~values.isnan().reshape(len(values), -1).any(1)]


def column_of(samples: Sequence[Sample], key: str) -> Tensor:
    """``(n,)`` float64 of one column, ``(n, k)`` of one of lists; NaN where a sample has no value."""
    values = [sample.get(key) for sample in samples]
    width = next((len(value) for value in values if isinstance(value, list)), None)
    nothing = math.nan if width is None else [math.nan] * width
    return torch.tensor([nothing if value is None else value for value in values], dtype=torch.float64)


def cell_of(interval: metrics.Interval) -> dict[str, Any]:
    return {key: number(value) for key, value in vars(interval).items()}


def number(value: float) -> float | None:
    """JSON has no NaN: no value is None."""
    return value if isinstance(value, int) or math.isfinite(value) else None


def _write(path: str | Path, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic_text(Path(path), text)


def _shown(cell: Mapping[str, Any]) -> str:
    if cell["value"] is None:
        return "none"
    return f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in plain text."""
    widths = [max(len(str(row[i])) for row in (head, *rows)) for i in range(len(head))]
    lines = ["  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip() for row in (head, *rows)]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
