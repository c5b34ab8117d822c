"""``attention-refine finetune``: wrap, train and evaluate what a YAML file describes."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ._arguments import add_command
from ._sections import add_sections, read_overrides


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(commands, "finetune", run, "wrap, train and evaluate what a YAML file describes")
    parser.add_argument("config", nargs="?", help="YAML file, or the name of one that is shipped (see --list)")
    parser.add_argument("--list", action="store_true", help="list the shipped configs, a line on each, and stop")
    add_sections(parser, words)


def run(arguments: argparse.Namespace) -> None:
    from ..recipe import Recipe, shipped, shipped_lines
    from ..recipe import run as run_recipe

    if arguments.list or arguments.config is None:
        print("\n".join(shipped_lines()))
        if not arguments.list:
            raise ValueError("name a YAML file or one of the shipped configs above")
        return
    done = run_recipe(Recipe.load(shipped(arguments.config), read_overrides(arguments)))
    if int(os.environ.get("RANK", 0)) > 0:  # of several processes one prints
        return
    if done.evaluation is not None:
        print(done.evaluation)
    print(f"model: {done.model_path}\nreport: {done.report_path}")
