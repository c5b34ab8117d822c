"""Retrieval: for an image, the others ranked by how alike they are; are those of its class on top?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attention_refine.evaluation.embeddings import embed_dataset, similarities
from attention_refine.metrics import bootstrap
from attention_refine.metrics.intervals import Interval

CHUNK = 512  # queries ranked at a time


@dataclass(frozen=True)
class Retrieval:
    """What :func:`retrieval` found.

    Attributes:
        mean_average_precision: over the queries that have a match, with its 95 % bootstrap interval.
        average_precision: ``(Q,)``; NaN for a query without a match in the gallery.
        first_match: ``(Q,)``, the rank from 1 of the first match; 0 without one.
    """

    mean_average_precision: Interval
    average_precision: Tensor
    first_match: Tensor

    def cmc(self, rank: int = 1) -> float:
        """Cumulative match characteristic: share of the queries with a match among the first ``rank``."""
        found = self.first_match[self.first_match > 0]
        return (found <= rank).float().mean().item()

    def __str__(self) -> str:
        found = self.mean_average_precision
        ranks = ", ".join(f"rank {rank} {100 * self.cmc(rank):.2f} %" for rank in (1, 5, 10))
        return f"mAP {100 * found.value:.2f} % ({100 * found.low:.2f} to {100 * found.high:.2f}), {ranks}"


def retrieval(
    model: nn.Module,
    dataset: Any,
    gallery: Any = None,
    *,
    distance: str = "cosine",
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: bool = True,
) -> Retrieval:
    """Mean average precision and match ranks of a model's embeddings.

    Args:
        model: a refined model.
        dataset: the queries, one label each; see :func:`embed_dataset`.
        gallery: the images that are ranked for each query; by default all other queries.
        distance: ``"cosine"`` or ``"euclidean"``.
        seed: of the bootstrap interval.
    """
    options = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
    queries, labels = embed_dataset(model, dataset, **options)
    if gallery is None:
        precision, first = rank_matches(queries, labels, queries, labels, distance, itself=True)
    else:
        precision, first = rank_matches(queries, labels, *embed_dataset(model, gallery, **options), distance)
    if not (first > 0).any():
        raise ValueError("no query has an image of its class to be found: queries and gallery share no class")
    return Retrieval(bootstrap(precision, seed=seed), precision, first)


def rank_matches(
    queries: Tensor,
    labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    distance: str = "cosine",
    itself: bool = False,
) -> tuple[Tensor, Tensor]:
    """Average precision ``(Q,)`` and rank of the first match ``(Q,)`` of every query.

    Average precision is the mean, over the matches, of the share of matches among those ranked up to it.

    Args:
        itself: query ``i`` is image ``i`` of the gallery, which does not count.
    """
    precisions, firsts = [], []
    for start in range(0, len(queries), CHUNK):
        rows = torch.arange(start, min(start + CHUNK, len(queries)))
        alike = similarities(queries[rows], gallery, distance)
        if itself:
            alike[torch.arange(len(rows)), rows] = -torch.inf
        order = alike.argsort(dim=1, descending=True, stable=True)[:, : len(gallery) - itself]
        match = (gallery_labels[order] == labels[rows, None]).float()
        count = match.sum(1)
        ranks = torch.arange(1, match.shape[1] + 1)
        precision = (match.cumsum(1) / ranks * match).sum(1) / count
        precisions.append(precision)  # 0 / 0, NaN, without a match
        firsts.append(torch.where(count > 0, match.argmax(1) + 1, 0))
    return torch.cat(precisions), torch.cat(firsts)
