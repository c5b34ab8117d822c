"""What kind each image of a dataset is, where the order of the images depends on it; no image is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils.data import Dataset, IterableDataset

from attention_refine.training.batches import size_of
from attention_refine.training.config import TrainingConfig, TrainingError

_TARGETS = {"mask": "mask", "boxes": "boxes", "edited_map": "edited", "cue": "cue"}


def objectives_of(model: nn.Module) -> dict[str, Any]:
    """The model's objectives by name."""
    return dict(getattr(model, "objectives", None) or {})


def kinds_of_images(model: nn.Module, dataset: Dataset, config: TrainingConfig) -> dict[str, Any]:
    """What :class:`~attention_refine.training.batches.BatchOrder` is to know of the images, as its arguments.

    Raises:
        TrainingError: the dataset does not say what is asked of it.
    """
    kinds: dict[str, Any] = {}
    if config.images_of_a_class > 1:
        classes = _one_class_each(dataset, "images_of_a_class")
        kinds |= {"classes": classes, "together": config.images_of_a_class}
    if config.annotated_per_batch is not None:
        kinds |= {"annotated": annotated(model, dataset), "annotated_per_batch": config.annotated_per_batch}
    if config.balance == "class":
        kinds["groups"] = _one_class_each(dataset, "balance='class'")
    if config.balance == "group":
        kinds["groups"] = _groups(dataset)
    return kinds


def read_by_objectives(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """For each objective that acts on annotated images only, the columns of which an image needs one."""
    found = {name: tuple(getattr(each, "annotations", ())) for name, each in objectives_of(model).items()}
    return {name: columns for name, columns in found.items() if columns}


def check_annotations(model: nn.Module, dataset: Dataset) -> None:
    """Refuse an objective that would do nothing, where the dataset says which annotations it has.

    Raises:
        TrainingError: naming the objective, what it reads and what there is.
    """
    there = None if isinstance(dataset, IterableDataset) else getattr(dataset, "annotations", None)
    if not isinstance(there, dict):
        return
    counts = {column: sum(flags) for column, flags in there.items() if any(flags)}
    for name, columns in read_by_objectives(model).items():
        if not set(columns) & set(counts):
            has = ", ".join(f"{number} {column}" for column, number in counts.items()) or "none"
            fits = (
                f" (or target={_TARGETS[next(column for column in counts if column in _TARGETS)]!r})"
                if set(counts) & set(_TARGETS)
                else ""
            )
            raise TrainingError(
                f"{name} would do nothing: it reads {' or '.join(columns)}, and of the annotations the training data has "
                f"{has}. Give the images what it reads{fits}, see docs/data.md, or leave the objective out"
            )


def say_unseen(model: nn.Module) -> None:
    """At the end of an epoch: warn of an objective that has not seen one image with what it reads."""
    for objective in objectives_of(model).values():
        waiting = getattr(objective, "waiting", None)
        if waiting is not None:
            waiting.epoch_ended()


def annotated(model: nn.Module, dataset: Dataset) -> list[bool]:
    """Which images have an annotation that the model's objectives read; of any kind where none reads any.

    Raises:
        TrainingError: the dataset does not say, or has none.
    """
    there = _said(dataset, "annotations", None, "annotated_per_batch", "the images that have each kind of annotation")
    read = read_by_objectives(model)
    wanted = {column for columns in read.values() for column in columns} or set(there)
    chosen = [flags for column, flags in there.items() if column in wanted]
    if not any(any(flags) for flags in chosen):
        counts = ", ".join(f"{sum(flags)} {column}" for column, flags in there.items() if any(flags)) or "none"
        whose = f"{' and '.join(read)} reads {' or '.join(sorted(wanted))}" if read else "no image has one"
        raise TrainingError(f"annotated_per_batch needs annotated images: {whose}, and the dataset has {counts}")
    return [any(flags) for flags in zip(*chosen, strict=True)]


def _said(dataset: Dataset, attribute: str, size: int | None, asker: str, what: str) -> Any:
    found = None if isinstance(dataset, IterableDataset) else getattr(dataset, attribute, None)
    if found is None or size is not None and len(found) != size:
        raise TrainingError(
            f"{asker} needs a dataset that says {what}: no stream, and with an attribute {attribute}, as "
            "attention_refine.data.prepare makes it"
        )
    return found


def _one_class_each(dataset: Dataset, asker: str) -> Sequence[int]:
    labels = _said(dataset, "labels", size_of(dataset), asker, "its classes, one class an image")
    if any(not isinstance(label, int) for label in labels):
        raise TrainingError(f"{asker}: every image needs one class, and these have several labels an image")
    return labels


def _groups(dataset: Dataset) -> Sequence[Any]:
    groups = _said(dataset, "groups", None, "balance='group'", "the group of each image, from a column 'group'")
    without = [row for row, group in enumerate(groups) if group is None]
    if without:
        raise TrainingError(
            f"balance='group': {len(without)} of {len(groups)} images have no group, image {without[0]} for one: fill "
            "the column 'group', or leave these images out"
        )
    return groups
