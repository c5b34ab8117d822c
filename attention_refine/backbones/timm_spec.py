"""What rebuilds a timm model: its registered architecture and constructor arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from .spec import BackboneSpec, NotRebuildable, plain


def describe(net: nn.Module) -> BackboneSpec:
    import timm
    from timm.data import resolve_model_data_config
    from timm.models import get_model_args, get_model_input_config

    cfg = getattr(net, "pretrained_cfg", None) or {}
    name = cfg.get("architecture")
    if not name or not timm.is_model(name) or not hasattr(net, "_model_args"):
        raise NotRebuildable(
            f"{type(net).__name__} was not built by timm.create_model, so its arguments are unknown; build it there"
        )
    data = resolve_model_data_config(net)
    return BackboneSpec(
        source="timm",
        name=name,
        args=plain(get_model_args(net), name),
        origin=_origin(name, cfg),
        preprocessing={
            "input_size": list(get_model_input_config(net)["input_size"]),  # as built, not as its weights were trained
            "mean": list(data["mean"]),
            "std": list(data["std"]),
            "interpolation": "bilinear" if data["interpolation"] == "bilinear" else "bicubic",
            "crop_pct": float(data["crop_pct"]),
        },
    )


def _origin(name: str, cfg: dict[str, Any]) -> str:
    """Where the weights came from, for people: a local file, or the name with its tag."""
    if cfg.get("file"):
        return f"{name} ({Path(cfg['file']).name})"
    return f"{name}.{cfg['tag']}" if cfg.get("tag") else name


# Arguments of create_model itself: where weights come from, and switches for the whole process.
_NOT_OF_THE_NETWORK = {
    "pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "scriptable",
    "exportable", "no_jit",
}  # fmt: skip


def build(spec: BackboneSpec) -> nn.Module:
    import timm

    if not timm.is_model(spec.name):
        raise ValueError(
            f"{spec.name!r} is not an architecture of timm {timm.__version__}; upgrade timm or check the config"
        )
    forbidden = _NOT_OF_THE_NETWORK & spec.args.keys()
    if forbidden:
        raise ValueError(f"backbone arguments may not ask for other weights: {', '.join(sorted(forbidden))}")
    try:
        return timm.create_model(spec.name, pretrained=False, **spec.args)
    except TypeError as error:
        raise ValueError(
            f"timm {timm.__version__} cannot build {spec.name!r} from its stored arguments: {error}"
        ) from error
