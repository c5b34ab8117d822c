"""``attention-refine audit``: find out what a saved model leans on: the object, a cue or the place."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._arguments import add_command, add_device, chosen_device, map_names, new_folder
from ._models import model_folder
from ._sections import add_sections, read_overrides


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(commands, "audit", run, "find out what a saved model leans on: the object, a cue or the place")
    parser.add_argument("model", metavar="MODEL", help="saved folder, run folder or Hub id")
    parser.add_argument("data", metavar="DATA", help="folder, Hub dataset id, or 'shapes' for the embedded dataset")
    parser.add_argument(
        "--output", type=new_folder, default="audit", help="folder for page and results (default: %(default)s)"
    )
    parser.add_argument("--split", default="test", help="split that is looked at (default: %(default)s)")
    parser.add_argument("--places", help="split that other places are taken from, such as train; the same if not given")
    parser.add_argument(
        "--map", default="model",
        help="map that is looked at: model, its own (the default), or one of " + map_names(words),
    )  # fmt: skip
    parser.add_argument(
        "--groups", nargs="+", help="columns by whose values accuracy is told apart ('group' by itself)"
    )
    parser.add_argument("--limit", type=int, help="so many images, spread over the split; all if not given")
    parser.add_argument("--batch-size", type=int, default=32, help="images at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the images put together (default: %(default)s)")
    add_device(parser)
    add_sections(parser, words, only=("data",))


def run(arguments: argparse.Namespace) -> None:
    from ..auditing import audit
    from ..hub import load
    from ..recipe import DataOptions, load_split

    model = load(model_folder(arguments.model), device=chosen_device(arguments.device))
    options = DataOptions.from_dict(read_overrides(arguments).get("data", {}) | {"source": arguments.data})
    split = load_split(options, arguments.split, model.labels)
    places = None
    if arguments.places not in (None, arguments.split):
        places = load_split(options, arguments.places, model.labels)
    output = Path(arguments.output)
    found = audit(
        model, split, output, places=places, map=arguments.map, groups=arguments.groups, limit=arguments.limit,
        batch_size=arguments.batch_size, seed=arguments.seed, title=f"Audit of {arguments.model}",
    )  # fmt: skip
    print(f"{found}\n\nreport: {output / 'audit.html'}")
