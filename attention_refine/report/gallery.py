"""Pictures for a report: images beside the maps that models give of them, and which images are worth showing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import datasets
import torch
from PIL import Image
from torch.utils.data import IterableDataset

from attention_refine.data import DataError
from attention_refine.drawing.frames import map_strip, pictures_of, truth_strip
from attention_refine.drawing.overlay import denormalize, outline, overlay
from attention_refine.evaluation.judging import Judge, map_sources
from attention_refine.evaluation.preparing import prepared_for, rows_of
from attention_refine.evaluation.results import Evaluation
from attention_refine.metrics._registry import described
from attention_refine.refined import Refined

OTHER = "the dataset is not the one that the evaluations are of"
CUE_LINE = (255, 60, 50)
# What says best whether a map of an image is good, in this order, where it was measured.
DECISIVE = ("mask_correlation", "iou", "box_iou", "energy_inside", "insertion")


@dataclass(frozen=True)
class GalleryCell:
    """One model's view of an image: the map drawn on it, the predicted classes, whether that is right, a note."""

    model: str
    picture: Image.Image
    prediction: str
    correct: bool
    note: str = ""


@dataclass(frozen=True)
class GalleryRow:
    """An image, object and cue outlined where they are known, its label and file, and a cell for every model."""

    picture: Image.Image
    label: str
    file: str
    cells: list[GalleryCell]


def gallery(
    models: Mapping[str, Refined],
    dataset: Any,
    positions: Sequence[int],
    evaluations: Mapping[str, Evaluation] | None = None,
    measure: str | None = None,
) -> list[GalleryRow]:
    """Rows of pictures.

    Args:
        models: by name, in the order of the columns. The map shown is the head's, or Grad-CAM of the predicted class.
        dataset: canonical, or prepared (then with a preprocessing that serves all models).
        positions: which images.
        evaluations: of the same models and dataset: the pictures are of the images that were judged, wherever rows were
            left out, and with ``measure`` its value is noted under each. An image that cannot be read is left out.

    Raises:
        ValueError: a stream, or another dataset than the evaluations are of.
    """
    if isinstance(dataset, (datasets.IterableDataset, IterableDataset)):
        raise ValueError("a gallery needs images by number: load the dataset without streaming")
    views = {name: _View(model, dataset) for name, model in models.items()}
    rows = []
    for position in positions:
        samples = {name: None if evaluations is None else evaluations[name].samples[position] for name in models}
        try:
            found = {name: view.look(position, samples[name]) for name, view in views.items()}
        except DataError:
            continue  # it could be read when it was judged, and cannot now
        first = next(iter(found.values()))
        cells = [
            GalleryCell(name, look.drawn, look.prediction, look.correct, _note(samples[name], measure))
            for name, look in found.items()
        ]
        rows.append(GalleryRow(first.outlined, first.label, _where(samples[next(iter(models))], first.row), cells))
    return rows


@dataclass(frozen=True)
class _Look:
    outlined: Image.Image
    drawn: Image.Image
    label: str
    prediction: str
    correct: bool
    row: int


class _View:
    """One model's items of a dataset, looked at one by one."""

    def __init__(self, model: Refined, dataset: Any):
        self.items, self.preprocessing = prepared_for(model, dataset), model.preprocessing
        self.place = rows_of(self.items)
        self.classes = list(getattr(self.items, "class_names", None) or model.labels)
        self.judge = Judge(
            model, {}, map_sources(["model"]), multi_label=False, perturbed=(), n_steps=1, seed=0, classes=0
        )  # fmt: skip

    def look(self, position: int, sample: Mapping[str, Any] | None) -> _Look:
        """The image that was judged at a position: with rows behind the items, the sample's row, not its position."""
        if sample is not None and self.place is not None:
            position = self.place.get(sample["index"], len(self.items))
        if position >= len(self.items):
            judged = position if sample is None else sample["index"]
            raise ValueError(f"{OTHER}: it has {len(self.items)} images, and row {judged} was judged")
        item = self.items[position]
        row = int(item.get("index", position))
        logits, maps = self.judge.look(item["pixel_values"][None].to(self.judge.device), torch.tensor([row]))
        if "more_clips" in item:
            logits = self.judge.averaged(logits, item["more_clips"][None])
        pixels, labels = item["pixel_values"], item["labels"]
        several = labels.ndim == 1
        predicted = (logits[0] > 0).nonzero().flatten().tolist() if several else [int(logits[0].argmax())]
        true = labels.nonzero().flatten().tolist() if several else [int(labels)]
        if sample is not None and true != (sample["label"] if several else [sample["label"]]):
            raise ValueError(f"{OTHER}: row {row} has another label than was judged there")
        if pixels.ndim == 4:  # a clip: some of its frames in a row
            frames = pictures_of(pixels, self.preprocessing)
            drawn = map_strip(frames, maps["model"][0, 0])
            outlined = truth_strip(frames, item.get("mask"), item.get("cue"), CUE_LINE)
        else:
            picture = denormalize(pixels, self.preprocessing)
            drawn = overlay(picture.convert("L"), maps["model"][0], alpha=0.55)  # on grey, every colour is the map's
            outlined = outline(outline(picture, item.get("mask")), item.get("cue"), colour=CUE_LINE)
        names = [", ".join(self.classes[i] for i in each) for each in (true, predicted)]
        return _Look(outlined, drawn, names[0], names[1] or "nothing", predicted == true, row)


def galleries(
    models: Mapping[str, Refined],
    dataset: Any,
    evaluations: Mapping[str, Evaluation],
    *,
    count: int = 6,
) -> dict[str, list[GalleryRow]]:
    """What a report shows: images spread over the dataset, the last model's best and worst maps, and with several
    models those where its map gains and loses most on the first one's.

    Args:
        models, evaluations: of the same names; ``evaluations`` on ``dataset``.
        count: images in each.
    """
    names = list(evaluations)
    samples = evaluations[names[-1]].samples
    total = len(samples)
    shown = {"Images spread over the dataset": [i * total // count for i in range(min(count, total))]}
    measure = next((m for m in DECISIVE if any(f"model/{m}" in sample for sample in samples)), None)
    if measure is not None:
        sign = 1 if described(measure).better else -1
        title = described(measure).title
        last = sign * evaluations[names[-1]].values(f"model/{measure}")
        shown[f"{title}: best maps of {names[-1]}"] = _top(last, count)
        shown[f"{title}: worst maps of {names[-1]}"] = _top(-last, count)
        if len(names) > 1:
            gain = last - sign * evaluations[names[0]].values(f"model/{measure}")
            shown[f"{title}: largest gains of {names[-1]} over {names[0]}"] = _top(gain, count)
            shown[f"{title}: largest losses of {names[-1]} against {names[0]}"] = _top(-gain, count)
    of = {name: models[name] for name in names}
    return {title: gallery(of, dataset, chosen, evaluations, measure) for title, chosen in shown.items() if chosen}


def _top(values: torch.Tensor, count: int) -> list[int]:
    """Places of the largest values, NaN left out, the largest first."""
    order = values.nan_to_num(nan=-torch.inf).sort(descending=True, stable=True).indices.tolist()
    return [at for at in order if not values[at].isnan()][:count]


def _where(sample: Mapping[str, Any] | None, row: int) -> str:
    file = None if sample is None else sample["file"]
    return f"row {row}, {PurePath(file).name}" if file else f"row {row}"


def _note(sample: Mapping[str, Any] | None, measure: str | None) -> str:
    value = None if sample is None else sample.get(f"model/{measure}")
    return "" if value is None or measure is None else f"{described(measure).title} {value:.2f}".replace("-", "−")
