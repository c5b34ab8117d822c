"""``attention-refine fewshot``: tell classes apart that a saved model was not trained on, from a few examples."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_command, add_device, chosen_device
from ._models import model_folder, named
from ._sections import add_sections, read_overrides


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(
        commands, "fewshot", run, "tell classes apart that a saved model was not trained on, from a few examples"
    )
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="saved folder, run folder or Hub id; name=MODEL names it"
    )
    parser.add_argument("--split", default="test", help="split of the held-out classes (default: %(default)s)")
    for name, default, help in (
        ("ways", 5, "classes an episode"),
        ("shots", 1, "examples of each class"),
        ("queries", 15, "images of each class to be told apart"),
        ("episodes", 600, "episodes"),
        ("seed", 0, "seed of the episodes"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{help} (default: %(default)s)")
    parser.add_argument("--retrieval", action="store_true", help="also rank all images for each and measure the ranks")
    add_device(parser)
    add_sections(parser, words, only=("data",))


def run(arguments: argparse.Namespace) -> None:
    from ..data import load_dataset
    from ..evaluation import few_shot, retrieval
    from ..hub import load
    from ..recipe import DataOptions

    options = DataOptions.from_dict(read_overrides(arguments).get("data", {}))
    split = load_dataset(
        options.source, arguments.split, label_column=options.label_column, image_column=options.image_column,
        revision=options.revision,
    )  # fmt: skip
    episodes = {name: getattr(arguments, name) for name in ("ways", "shots", "queries", "episodes", "seed")}
    device = chosen_device(arguments.device)
    for name, path in named(arguments.models).items():
        model = load(model_folder(path), device=device)
        print(f"{name}: {few_shot(model, split, **episodes)}")
        if arguments.retrieval:
            print(f"{name}: {retrieval(model, split, seed=arguments.seed)}")
