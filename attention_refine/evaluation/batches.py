"""The images of an evaluation: each once, in order, dealt out to the processes, those already done left out."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from itertools import islice
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset, IterableDataset

from attention_refine.data import collate
from attention_refine.data.columns import media_column
from attention_refine.data.loader import Loader
from attention_refine.evaluation.groups import column_values, item_group

Entry = tuple[int, "str | None", "dict[str, str | None]", dict[str, Any]]


def evaluation_batches(
    dataset: Any,
    rank: int,
    world: int,
    done: Container[int],
    batch_size: int,
    num_workers: int,
    groups: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Batches of one process's images: ``pixel_values``, ``labels``, ``index``, and

    * ``position``, list of int: place in the dataset, or in the stream;
    * ``file``, list of the image file's name, None where unknown;
    * ``groups``, a dict an image: the name of its group by column, None where it is not known;
    * ``truth``, list of bool: whether the image has a mask or boxes;
    * ``more_clips`` (B, n, 3, T, H, W), where a video is judged by several;
    * ``mask`` and ``cue`` (B, 1, H, W) and ``boxes``, empty where an image has none, so that what one lacks the others
      keep.

    Args:
        rank: of ``world`` processes; a stream is read by each of them, which keeps its share.
        done: positions to leave out.
        groups: columns that group the images.
    """
    if isinstance(dataset, IterableDataset):
        items = Loader(dataset, batch_size=None, collate_fn=_as_it_is, num_workers=num_workers)
        numbered = (
            (position, None, {name: item_group(dataset, item, name, position) for name in groups}, item)
            for position, item in enumerate(items)
        )
        mine = (entry for entry in numbered if entry[0] % world == rank and entry[0] not in done)
        while entries := list(islice(mine, batch_size)):
            yield _batch(entries)
        return
    positions = [position for position in range(rank, len(dataset), world) if position not in done]
    batches = [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]
    # Its own generator: a loader that drew its workers' seeds from the global one would leave that changed.
    generator = torch.Generator().manual_seed(0)
    yield from Loader(
        _Numbered(dataset, groups),
        batch_sampler=batches,
        collate_fn=_batch,
        num_workers=num_workers,
        generator=generator,
    )


class _Numbered(Dataset):
    """Items with their position in the dataset, their file's name and their groups."""

    def __init__(self, dataset: Any, groups: Sequence[str]):
        self.dataset = dataset
        self.groups = {name: column_values(dataset, name) for name in groups}
        rows = getattr(dataset, "dataset", None)
        self.column = media_column(rows)
        has_images = rows is not None and isinstance(rows, datasets.Dataset) and self.column in rows.column_names
        self.images = rows.select_columns([self.column]) if rows is not None and has_images else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> Entry:
        item = self.dataset[position]
        row = int(item.get("index", position))
        cell = None if self.images is None else self.images[row][self.column]
        groups = {
            name: item_group(self.dataset, item, name, row) if values is None else values[row]
            for name, values in self.groups.items()
        }
        return position, cell.get("path") if isinstance(cell, dict) else None, groups, item


def _as_it_is(item: Any) -> Any:
    return item


def _batch(entries: Sequence[Entry]) -> dict[str, Any]:
    positions, files, groups, items = zip(*entries)
    batch = collate(
        [
            {key: torch.as_tensor(item[key]) for key in ("pixel_values", "labels", "more_clips") if key in item}
            for item in items
        ]
    )
    nothing = torch.zeros(1, *items[0]["pixel_values"].shape[1:], dtype=torch.uint8)
    return {
        **batch,
        "index": torch.tensor([int(item.get("index", position)) for position, item in zip(positions, items)]),
        "position": list(positions),
        "file": list(files),
        "groups": list(groups),
        "truth": ["mask" in item for item in items],
        "mask": torch.stack([item.get("mask", nothing) for item in items]),
        "cue": torch.stack([item.get("cue", nothing) for item in items]),
        "boxes": [item.get("boxes", torch.zeros(0, 4)) for item in items],
    }
