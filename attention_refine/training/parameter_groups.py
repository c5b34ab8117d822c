"""Which parameters learn, and how fast: backbone or new, decayed or not, frozen or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from attention_refine.backbones.classifier import classifiers
from attention_refine.backbones.depth import layers_of
from attention_refine.training.config import TrainingConfig, TrainingError


def backbone_of(model: nn.Module) -> nn.Module:
    """``model.backbone``, or the whole model where there is none."""
    backbone = getattr(model, "backbone", None)
    return backbone if isinstance(backbone, nn.Module) else model


def pretrained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The backbone's parameters without its classifier's, which is fresh when the classes are."""
    backbone = backbone_of(model)
    last = classifiers(getattr(backbone, "net", backbone), len(getattr(model, "labels", None) or ()))
    fresh = {id(parameter) for layer in last for parameter in layer.parameters()}
    return [parameter for parameter in backbone.parameters() if id(parameter) not in fresh]


def extractor_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of what comes before the site, where the map acts."""
    later = {id(parameter) for module in after_site(model) for parameter in module.parameters()}
    return [parameter for parameter in backbone_of(model).parameters() if id(parameter) not in later]


def after_site(model: nn.Module) -> list[nn.Module]:
    """The modules that run only after the site.

    Raises:
        TrainingError: the model has no such site.
    """
    backbone: Any = backbone_of(model)
    if getattr(backbone, "site", None) is None:
        raise TrainingError(
            "freeze_extractor=True keeps what comes before the map, and this model has no head or objective that makes "
            "one: use freeze_backbone=True, or wrap it with head='abn'"
        )
    return backbone.after_site()


def frozen_parameters(model: nn.Module, config: TrainingConfig) -> list[nn.Parameter]:
    """The pretrained or the extractor's parameters that would learn, where the config says that they are not to."""
    parameters = pretrained_parameters(model) if config.freeze_backbone else []
    parameters += extractor_parameters(model) if config.freeze_extractor else []
    return [parameter for parameter in parameters if parameter.requires_grad]


@contextmanager
def frozen(model: nn.Module, config: TrainingConfig) -> Iterator[None]:
    """Without gradients for :func:`frozen_parameters` until the end.

    With ``unfreeze_after_epochs`` they keep them: optimiser and average are to know them from the start, and
    :func:`hold` takes them away for the epochs in question.

    Raises:
        TrainingError: nothing is left to learn in the epochs before.
    """
    parameters = frozen_parameters(model, config)
    hold(parameters, True)
    try:
        if config.unfreeze_after_epochs is not None:
            _check_something_learns(model.parameters())
            hold(parameters, False)
        yield
    finally:
        hold(parameters, False)


def hold(parameters: list[nn.Parameter], held: bool) -> None:
    """Parameters that learn, or not for now; their places in the optimiser stay."""
    for parameter in parameters:
        parameter.requires_grad_(not held)


def _check_something_learns(parameters: Iterable[nn.Parameter]) -> None:
    if not any(parameter.requires_grad for parameter in parameters):
        raise TrainingError(
            "the model has no parameter to train: with freeze_backbone=True it needs a head or an objective that learns"
        )


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser over groups: pretrained or new, with weight decay (matrices, kernels) or without (vectors), by layer.

    Raises:
        TrainingError: no parameter needs a gradient; ``layer_decay`` of a network whose layers are not known.
    """
    pretrained = {id(parameter) for parameter in pretrained_parameters(model)}
    scales = layer_scales(model, config.layer_decay) if config.layer_decay is not None else {}
    _check_something_learns(model.parameters())
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = (id(parameter) not in pretrained, parameter.ndim <= 1, scales.get(id(parameter), 1.0))
            groups.setdefault(key, []).append(parameter)
    options = []
    for (new, vectors, scale), parameters in sorted(groups.items(), key=lambda each: each[0]):
        rate = config.learning_rate * scale * (config.head_learning_rate_multiplier if new else 1.0)
        weight_decay = 0.0 if vectors else config.weight_decay
        options.append({"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": weight_decay})
    if config.optimizer == "sgd":
        return torch.optim.SGD(options, lr=config.learning_rate, momentum=config.momentum)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(options, lr=config.learning_rate)


def layer_scales(model: nn.Module, layer_decay: float) -> dict[int, float]:
    """What the rate of each of the backbone's parameters, by its ``id``, is multiplied by: 1 for those of the top layer,
    ``layer_decay`` to the number of layers above for the others, as in timm.

    Raises:
        TrainingError: a network whose layers are not known.
    """
    net = getattr(backbone_of(model), "net", backbone_of(model))
    try:
        layers = layers_of(net, len(getattr(model, "labels", None) or ()))
    except ValueError as error:
        raise TrainingError(
            f"layer_decay={layer_decay} goes by the layers of the network, and {error}: leave it out, or freeze what is "
            "not to learn"
        ) from None
    top = max(layers.values())
    return {id(value): layer_decay ** (top - layers.get(name, top)) for name, value in net.named_parameters()}
