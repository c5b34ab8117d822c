"""One image explained: what the model says it is, and its map drawn over what it saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from .model import RefinedModel
from .overlay import denormalize, overlay


@dataclass(frozen=True)
class Explanation:
    """The predicted class, its probability, and the image with the map over it."""

    label: str
    score: float
    picture: Image.Image


def explain_image(model: RefinedModel, image: str | Path | Image.Image, method: str = "model") -> Explanation:
    """Predict one image and draw its first map over it.

    Args:
        model: in evaluation mode.
        image: a path or a PIL image.
        method: ``"model"`` for the head's map (Grad-CAM without a head), or the name of a map in
            :mod:`attention_refine.maps`.

    Raises:
        DataError: the image cannot be read.
        ValueError: no map of that name.
    """
    pixel_values = model.preprocess(image)
    with torch.no_grad():
        scores = model(pixel_values, compute_losses=False).logits.softmax(1)[0]
    best = int(scores.argmax())
    heat = model.explain(pixel_values, method=method)[0, 0]
    picture = overlay(denormalize(pixel_values[0].cpu(), model.preprocessing), heat.cpu())
    return Explanation(model.labels[best], float(scores[best]), picture)
