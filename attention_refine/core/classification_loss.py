"""The classification loss, for class indices and for multi-label targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def classification_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy for class indices ``(B,)``, binary cross-entropy for multi-hot labels ``(B, classes)``."""
    if labels.ndim == 1 and not labels.is_floating_point() and len(labels) == len(logits):
        _check_classes(labels, logits.shape[1])
        return F.cross_entropy(logits.float(), labels.long(), label_smoothing=label_smoothing)
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels must be class indices ({len(logits)},) or multi-hot {tuple(logits.shape)}, "
            f"got {labels.dtype} {tuple(labels.shape)}"
        )
    labels = labels.float()
    if labels.device.type == "cpu" and not torch.compiler.is_compiling() and labels.numel():
        for label in labels[~((labels >= 0) & (labels <= 1))].tolist()[:1]:
            raise ValueError(
                f"label {label:g} of a class is not between 0 and 1: multi-hot labels say which classes an image has. "
                "A quantity to predict is no class, and regression is not supported"
            )
    if label_smoothing:
        labels = labels * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits.float(), labels)


def image_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """``(B,)``: the loss of each image, whose mean is :func:`classification_loss`; float32."""
    classification_loss(logits[:1].detach(), labels[:1])  # refuses what does not fit
    if labels.ndim == 1:
        return F.cross_entropy(logits.float(), labels.long(), label_smoothing=label_smoothing, reduction="none")
    labels = labels.float() * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none").mean(1)


def _check_classes(labels: Tensor, classes: int) -> None:
    # elsewhere looking would stall the device, which checks by itself, as a compiled graph does
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    for label in labels[(labels < 0) | (labels >= classes)].tolist():
        raise ValueError(f"label {label} is not one of the {classes} classes, 0 to {classes - 1}")
