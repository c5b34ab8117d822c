"""``attention-refine edit``: draw a dataset's maps in the browser, worst image first, and repair the model."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_address, add_command, add_dataset, add_device, add_goal, chosen_device
from ._models import model_folder
from ._sections import add_sections, read_overrides


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(
        commands, "edit", run, "draw a dataset's maps in the browser, worst image first, and repair the model"
    )
    parser.add_argument("model", metavar="MODEL", help="saved folder, run folder or Hub id")
    parser.add_argument("data", metavar="DATA", help="folder of images, which the drawn maps are written into")
    add_dataset(parser)
    add_goal(parser)
    parser.add_argument("--recipe", help="YAML file or shipped config that a repair trains, not what is recommended")
    parser.add_argument(
        "--words", metavar="MODEL",
        help="Hub id or folder of CLIPSeg, OWL-ViT, OWLv2 or Grounding DINO: the page draws what a text names",
    )  # fmt: skip
    add_address(parser)
    add_device(parser)
    add_sections(parser, words, only=("training", "evaluation"))


def run(arguments: argparse.Namespace) -> None:
    from ..app import edit

    overrides = read_overrides(arguments)
    if "output_dir" in overrides.get("training", {}):
        raise ValueError("repairs write to folders of --output: give that in place of --training.output_dir")
    edit(
        model_folder(arguments.model), arguments.data, arguments.output, split=arguments.split, limit=arguments.limit,
        goal=arguments.goal, recipe=arguments.recipe, overrides=overrides, words=arguments.words, device=chosen_device(arguments.device),
        host=arguments.host, port=arguments.port, open_page=arguments.open,
    )  # fmt: skip
