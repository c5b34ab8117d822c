"""What rebuilds a transformers model: its class's name and its config."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..core.path_redaction import without_places
from .spec import IMAGENET, BackboneSpec, NotRebuildable, plain
from .video import FramesFirst

# Every how many frames of a film (of 25 or 30 a second) the published weights were shown, by model type; from their papers.
STRIDES = {"videomae": 4, "timesformer": 32, "vivit": 2}


def config_of(net: nn.Module) -> Any:
    """A transformers network's own config."""
    return net.config


def describe(net: nn.Module) -> BackboneSpec:
    name = type(net).__name__
    if name not in _rebuildable_classes():
        raise NotRebuildable(f"{name} is no vision model of transformers; use AutoModelForImageClassification")
    own = config_of(net)
    config = plain(own.to_diff_dict(), name)
    config["model_type"] = own.model_type
    config.pop("transformers_version", None)
    origin = own._name_or_path or None
    return BackboneSpec("transformers", name, config, without_places(origin), preprocessing_of(net, origin))


def image_classifiers() -> set[str]:
    return _names("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES")


def video_classifiers() -> set[str]:
    return _names("MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES")


def _rebuildable_classes() -> set[str]:
    """Classifiers, and the networks without one that patches are pooled from."""
    features = _names("MODEL_MAPPING_NAMES") | _names("MODEL_FOR_BACKBONE_MAPPING_NAMES")
    return image_classifiers() | video_classifiers() | features


def _names(mapping: str) -> set[str]:
    from transformers.models.auto import modeling_auto

    values = getattr(modeling_auto, mapping).values()
    return {name for value in values for name in ([value] if isinstance(value, str) else value)}


def preprocessing_of(net: nn.Module, origin: str | None) -> dict[str, Any]:
    """The image processor saved beside the weights, or what the config says with ImageNet statistics."""
    config = getattr(config_of(net), "vision_config", config_of(net))
    size = getattr(config, "image_size", None) or getattr(config, "crop_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else tuple(size)[:2]
    frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
    found: dict[str, Any] = {
        "input_size": [getattr(config, "num_channels", 3), *([frames] if frames else []), height, width],
        **IMAGENET,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        **({"stride": STRIDES[config.model_type]} if getattr(config, "model_type", None) in STRIDES else {}),
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
        "input_size": [*found["input_size"][:-2], int(height), int(width)],
        "interpolation": "bilinear" if int(processor.get("resample") or 3) == 2 else "bicubic",
        "crop_pct": float(min(1.0, crop_pct)),
    }


def build(spec: BackboneSpec) -> nn.Module:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if spec.name not in _rebuildable_classes():
        raise ValueError(f"{spec.name!r} is not a vision model of transformers {transformers.__version__}")
    args = dict(spec.args)
    model_type = args.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"model type {model_type!r} is not one of transformers {transformers.__version__}; upgrade transformers"
        )
    remote = sorted(_keys(args) & _REMOTE_CODE)
    if remote:
        raise ValueError(f"the backbone's config asks for remote code ({', '.join(remote)}), which is never run")
    elsewhere = sorted(_from_elsewhere(args))
    if elsewhere:
        raise ValueError(f"the backbone's config may not ask for other weights: {', '.join(elsewhere)}")
    network = getattr(transformers, spec.name)
    if network.config_class.model_type != model_type:
        raise ValueError(f"{spec.name} is a {network.config_class.model_type!r} network, not {model_type!r}")
    net = network(network.config_class.from_dict(args)).eval()
    return FramesFirst(net) if spec.name in video_classifiers() else net


# Custom classes, and kernels fetched by the name of a repo.
_REMOTE_CODE = {"auto_map", "attn_implementation", "_attn_implementation", "experts_implementation", "use_kernels"}

_OTHER_WEIGHTS = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "quantization_config"}


def _from_elsewhere(value: Any) -> set[str]:
    """What in a config, at any depth, would have weights of a network inside the network fetched."""
    found: set[str] = set()
    if isinstance(value, list):
        return found.union(*map(_from_elsewhere, value))
    if not isinstance(value, dict):
        return found
    for key, inner in value.items():
        named = key in ("architecture", "backbone") and isinstance(inner, str) and (":" in inner or "/" in inner)
        if named or key in _OTHER_WEIGHTS or (key in ("pretrained", "use_pretrained_backbone") and inner):
            found.add(key)
        found |= _from_elsewhere(inner)
    return found


def _keys(value: Any) -> set[str]:
    """Every key of a nested config, at any depth."""
    if isinstance(value, dict):
        return set(value).union(*map(_keys, value.values()))
    return set().union(*map(_keys, value)) if isinstance(value, list) else set()
