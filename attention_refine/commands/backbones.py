"""``attention-refine backbones``: which networks can be wrapped and where the map acts, found by running."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_command


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(
        commands, "backbones", run, "which networks can be wrapped and where the map acts, found by running"
    )
    parser.add_argument("--filter", default="", help="only networks whose name holds this text, such as timm/swin")


def run(arguments: argparse.Namespace) -> None:
    from ..support_table import markdown, rows

    table = 0
    for line in markdown(rows(arguments.filter)):
        table += line.startswith("|")
        print(line, flush=True)
    if table <= 2:  # its head alone
        raise ValueError(f"no network's name holds {arguments.filter!r}; names are such as timm/resnet50")
