"""DARC at work, for a report: what it hides, what it predicts there, and the map after each iteration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from PIL import Image
from torch import nn
from torch.utils.data import IterableDataset

from attention_refine.data import DataError
from attention_refine.drawing.overlay import denormalize, overlay
from attention_refine.evaluation.preparing import prepared_for
from attention_refine.objectives import DARC
from attention_refine.objectives.darc.refinement import iterations
from attention_refine.refined import Refined


@dataclass(frozen=True)
class Frame:
    """A picture of a strip and what stands under it."""

    caption: str
    picture: Image.Image


def strips(models: Mapping[str, Refined], dataset: Any, *, count: int = 3) -> dict[str, list[list[Frame]]]:
    """A strip for each of ``count`` images spread over the dataset, by the names of the models that have DARC.

    Args:
        models: by name; the others are passed over, so the result may be empty.
        dataset: canonical, or prepared. An image that cannot be read is passed over.

    Raises:
        ValueError: a dataset without images by number.
    """
    of = {name: model for name, model in models.items() if _has_darc(model)}
    if of and isinstance(dataset, (datasets.IterableDataset, IterableDataset)):
        raise ValueError("strips need images by number: load the dataset without streaming")
    made: dict[str, list[list[Frame]]] = {}
    for name, model in of.items():
        items = prepared_for(model, dataset)
        made[name] = [strip(model, pixels, model.preprocessing) for pixels in _spread(items, count)]
    return made


def _spread(items: Any, count: int) -> list[torch.Tensor]:
    """The pixels of images spread over the items; where one cannot be read, of the next that can."""
    total, found = len(items), []
    for first in (i * total // count for i in range(min(count, total))):
        for at in range(first, total):
            try:
                found.append(items[at]["pixel_values"])
            except DataError:
                continue
            break
    return found


def strip(model: Refined, pixel_values: torch.Tensor, preprocessing: Mapping[str, Any]) -> list[Frame]:
    """Image, first map, and of each iteration what is hidden, the prediction in its place, and the map after it.

    Args:
        pixel_values: ``(3, H, W)``, normalised by ``preprocessing``.
    """
    image = pixel_values[None].to(next(model.parameters()).device)
    rounds = iterations(model, image)
    picture = denormalize(image, preprocessing)

    def drawn(maps: torch.Tensor) -> Image.Image:
        return overlay(picture.convert("L"), maps[0], alpha=0.55)

    frames = [Frame("image", picture), Frame("map before", drawn(rounds.maps[0]))]
    for i, (hidden, predicted) in enumerate(zip(rounds.hidden, rounds.reconstruction), start=1):
        filled = torch.where(hidden, predicted.to(image.dtype), image)
        frames.append(Frame(f"hidden {i}", denormalize(image.masked_fill(hidden, 0.0), preprocessing)))
        error = float(rounds.errors[i - 1, 0])
        frames.append(Frame(f"predicted {i}, error {error:.2f}", denormalize(filled, preprocessing)))
        frames.append(Frame(f"map {i}", drawn(rounds.maps[i])))
    return frames


def _has_darc(model: Refined) -> bool:
    return any(isinstance(each, DARC) for each in getattr(model, "objectives", nn.ModuleDict()).values())
