"""``wrap`` a vision model: load it, find where a map can act, put the head there."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .backbones.adapter import Backbone
from .backbones.classifier import fingerprint
from .backbones.contexts import quiet
from .backbones.higher_resolution import higher_resolution
from .backbones.loading import load_with_freshness, num_classes
from .backbones.mistaken import check_logits, refuse_features, refuse_no_source
from .backbones.precision import precision
from .backbones.rebuild import describe
from .backbones.spec import IMAGENET, NotRebuildable
from .backbones.unwrapping import refuse_scripted, unwrapped
from .embedded.calibration import drawn
from .heads._base import Head, heads
from .model import RefinedModel
from .objectives._base import Objective
from .objectives._base import objectives as objective_names


def wrap(
    source: str | Path | nn.Module,
    head: str | Head | None = None,
    objectives: Sequence[str | Objective] | None = (),
    *,
    num_labels: int | None = None,
    labels: Sequence[str] | None = None,
    pretrained: bool | str | Path = True,
    preprocessing: dict[str, Any] | None = None,
    pool: str | None = None,
    resolution: int = 1,
) -> RefinedModel:
    """A model whose attention can be changed.

    Args:
        source: a model from ``timm.create_model``, a transformers classifier, a timm name, a Hugging Face id, or a
            folder. A module is used as it is, not copied.
        head: ``"abn"`` or a head object with options; ``None`` for a plain model, or one that only has objectives.
        objectives: names or objects, each at most once.
        num_labels: replace the classifier by a fresh one of this many classes.
        labels: class names; they also say ``num_labels``.
        pretrained: load published weights, where ``source`` is a name or an id; or the path of a safetensors file of
            them.
        preprocessing: overrides, for a module that does not say its own (``mean``, ``std``, ``input_size`` …). A timm
            name whose network takes images of one size is built for ``input_size``.
        pool: ``"avg"`` puts a fresh linear classifier on the mean over the patches, for a network whose own classifier
            reads a class token alone.
        resolution: by how much finer the last grid is to be on each side, from the same weights: 2, 4 …; see
            :func:`attention_refine.higher_resolution`, which has further options.

    What ``torch.compile``, ``DataParallel`` or an average of weights put around a network is taken off: the network inside
    is wrapped.

    Raises:
        UnsupportedBackbone: no site where a map would move the logits, or no such resolution.
        ValueError: an unknown name or option, an ``input_size`` that the network cannot take, a file of weights, or a network
            that returns probabilities.
        TypeError: a head or objective that is neither a name nor an object of its kind; labels that are no list of names;
            a network in TorchScript; what is no network, such as a class, a state dict or a list of layers; a network that
            returns no logits, or several tensors that might be.
        OSError: the weights of a name or an id cannot be fetched.
    """
    acting = None if head is None else heads.made(head, Head)
    if acting is not None and acting.resolved:
        raise ValueError(f"this {type(acting).__name__} is part of another model already; make a new one")
    if isinstance(objectives, (str, Objective)):
        raise TypeError(f"objectives must be a list, got {objectives!r}; write objectives=[{objectives!r}]")
    objectives = () if objectives is None else objectives
    made = [objective_names.made(objective, Objective) for objective in objectives]
    if isinstance(source, nn.Module):
        source = unwrapped(source)
        refuse_scripted(source)
    refuse_no_source(source)
    if isinstance(source, RefinedModel):
        raise TypeError("the model is wrapped already; wrap its network, model.backbone.net, to give it another head")
    if isinstance(source, nn.Module) and labels is num_labels is pool is None and num_classes(source) != 0:
        refuse_features(source)
    if labels is not None:
        labels = _names(labels, num_labels)
        num_labels = len(labels)
    size = (preprocessing or {}).get("input_size")
    net, fresh = load_with_freshness(source, num_labels, pretrained, pool, size)
    net = higher_resolution(net, resolution, input_size=size)
    try:
        spec = describe(net)
        if pretrained is False and not isinstance(source, nn.Module):
            spec = replace(spec, origin=None)  # timm names a checkpoint even where none was loaded
    except NotRebuildable:
        spec = None  # works, but saving it will say why it cannot
    given, own = _known(preprocessing or {}), dict(spec.preprocessing if spec else {})
    for one, other in (("fps", "stride"), ("stride", "fps")):  # a clip has either
        if given.get(one) is not None and other not in given:
            own.pop(other, None)
    full = {**_DEFAULT_PREPROCESSING, **own, **given}
    backbone = Backbone(net, spec, input_size=full["input_size"])
    classes = _count_classes(backbone, size)
    model = RefinedModel(backbone, acting, made, labels or _names_of(net, classes), full)
    if acting is not None:
        backbone.site = acting.locate(backbone)
        acting.attach(backbone, classes)
        acting.calibrate(backbone, partial(drawn, full, backbone.example()))
    for objective in made:
        objective.attach(model)
    model.drawn_classifier = fingerprint(net, classes) if fresh else None
    return model.train(net.training)


_DEFAULT_PREPROCESSING = {"input_size": [3, 224, 224], **IMAGENET, "interpolation": "bicubic", "crop_pct": 0.875}


def _names(labels: Any, num_labels: int | None) -> list[str]:
    """Class names as a list, or what is wrong with them."""
    if isinstance(labels, str):
        raise TypeError(f"labels must be a list of class names, got the string {labels!r}")
    if not isinstance(labels, Iterable):
        raise TypeError(f"labels must be a list of class names, got {labels!r}; a number of classes is num_labels")
    labels = list(labels)
    if not labels:
        raise ValueError("labels is empty: it names the classes, each once")
    of_images = "those of a dataset's images go to the model with each batch: model(pixel_values, labels=...)"
    for label in labels:
        if not isinstance(label, (str, Integral)) or label == "":
            raise TypeError(f"labels must be a list of class names, got {label!r} among them; {of_images}")
        if labels.count(label) > 1:
            several = labels.count(label)
            raise ValueError(
                f"labels names the classes, each once, and {label!r} is there {several} times; {of_images}"
            )
    if len(labels) == 1:
        warnings.warn(
            f"labels={labels} is a single class, which every image then belongs to: name all classes that an image may be "
            "of, for yes or no both",
            stacklevel=3,
        )
    if num_labels is not None and num_labels != len(labels):
        raise ValueError(f"num_labels={num_labels} but {len(labels)} labels are given")
    return labels


def _count_classes(backbone: Backbone, size: Sequence[int] | None) -> int:
    """How many logits a pass gives; ``size`` is the ``input_size`` that was asked for."""
    pixels = backbone.example()
    pixels = pixels.to(precision(backbone.net, pixels))
    try:
        with torch.no_grad(), quiet(backbone.net):
            output = backbone.net(pixels)
    except (AssertionError, RuntimeError, ValueError) as error:
        kind, why = type(backbone.net).__name__, " ".join(str(error).split())[:300]
        if size is None:
            raise ValueError(
                f"{kind} fails on a black image of {list(backbone.input_size)} ({why}): if it takes another size, pass "
                "preprocessing={'input_size': [3, height, width]}; images have three channels, red, green and blue"
            ) from error
        raise ValueError(
            f"{kind} cannot take images of input_size {list(size)} ({why}): leave "
            "input_size out, or build the network for it (timm: img_size=..., transformers: image_size in its config)"
        ) from error
    return check_logits(backbone.net, output, pixels).shape[1]


def _known(preprocessing: dict[str, Any]) -> dict[str, Any]:
    known = (*_DEFAULT_PREPROCESSING, "crop_mode", "fps", "stride", "short")
    for key in preprocessing:
        if key not in known:
            raise ValueError(f"preprocessing has no entry {key!r}; its entries are {', '.join(known)}")
    return preprocessing


def _names_of(net: nn.Module, classes: int) -> list[str]:
    """Names a transformers config holds, or the indices."""
    names = getattr(getattr(net, "config", None), "id2label", None)
    if names and len(names) == classes:
        return [str(names[key]) for key in sorted(names, key=int)]
    return [str(index) for index in range(classes)]
