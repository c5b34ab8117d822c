"""What a model tells images apart by, for a whole dataset: the ground of few-shot classification and retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from tqdm.auto import tqdm

from attention_refine.backbones.contexts import quiet
from attention_refine.data import match_classes, prepare
from attention_refine.evaluation.batches import evaluation_batches
from attention_refine.refined import Refined

DISTANCES = ("cosine", "euclidean")


@torch.no_grad()
def embed_dataset(
    model: Refined,
    dataset: Any,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: bool = True,
    classes: Sequence[str] | None = None,
) -> tuple[Tensor, Tensor]:
    """``(N, D)`` float32 and labels ``(N,)``, on the CPU; an embedding does not depend on its batch.

    Args:
        model: a refined model (anything with ``embed`` and ``preprocessing``); its own classes do not matter here.
        dataset: a ``datasets`` dataset with images and one label each, or a prepared one.
        classes: names that its labels are to count in, matched by name; by default its own.

    Raises:
        ValueError: a stream, no images, or several labels an image.
    """
    if isinstance(dataset, datasets.Dataset):
        dataset = prepare(dataset, model.preprocessing)
    if classes is not None:
        dataset = match_classes(dataset, classes, "the queries")
    if isinstance(dataset, (datasets.IterableDataset, IterableDataset)):
        raise ValueError("a stream has no length: take a dataset whose images can be looked at in any order")
    if len(dataset) == 0:
        raise ValueError("the dataset is empty: there is nothing to embed")
    device = next(model.parameters()).device
    vectors, labels = [], []
    with quiet(model), tqdm(total=len(dataset), desc="embedding", unit="image", disable=not progress) as bar:
        for batch in evaluation_batches(dataset, 0, 1, set(), batch_size, num_workers):
            vectors.append(model.embed(batch["pixel_values"].to(device)).float().cpu())
            labels.append(batch["labels"])
            bar.update(len(labels[-1]))
    found = torch.cat(labels)
    if found.ndim > 1:
        raise ValueError("every image needs one class here, and this dataset has several labels an image")
    return torch.cat(vectors), found


def similarities(queries: Tensor, others: Tensor, distance: str) -> Tensor:
    """``(..., Q, O)``, larger is more alike: the cosine, or minus the squared Euclidean distance."""
    if distance not in DISTANCES:
        raise ValueError(f"distance={distance!r} is not one of {', '.join(map(repr, DISTANCES))}")
    if distance == "cosine":
        queries, others = (nn.functional.normalize(vectors, dim=-1) for vectors in (queries, others))
        return queries @ others.mT
    return -torch.cdist(queries, others).square()
