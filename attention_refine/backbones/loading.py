"""From whatever a person passes to ``wrap`` to a network with weights and the classes that were asked for."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

import torch
from torch import nn

from .spec import is_timm, is_transformers


def load_network(source: str | Path | nn.Module, num_labels: int | None = None, pretrained: bool = True) -> nn.Module:
    """A classifier from a module, a timm name, a Hugging Face id or a local folder.

    Args:
        source: ``nn.Module`` (used as it is, not copied), ``"resnet50.a1_in1k"``, ``"facebook/dinov2-small"``,
            ``"hf-hub:timm/..."``, or a folder saved by timm or transformers.
        num_labels: replace the classifier by a fresh one of this many classes; unchanged where it already has as many.
        pretrained: load the published weights (names and ids only).

    Raises:
        ValueError: nothing of that name; the message lists the closest timm names.
    """
    if num_labels is not None and num_labels < 1:
        raise ValueError(f"num_labels must be at least 1, got {num_labels}")
    if isinstance(source, nn.Module):
        return _with_labels(source, num_labels)
    name = str(source)
    folder = Path(name)
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text())
        if "architecture" in config:
            return _with_labels(_timm(f"local-dir:{folder}", pretrained=True), num_labels)
        return _transformers(name, num_labels)
    if folder.is_dir():
        raise ValueError(f"{folder} holds no config.json, so it is no model saved by timm or transformers")
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return _with_labels(_timm(name, pretrained), num_labels)
    import timm

    if timm.is_model(name.split(".")[0]):
        return _with_labels(_timm(name, pretrained), num_labels)
    if name.count("/") == 1:
        return (
            _with_labels(_timm(f"hf-hub:{name}", pretrained), num_labels)
            if name.startswith("timm/")
            else _transformers(name, num_labels)
        )
    close = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f"; close timm names: {', '.join(close)}" if close else ""
    raise ValueError(f"{name!r} is no timm model, Hugging Face id (user/name) or folder{hint}")


def _timm(name: str, pretrained: bool) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=pretrained)


def _transformers(name: str, num_labels: int | None) -> nn.Module:
    from transformers import AutoModelForImageClassification

    options = {} if num_labels is None else {"num_labels": num_labels, "ignore_mismatched_sizes": True}
    return AutoModelForImageClassification.from_pretrained(name, trust_remote_code=False, **options)


def _with_labels(net: nn.Module, num_labels: int | None) -> nn.Module:
    if num_labels is None or num_labels == num_classes(net):
        return net
    if is_timm(net):
        net.reset_classifier(num_labels)
        return net
    if is_transformers(net):
        return _transformers_with_labels(net, num_labels)
    raise ValueError(
        f"num_labels={num_labels} cannot be set on a {type(net).__name__}: only timm and transformers classifiers say how "
        "to replace theirs; replace its last layer yourself before wrapping"
    )


def _transformers_with_labels(net: nn.Module, num_labels: int) -> nn.Module:
    config = type(net.config).from_dict(net.config.to_dict())
    config.num_labels = num_labels
    fresh = type(net)(config).to(next(net.parameters()).device)
    new, old = fresh.state_dict(), net.state_dict()
    kept = {key: value for key, value in old.items() if key in new and new[key].shape == value.shape}
    with torch.no_grad():
        fresh.load_state_dict(kept, strict=False)
    fresh.config._name_or_path = net.config._name_or_path
    return fresh.train(net.training)


def num_classes(net: nn.Module) -> int | None:
    """Classes of a timm or transformers classifier; ``None`` where the module does not say."""
    if is_transformers(net):
        return net.config.num_labels
    return getattr(net, "num_classes", None)
