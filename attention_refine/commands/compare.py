"""``attention-refine compare``: put finished evaluations side by side, with paired differences."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ._arguments import add_command
from ._models import named


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(commands, "compare", run, "put finished evaluations side by side, with paired differences")
    parser.add_argument(
        "evaluations", nargs="+", metavar="EVALUATION",
        help="run's folder, evaluation's folder or evaluation.json, optionally name=FILE; the first is the old one",
    )  # fmt: skip
    parser.add_argument(
        "--fail-if", action="append", default=[], metavar="CONDITION",
        help="exit with 3 if this is so of any other model against the first, such as 'worst_group_accuracy falls by "
        "0.01' or 'energy_on_cue rises'; may be given several times",
    )  # fmt: skip
    parser.add_argument("--output", default="comparison.html", help="page to write (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    from ..evaluation import Evaluation, compare, gate
    from ..evaluation.finding import evaluation_files
    from ..report import write_report

    given = named(arguments.evaluations)
    if len(given) < 2:
        raise ValueError("compare needs at least two evaluations of the same images")
    files, judged = {}, []
    for name, path in given.items():
        for which, file in evaluation_files(path).items():
            called = f"{name} ({which})" if which else name
            files[called] = file
            if which != "last":
                judged.append(called)
    evaluations = {name: Evaluation.from_json(file) for name, file in files.items()}
    comparison = compare(evaluations)
    failed = gate(comparison, arguments.fail_if, judged[1:])
    print(comparison)
    print(f"report: {write_report(Path(arguments.output), evaluations, title=' and '.join(given))}")
    for sentence in failed:
        print(f"attention-refine: {sentence}", file=sys.stderr)
    return 3 if failed else 0
