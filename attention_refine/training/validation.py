"""The evaluation that runs during training: quick numbers that choose the best model. The full one is evaluation.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MultilabelAccuracy,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)

from attention_refine.metrics.localisation import mask_correlation
from attention_refine.training.config import TrainingError


def check_labels(model: nn.Module, batch: dict[str, Any]) -> None:
    """Refuse a batch with a label outside the model's classes, before it crashes the device or gives a wrong loss."""
    labels, names = batch.get("labels"), getattr(model, "labels", None)
    if labels is None or not names:
        return
    rows = batch.get("index", torch.arange(len(labels)))
    if labels.is_floating_point():
        if labels.shape[1] != len(names):
            raise TrainingError(
                f"labels have {labels.shape[1]} columns and the model has {len(names)} classes: "
                f"wrap it with num_labels={labels.shape[1]}"
            )
        return
    outside = (labels < 0) | (labels >= len(names))
    if outside.any():
        where = int(outside.nonzero()[0])
        raise TrainingError(
            f"image {int(rows[where])} of the dataset has label {int(labels[where])}, and the model's {len(names)} "
            f"classes have labels 0 to {len(names) - 1}: correct the label, or wrap the model with another num_labels"
        )


@torch.no_grad()
def validate(model: nn.Module, loader: DataLoader, accelerator) -> dict[str, float]:
    """Loss, accuracy and macro F1 over a dataset; mask correlation where there are masks and head maps.

    Args:
        model: in evaluation mode; returns an object with ``.logits`` (B, classes) and, if a head made them, ``.maps``.
        loader: this process's share of the images; the processes' sums are added up.
        accelerator: the ``accelerate.Accelerator`` of the run.

    Returns:
        ``loss`` (cross-entropy, binary for multi-hot labels), ``accuracy`` (share of right labels), ``macro_f1``; with
        multi-hot labels ``mean_average_precision``; ``mask_correlation``, the mean over images whose mask has an object
        (of the predicted class where the head has a map per class, else the first-ranked map).
    """
    scores: MetricCollection | None = None
    sums = torch.zeros(4, device=accelerator.device)  # loss, images, mask correlation, images that have one
    for batch in loader:
        check_labels(model, batch)
        keys = [key for key in ("pixel_values", "labels", "mask") if key in batch]
        batch = {key: batch[key].to(accelerator.device, non_blocking=True) for key in keys}
        with accelerator.autocast():
            output = model(pixel_values=batch["pixel_values"])
        logits, labels = output.logits.float(), batch["labels"]
        if scores is None:
            scores = _scores(logits.shape[1], labels.is_floating_point()).to(accelerator.device)
        scores.update(logits, labels.long())
        task = functional.binary_cross_entropy_with_logits if labels.is_floating_point() else functional.cross_entropy
        sums[0] += task(logits, labels) * len(labels)
        sums[1] += len(labels)
        maps = getattr(output, "maps", None)
        if maps is not None and "mask" in batch:
            shown = _shown(model, maps, logits).float()
            correlation = mask_correlation(shown, batch["mask"])  # nan where a mask shows no object
            sums[2] += correlation.nansum()
            sums[3] += correlation.isfinite().sum()
    loss, images, correlation, masked = accelerator.reduce(sums, "sum").tolist()
    metrics = {"loss": loss / images, **{name: float(score) for name, score in scores.compute().items()}}
    return {**metrics, "mask_correlation": correlation / masked} if masked else metrics


def _shown(model: nn.Module, maps: Tensor, logits: Tensor) -> Tensor:
    """The one map ``(B, 1, h, w)`` of an image that stands for the prediction."""
    if not getattr(getattr(model, "head", None), "per_class", False):
        return maps[:, :1]
    return maps[torch.arange(len(maps)), logits.argmax(1)][:, None]


def _scores(classes: int, multi_label: bool) -> MetricCollection:
    scores: dict[str, Metric]
    if multi_label:
        scores = {
            "accuracy": MultilabelAccuracy(classes, average="micro"),
            "macro_f1": MultilabelF1Score(classes, average="macro"),
            "mean_average_precision": MultilabelAveragePrecision(classes, average="macro"),
        }
    else:
        scores = {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "macro_f1": MulticlassF1Score(classes, average="macro"),
        }
    return MetricCollection(scores, compute_groups=False)
