"""Few-shot classification: classes a model was not trained on, told apart from a handful of examples.

In an episode a few classes are drawn, a few support images of each and some query images. A class's prototype is the
mean of its support images' embeddings (Snell et al., NeurIPS 2017, arXiv 1703.05175), and a query belongs to the
nearest one. Nothing is trained. With BR-NPA the embedding is the ranked parts side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attention_refine.evaluation.embeddings import embed_dataset, similarities
from attention_refine.metrics import bootstrap
from attention_refine.metrics.intervals import Interval
from attention_refine.refined import Refined


@dataclass(frozen=True)
class FewShot:
    """What :func:`few_shot` found.

    Attributes:
        accuracy: mean over the episodes with its 95 % bootstrap interval over them.
        episodes: ``(episodes,)``, the accuracy of each.
        ways, shots, queries: classes an episode, support images and queries a class.
    """

    accuracy: Interval
    episodes: Tensor
    ways: int
    shots: int
    queries: int

    def __str__(self) -> str:
        found = self.accuracy
        return (
            f"{self.ways}-way {self.shots}-shot: {100 * found.value:.2f} % "
            f"({100 * found.low:.2f} to {100 * found.high:.2f}, {len(self.episodes)} episodes)"
        )


def few_shot(
    model: Refined,
    dataset: Any,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int = 600,
    distance: str = "cosine",
    seed: int = 0,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: bool = True,
) -> FewShot:
    """Accuracy over random episodes; every image is embedded once.

    Args:
        model: a refined model.
        dataset: images of the held-out classes, one label each; see :func:`embed_dataset`.
        ways, shots, queries: classes an episode, support images and queries a class, all different.
        episodes: how many.
        distance: ``"cosine"``, or ``"euclidean"`` as in the paper.
        seed: of the episodes; the same episodes for every model.

    Raises:
        ValueError: fewer classes than ``ways`` have ``shots + queries`` images.
    """
    for name, value in (("ways", ways), ("shots", shots), ("queries", queries), ("episodes", episodes)):
        least = 2 if name == "ways" else 1
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    vectors, labels = embed_dataset(model, dataset, batch_size, num_workers, progress)
    made = draw_episodes(labels, ways, shots + queries, episodes, seed)
    accuracies = torch.stack([episode_accuracy(vectors[rows], shots, distance) for rows in made])
    return FewShot(bootstrap(accuracies, seed=seed), accuracies, ways, shots, queries)


def draw_episodes(labels: Tensor, ways: int, images: int, episodes: int, seed: int) -> list[Tensor]:
    """Rows ``(ways, images)`` of the images of each episode, drawn without repetition."""
    rows = {int(label): (labels == label).nonzero()[:, 0] for label in labels.unique()}
    enough = [label for label, found in rows.items() if len(found) >= images]
    if len(enough) < ways:
        raise ValueError(
            f"{len(enough)} of {len(rows)} classes have the {images} images that an episode takes of each, and it "
            f"takes {ways} classes; ask for fewer ways, shots or queries"
        )
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(episodes):
        classes = torch.randperm(len(enough), generator=generator)[:ways].tolist()
        chosen = [rows[enough[label]] for label in classes]
        drawn.append(torch.stack([each[torch.randperm(len(each), generator=generator)[:images]] for each in chosen]))
    return drawn


def episode_accuracy(vectors: Tensor, shots: int, distance: str = "cosine") -> Tensor:
    """Share of the queries whose nearest prototype is their class's; ``vectors`` are ``(ways, shots + queries, D)``."""
    prototypes = vectors[:, :shots].mean(1)
    found = similarities(vectors[:, shots:].flatten(0, 1), prototypes, distance).argmax(1)
    truth = torch.arange(len(vectors)).repeat_interleave(vectors.shape[1] - shots)
    return (found == truth).float().mean()
