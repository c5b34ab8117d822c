"""Accuracy, F1 and average precision, by torchmetrics, with the conventions this library's papers use in one place.

Single-label measures take ``logits`` (B, classes) and ``labels`` (B,) int64; multi-label ones ``labels`` (B, classes)
of 0 and 1. torchmetrics is imported where it is used: that takes seconds. Counts over a whole data set: give all
samples at once, or use the ``torchmetrics`` classes in streaming.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ._maps import wide

Average = Literal["macro", "micro", "none"]
AVERAGES = get_args(Average)


def _check(logits: Tensor, labels: Tensor) -> bool:
    """Whether the labels are multi-hot; ValueError where they fit neither form."""
    if logits.ndim == 2 and labels.shape == logits.shape:
        return True
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"logits must be (B, classes) and labels (B,) int64 or (B, classes) multi-hot, "
            f"got {tuple(logits.shape)} and {labels.dtype} {tuple(labels.shape)}"
        )
    return False


def correct(logits: Tensor, labels: Tensor, top_k: int = 1) -> Tensor:
    """``(B,)`` float32: 1 where the label is among the ``top_k`` largest logits, or any of a multi-hot row's labels is.

    The first of equal logits counts first. ``top_k`` beyond the number of classes means all of them.
    """
    multilabel = _check(logits, labels)
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    best = logits.sort(dim=1, descending=True, stable=True).indices[:, :top_k]
    right = labels.gather(1, best) > 0 if multilabel else best == labels[:, None]
    return right.any(1).float()


def accuracy(logits: Tensor, labels: Tensor, top_k: int = 1) -> Tensor:
    """Share of samples that are :func:`correct`; for multi-hot labels, whose first class is one of them."""
    return correct(logits, labels, top_k).mean()


def top5_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return accuracy(logits, labels, top_k=5)


def attribute_accuracy(logits: Tensor, labels: Tensor, threshold: float = 0.5) -> Tensor:
    """``(classes,)`` share of samples right on each attribute at ``sigmoid > threshold``; ABN's figure is its mean."""
    if not _check(logits, labels):
        raise ValueError(f"attribute accuracy needs multi-hot labels (B, classes), got {tuple(labels.shape)}")
    return ((logits.sigmoid() > threshold) == (labels > 0)).float().mean(0)


