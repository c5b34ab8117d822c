"""Few annotations out of many: what a method is worth from 1 or 5 % of the masks or boxes."""

from __future__ import annotations

from typing import Any

import datasets

from attention_refine.data.columns import shuffled_by_class, undecoded
from attention_refine.data.labels import DataError

ANNOTATIONS = ("mask", "bbox", "maps", "cue_mask", "cue_bbox")


def keep_annotations(dataset: datasets.Dataset, share: float, seed: int) -> datasets.Dataset:
    """The dataset with the masks, boxes and edited maps of a share of its annotated images, those of the others taken off.

    The share is that of the annotated images of every class, drawn by ``seed``, one at least; a larger share of the same
    seed is a superset. With several labels an image counts for the rarest. No image is taken off.

    Raises:
        DataError: a stream, or no image has an annotation.
        ValueError: ``share`` outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of annotations that are kept must be above 0 and at most 1, got {share}")
    if isinstance(dataset, datasets.IterableDataset):
        raise DataError("a stream's annotations cannot be drawn from: load the dataset without streaming")
    bare = undecoded(dataset)
    columns = {name: bare.select_columns([name])[name] for name in ANNOTATIONS if name in dataset.column_names}
    annotated = {row for cells in columns.values() for row, cell in enumerate(cells) if _is_there(cell)}
    if not annotated:
        raise DataError(f"no image has a mask, a box or an edited map, so there is no share of {share} to keep")
    kept: set[int] = set()
    for rows in shuffled_by_class(dataset, seed):
        own = [row for row in rows if row in annotated]
        kept.update(own[: max(1, round(share * len(own)))])
    for name, cells in columns.items():
        left = [cell if row in kept else None for row, cell in enumerate(cells)]
        dataset = dataset.remove_columns(name).add_column(name, left, feature=dataset.features[name])
    if "edited" in dataset.column_names:
        flags = [flag and row in kept for row, flag in enumerate(dataset.select_columns(["edited"])["edited"])]
        dataset = dataset.remove_columns("edited").add_column("edited", flags, feature=datasets.Value("bool"))
    return dataset


def _is_there(cell: Any) -> bool:
    if isinstance(cell, dict):
        return cell.get("path") is not None or cell.get("bytes") is not None
    return bool(cell)
