"""``attention-refine demo``: train a plain model on made images, see what it leans on, mend it from a few boxes, see again; a page."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_command, new_folder


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(
        commands,
        "demo",
        run,
        "train a plain model on made images, see what it leans on, mend it from a few boxes, see again; a page",
    )
    parser.add_argument(
        "--output", type=new_folder, default="attention-refine-demo", help="folder to write to (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few steps only, to see that everything works")


def run(arguments: argparse.Namespace) -> None:
    from ..demo import demo

    print(f"report: {demo(arguments.output, seed=arguments.seed, quick=arguments.quick)}")
