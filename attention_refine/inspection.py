"""What a saved model is, from its config and the header of its weights: no weight is read, or fetched from the Hub."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .hub import peek


def describe(source: str | Path, **options: Any) -> str:
    """A few lines on a saved model: backbone, site, head, objectives, classes, input, parameters.

    Args:
        source: a folder or a Hub id.
        options: ``revision``, ``token`` and the like, as :func:`attention_refine.hub.peek` takes them.

    Raises:
        CheckpointError: it is no whole checkpoint.
    """
    found = peek(source, **options)
    config = found.config
    backbone, site, head = config["backbone"], config["site"], config["head"]
    lines = {
        "backbone": f"{backbone['name']} ({backbone['source']}), {_origin(backbone['origin'])}",
        "site": f"{site['name']} ({site['layout']['format']}), mechanism {site['mechanism']}" if site else "none",
        "head": _with_options(head),
        "objectives": ", ".join(_with_options(each) for each in config["objectives"]) or "none",
        "classes": _classes(config["labels"]),
        "input": _input(config["preprocessing"]),
        "parameters": _parameters({key: entry.shape for key, entry in found.header.items()}),
        "written by": f"attention-refine {config['library_version']}",
    }
    if len(found.names) > 1:
        lines["files"] = f"{len(found.names)} shards"
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
    pace = ""
    if len(preprocessing["input_size"]) == 4:
        fps, stride = preprocessing.get("fps"), preprocessing.get("stride") or 1
        pace = f", {fps:g} frames a second" if fps else f", one frame of {stride}"
    return f"{size}{pace}, {preprocessing['interpolation']}, crop {preprocessing['crop_pct']:g}"


def _parameters(shapes: dict[str, tuple[int, ...]]) -> str:
    parts: dict[str, int] = {}
    for key, shape in shapes.items():
        part = key.split(".")[0]
        parts[part] = parts.get(part, 0) + math.prod(shape)
    whole = f"{sum(parts.values()) / 1e6:.2f} M"
    return f"{whole} ({', '.join(f'{part} {size / 1e6:.2f} M' for part, size in parts.items())})"
