"""``attention-refine repair``: find what a model leans on, mend it with the recipe that measured best for the data, and prove it on one page."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_command, add_goal, new_folder, positive
from ._sections import add_sections, read_overrides


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(
        commands, "repair", run,
        "find what a model leans on, mend it with the recipe that measured best for the data, and prove it on one page",
    )  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help="saved folder or run folder; or a backbone: timm name or Hub id")
    parser.add_argument(
        "--output", type=new_folder, default="repair", help="folder for page, models and audits (default: %(default)s)"
    )
    add_goal(parser)
    parser.add_argument("--recipe", help="YAML file or shipped config to train, in place of what is recommended")
    parser.add_argument("--limit", type=positive, help="audit so many test images only, spread over the split")
    add_sections(parser, words)


def run(arguments: argparse.Namespace) -> None:
    from ..repairing import repair

    overrides = read_overrides(arguments)
    source = overrides.get("data", {}).get("source")
    if source is None:
        raise ValueError("name the images to repair with: --data.source FOLDER ('shapes' for the embedded dataset)")
    if "output_dir" in overrides.get("training", {}):
        raise ValueError("repair writes to before/ and after/ of --output: give that in place of --training.output_dir")
    if {"backbone", "checkpoint"} & set(overrides.get("model", {})):
        raise ValueError("the model to repair is the first argument: leave --model.backbone and --model.checkpoint out")
    done = repair(
        arguments.model, source, arguments.output, goal=arguments.goal, recipe=arguments.recipe, overrides=overrides,
        limit=arguments.limit,
    )  # fmt: skip
    print(f"\n{done}")
