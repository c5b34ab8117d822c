"""From whatever a person passes to ``wrap`` to a network with weights and the classes that were asked for."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from .pooling import PatchPooling
from .rebuild import describe, rebuild
from .resolution import Resolution
from .spec import NotRebuildable, library_of
from .torchvision_spec import build_named, classes_of
from .torchvision_spec import names as torchvision_names
from .transformers_spec import config_of, image_classifiers, video_classifiers
from .video import FramesFirst

# ViTMAE drops and shuffles patches at random; the same weights in a ViT do neither.
_READ_AS = {"vit_mae": "vit"}


def load_network(
    source: str | Path | nn.Module,
    num_labels: int | None = None,
    pretrained: bool | str | Path = True,
    pool: str | None = None,
    input_size: Sequence[int] | None = None,
) -> nn.Module:
    """A classifier from a module, a timm or torchvision name, a Hugging Face id or a local folder.

    Args:
        source: ``nn.Module`` (used as it is, not copied), ``"resnet50.a1_in1k"``, ``"facebook/dinov2-small"``,
            ``"hf-hub:timm/..."``, a folder saved by timm or transformers, or what torchvision has and timm has not, such
            as ``"r3d_18"`` (``"r3d_18@16"`` has 16 channels where that has 64).
        num_labels: replace the classifier by a fresh one of this many classes; unchanged where it already has as many.
        pretrained: load the published weights of a name or id; a path loads a timm name's weights from that safetensors
            file instead; ``False`` starts from fresh ones.
        pool: ``"avg"`` replaces the classifier by a linear one on the mean over the patches, for networks whose own
            reads a class token; a network without a classifier gets one either way.
        input_size: ``(C, H, W)`` or ``(C, T, H, W)`` of the images, by default what the network says. A timm name whose
            network takes one size is built for this one.

    Raises:
        ValueError: nothing of that name (the message lists the closest timm names), weights of another network, or no
            classifier and no ``num_labels``.
        OSError: what a name or an id stands for cannot be fetched.
    """
    return load_with_freshness(source, num_labels, pretrained, pool, input_size)[0]


def load_with_freshness(
    source: str | Path | nn.Module,
    num_labels: int | None = None,
    pretrained: bool | str | Path = True,
    pool: str | None = None,
    input_size: Sequence[int] | None = None,
) -> tuple[nn.Module, bool]:
    """:func:`load_network`, and whether the classifier is known to be fresh: drawn here, by nobody trained."""
    if num_labels is not None and num_labels < 1:
        raise ValueError(f"num_labels must be at least 1, got {num_labels}")
    if pool not in (None, "avg"):
        raise ValueError(f"pool={pool!r} is not one of None, 'avg'")
    net = source if isinstance(source, nn.Module) else _fetch(str(source), num_labels, pretrained, input_size)
    drawn = pretrained is False and not isinstance(source, nn.Module)
    before = None if drawn else _classes_of_weights(source, net)
    replaced = num_labels not in (None, before) or pool == "avg" and not isinstance(net, PatchPooling)
    return _with_classifier(net, num_labels, pool, input_size), drawn or replaced


def _with_classifier(
    net: nn.Module, num_labels: int | None, pool: str | None, input_size: Sequence[int] | None
) -> nn.Module:
    if library_of(net) == "transformers" and type(net).__name__ in video_classifiers():
        net = FramesFirst(net)
    if num_labels is None and num_classes(net) == 0:
        raise ValueError(
            f"{type(net).__name__} has no classifier (its number of classes is 0), and its features are no logits; pass "
            "num_labels=... or labels=[...] for a fresh one"
        )
    if isinstance(net, PatchPooling):
        return net if num_labels in (None, num_classes(net)) else _pooled(net.net, num_labels, input_size)
    if pool == "avg":
        return _pooled(net, num_labels, input_size)
    if num_labels is not None and not has_classifier(net):
        return _pooled(net, num_labels, input_size)
    return _with_labels(net, num_labels)


def _classes_of_weights(source: str | Path | nn.Module, net: nn.Module) -> int | None:
    """The classes that the weights of a source tell apart; ``None`` where it has no classifier, or does not say."""
    if isinstance(source, nn.Module) or library_of(net) != "transformers":
        return num_classes(net) if has_classifier(net) else None  # timm's was made with its own classes
    if not has_classifier(net):
        return None
    import transformers  # from an id it was read with other classes already, where the weights did not fit

    return transformers.AutoConfig.from_pretrained(str(source), trust_remote_code=False).num_labels


def _fetch(
    name: str, num_labels: int | None, pretrained: bool | str | Path, input_size: Sequence[int] | None
) -> nn.Module:
    """:func:`_load`, with what the name stands for in the message where the Hub cannot be reached."""
    try:
        return _load(name, num_labels, pretrained, input_size)
    except OSError as error:  # huggingface_hub's and transformers' are
        reason = " ".join(str(error).split())[:200]
        other = "the folder of a saved model"
        if name.count("/") == 0:
            other = "pretrained='weights.safetensors' for a file of them, or pretrained=False for fresh weights"
        raise OSError(
            f"{name!r} cannot be fetched ({reason}): is the name right and the Hub reachable? Without it, pass {other}"
        ) from error


def _load(
    name: str, num_labels: int | None, pretrained: bool | str | Path, input_size: Sequence[int] | None
) -> nn.Module:
    folder = Path(name)
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text())
        if config.get("model_type") == "attention_refine":
            raise ValueError(f"{folder} holds a model that is wrapped already; load it with ar.load({str(folder)!r})")
        if "architecture" in config:
            return _timm(f"local-dir:{folder}", True, input_size)
        return _transformers(name, num_labels)
    if folder.is_dir():
        raise ValueError(f"{folder} holds no config.json, so it is no model saved by timm or transformers")
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return _timm(name, pretrained, input_size)
    import timm

    if timm.is_model(name.split(".")[0]):
        return _timm(name, pretrained, input_size)
    if name.count("/") == 1:
        hub = name.startswith("timm/")
        return _timm(f"hf-hub:{name}", pretrained, input_size) if hub else _transformers(name, num_labels)
    if name.partition("@")[0] in torchvision_names():
        return _torchvision(name, pretrained)
    close = difflib.get_close_matches(name, dict.fromkeys(timm.list_models() + torchvision_names()), n=3)
    hint = f"; close timm and torchvision names: {', '.join(close)}" if close else ""
    raise ValueError(f"{name!r} is no timm model, torchvision model, Hugging Face id (user/name) or folder{hint}")


def _timm(name: str, pretrained: bool | str | Path, input_size: Sequence[int] | None) -> nn.Module:
    import timm
    from timm.models import get_model_input_config

    options: dict[str, Any] = {"pretrained": pretrained}
    if not isinstance(pretrained, bool):
        path = Path(pretrained)
        _check_weights(path)
        options = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}
    try:
        net = timm.create_model(name, **options)
    except SafetensorError as error:
        raise ValueError(
            f"{pretrained} is not a whole safetensors file ({error}); copy or download it again"
        ) from error
    except RuntimeError as error:
        if isinstance(pretrained, bool):
            raise
        raise ValueError(_other_weights(name, Path(pretrained), error)) from error
    size, own = tuple((input_size or ())[-2:]), tuple(get_model_input_config(net)["input_size"][-2:])
    if size in ((), own) or not getattr(net, "pretrained_cfg", {}).get("fixed_input_size"):
        return net
    # It takes one size, which only the network itself tells: once more for the other, its positions interpolated.
    return timm.create_model(name, **options, img_size=size[0] if size[0] == size[1] else size)


def _check_weights(path: Path) -> None:
    if path.suffix != ".safetensors":
        way = f"save_file(torch.load({str(path)!r}, weights_only=True), 'weights.safetensors')"
        raise ValueError(
            f"pretrained={str(path)!r} is not a safetensors file; pass True, False or the path of a safetensors file"
            + (f", which safetensors.torch writes: {way}" if path.is_file() else "")
        )
    if not path.is_file():
        raise ValueError(f"pretrained={str(path)!r} is not there; pass True, False or the path of a safetensors file")


def _torchvision(name: str, pretrained: bool | str | Path) -> nn.Module:
    import torchvision
    from safetensors.torch import load_file

    name, _, width = name.partition("@")
    if width and not width.isdecimal():
        raise ValueError(f"{name}@{width}: the width is a whole number, of the channels of the first layer")
    if width and pretrained is True:
        raise ValueError(f"there are no published weights of {name} at width {width}: pass pretrained=False")
    if pretrained is True:
        return torchvision.models.get_model(name, weights="DEFAULT").eval()
    if pretrained is False:
        classes = len(torchvision.models.get_model_weights(name).DEFAULT.meta["categories"])
        return build_named(name, classes, int(width) if width else None)
    path = Path(pretrained)
    _check_weights(path)
    weights = load_file(path)
    with torch.device("meta"):
        layers = build_named(name, 2, int(width) if width else None).named_modules()
    last = [layer for layer, module in layers if hasattr(module, "out_features") or hasattr(module, "out_channels")][-1]
    classes = len(weights.get(f"{last}.weight", (0, 0)))
    net = build_named(name, classes, int(width) if width else None)
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} holds the weights of another network than {name!r}: {why}") from error
    return net


def _other_weights(name: str, path: Path, error: Exception) -> str:
    """How the tensors in a file are not the network's, in a sentence, where torch writes them all down."""
    import timm
    from safetensors import safe_open

    with safe_open(path, "pt") as stored:
        found = set(stored.keys())
    wanted = set(timm.create_model(name, pretrained=False).state_dict())
    parts = [
        f"{word} {len(keys)} ({min(keys)!r} first)"
        for word, keys in (("lacks", wanted - found), ("has no place for", found - wanted))
        if keys
    ]
    why = " and ".join(parts) or " ".join(str(error).split())[:300]
    return (
        f"{path} holds the weights of another network than {name!r}: of the tensors it {why}; name the one they are of"
    )


