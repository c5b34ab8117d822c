"""Which images each optimiser step sees: a function of (seed, epoch, step), so that a run can be resumed or divided.

One optimiser step takes a *global batch*: ``batch_size`` images for each process and each accumulation slot. The
global batches do not depend on how they are divided: 2 processes of 8 images, or 2 slots of 8, see what one batch of 16
sees.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from attention_refine.data.loader import Loader
from attention_refine.training.config import TrainingError
from attention_refine.training.drawing import drawn

Batch = dict[str, Any]
Collate = Callable[[list], Batch]


@dataclass(frozen=True)
class BatchOrder:
    """The order of a dataset's images: every image once an epoch, or as :mod:`drawing` says where kinds of images count.

    The last, short global batch of an epoch is shared evenly between the processes, over as many slots as leave at
    least two images to each (batch norm cannot normalise one). It is left out where it has fewer than two for each
    process; the next epoch has another order, so no image is always left out.

    Args:
        size: images in the dataset; None for a stream, which comes in its own order and whose end is not known.
        batch_size: images per process and slot.
        processes: processes that train together.
        slots: gradient accumulation steps.
        seed: of the shuffling.
        classes: of the images, where ``together`` is above 1.
        together: so many images of a class follow each other; what is left over of the classes comes last.
        annotated: of each image, whether it has an annotation; where ``annotated_per_batch`` is above 0.
        annotated_per_batch: at least so many of a full batch have one, of each process and slot.
        groups: of each image, if every group is to come equally often.
        fewest: images that the last, short global batch of an epoch needs to be used, where that is not this division's:
            a run that goes on with other processes leaves out what it would have left out.

    Raises:
        ValueError: the dataset is too small for one global batch, or has too few annotated images for one.
    """

    size: int | None
    batch_size: int
    processes: int = 1
    slots: int = 1
    seed: int = 0
    classes: Sequence[int] | None = None
    together: int = 1
    annotated: Sequence[bool] | None = None
    annotated_per_batch: int = 0
    groups: Sequence[Hashable] | None = None
    fewest: int | None = None

    def __post_init__(self) -> None:
        if self.size == 0:
            raise ValueError("the training dataset is empty: there is nothing to learn from")
        if self.size is not None and self.steps == 0:
            raise ValueError(
                f"{self.size} images are too few for {self.processes} processes, {min(2, self.batch_size)} for each: "
                "use fewer processes, or more images"
            )
        if self.size is not None:
            self._check_share(self.size % self.whole)
        if self.annotated_per_batch:
            there, needed = sum(self.annotated or ()), self.annotated_per_batch * self.processes * self.slots
            if there < needed:
                several = (
                    f" for each of {self.processes} processes x {self.slots} slots"
                    if needed > self.annotated_per_batch
                    else ""
                )
                raise ValueError(
                    f"annotated_per_batch={self.annotated_per_batch}{several} takes {needed} images in a step, and "
                    f"{there} of the {self.size} have an annotation: give at most {there // (self.processes * self.slots)}"
                )

    @property
    def images(self) -> int:
        """``size``, of what has one."""
        assert self.size is not None, "not of a stream"
        return self.size

    @property
    def whole(self) -> int:
        """Images in a full global batch."""
        return self.batch_size * self.processes * self.slots

    @property
    def least(self) -> int:
        """Images that the last, short global batch of an epoch needs to be used."""
        return self.fewest or min(2, self.batch_size) * self.processes

    def _check_share(self, images: int) -> None:
        """Refuse a short global batch that other processes would have used and these cannot."""
        needed = min(2, self.batch_size) * self.processes
        if self.least <= images < needed:
            raise ValueError(
                f"the last {images} images of an epoch were a step when the run began, and {self.processes} processes need "
                f"{needed} for one: resume on at most {images // min(2, self.batch_size)}"
            )

    @property
    def steps(self) -> int:
        """Optimiser steps in an epoch; not for a stream."""
        full, rest = divmod(self.images, self.whole)
        return full + (rest >= self.least)

    def shuffled(self, epoch: int) -> list[int]:
        """The rows in the order of an epoch."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch))
        if self.annotated_per_batch or self.groups is not None:
            kinds = self.annotated if self.annotated and self.annotated_per_batch else [True] * self.images
            per = (self.annotated_per_batch or self.batch_size, self.batch_size)
            return drawn(self.images, self.whole, generator, kinds=kinds, per=per, groups=self.groups)
        rows = torch.randperm(self.images, generator=generator).tolist()
        if self.classes is None or self.together == 1:
            return rows
        of_class: dict[int, list[int]] = {}
        for row in rows:
            of_class.setdefault(self.classes[row], []).append(row)
        starts = [(each, at) for each, found in of_class.items() for at in range(0, len(found), self.together)]
        groups = [of_class[each][at : at + self.together] for each, at in starts]
        order = torch.randperm(len(groups), generator=generator).tolist()
        whole_first = sorted(order, key=lambda at: len(groups[at]) < self.together)
        return [row for at in whole_first for row in groups[at]]

    def divide(self, images: list, process: int) -> list[list]:
        """One process's batches of a global batch: one per slot, fewer if it is a short one."""
        if len(images) < self.whole:
            self._check_share(len(images))
        slots = min(self.slots, len(images) // (min(2, self.batch_size) * self.processes))
        shares = np.array_split(np.arange(len(images)), slots * self.processes)
        return [[images[i] for i in shares[slot * self.processes + process]] for slot in range(slots)]

    def batches(self, epoch: int, process: int = 0, first_step: int = 0) -> list[list[int]]:
        """One process's batches of rows from ``first_step`` to the end of the epoch: ``slots`` of them a step."""
        rows = self.shuffled(epoch)
        starts = range(first_step * self.whole, self.steps * self.whole, self.whole)
        return [batch for start in starts for batch in self.divide(rows[start : start + self.whole], process)]


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed from several numbers, such that neighbouring numbers give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


class SeededItems(Dataset):
    """A dataset whose random augmentation depends on (seed, epoch, row) only, whichever worker or process draws it.

    Every generator that a transform may use (torch, NumPy, Python) is seeded for the item and put back afterwards.
    """

    def __init__(self, dataset: Any, seed: int, epoch: int):
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Any:
        seed = mixed_seed(self.seed, self.epoch, row)
        python, numpy = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            try:
                return self.dataset[row]
            finally:
                random.setstate(python)
                np.random.set_state(numpy)


def size_of(dataset: Any) -> int | None:
    """How many images there are; None of a stream."""
    return None if isinstance(dataset, IterableDataset) else len(dataset)


def step_batches(
    dataset: Dataset, order: BatchOrder, epoch: int, process: int, *, first_step: int, collate: Collate, **options: Any
) -> Iterator[tuple[list[Batch], int]]:
    """The optimiser steps of an epoch from ``first_step`` on: this process's batches, and the images of all processes.

    Every process reads a stream, keeps its share, and decodes that alone where the stream has :meth:`rows
    <attention_refine.data.PreparedStream.rows>`, whose workers then decode what the process has read: so its order is one
    for any number of processes and workers, and a resumed one is read again up to ``first_step`` for little.

    Args:
        dataset: map-style, or a stream (``IterableDataset``) that seeds its own augmentation. ``set_epoch`` is called.
        options: ``num_workers`` and ``pin_memory`` of the loader.
    """
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(epoch)
    # Its own generator: a loader that drew its workers' seeds from the global one would make a resumed run differ.
    options["generator"] = torch.Generator().manual_seed(mixed_seed(order.seed, epoch))
    if _reads_rows(dataset):
        yield from _decoded_steps(dataset, order, process, first_step, collate, options)
        return
    if isinstance(dataset, IterableDataset):
        items = iter(Loader(dataset, batch_size=None, collate_fn=_as_it_is, **options))
        for images in islice(_global_batches(items, order), first_step, None):
            yield [collate(batch) for batch in order.divide(images, process)], len(images)
        return
    rows = order.batches(epoch, process, first_step)
    seeded = SeededItems(dataset, order.seed, epoch)
    loaded = iter(Loader(seeded, batch_sampler=rows, collate_fn=collate, **options))
    for step in range(first_step, order.steps):
        yield list(islice(loaded, order.slots)), min(order.whole, order.images - step * order.whole)


def _reads_rows(dataset: Any) -> bool:
    """Whether a stream reads rows that are decoded apart, as :class:`attention_refine.data.PreparedStream` does."""
    parts = (getattr(dataset, name, None) for name in ("rows", "item"))
    return isinstance(dataset, IterableDataset) and all(map(callable, parts))


def _global_batches(items: Iterator, order: BatchOrder) -> Iterator[list]:
    while len(images := list(islice(items, order.whole))) >= order.least:
        yield images


def _decoded_steps(
    dataset: Any, order: BatchOrder, process: int, first_step: int, collate: Collate, options: dict[str, Any]
) -> Iterator[tuple[list[Batch], int]]:
    steps: deque[tuple[int, int]] = deque()  # read ahead of what is decoded: slots and images of each

    def batches() -> Iterator[list[tuple[int, dict]]]:
        for rows in islice(_global_batches(dataset.rows(), order), first_step, None):
            mine = order.divide(rows, process)
            steps.append((len(mine), len(rows)))
            yield from mine

    loaded = iter(Loader(_ItemsOfRows(dataset), batch_sampler=_Batches(batches), collate_fn=collate, **options))
    for first in loaded:
        slots, images = steps.popleft()
        yield [first, *islice(loaded, slots - 1)], images


@dataclass(frozen=True)
class _ItemsOfRows(Dataset):
    """Items by what a stream has read of them, for workers to decode."""

    stream: Any

    def __getitem__(self, numbered: tuple[int, dict]) -> dict[str, Any]:
        return self.stream.item(*numbered)


@dataclass(frozen=True)
class _Batches:
    made: Callable[[], Iterator[list]]

    def __iter__(self) -> Iterator[list]:
        return self.made()


def check_collated(dataset: Any, collate: Collate, seed: int) -> None:
    """Make a batch of the first two images, before training: what a collate function of one's own does wrong.

    Streams are left alone, as they cannot be read twice.

    Raises:
        TrainingError: naming the function.
    """
    if isinstance(dataset, IterableDataset) or not len(dataset):
        return
    if hasattr(dataset, "set_epoch"):
        dataset.set_epoch(0)
    rows = range(min(2, len(dataset)))
    seeded = SeededItems(dataset, seed, 0)
    items = [seeded[row] for row in rows]
    said = f"collate={getattr(collate, '__qualname__', None) or type(collate).__qualname__}"
    of = f"{type(dataset).__name__}, whose items are {_kind(items[0])}"
    try:
        batch = collate(items)
    except Exception as error:
        raise TrainingError(f"{said} fails on {len(rows)} items of {of}: {' '.join(str(error).split())}") from error
    if not isinstance(batch, Mapping):
        raise TrainingError(f"{said} makes {_kind(batch)} of items; it must make a dict with pixel_values, labels, ...")
    pixels = batch.get("pixel_values")
    if not isinstance(pixels, torch.Tensor) or pixels.ndim < 1 or len(pixels) != len(rows):
        found = f"{tuple(pixels.shape)}" if isinstance(pixels, torch.Tensor) else _kind(pixels)
        there = f"has {', '.join(map(str, batch))}" if pixels is None else f"has pixel_values {found}"
        raise TrainingError(
            f"{said} makes a batch that {there}; it must have a tensor pixel_values ({len(rows)}, 3, H, W) of {len(rows)} "
            f"items (the dataset is {of})"
        )


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value))}"
    return "None" if value is None else f"a {type(value).__name__}"


