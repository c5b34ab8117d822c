r"""What each optimiser step of a run sees, and which losses it takes: a function of (seed, epoch, step), as the order.

``combined``: every step takes a labelled batch, with the task loss and every objective. Where there is a separate
unlabelled dataset, it also takes an unlabelled batch, whose label-free objectives are added.

``finetune``: every step takes an unlabelled batch: the label-free objectives and nothing else.

``alternated``: a step is supervised (the task loss, and the objectives that need labels) with probability
:math:`\alpha S / (\alpha S + U)`, else it takes the label-free objectives of an unlabelled batch. ``S`` and ``U``
count the labelled and the unlabelled images; an epoch has :math:`\alpha S / b_S + U / b_U` steps of ``b`` images.

The unlabelled images are those of the unlabelled dataset, or, where there is none, the labelled ones without labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from attention_refine.training.batches import Batch, BatchOrder, mixed_seed, size_of, step_batches
from attention_refine.training.config import TrainingConfig, TrainingError
from attention_refine.training.image_kinds import kinds_of_images, objectives_of, read_by_objectives

_DRAWS, _UNLABELED = 1, 2  # keep the generators of the draws and of the unlabelled images apart from the others


@dataclass(frozen=True)
class Part:
    """Batches of one step whose losses are averaged over their images; the parts of a step are added up.

    Args:
        batches: of this process, one for each accumulation slot.
        images: in the batches of all processes.
        objectives: names of the objectives to compute; all that can be, where None.
        prefix: of the names that the losses are logged under.
    """

    batches: list[Batch]
    images: int
    objectives: Sequence[str] | None = None
    prefix: str = ""


@dataclass(frozen=True)
class Source:
    """A dataset and the order in which this process takes its batches."""

    dataset: Dataset
    order: BatchOrder
    process: int
    loading: dict[str, Any]

    def one_pass(self, epoch: int, first_step: int = 0) -> Iterator[tuple[list[Batch], int]]:
        """The batches of each step of one pass, and the images of all processes."""
        return step_batches(self.dataset, self.order, epoch, self.process, first_step=first_step, **self.loading)

    def endless(self, taken: int) -> Iterator[tuple[list[Batch], int]]:
        """Pass after pass, from where ``taken`` steps have led."""
        epoch, first_step = divmod(taken, self.order.steps)
        while True:
            yield from self.one_pass(epoch, first_step)
            epoch, first_step = epoch + 1, 0


class Strategy:
    """The steps of a run.

    Args:
        began: what a resumed run began with, of :data:`attention_refine.training.sharing_out.FACTORS`.

    Attributes:
        steps: optimiser steps in an epoch; ``None`` for a stream.
        least: images that the last, short step of an epoch needs to be taken.
        images: what the lengths of the datasets are, by name.

    Raises:
        TrainingError: no objective of the model does without labels, or a dataset that the strategy cannot divide.
        ValueError: a dataset too small for the batch size.
    """

    def __init__(
        self, model: nn.Module, dataset: Dataset, unlabeled: Dataset | None, config: TrainingConfig, process: int,
        processes: int, loading: dict[str, Any], began: Mapping[str, Any] | None = None,
    ):  # fmt: skip
        self.kind, self.alpha, self.seed = config.strategy, config.alternated_alpha, config.seed
        _check(model, dataset, unlabeled, config)
        slots = config.gradient_accumulation_steps
        fewest = None if began is None else min(2, began["batch_size"]) * began["num_processes"]

        def source(data: Dataset, batch_size: int, seed: int, **kinds: Any) -> Source:
            order = BatchOrder(size_of(data), batch_size, processes, slots, seed, fewest=fewest, **kinds)
            return Source(data, order, process, loading)

        self.labeled = source(dataset, config.batch_size, config.seed, **kinds_of_images(model, dataset, config))
        self.unlabeled = None
        if unlabeled is not None:
            seed = mixed_seed(config.seed, _UNLABELED)
            self.unlabeled = source(unlabeled, config.unlabeled_batch_size or config.batch_size, seed)
        self.of_task = [name for name, each in objectives_of(model).items() if each.needs_labels]
        self.images = {"images": self.labeled.order.size}
        if self.unlabeled is not None:
            self.images["unlabeled_images"] = self.unlabeled.order.size
        main = (self.unlabeled or self.labeled) if self.kind == "finetune" else self.labeled
        self.least = main.order.least
        self.steps = None if main.order.size is None else self._steps(main.order)

    @property
    def length(self) -> int:
        """``steps``, where they are known."""
        assert self.steps is not None, "a stream is taken by one pass after the other"
        return self.steps

    def _steps(self, order: BatchOrder) -> int:
        if self.kind != "alternated":
            return order.steps
        other = (self.unlabeled or self.labeled).order
        return max(1, round(self.alpha * order.images / order.whole + other.images / other.whole))

    def epoch(self, number: int, first_step: int) -> Iterator[list[Part]]:
        """The steps of an epoch from ``first_step`` on."""
        return {"combined": self._combined, "finetune": self._finetune, "alternated": self._alternated}[self.kind](
            number, first_step
        )

    def _combined(self, number: int, first_step: int) -> Iterator[list[Part]]:
        steps = self.labeled.one_pass(number, first_step)
        if self.unlabeled is None:
            for batches, images in steps:
                yield [Part(batches, images)]
            return
        others = self.unlabeled.endless(number * self.length + first_step)
        for (batches, images), (other, other_images) in zip(steps, others, strict=False):
            yield [Part(batches, images), Part(without_labels(other), other_images, prefix="unlabeled/")]

    def _finetune(self, number: int, first_step: int) -> Iterator[list[Part]]:
        for batches, images in (self.unlabeled or self.labeled).one_pass(number, first_step):
            yield [Part(without_labels(batches), images)]

    def _alternated(self, number: int, first_step: int) -> Iterator[list[Part]]:
        draws = self.draws(number)
        supervised = sum(sum(self.draws(earlier)) for earlier in range(number)) + sum(draws[:first_step])
        taken = number * self.length + first_step
        if self.unlabeled is None:  # one order for both: whether a batch keeps its labels is what is drawn
            labeled = unlabeled = self.labeled.endless(taken)
        else:
            labeled, unlabeled = self.labeled.endless(supervised), self.unlabeled.endless(taken - supervised)
        for draw in draws[first_step:]:
            batches, images = next(labeled if draw else unlabeled)
            yield [Part(batches, images, self.of_task) if draw else Part(without_labels(batches), images)]

    def draws(self, epoch: int) -> list[bool]:
        """Which steps of an epoch are supervised: the same on every process, from a generator of their own."""
        labeled = self.alpha * self.labeled.order.images
        share = labeled / (labeled + (self.unlabeled or self.labeled).order.images)
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, epoch, 0, _DRAWS))
        return (torch.rand(self.length, generator=generator, dtype=torch.float64) < share).tolist()


def without_labels(batches: list[Batch]) -> list[Batch]:
    """The batches as an unlabelled dataset would give them."""
    return [{name: value for name, value in batch.items() if name != "labels"} for batch in batches]


def label_free(model: nn.Module) -> list[str]:
    """Names of the model's objectives that do without labels."""
    return [name for name, each in objectives_of(model).items() if not each.needs_labels]


