"""Accuracy by group: does a model do well everywhere, or only where a shortcut holds?

A group is a part of the data that a person can name: the breed with the place it stands on, the hospital, whether the cue
agrees. The worst group's accuracy is what robust training is judged by (Sagawa et al., ICLR 2020, arXiv 1911.08731); the
gap is the best group's minus the worst's, 0 where no group is favoured. ``groups`` is ``(B,)`` int64, 0 and up; -1 marks
an image whose group is not known, which no figure here counts. Counts over a whole data set: give all samples at once, or
feed :class:`attention_refine.metrics.GroupAccuracy` by batches.

Both figures pick an extreme, and so lean to it: of many small groups the worst is low by chance alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .classification import correct

UNKNOWN = -1


class GroupFigures(NamedTuple):
    """``means`` (G,) float64, NaN for a group without a value; ``worst`` and ``gap`` scalars, NaN where no group has."""

    means: Tensor
    worst: Tensor
    gap: Tensor


def group_figures(values: Tensor, groups: Tensor, num_groups: int | None = None) -> GroupFigures:
    """The mean of any value by group, the smallest of the means, and the distance from it to the largest.

    Args:
        values: ``(B,)``, one a sample; NaN marks a sample that is not counted.
        groups: ``(B,)`` int64, 0 to ``num_groups - 1``, or -1.
        num_groups: G; by default one more than the largest group.

    Raises:
        ValueError: not one group a sample, or a group outside the range.
    """
    if values.ndim != 1 or groups.shape != values.shape or groups.is_floating_point():
        raise ValueError(
            f"values must be (B,) and groups (B,) int64, got {tuple(values.shape)} and {groups.dtype} "
            f"{tuple(groups.shape)}"
        )
    groups = groups.to(values.device).long()
    highest = int(groups.max()) if len(groups) else UNKNOWN
    count = highest + 1 if num_groups is None else num_groups
    if highest >= count or (len(groups) and int(groups.min()) < UNKNOWN):
        raise ValueError(
            f"groups must be 0 to {count - 1}, or {UNKNOWN} where unknown, got {int(groups.min())} to {highest}"
        )
    known = (groups != UNKNOWN) & ~values.isnan()
    sums = torch.zeros(count, dtype=torch.float64, device=values.device)
    sums.index_add_(0, groups[known], values[known].double())
    means = sums / torch.bincount(groups[known], minlength=count)  # 0 / 0 is NaN
    there = means[~means.isnan()]
    if len(there) == 0:
        nothing = means.new_tensor(torch.nan)
        return GroupFigures(means, nothing, nothing)
    return GroupFigures(means, there.min(), there.max() - there.min())


def group_accuracy(logits: Tensor, labels: Tensor, groups: Tensor, num_groups: int | None = None) -> Tensor:
    """``(G,)`` float32 accuracy of each group, NaN for one without samples; arguments as :func:`group_figures`.

    ``labels`` as in :func:`attention_refine.metrics.accuracy`: with several labels an image, its first class counts.
    """
    return group_figures(correct(logits, labels), groups, num_groups).means.float()


def worst_group_accuracy(logits: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """The smallest of :func:`group_accuracy`, over the groups that occur; NaN where none does."""
    return group_figures(correct(logits, labels), groups).worst.float()


def group_gap(logits: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """The largest of :func:`group_accuracy` minus the smallest, over the groups that occur; NaN where none does."""
    return group_figures(correct(logits, labels), groups).gap.float()