def evaluation_batches(
    dataset: Any, batch_size: int, process: int, processes: int, *, seed: int, collate: Collate, **options: Any
) -> Loader | _DealtStream:
    """Every image once, in order, dealt out to the processes; a stream is read by all, and each keeps its share."""
    options["generator"] = torch.Generator().manual_seed(seed)
    if _reads_rows(dataset):

        def dealt() -> Iterator[list[tuple[int, dict]]]:
            mine = islice(dataset.rows(), process, None, processes)
            while batch := list(islice(mine, batch_size)):
                yield batch

        return Loader(_ItemsOfRows(dataset), batch_sampler=_Batches(dealt), collate_fn=collate, **options)
    if isinstance(dataset, IterableDataset):
        return _DealtStream(dataset, batch_size, process, processes, collate, options)
    rows = range(process, len(dataset), processes)
    batches = [list(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size)]
    return Loader(SeededItems(dataset, seed, 0), batch_sampler=batches, collate_fn=collate, **options)


@dataclass
class _DealtStream:
    dataset: IterableDataset
    batch_size: int
    process: int
    processes: int
    collate: Collate
    options: dict[str, Any]

    def __iter__(self) -> Iterator[Batch]:
        items = iter(Loader(self.dataset, batch_size=None, collate_fn=_as_it_is, **self.options))
        mine = islice(items, self.process, None, self.processes)
        while batch := list(islice(mine, self.batch_size)):
            yield self.collate(batch)


def _as_it_is(item: Any) -> Any:
    return item
