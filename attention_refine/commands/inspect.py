"""``attention-refine inspect``: say what a saved model is: backbone, site, head, classes, size."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_command
from ._models import model_folder


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(commands, "inspect", run, "say what a saved model is: backbone, site, head, classes, size")
    parser.add_argument(
        "model", metavar="MODEL", help="saved folder, run folder or Hub id; of the latter no weight is fetched"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")


def run(arguments: argparse.Namespace) -> None:
    from ..inspection import describe

    print(describe(model_folder(arguments.model), revision=arguments.revision))
