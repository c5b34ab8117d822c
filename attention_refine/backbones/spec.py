"""What rebuilds a backbone: a small, JSON-able description, with no weights and no code in it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

SOURCES = ("timm", "transformers")
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class NotRebuildable(ValueError):
    """The network cannot be described so that another process could build it."""


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone by name and arguments.

    Args:
        source: ``"timm"`` or ``"transformers"``.
        name: timm architecture (``"resnet50"``) or transformers class (``"ViTForImageClassification"``).
        args: timm constructor arguments, or the transformers config as a dict.
        origin: where the weights came from (``"resnet50.a1_in1k"``, a Hub id); for people, never loaded again.
        preprocessing: ``input_size``, ``mean``, ``std``, ``interpolation``, ``crop_pct``.
    """

    source: str
    name: str
    args: dict[str, Any]
    origin: str | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.source not in SOURCES:
            raise ValueError(f"backbone source {self.source!r} is not one of {', '.join(SOURCES)}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BackboneSpec:
        return cls(**values)

    def build(self) -> nn.Module:
        """The network with fresh weights. Names outside timm's and transformers' registries are refused."""
        return _build_timm(self) if self.source == "timm" else _build_transformers(self)


def is_timm(net: nn.Module) -> bool:
    return type(net).__module__.startswith("timm.")


def is_transformers(net: nn.Module) -> bool:
    return type(net).__module__.startswith("transformers.")


def describe(net: nn.Module) -> BackboneSpec:
    """The spec of a timm or transformers classifier.

    Raises:
        NotRebuildable: another kind of module, a timm model built without ``create_model``, or arguments that are not
            plain data.
    """
    if is_timm(net):
        return _describe_timm(net)
    if is_transformers(net):
        return _describe_transformers(net)
    raise NotRebuildable(
        f"{type(net).__name__} is neither a timm nor a transformers model, so a checkpoint of it could not be loaded "
        "elsewhere; build it with timm.create_model or a transformers class"
    )


def _plain(args: dict[str, Any], what: str) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(args))
    except TypeError as error:
        raise NotRebuildable(
            f"{what} was built with an argument that is not plain data ({error}); pass plain values"
        ) from error


# timm ----------------------------------------------------------------------------------------------------------------


def _describe_timm(net: nn.Module) -> BackboneSpec:
    import timm
    from timm.data import resolve_model_data_config
    from timm.models import get_model_args

    cfg = net.pretrained_cfg
    name = cfg.get("architecture")
    if not name or not timm.is_model(name) or not hasattr(net, "_model_args"):
        raise NotRebuildable(
            f"{type(net).__name__} was not built by timm.create_model, so its arguments are unknown; build it there"
        )
    data = resolve_model_data_config(net)
    return BackboneSpec(
        source="timm",
        name=name,
        args=_plain(get_model_args(net), name),
        origin=f"{name}.{cfg['tag']}" if cfg.get("tag") else name,
        preprocessing={
            "input_size": list(data["input_size"]),
            "mean": list(data["mean"]),
            "std": list(data["std"]),
            "interpolation": "bilinear" if data["interpolation"] == "bilinear" else "bicubic",
            "crop_pct": float(data["crop_pct"]),
        },
    )


def _build_timm(spec: BackboneSpec) -> nn.Module:
    import timm

    if not timm.is_model(spec.name):
        raise ValueError(
            f"{spec.name!r} is not an architecture of timm {timm.__version__}; upgrade timm or check the config"
        )
    forbidden = {"pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"} & spec.args.keys()
    if forbidden:
        raise ValueError(f"backbone arguments may not ask for other weights: {', '.join(sorted(forbidden))}")
    try:
        return timm.create_model(spec.name, pretrained=False, **spec.args)
    except TypeError as error:
        raise ValueError(
            f"timm {timm.__version__} cannot build {spec.name!r} from its stored arguments: {error}"
        ) from error


# transformers --------------------------------------------------------------------------------------------------------


def _describe_transformers(net: nn.Module) -> BackboneSpec:
    name = type(net).__name__
    if name not in _classifier_classes():
        raise NotRebuildable(f"{name} is not an image classifier of transformers; use AutoModelForImageClassification")
    config = _plain(net.config.to_diff_dict(), name)
    config["model_type"] = net.config.model_type
    config.pop("transformers_version", None)
    origin = net.config._name_or_path or None
    return BackboneSpec("transformers", name, config, origin, _transformers_preprocessing(net, origin))


def _classifier_classes() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as names

    flat: set[str] = set()
    for value in names.values():
        flat.update([value] if isinstance(value, str) else value)
    return flat


def _transformers_preprocessing(net: nn.Module, origin: str | None) -> dict[str, Any]:
    """The image processor saved beside the weights, or what the config says with ImageNet statistics."""
    size = getattr(net.config, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else tuple(size)[:2]
    found = {
        "input_size": [getattr(net.config, "num_channels", 3), height, width],
        **IMAGENET,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    }
    if not origin:
        return found
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(origin, local_files_only=True).to_dict()
    except Exception:  # no processor saved with it: the config's size and ImageNet statistics stand
        return found
    target = processor.get("crop_size") if processor.get("do_center_crop") else processor.get("size")
    target = target or {}
    height = target.get("height") or target.get("shortest_edge") or height
    width = target.get("width") or target.get("shortest_edge") or width
    edge = (processor.get("size") or {}).get("shortest_edge")
    if processor.get("image_mean"):
        found |= {"mean": list(processor["image_mean"]), "std": list(processor["image_std"])}
    crop_pct = processor.get("crop_pct") or (
        min(height, width) / edge if edge and processor.get("do_center_crop") else 1.0
    )
    return found | {
        "input_size": [found["input_size"][0], int(height), int(width)],
        "interpolation": "bilinear" if int(processor.get("resample") or 3) == 2 else "bicubic",
        "crop_pct": float(min(1.0, crop_pct)),
    }


def _build_transformers(spec: BackboneSpec) -> nn.Module:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if spec.name not in _classifier_classes():
        raise ValueError(f"{spec.name!r} is not an image classifier of transformers {transformers.__version__}")
    args = dict(spec.args)
    model_type = args.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"model type {model_type!r} is not one of transformers {transformers.__version__}; upgrade transformers"
        )
    if "auto_map" in args:
        raise ValueError("the backbone's config asks for remote code (auto_map), which is never run")
    return getattr(transformers, spec.name)(CONFIG_MAPPING[model_type].from_dict(args)).eval()
