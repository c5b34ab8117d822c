"""The configs that come with the package, by name."""

from __future__ import annotations

import difflib
import itertools
import re
from importlib.resources import files
from pathlib import Path


def shipped_names() -> list[str]:
    """The configs that come with the package."""
    folder = files("attention_refine.hub_configs")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def shipped_lines() -> list[str]:
    """Each shipped config with what it says of itself: the first sentence of its comment."""
    width = max(map(len, shipped_names()))
    return [f"{name:{width}}  {_first_sentence(shipped(name).read_text(encoding='utf-8'))}" for name in shipped_names()]


def _first_sentence(text: str) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("# ") and not line.startswith("#   "), text.splitlines())
    comment = " ".join(line[2:].strip() for line in lines)
    return re.split(r"(?<!al)[.:](?:\s|$)", comment, maxsplit=1)[0]


def shipped(name: str) -> Path:
    """The path of a config: a file, or the name of one that comes with the package."""
    if Path(name).is_file():
        return Path(name)
    if name.removesuffix(".yaml") in shipped_names():
        return Path(str(files("attention_refine.hub_configs") / f"{name.removesuffix('.yaml')}.yaml"))
    close = difflib.get_close_matches(name, shipped_names(), n=3)
    raise ValueError(
        f"config {name!r} is neither a file nor a shipped config{'; close: ' + ', '.join(close) if close else ''}"
    )