def class_means(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """``(classes,)`` mean of the values that are not NaN over the samples of each class; NaN for a class without any.

    The pointing game's figure is ``class_means(hits, labels, n).nanmean()``.

    Args:
        values: ``(B,)`` of any measure; labels: ``(B,)`` int64, or multi-hot ``(B, classes)``.
    """
    members = labels > 0 if labels.ndim == 2 else labels[:, None] == torch.arange(num_classes, device=labels.device)
    if len(values) != len(labels) or members.shape[1] != num_classes:
        raise ValueError(
            f"{tuple(values.shape)} values do not fit labels {tuple(labels.shape)} of {num_classes} classes"
        )
    members = members.to(values.device) & ~values.isnan()[:, None]
    return ((members * values.nan_to_num()[:, None]).sum(0) / members.sum(0)).float()


def f1(logits: Tensor, labels: Tensor, average: Average = "macro", threshold: float = 0.5) -> Tensor:
    """F1: of the first class for single labels, at ``sigmoid > threshold`` for multi-hot ones.

    Args:
        average: ``"macro"``, ``"micro"``, or ``"none"`` for the (classes,) values. A single-label macro mean is, as in
            torchmetrics, over the classes that occur among labels or predictions; a multi-label class never seen counts
            0.
    """
    if average not in AVERAGES:
        raise ValueError(f"average {average!r} is not one of {', '.join(AVERAGES)}")
    from torchmetrics.functional.classification import multiclass_f1_score, multilabel_f1_score

    classes = logits.shape[1]
    if _check(logits, labels):
        return multilabel_f1_score(logits.sigmoid(), labels.long(), classes, threshold=threshold, average=average)
    return multiclass_f1_score(logits.argmax(1), labels, classes, average=average)


def average_precision(logits: Tensor, labels: Tensor, average: str = "macro") -> Tensor:
    """mAP as scikit-learn defines it, ``sum((R_n - R_n-1) * P_n)`` without interpolation; by torchmetrics.

    Args:
        labels: multi-hot ``(B, classes)``, or ``(B,)`` taken as one-hot.
        average: ``"macro"``; ``"weighted"`` by the classes' positives (ATCON's figure); ``"micro"``; ``"none"`` for the
            (classes,) values, NaN for a class without positives, which the macro mean leaves out (scikit-learn counts
            0).
    """
    if average not in ("macro", "weighted", "micro", "none"):
        raise ValueError(f"average {average!r} is not one of macro, weighted, micro, none")
    from torchmetrics.functional.classification import binary_average_precision, multilabel_average_precision

    labels, scores = _multi_hot(logits, labels), wide(logits).sigmoid()
    if average == "micro":
        return multilabel_average_precision(scores, labels, logits.shape[1], average="micro").float()
    positives = labels.sum(0)
    seen = positives > 0
    if not seen.any():
        return logits.new_full((logits.shape[1],) if average == "none" else (), torch.nan)
    each = torch.full((logits.shape[1],), torch.nan, dtype=scores.dtype, device=logits.device)
    # A class at a time: torchmetrics warns of, and its versions disagree on, a class without positives.
    for c in seen.nonzero().flatten().tolist():
        each[c] = binary_average_precision(scores[:, c], labels[:, c])
    if average == "none":
        return each.float()
    if average == "macro":
        return each.nanmean().float()
    return ((each.nan_to_num() * positives).sum() / positives.sum()).float()


def _multi_hot(logits: Tensor, labels: Tensor) -> Tensor:
    if _check(logits, labels):
        return (labels > 0).long()
    return torch.nn.functional.one_hot(labels, logits.shape[1])


def voc_average_precision(logits: Tensor, labels: Tensor, points: int | None = None) -> Tensor:
    """``(classes,)`` average precision with VOC's interpolation; NaN without positives; mAP is the ``nanmean``.

    torchmetrics has no interpolated form for classification.

    Args:
        labels: multi-hot or ``(B,)``; 255 or -1 in a multi-hot row marks a "difficult" sample, left out for that class.
        points: None for the area under the interpolated curve (VOC 2010 on), 11 for VOC 2007's eleven recalls.
    """
    if points is not None and points < 2:
        raise ValueError(f"points must be None or at least 2 (VOC 2007 has 11), got {points}")
    if not _check(logits, labels):
        labels = _multi_hot(logits, labels)
    positive, counted = (labels == 1).cpu().double(), ((labels == 1) | (labels == 0)).cpu().double()
    scores, order = logits.cpu().double().sort(dim=0, descending=True, stable=True)
    hits, shown = positive.gather(0, order).cumsum(0), counted.gather(0, order).cumsum(0)
    # Equal scores are one threshold: every member takes the counts of the last of them.
    last = torch.ones_like(scores, dtype=torch.bool)
    last[:-1] = scores[:-1] != scores[1:]
    precision = torch.where(last, hits / shown.clamp_min(1), 0.0)
    recall = hits / positive.sum(0).clamp_min(1)
    envelope = precision.flip(0).cummax(0).values.flip(0)  # the best precision at this recall or beyond
    if points is None:
        gain = recall.diff(dim=0, prepend=torch.zeros_like(recall[:1]))
        result = (gain * envelope).sum(0)
    else:
        asked = torch.linspace(0, 1, points, dtype=torch.float64)
        # A class's recalls ascend: the first index reaching each asked recall; none reaches it: precision 0.
        at = torch.searchsorted(recall.T.contiguous() + 1e-12, asked.expand(recall.shape[1], -1).contiguous())
        padded = torch.cat([envelope, torch.zeros_like(envelope[:1])])
        result = padded.T.gather(1, at).mean(1)
    return result.masked_fill(positive.sum(0) == 0, torch.nan).float().to(logits.device)


def classification_scores(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The scalars that fit the labels.

    accuracy, top5_accuracy (beyond 5 classes), f1_macro and f1_micro; for multi-hot labels also map_macro,
    map_weighted, map_voc and attribute_accuracy.
    """
    multilabel = _check(logits, labels)
    scores = {"accuracy": accuracy(logits, labels)}
    if logits.shape[1] > 5:
        scores["top5_accuracy"] = top5_accuracy(logits, labels)
    scores |= {f"f1_{average}": f1(logits, labels, average) for average in ("macro", "micro")}
    if multilabel:
        scores |= {f"map_{average}": average_precision(logits, labels, average) for average in ("macro", "weighted")}
        scores["map_voc"] = voc_average_precision(logits, labels).nanmean()
        scores["attribute_accuracy"] = attribute_accuracy(logits, labels).mean()
    return scores