def _transformers(name: str, num_labels: int | None) -> nn.Module:
    """A classifier where the type has one, else the network of features."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    kind = _READ_AS.get(config.model_type, config.model_type)
    options: dict[str, Any] = {"trust_remote_code": False}
    if kind != config.model_type:
        known = {key: value for key, value in config.to_diff_dict().items() if key != "model_type"}
        options["config"] = transformers.AutoConfig.for_model(kind, **known)
    classifying = (
        (auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, transformers.AutoModelForImageClassification),
        (auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES, transformers.AutoModelForVideoClassification),
    )
    for names, loader in classifying:
        if kind in names:
            if num_labels is not None:
                options |= {"ignore_mismatched_sizes": True}
                options |= {} if "config" in options else {"num_labels": num_labels}
            if num_labels is not None and "config" in options:
                options["config"].num_labels = num_labels
            return loader.from_pretrained(name, **options)
    return transformers.AutoModel.from_pretrained(name, **options)


def has_classifier(net: nn.Module) -> bool:
    """Whether the network gives logits; a module of neither library is taken at its word."""
    inner = net.net if isinstance(net, FramesFirst) else net
    if library_of(inner) == "transformers":
        return type(inner).__name__ in image_classifiers() | video_classifiers()
    return True  # timm makes one for a network without, of as many classes as are asked for


def num_classes(net: nn.Module) -> int | None:
    """Classes of a classifier; ``None`` where the module does not say."""
    if isinstance(net, PatchPooling):
        return net.classifier.out_features
    inner = net.net if isinstance(net, FramesFirst) else net
    if library_of(inner) == "transformers":
        return config_of(inner).num_labels
    if library_of(inner) == "torchvision":
        return classes_of(inner)  # also of a network that no name rebuilds
    return getattr(inner, "num_classes", None)


def _with_labels(net: nn.Module, num_labels: int | None) -> nn.Module:
    if num_labels is None or num_labels == num_classes(net):
        return net
    library = library_of(net.net if isinstance(net, FramesFirst) else net)
    if library == "timm":
        return _reset(net, num_labels)
    if library is not None:
        return _rebuilt(net, num_labels)
    raise ValueError(
        f"num_labels={num_labels} cannot be set on a {type(net).__name__}: only timm, transformers and torchvision "
        "classifiers say how to replace theirs; replace its last layer yourself before wrapping, or pass pool='avg'"
    )


def _reset(net: Any, num_labels: int) -> nn.Module:
    """A timm network with a fresh classifier, or without for 0 classes."""
    net.reset_classifier(num_labels)
    return net


def _rebuilt(net: nn.Module, num_labels: int) -> nn.Module:
    """The same network with another number of classes, keeping every weight whose shape did not change."""
    spec = describe(net)
    if spec.source == "torchvision":
        fresh = rebuild(replace(spec, args={**spec.args, "num_classes": num_labels}))
    else:
        inner = net.net if isinstance(net, FramesFirst) else net
        own = config_of(inner)
        config = type(own).from_dict(own.to_dict())
        config.num_labels = num_labels
        fresh = type(inner)(config)
        config_of(fresh)._name_or_path = own._name_or_path
        if spec.resolution is not None:
            Resolution.from_dict(spec.resolution).apply(fresh)
        fresh = FramesFirst(fresh) if isinstance(net, FramesFirst) else fresh
    fresh = fresh.to(next(net.parameters()).device)
    new = fresh.state_dict()
    kept = {key: value for key, value in net.state_dict().items() if key in new and new[key].shape == value.shape}
    fresh.load_state_dict(kept, strict=False)
    return fresh.train(net.training)


def _pooled(net: nn.Module, num_labels: int | None, input_size: Sequence[int] | None) -> nn.Module:
    """The network under a linear classifier on the mean over its patches; its own classifier falls away."""
    num_labels = num_labels or num_classes(net)
    if num_labels is None:
        raise ValueError(f"{type(net).__name__} does not say how many classes it has; pass num_labels=...")
    if library_of(net) == "timm":
        _reset(net, 0)
    elif has_classifier(net) and isinstance(getattr(net, "classifier", None), nn.Linear):
        net = _rebuilt(net, 0)  # transformers' own way to leave the classifier out
    try:
        preprocessing = describe(net).preprocessing
    except NotRebuildable:
        preprocessing = {}
    size = input_size or preprocessing.get("input_size") or (3, 224, 224)
    parameter = next(net.parameters())
    return PatchPooling.of(net, torch.zeros(1, *size, device=parameter.device, dtype=parameter.dtype), num_labels)