def _objectives(model: nn.Module) -> dict[str, Any]:
    return dict(getattr(model, "objectives", None) or {})


def _of_images(model: nn.Module, dataset: Dataset) -> list[str]:
    """Of :func:`label_free`, those that the images have the annotations for."""
    there = None if isinstance(dataset, IterableDataset) else getattr(dataset, "annotations", None)
    if not isinstance(there, dict):
        return label_free(model)
    counts = {column for column, flags in there.items() if any(flags)}
    read = read_by_objectives(model)
    return [name for name in label_free(model) if name not in read or set(read[name]) & counts]


def _check(model: nn.Module, dataset: Dataset, unlabeled: Dataset | None, config: TrainingConfig) -> None:
    if config.unlabeled_batch_size is not None and unlabeled is None:
        raise TrainingError(
            f"unlabeled_batch_size={config.unlabeled_batch_size} is of a separate unlabelled dataset: give unlabeled"
        )
    if config.strategy == "combined" and unlabeled is None:
        return
    free = _of_images(model, dataset if unlabeled is None else unlabeled)
    if not free:
        read = read_by_objectives(model)
        reads = [f"{name} reads {' or '.join(read[name])}, which the images have not" for name in label_free(model)]
        given = ", ".join(objectives_of(model)) or "none"
        what = f"strategy={config.strategy!r}" if config.strategy != "combined" else "an unlabelled dataset"
        raise TrainingError(
            f"{what} needs an objective that does without labels, and the model's objectives are {given}"
            f"{' (' + ', '.join(reads) + ')' if reads else ''}: wrap it "
            "with objectives=['consistency'], for example, or train on labelled images with strategy='combined'"
        )
    labelled = objectives_of(model).keys() - set(label_free(model))
    if config.strategy == "finetune" and labelled:
        left = ", ".join(sorted(labelled))
        warnings.warn(f"strategy='finetune' uses no labels, so these objectives are left out: {left}", stacklevel=4)
    if unlabeled is dataset:
        raise TrainingError(
            "unlabeled is the labelled dataset itself: leave it out, and the strategy leaves the labels out"
        )
    if config.strategy == "finetune" and unlabeled is not None and (config.annotated_per_batch or config.balance):
        asked = "annotated_per_batch" if config.annotated_per_batch else "balance"
        raise TrainingError(
            f"{asked} draws labelled images, and strategy='finetune' takes those of the unlabelled dataset only: leave "
            "one of them out"
        )
    for name, data in (("dataset", dataset), ("unlabeled", unlabeled)):
        if isinstance(data, IterableDataset) and (config.strategy == "alternated" or name == "unlabeled"):
            raise TrainingError(
                f"{name} is a stream, and strategy={config.strategy!r} must know how many images it has: give a "
                "dataset with a length, or use another strategy without a separate unlabelled dataset"
            )
