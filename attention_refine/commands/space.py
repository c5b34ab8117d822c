"""``attention-refine space``: write a Hugging Face Space with the page of serve."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_command
from ._models import model_folder


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(commands, "space", run, "write a Hugging Face Space with the page of serve")
    parser.add_argument("model", metavar="MODEL", help="saved folder, which is copied, or Hub id, fetched there")
    parser.add_argument("folder", metavar="FOLDER", help="folder to write, which holds nothing yet")
    parser.add_argument("--title", help="of the Space (default: the model's name)")


def run(arguments: argparse.Namespace) -> None:
    from ..app import write_space

    folder = write_space(model_folder(arguments.model), arguments.folder, title=arguments.title)
    print(f"space: {folder}\nsend it: hf upload USER/NAME {folder} --repo-type space")
