"""The evaluation that runs during training: quick numbers that choose the best model. The full one is evaluation.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MultilabelAccuracy,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)

from attention_refine.backbones.contexts import own_randomness
from attention_refine.metrics._modules import GroupAccuracy
from attention_refine.metrics._volume import laid_out
from attention_refine.metrics.ground_truth import measurable
from attention_refine.metrics.localisation import mask_correlation
from attention_refine.training.config import DRIFTS, TrainingError
from attention_refine.training.drift import StartingPredictions
from attention_refine.training.sharding import equally_often, is_sharded


def check_labels(model: nn.Module, batch: dict[str, Any]) -> None:
    """Refuse a batch with a label outside the model's classes, before it crashes the device or gives a wrong loss."""
    labels, names = batch.get("labels"), getattr(model, "labels", None)
    if labels is None or not names:
        return
    rows = batch.get("index", torch.arange(len(labels)))
    if labels.is_floating_point():
        if labels.ndim != 2:
            raise TrainingError(
                f"labels are {str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}: the classes of images "
                f"are whole numbers (torch.long), several of an image 0 and 1 for each, (B, {len(names)})"
            )
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
def validate(
    loader: Iterable[Any], model: nn.Module, accelerator: Any, *, objectives: bool = False,
    start: StartingPredictions | None = None, first: bool = False,
) -> dict[str, float]:  # fmt: skip
    """What can be measured on the validation images: more with labels, something without.

    Args:
        loader: this process's share of the images; the processes' sums are added up.
        model: in evaluation mode; returns an object with ``.logits`` (B, classes) and, if a head made them, ``.maps``.
        accelerator: the ``accelerate.Accelerator`` of the run.
        objectives: also compute the model's label-free objectives, from the same random numbers each time.
        start: the predictions to measure the drift from.
        first: this is the starting model: keep its predictions in ``start``.

    Returns:
        ``images``, how many there were, and with labels ``loss`` (cross-entropy, binary for multi-hot labels),
        ``accuracy`` (share of right labels), ``macro_f1`` and, with multi-hot labels, ``mean_average_precision``; where
        batches have a column ``group`` (B,) int64, -1 where it is not known, ``worst_group_accuracy`` and ``group_gap``;
        ``mask_correlation``, the mean over images whose mask has an object (of the predicted class where the head has a
        map per class, else the first-ranked map), and ``mask_correlation_images``, how many these are.
        With or without: ``loss/<name>`` for the objectives' losses, unweighted; ``prediction_drift``, the share of
        images whose predicted class is not the starting model's, and ``prediction_kl``, the mean KL divergence of the
        predictions from the starting ones, in nats.
    """
    scores: MetricCollection | None = None
    groups: GroupAccuracy | None = None
    totals: dict[str, Tensor] = {}
    predictions: list[Tensor] = []
    multi_label = False

    def add(name: str, total: Tensor | float, count: Tensor | int) -> None:
        both = torch.stack([torch.as_tensor(each).float().to(accelerator.device) for each in (total, count)])
        totals[name] = totals[name] + both if name in totals else both

    with own_randomness(accelerator.device):
        for batch, counts in _counted(loader, accelerator):
            check_labels(model, batch)
            batch = {key: _moved(value, accelerator.device) for key, value in batch.items()}
            with accelerator.autocast():
                output = _output(model, batch, objectives)
            if not counts:
                continue
            logits, labels = output.logits.detach().float(), batch.get("labels")
            add("images", len(logits), 0)
            if objectives:
                for name, value in output.losses.items():
                    add(f"loss/{name}", value.detach() * len(logits), len(logits))
            if start is not None:
                predictions.append(logits)
            if labels is not None:
                multi_label = labels.is_floating_point()
                if scores is None:
                    scores = _scores(logits.shape[1], multi_label).to(accelerator.device)
                scores.update(logits, labels.long())
                if isinstance(batch.get("group"), Tensor):
                    groups = groups or GroupAccuracy().to(accelerator.device)
                    groups.update(logits, labels.long(), batch["group"])
                task = functional.binary_cross_entropy_with_logits if multi_label else functional.cross_entropy
                add("loss", task(logits, labels) * len(labels), len(labels))
            maps = getattr(output, "maps", None)
            if maps is not None and "mask" in batch:
                shown, mask = laid_out(_shown(model, maps.detach(), logits).float(), batch["mask"])
                correlation = mask_correlation(shown, measurable(mask))
                add("mask_correlation", correlation.nansum(), correlation.isfinite().sum())  # nan: no object
    if start is not None:
        moved = torch.cat(predictions)
        if first:
            start.keep(moved)
        for name, total in zip(DRIFTS, start.drift(moved, multi_label)):
            add(name, total, len(moved))
    # By name: images of one process may have what those of another have not, masks for example.
    sums: dict[str, list[float]] = {}
    for shared in gather_object([{name: both.tolist() for name, both in totals.items()}]):
        for name, both in shared.items():
            sums[name] = [one + other for one, other in zip(sums.get(name, (0.0, 0.0)), both, strict=True)]
    metrics = {name: total / count for name, (total, count) in sums.items() if count}
    if "images" in sums:
        metrics["images"] = sums["images"][0]
    if "mask_correlation" in metrics:
        metrics["mask_correlation_images"] = sums["mask_correlation"][1]
    computed = dict(scores.compute()) if scores is not None else {}
    if groups is not None:
        found = groups.compute()
        computed |= {name: found[name] for name in ("worst_group_accuracy", "group_gap") if not found[name].isnan()}
    return {**metrics, **{name: float(score) for name, score in computed.items()}}


def _counted(loader: Iterable[Any], accelerator: Any) -> Iterable[tuple[dict[str, Any], bool]]:
    return equally_often(loader, accelerator) if is_sharded(accelerator) else ((batch, True) for batch in loader)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):  # boxes, an image each
        return [_moved(each, device) for each in value]
    return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value


def _output(model: nn.Module, batch: dict[str, Any], objectives: bool) -> Any:
    if not objectives:
        return model(pixel_values=batch["pixel_values"])
    with torch.enable_grad():  # an objective may differentiate
        columns = {name: value for name, value in batch.items() if name != "labels"}
        return model(**columns, compute_losses=True)


def _shown(model: nn.Module, maps: Tensor, logits: Tensor) -> Tensor:
    """The one map ``(B, 1, h, w)`` of an image that stands for the prediction."""
    if not getattr(getattr(model, "head", None), "per_class", False):
        return maps[:, :1]
    return maps[torch.arange(len(maps)), logits.argmax(1)][:, None]


def _scores(classes: int, multi_label: bool) -> MetricCollection:
    scores: dict[str, Metric | MetricCollection]
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
