"""``attention-refine search``: try options of a run by optuna, resumable, and write the best as YAML."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_command, positive
from ._sections import add_sections, read_overrides


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(commands, "search", run, "try options of a run by optuna, and write the best as YAML")
    parser.add_argument("config", help="YAML file of a run with a section search: space, metrics, trials, prune")
    parser.add_argument("--trials", type=positive, help="runs in all, in place of the file's")
    add_sections(parser, words)


def run(arguments: argparse.Namespace) -> None:
    from ..recipe import Search, SearchOptions, merged, read_yaml, search_line, shipped

    values = merged(read_yaml(shipped(arguments.config)), read_overrides(arguments))
    given = values.pop("search", None)
    if not isinstance(given, dict):
        raise ValueError(
            f"{arguments.config} has no section search, which says what to try: {{space: {{training.learning_rate: {{low: "
            "1e-5, high: 1e-2, log: true}}, metrics: [accuracy], trials: 20}}"
        )
    options = SearchOptions.from_dict(given | ({"trials": arguments.trials} if arguments.trials else {}))
    try:
        search = Search(values, options)
    except ImportError as error:
        raise RuntimeError(str(error)) from error
    search.run()
    files = search.save()
    print("\nbest:" if len(options.metrics) == 1 else "\nbest, none better than another in all:")
    for trial, file in zip(search.best(), files):
        print(f"{search_line(trial, options.metrics)}\n  {file}")
    print(f"all: {search.output / 'trials.csv'}")
