"""What others published, beside an empty column for this library: docs/published.md, made of published.yaml by results_page.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("published.yaml")
SAID = {"read": "", "quoted": " (as others quote it)", "recalled": " (from memory, not checked)"}


def protocols(file: Path = FILE) -> list[dict[str, Any]]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def ours(cell: dict[str, Any] | None) -> str:
    """What somebody measured with this library, with who, which version and how many seeds; empty before that."""
    if cell is None:
        return ""
    seeds = f"{cell['seeds']} seed{'s' if cell['seeds'] > 1 else ''}"
    return f"{cell['value']} ({cell['by']}, {cell['version']}, {seeds})"


def row(entry: dict[str, Any]) -> str:
    if entry["known"] not in SAID:
        raise ValueError(f"known {entry['known']!r} is not one of {', '.join(SAID)}")
    number = "not to be had" if entry["published"] is None else entry["published"]
    source = entry["from"] + (SAID[entry["known"]] if entry["published"] is not None else "")
    return f"| {entry['arm']} | {entry['measure']} | {number} | {ours(entry['ours'])} | {source} |"


def tables(file: Path = FILE) -> list[str]:
    """Markdown: of each protocol a heading, what it is, its commands, and the numbers."""
    out: list[str] = []
    for each in protocols(file):
        out += [f"## {each['set']}", "", each["says"], "", "```bash", *each["commands"], "```", ""]
        out += ["| arm | measure | published | this library | from |", "|---" * 5 + "|", *map(row, each["rows"]), ""]
    return out
