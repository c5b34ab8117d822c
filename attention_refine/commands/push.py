"""``attention-refine push``: send models to the Hub with a card; a config is trained and judged before."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ._arguments import add_command
from ._sections import add_sections, read_overrides


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(
        commands, "push", run, "send models to the Hub with a card; a config is trained and judged before"
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="saved model, a run's folder, or a config")
    parser.add_argument("--to", required=True, metavar="USER/NAME", help="repo; {name} in it is each source's own name")
    parser.add_argument("--private", action="store_true", help="make the repo private")
    parser.add_argument("--revision", help="branch to push to (default: main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of writing to the branch")
    parser.add_argument("--message", default="Push with attention_refine", help="of the commit (default: %(default)s)")
    parser.add_argument("--max-shard-size", default="5GB", help="split larger weights (default: %(default)s)")
    parser.add_argument("--without-training-layers", action="store_true", help="leave out what only training needs")
    parser.add_argument("--licence", help="of the weights, as the Hub writes it: apache-2.0, cc-by-4.0, ...")
    add_sections(parser, words)


def run(arguments: argparse.Namespace) -> None:
    from ..hub import Card
    from ..recipe.publish import publish

    if len(arguments.sources) > 1 and "{name}" not in arguments.to:
        raise ValueError(f"{len(arguments.sources)} models cannot all be called {arguments.to}; write user/{{name}}")
    failed = []
    for source in arguments.sources:
        repo_id = arguments.to.replace("{name}", _source_name(source))
        try:
            done = publish(
                source, repo_id, read_overrides(arguments), Card(licence=arguments.licence),
                private=arguments.private or None, revision=arguments.revision, create_pr=arguments.create_pr,
                commit_message=arguments.message, max_shard_size=arguments.max_shard_size,
                training_layers=not arguments.without_training_layers,
            )  # fmt: skip
        except (ValueError, OSError, RuntimeError) as error:
            if len(arguments.sources) == 1 or arguments.traceback:
                raise
            failed.append(source)
            print(f"{source}: {' '.join(str(error).split())}", file=sys.stderr)
        else:
            print(f"{source}: {done.pr_url or done.commit_url}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(arguments.sources)} were not pushed: {', '.join(failed)}")


def _source_name(source: str) -> str:
    """What a run or config is called: best and last are its models, not its name."""
    path = Path(source).resolve()
    return path.parent.name if path.name in ("best", "last") else path.stem if path.suffix == ".yaml" else path.name
