r"""Bilinear representative non-parametric attention, BR-NPA (Gomez et al., Pattern Recognition 2022, arXiv 2106.02566).

Attention without attention parameters: the most active location stands for a part, what looks like it is the part,
and what is left gives the next. With the feature's vectors :math:`v_j` at the locations :math:`j`,
:math:`n_j = \|v_j\| + \epsilon` and an activity that starts as :math:`a = n`, for :math:`k = 1 ... K`:

.. math::

    i_k &= \arg\max_j a_j                                      & \text{representative} \\
    s_j &= \max(\langle v_j, v_{i_k} \rangle, 0) / (n_j n_{i_k})   & \text{similarity to it} \\
    r_k &= \sum_j w_j v_j, \quad w_j = s_j / \sum_j s_j        & \text{refined by what is like it} \\
    a_j &\leftarrow (1 - s_j) a_j                              & \text{which is then explained}

and the logits are one linear layer on :math:`[r_1 ... r_K]`. The maps are ranked: part 1 is the most active one. They
are class-agnostic. The gradient goes through both sides of the cosine, none through the choice of :math:`i_k`.

A map is the similarity times the norm, relative to the image's largest norm: what the authors draw and measure. It is
in [0, 1]. ``maps="similarity"`` leaves the norm out.

Where this differs from the paper, and why:

* Negative cosines count as 0. Features after a ReLU have none, and there this is the paper's equation; after GELU or a
  layer norm the weights would not be weights (their sum can be 0). ``feature_act="relu"`` cuts the feature instead.
* A feature of zeros has the weight 1 / (h w) everywhere instead of 0 / 0, and no location is chosen twice.
* The prediction goes over from the backbone's classifier to this head's, which starts from it where it can: see
  :class:`~attention_refine.heads._pooling.PoolingHead`. ``fade_in_steps=0, classifier_init="scratch", bias=False`` is
  the paper's form.

A person's map replaces the similarity: :math:`w_j = M_j / \sum_j M_j`, one map for all parts or one each. Its scale
does not matter, and a constant one, zero included, is plain average pooling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core.registry import check_choice
from ..maps._conditions import full_precision
from ._base import heads
from ._pooling import Pooled, PoolingConfig, PoolingHead

EPS = 1e-5  # added to the norms
LEAST = 1e-8  # added to every similarity, so that their sum is not 0
BIG = 1 << 24  # numbers of a float32 feature, 64 MiB: the parts of a larger batch are found a few images at a time


@dataclass(frozen=True)
class BRNPAConfig(PoolingConfig):
    """Options of :class:`BRNPA`, beside those of every pooling head.

    Args:
        refine: ``False`` takes the representatives as they are, :math:`r_k = v_{i_k}` (the paper's ablation).
        select: ``"norm"``, or ``"random"`` representatives (the paper's ablation): drawn anew in every training pass,
            the same ones for every image in evaluation.
        feature_act: ``"relu"`` cuts the feature at 0 first, ``"none"`` takes it as it is.
        maps: ``"activity"``, similarity times norm, or ``"similarity"``.
        chunk: images whose parts are found at a time, to save memory; in training they are found once more in the
            backward pass then. ``None`` for all of a batch, or as many as fit into 64 MiB where that is fewer.
    """

    refine: bool = True
    select: str = "norm"
    feature_act: str = "none"
    maps: str = "activity"
    chunk: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("BRNPA", "select", self.select, ("norm", "random"))
        check_choice("BRNPA", "feature_act", self.feature_act, ("none", "relu"))
        check_choice("BRNPA", "maps", self.maps, ("activity", "similarity"))
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"BRNPA: chunk must be at least 1, got {self.chunk}")


def part_weights(similarity: Tensor) -> Tensor:
    """``w = s / sum s`` over the last dimension, uniform where all are 0; the similarities are not negative."""
    similarity = similarity + LEAST
    return similarity / similarity.sum(-1, keepdim=True)


def lengths(vectors: Tensor) -> Tensor:
    """``(B, N)``, the norms of ``(B, C, N)`` over the channels.

    On a CPU torch's norm over that dimension takes five times as long as a sum: where no gradient is wanted, and nothing is
    traced, the squares of one image after the other are summed.
    """
    if torch.is_grad_enabled() or vectors.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.linalg.vector_norm(vectors, dim=1)
    squares = torch.empty_like(vectors[0])
    return torch.stack([torch.mul(image, image, out=squares).sum(0) for image in vectors]).sqrt()


def representative_parts(
    vectors: Tensor, parts: int, refine: bool = True, order: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The parts of every image, one after the other.

    Args:
        vectors: ``(B, C, N)``, the feature's vectors at N locations, at least float32.
        parts: K, at most N.
        refine: whether the parts are means of what is like their representative, or the representative itself.
        order: ``(B, K, N)``, for each part the scores its representative is chosen by; by default the activity.

    Returns:
        the parts' vectors ``(B, K, C)``, the similarities ``(B, K, N)`` in [0, 1], the activity with which each
        representative was chosen ``(B, K)``, and the norms ``(B, N)``.
    """
    norms = lengths(vectors) + EPS
    activity = norms.detach()
    chosen = torch.zeros_like(activity, dtype=torch.bool)
    representatives, alike, scores = [], [], []
    for k in range(parts):
        by = activity if order is None else order[:, k]
        index = by.masked_fill(chosen, -1).argmax(1, keepdim=True)
        chosen = chosen.scatter(1, index, True)
        scores.append(activity.gather(1, index))
        representative = vectors.gather(2, index[:, None].expand(-1, vectors.shape[1], 1))
        cosine = torch.bmm(representative.transpose(1, 2), vectors)[:, 0] / (norms * norms.gather(1, index))
        representatives.append(representative)
        alike.append(cosine.clamp(0, 1))
        activity = activity * (1 - alike[-1].detach())
    similarities = torch.stack(alike, 1)
    if refine:  # all parts at once: the feature is read one time
        found = torch.bmm(vectors, part_weights(similarities).transpose(1, 2)).transpose(1, 2)
    else:
        found = torch.cat(representatives, 2).transpose(1, 2)
    return found, similarities, torch.cat(scores, 1), norms


@heads.register("brnpa")
class BRNPA(PoolingHead):
    """The ranked parts of BR-NPA, their maps and their classifier. Options: :class:`BRNPAConfig`."""

    config_class = BRNPAConfig

    def forward(self, feature: Tensor, maps: Tensor | None = None) -> tuple[Pooled, Tensor, dict[str, Tensor]]:
        """The parts, their maps, and no auxiliary logits.

        Args:
            feature: ``(B, C, h, w)``, or ``(B, C, t, h, w)`` of a clip.
            maps: ``(B, 1 or K, h, w)`` (clips ``(B, 1 or K, t, h, w)``), not negative, in place of the similarities.

        Raises:
            ValueError: the feature has fewer locations than there are parts.
        """
        self.check(feature)
        grid = feature.shape[2:]
        if maps is not None:
            weights = part_weights(full_precision(maps).flatten(2)).expand(-1, self.config.parts, -1)
            return Pooled(self._pool(feature, weights)), maps, {}
        self.count()
        vectors, similarities, scores, norms = self._parts(feature.flatten(2), self._order(feature))
        if self.config.maps == "activity":
            similarities = similarities * (norms / norms.amax(1, keepdim=True))[:, None]
        return Pooled(vectors, scores), full_precision(similarities).unflatten(2, grid), {}

    def _parts(self, flat: Tensor, order: Tensor | None) -> tuple[Tensor, ...]:
        """:func:`representative_parts` of a batch, whole or a few images at a time."""
        count = self.config.chunk or max(1, BIG // (flat.shape[1] * flat.shape[2]))
        # a graph is for any number of images: it cannot be unrolled over them, and plans its memory itself
        if torch.compiler.is_compiling() or count >= len(flat):
            return self._find(flat, order)
        orders = [None] * len(flat) if order is None else order.split(count)
        made = [
            checkpoint(self._find, some, ranks, use_reentrant=False, preserve_rng_state=False)
            for some, ranks in zip(flat.split(count), orders)
        ]
        return tuple(torch.cat(each) for each in zip(*made))

    def _find(self, flat: Tensor, order: Tensor | None) -> tuple[Tensor, ...]:
        with torch.autocast(flat.device.type, enabled=False):  # norms and cosines of half precision choose other parts
            return representative_parts(self._vectors(flat), self.config.parts, self.config.refine, order)

    def _pool(self, feature: Tensor, weights: Tensor) -> Tensor:
        with torch.autocast(feature.device.type, enabled=False):
            return torch.bmm(weights, self._vectors(feature.flatten(2)).to(weights.dtype).transpose(1, 2))

    def _vectors(self, flat: Tensor) -> Tensor:
        flat = full_precision(flat)
        return flat.relu() if self.config.feature_act == "relu" else flat

    def _order(self, feature: Tensor) -> Tensor | None:
        """What representatives are chosen by in the place of the norm: noise, in evaluation the same for all images."""
        if self.config.select == "norm":
            return None
        count, cells = self.config.parts, math.prod(feature.shape[2:])
        if self.training:
            return torch.rand(feature.shape[0], count, cells, device=feature.device)
        fixed = torch.rand(count, cells, generator=torch.Generator().manual_seed(0)).to(feature.device)
        return fixed.expand(feature.shape[0], count, cells)
