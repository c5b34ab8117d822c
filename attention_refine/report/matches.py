"""Retrieval at work, as a picture: queries, what was found for each, and the model's ranked maps of all of them."""

from __future__ import annotations

from typing import Any

import datasets
import torch
from PIL import Image, ImageOps

from attention_refine.backbones.contexts import quiet
from attention_refine.data import match_classes, prepare
from attention_refine.drawing.overlay import denormalize, overlay
from attention_refine.evaluation.retrieval import Retrieval
from attention_refine.refined import Refined

SIDE, GAP, FRAME = 128, 8, 4
RIGHT, WRONG, QUERY = "#1a7f37", "#cf222e", "#57606a"


def matches(
    model: Refined, dataset: Any, found: Retrieval, gallery: Any = None, *, count: int = 3, shown: int = 4
) -> Image.Image:
    """A row for each of ``count`` queries spread over the dataset; below each image its maps, the first on top.

    The query is framed in grey, what was found for it, the most alike first, in green where it is of the query's class
    and in red where it is not.

    Args:
        model: a refined model with a head.
        dataset, gallery: what :func:`attention_refine.retrieval` was given.
        found: what it returned.

    Raises:
        ValueError: a model without a head, which has no maps of its own.
    """
    if getattr(model, "head", None) is None:
        raise ValueError("a model without a head has no ranked maps to show: wrap it with head='brnpa', for example")
    queries, preprocessing = _prepared(model, dataset), model.preprocessing
    others = (
        queries if gallery is None else match_classes(_prepared(model, gallery), queries.class_names, "the queries")
    )
    chosen = [i * len(queries) // count for i in range(min(count, len(queries)))]
    rows = []
    for at in chosen:
        query = queries[at]
        row = [_column(model, query, preprocessing, QUERY)]
        for other in found.nearest[at, :shown].tolist():
            if other >= 0:
                item = others[other]
                right = int(item["labels"]) == int(query["labels"])
                row.append(_column(model, item, preprocessing, RIGHT if right else WRONG))
        rows.append(row)
    width = max(len(row) for row in rows) * (SIDE + GAP) - GAP
    height = rows[0][0].height
    sheet = Image.new("RGB", (width, len(rows) * (height + 2 * GAP) - 2 * GAP), "white")
    for number, row in enumerate(rows):
        for place, column in enumerate(row):
            sheet.paste(column, (place * (SIDE + GAP), number * (height + 2 * GAP)))
    return sheet


def _prepared(model: Refined, dataset: Any) -> Any:
    """Items for the model with classes of their own: retrieval asks for none that the model knows."""
    return prepare(dataset, model.preprocessing) if isinstance(dataset, datasets.Dataset) else dataset


@torch.no_grad()
def _column(model: Refined, item: dict[str, Any], preprocessing: dict[str, Any], colour: str) -> Image.Image:
    """The image in a frame, and under it each of its maps."""
    pixels = item["pixel_values"][None].to(next(model.parameters()).device)
    picture = denormalize(pixels, preprocessing)
    with quiet(model):
        maps = model(pixels, compute_losses=False).head_maps[0]
    framed = ImageOps.expand(picture.resize((SIDE - 2 * FRAME,) * 2), FRAME, colour)
    parts = [overlay(picture, one).resize((SIDE, SIDE)) for one in maps]
    column = Image.new("RGB", (SIDE, SIDE * (1 + len(parts))), "white")
    for place, each in enumerate([framed, *parts]):
        column.paste(each, (0, place * SIDE))
    return column
