"""A network written as its own library writes it, so that its own loader reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from ..core.files import atomic_file
from .pooling import PatchPooling
from .rebuild import describe
from .spec import NotRebuildable, library_of
from .video import FramesFirst


def save_network(net: nn.Module, folder: Path, labels: list[str], preprocessing: dict[str, Any]) -> None:
    """``config.json``, ``model.safetensors`` and, for transformers, ``preprocessor_config.json``.

    Raises:
        NotRebuildable: a network of neither library, or one whose classifier this library added.
    """
    if isinstance(net, PatchPooling):
        raise NotRebuildable(
            "the classifier on pooled patches (pool='avg') is this library's own, which neither timm nor transformers "
            "reads; save the whole model with save_pretrained, or export model.backbone.net.net without a classifier"
        )
    inner = net.net if isinstance(net, FramesFirst) else net
    describe(inner)  # raises where the network is not as its library builds it
    if library_of(inner) == "timm":
        _timm(inner, folder, labels, preprocessing)
    elif library_of(inner) == "transformers":
        _transformers(inner, folder, labels, preprocessing)
    else:
        raise NotRebuildable(
            f"{type(net).__name__} has no loader that reads a folder; take its weights with net.state_dict()"
        )


def _timm(net: nn.Module, folder: Path, labels: list[str], preprocessing: dict[str, Any]) -> None:
    from timm.models import save_for_hf

    data = {key: preprocessing[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")}
    save_for_hf(net, str(folder), {"label_names": labels}, safe_serialization=True, data_config=data)


def _transformers(net: Any, folder: Path, labels: list[str], preprocessing: dict[str, Any]) -> None:
    net.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["id2label"] = {str(index): label for index, label in enumerate(labels)}
    config["label2id"] = {label: index for index, label in enumerate(labels)}
    with atomic_file(path) as written:
        written.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    height, width = preprocessing["input_size"][-2:]
    edge = round(min(height, width) / preprocessing["crop_pct"])
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": edge},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "resample": 2 if preprocessing["interpolation"] == "bilinear" else 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": preprocessing["mean"],
        "image_std": preprocessing["std"],
        "do_convert_rgb": True,
    }
    with atomic_file(folder / "preprocessor_config.json") as written:
        written.write_text(json.dumps(processor, indent=2, sort_keys=True) + "\n", encoding="utf-8")
