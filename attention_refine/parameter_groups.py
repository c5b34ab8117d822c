"""Which parameters learn, and how fast: backbone or new, decayed or not, frozen or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from attention_refine.training_config import TrainingConfig, TrainingError


def backbone_of(model: nn.Module) -> nn.Module:
    """``model.backbone``, or the whole model where there is none."""
    backbone = getattr(model, "backbone", None)
    return backbone if isinstance(backbone, nn.Module) else model


def pretrained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The backbone's parameters without its classifier's, which is fresh when the classes are."""
    fresh = {id(parameter) for layer in _classifiers(model) for parameter in layer.parameters()}
    return [parameter for parameter in backbone_of(model).parameters() if id(parameter) not in fresh]


def _classifiers(model: nn.Module) -> list[nn.Module]:
    """The backbone's last layers: those timm names, else the last one with an output per class."""
    backbone = backbone_of(model)
    net = getattr(backbone, "net", backbone)
    if callable(getattr(net, "get_classifier", None)):
        found = net.get_classifier()
        return [
            layer for layer in (found if isinstance(found, tuple | list) else [found]) if isinstance(layer, nn.Module)
        ]
    classes = len(getattr(model, "labels", None) or ())
    layers = [m for m in net.modules() if getattr(m, "out_features", getattr(m, "out_channels", None)) == classes]
    return layers[-1:]


@contextmanager
def frozen(model: nn.Module, config: TrainingConfig) -> Iterator[None]:
    """Without gradients for the pretrained parameters, if the config says so; as before afterwards."""
    parameters = pretrained_parameters(model) if config.freeze_backbone else []
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, needed in zip(parameters, before, strict=True):
            parameter.requires_grad_(needed)


def keep_batch_norm(model: nn.Module, config: TrainingConfig) -> None:
    """After ``model.train()``: the backbone's batch norm layers in evaluation mode, if the config says so."""
    if config.freeze_batch_norm or config.freeze_backbone:
        for module in backbone_of(model).modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser over four groups: pretrained or new, with weight decay (matrices, kernels) or without (vectors).

    Raises:
        TrainingError: no parameter needs a gradient.
    """
    pretrained = {id(parameter) for parameter in pretrained_parameters(model)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {
        (old, decays): [] for old in (True, False) for decays in (True, False)
    }
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[id(parameter) in pretrained, parameter.ndim > 1].append(parameter)
    if not any(groups.values()):
        raise TrainingError(
            "the model has no parameter to train: with freeze_backbone=True it needs a head or an objective that learns"
        )
    options = []
    for (old, decays), parameters in groups.items():
        if parameters:
            rate = config.learning_rate * (1.0 if old else config.head_learning_rate_multiplier)
            weight_decay = config.weight_decay if decays else 0.0
            options.append({"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": weight_decay})
    if config.optimizer == "sgd":
        return torch.optim.SGD(options, lr=config.learning_rate, momentum=config.momentum)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(options, lr=config.learning_rate)
