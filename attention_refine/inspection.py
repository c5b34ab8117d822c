"""What a saved model is, from its config and the header of its weights: nothing is built, no weight is read."""

from __future__ import annotations

import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .hub import WEIGHTS, CheckpointError, checkpoint_folder, read_config


def describe(source: str | Path) -> str:
    """A few lines on a saved model: backbone, site, head, objectives, classes, input, parameters.

    Args:
        source: a folder or a Hub id.

    Raises:
        CheckpointError: it is no whole checkpoint.
    """
    folder = checkpoint_folder(source)
    config = read_config(folder)
    backbone, site, head = config["backbone"], config["site"], config["head"]
    lines = {
        "backbone": f"{backbone['name']} ({backbone['source']}), {_origin(backbone['origin'])}",
        "site": f"{site['name']} ({site['layout']['format']}), mechanism {site['mechanism']}" if site else "none",
        "head": _with_options(head),
        "objectives": ", ".join(_with_options(each) for each in config["objectives"]) or "none",
        "classes": _classes(config["labels"]),
        "input": _input(config["preprocessing"]),
        "parameters": _parameters(folder / WEIGHTS),
        "written by": f"attention-refine {config['library_version']}",
    }
    wide = max(map(len, lines))
    return "\n".join(f"{name:<{wide}}  {value}" for name, value in lines.items())


def _origin(origin: str | None) -> str:
    return f"weights from {origin}" if origin else "from fresh weights"


def _with_options(part: dict | None) -> str:
    if part is None:
        return "none"
    options = ", ".join(f"{key}={value}" for key, value in part["options"].items() if value is not None)
    copied = (part.get("resolved") or {}).get("stages")
    return f"{part['name']} ({options})" + (f", branch copied from {', '.join(copied)}" if copied else "")


def _classes(labels: list[str]) -> str:
    shown = ", ".join(labels[:5])
    return f"{len(labels)}: {shown}{', …' if len(labels) > 5 else ''}"


def _input(preprocessing: dict) -> str:
    size = "x".join(map(str, preprocessing["input_size"]))
    return f"{size}, {preprocessing['interpolation']}, crop {preprocessing['crop_pct']:g}"


def _parameters(path: Path) -> str:
    try:
        with safe_open(path, "pt") as header:
            sizes = {key: math.prod(header.get_slice(key).get_shape()) for key in header.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); copy or download it again") from error
    parts: dict[str, int] = {}
    for key, size in sizes.items():
        part = key.split(".")[0]
        parts[part] = parts.get(part, 0) + size
    whole = f"{sum(parts.values()) / 1e6:.2f} M"
    return f"{whole} ({', '.join(f'{part} {size / 1e6:.2f} M' for part, size in parts.items())})"
