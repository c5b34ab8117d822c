"""``attention-refine lr-find``: sweep the learning rate of what a YAML file describes, and suggest one."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_command, positive
from ._sections import add_sections, read_overrides


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(commands, "lr-find", run, "sweep the learning rate of a run, and suggest one")
    parser.add_argument("config", help="YAML file, or the name of one that is shipped, as finetune takes it")
    parser.add_argument("--lowest", type=float, default=1e-7, help="rate of the first step (default: %(default)s)")
    parser.add_argument("--highest", type=float, default=10.0, help="rate of the last step (default: %(default)s)")
    parser.add_argument("--steps", type=positive, default=100, help="steps of the sweep (default: %(default)s)")
    add_sections(parser, words)


def run(arguments: argparse.Namespace) -> None:
    import torch

    from ..data import class_names
    from ..recipe import Recipe, build_model, load_splits, prepare_training, shipped
    from ..training import find_learning_rate

    recipe = Recipe.load(shipped(arguments.config), read_overrides(arguments))
    for name, before in (("data.propagate", recipe.data.propagate), ("model.teacher", recipe.model.teacher)):
        if before is not None:
            raise ValueError(f"{name} trains another model before the run, which lr-find does not: leave it out")
    splits = load_splits(recipe.data, recipe.training.seed)
    torch.manual_seed(recipe.training.seed)  # the fresh classifier and head
    model = build_model(recipe.model, class_names(splits["train"]))
    unlabeled = splits.get("unlabeled")
    found = find_learning_rate(
        model,
        prepare_training(recipe, model, splits["train"]),
        recipe.training,
        unlabeled=None if unlabeled is None else prepare_training(recipe, model, unlabeled, labeled=False),
        lowest=arguments.lowest,
        highest=arguments.highest,
        steps=arguments.steps,
    )
    picture = found.save(recipe.training.output_dir)
    if found.suggestion is None:
        print(f"the loss never fell between {arguments.lowest:g} and {found.rates[-1]:g}: see {picture}")
    else:
        print(f"--training.learning_rate {found.suggestion:.2g}\ncurve: {picture}, {picture.with_suffix('.csv')}")
