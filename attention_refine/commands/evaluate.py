"""``attention-refine evaluate``: measure one or several saved models on the same images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._arguments import add_command, add_device, chosen_device, new_folder, positive
from ._models import model_folder, named
from ._sections import add_sections, read_overrides


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(commands, "evaluate", run, "measure one or several saved models on the same images")
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="saved folder, run folder or Hub id; name=MODEL names it"
    )
    parser.add_argument(
        "--output", type=new_folder, default="evaluation", help="folder for results and report (default: %(default)s)"
    )
    parser.add_argument("--split", default="test", help="split to measure on (default: %(default)s)")
    parser.add_argument("--limit", type=positive, help="judge so many images only, drawn evenly from the split")
    parser.add_argument("--config", help="YAML file whose data and evaluation sections are used")
    add_device(parser)
    add_sections(parser, words, only=("data", "evaluation"))


def run(arguments: argparse.Namespace) -> None:
    from ..hub import load
    from ..recipe import Recipe, judge, load_split, merged, read_yaml, shipped
    from ..report import galleries, strips, write_report

    values = read_yaml(shipped(arguments.config)) if arguments.config else {}
    values = merged({key: values.get(key) or {} for key in ("data", "evaluation")}, read_overrides(arguments))
    recipe = Recipe.from_dict(values, where=arguments.config or "command line")
    output = Path(arguments.output)
    device = chosen_device(arguments.device)
    models, evaluations = {}, {}
    for name, path in named(arguments.models).items():
        models[name] = load(model_folder(path), device=device)
        split = _limited(load_split(recipe.data, arguments.split, models[name].labels), arguments.limit)
        evaluations[name] = judge(recipe, models[name], split, output / name)
        print(f"{name}\n{evaluations[name]}\n")
    report = write_report(
        output / "report.html",
        evaluations,
        galleries=galleries(models, split, evaluations),
        strips=strips(models, split),
        title=f"{' and '.join(models)} on {recipe.data.source}, {arguments.split}",
    )
    print(f"report: {report}")


def _limited(split: Any, limit: int | None) -> Any:
    """At most ``limit`` rows, evenly spread, the same at every call: a folder lists class after class."""
    if limit is None or limit >= len(split):
        return split
    return split.select([row * len(split) // limit for row in range(limit)])
