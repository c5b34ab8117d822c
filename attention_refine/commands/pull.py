"""``attention-refine pull``: copy a model from the Hub into a folder, checked."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_command


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(commands, "pull", run, "copy a model from the Hub into a folder, checked")
    parser.add_argument("model", metavar="MODEL", help="Hub id, optionally with @revision")
    parser.add_argument("folder", help="folder to copy into")
    parser.add_argument("--revision", help="branch, tag or commit")


def run(arguments: argparse.Namespace) -> None:
    from ..hub import pull

    print(f"model: {pull(arguments.model, arguments.folder, revision=arguments.revision)}")
