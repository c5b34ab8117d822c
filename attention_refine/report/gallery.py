"""Pictures for a report: images beside the maps that models give of them, and which images are worth showing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import datasets
import torch
from PIL import Image
from torch import nn
from torch.utils.data import IterableDataset

from attention_refine.data import prepare
from attention_refine.evaluation.judging import Judge, map_sources
from attention_refine.evaluation.measures import MEASURES
from attention_refine.evaluation.results import Evaluation
from attention_refine.overlay import denormalize, outline, overlay

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
    models: Mapping[str, nn.Module],
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
        evaluations: of the same models and dataset: with ``measure``, its value is noted under each picture.
    """
    if isinstance(dataset, (datasets.IterableDataset, IterableDataset)):
        raise ValueError("a gallery needs images by number: load the dataset without streaming")
    columns: dict[str, list[GalleryCell]] = {}
    rows: list[tuple[Image.Image, str, str]] = []
    for name, model in models.items():
        prepared, preprocessing = prepared_for(model, dataset)
        classes = list(getattr(prepared, "class_names", None) or model.labels)
        judge = Judge(
            model, {}, map_sources(["model"]), multi_label=False, perturbed=(), n_steps=1, seed=0, classes=0
        )  # fmt: skip
        columns[name] = []
        for position in positions:
            item = prepared[position]
            index = int(item.get("index", position))
            logits, maps = judge.look(item["pixel_values"][None].to(judge.device), torch.tensor([index]))
            picture, labels = denormalize(item["pixel_values"], preprocessing), item["labels"]
            several = labels.ndim == 1
            predicted = (logits[0] > 0).nonzero().flatten().tolist() if several else [int(logits[0].argmax())]
            true = labels.nonzero().flatten().tolist() if several else [int(labels)]
            drawn = overlay(picture.convert("L"), maps["model"][0], alpha=0.55)  # on grey, every colour is the map's
            words = ", ".join(classes[i] for i in predicted) or "nothing"
            note = _note(evaluations, name, measure, position)
            columns[name].append(GalleryCell(name, drawn, words, predicted == true, note))
            if len(columns) == 1:
                outlined = outline(outline(picture, item.get("mask")), item.get("cue"), colour=CUE_LINE)
                rows.append((outlined, ", ".join(classes[i] for i in true), _where(evaluations, name, position, index)))
    return [GalleryRow(*row, [columns[name][at] for name in models]) for at, row in enumerate(rows)]


def galleries(
    models: Mapping[str, nn.Module],
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
        sign = 1 if MEASURES[measure].higher_is_better else -1
        title = MEASURES[measure].title
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


def _where(evaluations: Mapping[str, Evaluation] | None, name: str, position: int, index: int) -> str:
    file = None if evaluations is None else evaluations[name].samples[position]["file"]
    return f"row {index}, {PurePath(file).name}" if file else f"row {index}"


def _note(evaluations: Mapping[str, Evaluation] | None, name: str, measure: str | None, position: int) -> str:
    if evaluations is None or measure is None:
        return ""
    value = evaluations[name].samples[position].get(f"model/{measure}")
    return "" if value is None else f"{MEASURES[measure].title} {value:.2f}".replace("-", "−")


def prepared_for(model: nn.Module, dataset: Any) -> tuple[Any, dict[str, Any]]:
    """Items for the model, and the preprocessing they had."""
    if isinstance(dataset, datasets.Dataset):
        names = list(model.labels)
        named = None if names == [str(i) for i in range(len(names))] else names
        return prepare(dataset, model.preprocessing, class_names=named), model.preprocessing
    return dataset, model.preprocessing
