r"""Triplet loss on the hardest examples of a batch (Hermans et al. 2017, arXiv 1703.07737), for retrieval.

Images of a class should be nearer to each other than to any other class's. With the embeddings :math:`f` of a batch, what
the classifier reads, each image is an anchor ``a``; its farthest image of the same class and its nearest of another count:

.. math::

    L = mean_a \; \left[ m + \max_{p \in class(a)} D(f_a, f_p) - \min_{n \notin class(a)} D(f_a, f_n) \right]_+      & (5)

or, with ``margin="soft"``, :math:`\ln(1 + \exp(\cdot))` of the difference without ``m``. ``D`` is the Euclidean distance, not
squared, as the paper advises. It stands beside the classification loss, as person re-identification trains; BR-NPA's embedding
is its ranked parts side by side.

An anchor needs a second image of its class and one of another. The others add nothing and are left out of the mean, so give
batches that hold pairs: ``TrainingConfig(images_of_a_class=4)``. With several processes the images of all are compared, and the
gradient is that of one process with all of them. Accumulated batches do not see each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.registry import check_choice
from ._base import Objective, objectives
from ._distributed import gathered, processes

if TYPE_CHECKING:
    from ..output import RefinedOutput
    from ..refined import Refined

SOFT = "soft"


@dataclass(frozen=True)
class TripletConfig:
    """Options of :class:`Triplet`.

    Args:
        margin: ``m``, or ``"soft"``. With ``distance="cosine"`` distances lie between 0 and 2.
        distance: ``"euclidean"``, or ``"cosine"``: of the vectors at length 1.
        gather: with several processes, compare the images of all; ``False`` keeps to those of the process.
        weight: of the loss.
    """

    margin: float | str = 0.3
    distance: str = "euclidean"
    gather: bool = True
    weight: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.margin, str):
            check_choice("Triplet", "margin", self.margin, (SOFT,))
        elif self.margin < 0:
            raise ValueError(f"Triplet: margin must be 0 or more, or {SOFT!r}, got {self.margin}")
        check_choice("Triplet", "distance", self.distance, ("euclidean", "cosine"))
        if self.weight < 0:
            raise ValueError(f"Triplet: weight must be 0 or more, got {self.weight}")


@objectives.register("triplet")
class Triplet(Objective):
    """The batch-hard triplet loss of eq. 5. Options: :class:`TripletConfig`.

    Loss: ``triplet``. Measures: ``triplet_anchors``, the share of images that have both partners, and
    ``triplet_violated``, the share whose nearest image of another class is no farther than their farthest own.
    """

    config_class = TripletConfig
    needs_embedding = True
    least_images = 3  # an image, one of its class and one of another
    compares_images = True

    def forward(self, model: Refined, batch: dict[str, Any], output: RefinedOutput) -> dict[str, Tensor]:
        labels = batch["labels"]
        if labels.ndim != 1:
            raise ValueError("Triplet: every image needs one class, and these have several labels an image")
        # Evaluation deals images out unevenly, so that processes would wait for each other.
        across = self.config.gather and self.training and processes() > 1
        embedding = output.embedding
        assert embedding is not None, "needs_embedding asks for it"
        loss, measures = batch_hard(
            embedding, labels, self.config.margin, self.config.distance == "cosine", across=across
        )
        output.measures.update(measures)
        return {"triplet": loss}


def batch_hard(
    embeddings: Tensor, labels: Tensor, margin: float | str = 0.3, cosine: bool = False, across: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Equation 5 of ``(B, D)`` embeddings with ``(B,)`` labels.

    Args:
        margin: a number, or ``"soft"``.
        cosine: put the vectors to length 1 first.
        across: compare with the other processes' images too. Every process must call at once; the mean of their losses,
            weighted by their images, is that of all.

    Returns:
        the loss, 0 where no image has both partners, and the measures of :class:`Triplet`; float32.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        own = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
        own = F.normalize(own, dim=1) if cosine else own
        (everyone, start), (classes, _) = (gathered(x) if across else (x, 0) for x in (own, labels))
        same = classes[:, None] == classes
        paired = (same.sum(1) > 1) & ~same.all(1)
        rows = torch.arange(start, start + len(own), device=own.device)
        anchors = paired[rows]
        # Not by the matrix product, which rounds away what is near; its derivative at 0 is 0, of an image and its copy.
        distance = torch.cdist(own, everyone, compute_mode="donot_use_mm_for_euclid_dist")
        farthest = distance.masked_fill(~same[rows], -torch.inf).amax(1)
        nearest = distance.masked_fill(same[rows], torch.inf).amin(1)
        gap = torch.where(anchors, farthest - nearest, 0.0)
        each = F.softplus(gap) if isinstance(margin, str) else F.relu(gap + margin)
        # The training loop weights a process by its images, this mean is over anchors.
        share = len(classes) / len(own) / paired.sum().clamp_min(1).to(own.dtype)
        measures = {
            "triplet_anchors": anchors.to(own.dtype).mean(),
            "triplet_violated": ((gap >= 0) & anchors).to(own.dtype).mean(),
        }
        return (each * anchors).sum() * share, measures
