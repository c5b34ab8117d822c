"""Figures that are no mean over images (macro F1, mean average precision, MaxBoxAcc, PxAP), made for many resampled sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_f1_score, multilabel_f1_score

from attention_refine.metrics import pixel_precision

Statistic = Callable[[Tensor], Tensor]


def statistic_of(measure: str, samples: Sequence[Mapping[str, Any]], classes: int) -> Statistic:
    """``macro_f1`` or ``mean_average_precision`` as a function of rows ``(m,)`` of the samples, repeats allowed."""
    labels = [sample["label"] for sample in samples]
    predictions = [sample["prediction"] for sample in samples]
    if measure == "mean_average_precision":
        return mean_average_precision(
            torch.tensor([sample["logits"] for sample in samples]), multi_hot(labels, classes)
        )
    score: Callable[..., Tensor] = multiclass_f1_score
    if isinstance(labels[0], list):
        a, b, score = multi_hot(predictions, classes), multi_hot(labels, classes), multilabel_f1_score
    else:
        a, b = torch.tensor(predictions), torch.tensor(labels)
    return lambda rows: score(a[rows], b[rows], classes, average="macro", validate_args=False)


def max_box_accuracy(
    overlaps: Tensor, at: Sequence[float] = (0.3, 0.5, 0.7), chosen: Sequence[float] | None = None, **_: Any
) -> Statistic:
    """:func:`attention_refine.metrics.max_box_accuracy` of resampled rows of ``overlaps`` (n, thresholds) without NaN.

    The best threshold is found anew in every resampled set, as it is in the whole one; with ``chosen`` thresholds, one
    for each of ``at``, there is nothing to find.
    """
    if chosen is not None:
        right = (overlaps >= torch.tensor(list(at), dtype=overlaps.dtype)).double().mean(1)
        return lambda rows: right[rows].mean()
    reached = torch.stack([overlaps >= overlap for overlap in at], dim=1).flatten(1).double()

    def statistic(rows: Tensor) -> Tensor:
        times = torch.bincount(rows, minlength=len(reached)).double()
        rates = (times @ reached).view(len(at), -1) / len(rows)
        return rates.amax(1).mean()

    return statistic


def pooled_precision(counts: Tensor, **_: Any) -> Statistic:
    """:func:`attention_refine.metrics.pixel_precision` of resampled rows of ``counts`` (n, 2 thresholds) without NaN."""

    def statistic(rows: Tensor) -> Tensor:
        times = torch.bincount(rows, minlength=len(counts)).double()
        return pixel_precision((times @ counts.double()).view(1, 2, -1))

    return statistic


MAP_STATISTICS: dict[str, Callable[..., Statistic]] = {"max_box_acc": max_box_accuracy, "pxap": pooled_precision}


def mean_average_precision(logits: Tensor, labels: Tensor) -> Statistic:
    """Macro mean of :func:`attention_refine.metrics.average_precision` on resampled rows, sorting each class only once.

    A row drawn twice is a row of weight 2. With the weights in descending order of score, the precision at a place is
    that of the last of its ties, and a class's figure is the mean of it over the weight of the positives.

    Args:
        logits: ``(n, classes)``. labels: ``(n, classes)`` of 0 and 1.
    """
    # Ties are those of the double-precision sigmoid, as in the function.
    scores, order = logits.double().sigmoid().sort(dim=0, descending=True, stable=True)
    positive = labels.gather(0, order).double()
    place = torch.arange(len(scores))[:, None].expand_as(scores)
    ends = torch.ones_like(scores, dtype=torch.bool)
    ends[:-1] = scores[:-1] != scores[1:]
    last = place.masked_fill(~ends, len(scores)).flip(0).cummin(0).values.flip(0)

    def statistic(rows: Tensor) -> Tensor:
        weight = torch.bincount(rows, minlength=len(scores)).double()[order]
        hits = weight * positive
        precision = (hits.cumsum(0) / weight.cumsum(0).clamp_min(1)).gather(0, last)
        total = hits.sum(0)
        each = (hits * precision).sum(0) / total
        return each.nanmean()  # a class without a positive is 0 / 0, and left out

    return statistic


def multi_hot(rows: Sequence[Sequence[int]], classes: int) -> Tensor:
    """``(n, classes)`` int64 of 0 and 1 from lists of class indices."""
    table = torch.zeros(len(rows), classes, dtype=torch.long)
    for row, present in zip(table, rows):
        row[list(present)] = 1
    return table
