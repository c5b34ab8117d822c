"""Retrieval: for an image, the others ranked by how alike they are; are those of its class on top?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor

from attention_refine.data import class_names
from attention_refine.evaluation.embeddings import embed_dataset, similarities
from attention_refine.metrics import bootstrap
from attention_refine.metrics.intervals import Interval
from attention_refine.refined import Refined

CHUNK = 512  # queries ranked at a time
SHOWN = 10  # images kept of each ranking


@dataclass(frozen=True)
class Retrieval:
    """What :func:`retrieval` found.

    Attributes:
        mean_average_precision: over the queries that have a match, with its 95 % bootstrap interval.
        average_precision: ``(Q,)``; NaN for a query without a match in the gallery.
        first_match: ``(Q,)``, the rank from 1 of the first match; 0 without one.
        nearest: ``(Q, 10)``, rows of the gallery, the most alike first; -1 where it has no more.
    """

    mean_average_precision: Interval
    average_precision: Tensor
    first_match: Tensor
    nearest: Tensor

    def cmc(self, rank: int = 1) -> float:
        """Cumulative match characteristic: share of the queries with a match among the first ``rank``."""
        found = self.first_match[self.first_match > 0]
        return (found <= rank).float().mean().item()

    def __str__(self) -> str:
        found = self.mean_average_precision
        ranks = ", ".join(f"rank {rank} {100 * self.cmc(rank):.2f} %" for rank in (1, 5, 10))
        return f"mAP {100 * found.value:.2f} % ({100 * found.low:.2f} to {100 * found.high:.2f}), {ranks}"


def retrieval(
    model: Refined,
    dataset: Any,
    gallery: Any = None,
    *,
    distance: str = "cosine",
    cameras: Sequence[Any] | None = None,
    gallery_cameras: Sequence[Any] | None = None,
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: bool = True,
) -> Retrieval:
    """Mean average precision and match ranks of a model's embeddings.

    Args:
        model: a refined model.
        dataset: the queries, one label each; see :func:`embed_dataset`.
        gallery: the images that are ranked for each query; by default all other queries. Its classes are matched with
            the queries' by name.
        distance: ``"cosine"`` or ``"euclidean"``.
        cameras: who took each query, and ``gallery_cameras`` each image of the gallery: as in person re-identification,
            an image of the query's class by the query's camera is passed over. Such as ``dataset["camera"]``.
        seed: of the bootstrap interval.

    Raises:
        ValueError: no query has anything to be found, or cameras that are not one an image.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
    queries, labels = embed_dataset(model, dataset, **options)
    itself = gallery is None
    others, other_labels = queries, labels
    if not itself:
        others, other_labels = embed_dataset(model, gallery, **options, classes=_names(dataset))
    if itself:
        gallery_cameras = cameras
    taken_by = None
    if cameras is not None or gallery_cameras is not None:
        taken_by = _numbered(cameras, gallery_cameras, len(queries), len(others))
    found = rank_matches(queries, labels, others, other_labels, distance, itself, taken_by)
    if not (found[1] > 0).any():
        by_another = " by another camera" if taken_by else ""
        raise ValueError(f"no query has an image of its class{by_another} to be found in the gallery")
    return Retrieval(bootstrap(found[0], seed=seed), *found)


def rank_matches(
    queries: Tensor,
    labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    distance: str = "cosine",
    itself: bool = False,
    cameras: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Average precision ``(Q,)``, rank of the first match ``(Q,)`` and nearest ``(Q, 10)`` of every query.

    Average precision is the mean, over the matches, of the share of matches among those ranked up to it.

    Args:
        itself: query ``i`` is image ``i`` of the gallery, which does not count.
        cameras: ``(Q,)`` and ``(N,)``; images of the query's class and camera do not count.
    """
    precisions, firsts, nearest = [], [], []
    for start in range(0, len(queries), CHUNK):
        rows = torch.arange(start, min(start + CHUNK, len(queries)))
        same = gallery_labels == labels[rows, None]
        passed = torch.zeros_like(same)
        if itself:
            passed[torch.arange(len(rows)), rows] = True
        if cameras is not None:
            passed |= same & (cameras[1] == cameras[0][rows, None])
        alike = similarities(queries[rows], gallery, distance).masked_fill(passed, -torch.inf)
        order = alike.argsort(dim=1, descending=True, stable=True)  # what is passed over comes last
        match = (same & ~passed).gather(1, order).float()
        count = match.sum(1)
        precision = (match.cumsum(1) / torch.arange(1, len(gallery) + 1) * match).sum(1) / count
        precisions.append(precision)  # 0 / 0, NaN, without a match
        firsts.append(torch.where(count > 0, match.argmax(1) + 1, 0))
        top = torch.full((len(rows), SHOWN), -1)
        first = order[:, :SHOWN]
        top[:, : first.shape[1]] = torch.where(passed.gather(1, first), -1, first)
        nearest.append(top)
    return torch.cat(precisions), torch.cat(firsts), torch.cat(nearest)


def _names(dataset: Any) -> list[str] | None:
    """The classes of a raw or prepared dataset, where it names them."""
    return class_names(dataset) if isinstance(dataset, datasets.Dataset) else getattr(dataset, "class_names", None)


def _numbered(
    cameras: Sequence[Any] | None, gallery_cameras: Sequence[Any] | None, queries: int, others: int
) -> tuple[Tensor, Tensor]:
    """Cameras, whatever they are called, as numbers."""
    for name, given, count in (("cameras", cameras, queries), ("gallery_cameras", gallery_cameras, others)):
        if given is None or len(given) != count:
            what = "is missing" if given is None else f"has {len(given)} entries"
            raise ValueError(f"{name} {what}: give one camera for each of the {count} images")
    numbers: dict[Any, int] = {}
    queried, filed = (
        [numbers.setdefault(each, len(numbers)) for each in given or ()] for given in (cameras, gallery_cameras)
    )
    return torch.tensor(queried), torch.tensor(filed)
