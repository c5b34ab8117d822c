"""The command line: ``attention-refine COMMAND``; a command is a file of :mod:`attention_refine.commands`."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from .commands._sections import unknown
from .core.registry import import_file
from .version import __version__

COMMANDS = (  # in the order of the help; each is a file of commands/
    "demo", "check", "annotate", "finetune", "launch", "watch", "lr-find", "search", "evaluate", "fewshot", "compare", "audit",
    "repair", "explain", "edit", "serve", "space", "inspect", "push", "pull", "backbones",
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 when it did, 2 for a usage error, 1 for a failure said in one sentence on stderr.

    3 where ``compare --fail-if`` found what it was to fail at.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        words = _with_own(words)
    except (ValueError, OSError) as error:
        print(f"attention-refine: {error}", file=sys.stderr)
        return 1
    parser = _parser(words)
    arguments, left = parser.parse_known_args(words)
    if left:
        parser.error(unknown(left))
    try:
        _check_alone(arguments)
        code = arguments.run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if arguments.traceback:
            raise
        print(f"attention-refine: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1
    return code or 0


def _with_own(words: list[str]) -> list[str]:
    """Import the files of ``--use``, before help and choices list what there is; the words without them."""
    own = argparse.ArgumentParser(prog="attention-refine", add_help=False, allow_abbrev=False)
    own.add_argument("--use", action="append", default=[])
    found, others = own.parse_known_args(words)
    for path in found.use:
        import_file(path)
    return others


def _check_alone(arguments: argparse.Namespace) -> None:
    """Only ``finetune`` shares its work; several processes of another command would write to the same files."""
    several = int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if several > 1 and arguments.command != "finetune":
        raise ValueError(
            f"{arguments.command} runs in one process, and torchrun or accelerate launch started "
            f"{several}: start it by itself. finetune is the command that shares its work"
        )


def _parser(words: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="attention-refine",
        description="Change what a vision model attends to, and measure whether the map improved.",
    )
    parser.add_argument(
        "--use", action="append", metavar="FILE",
        help="Python file with heads, objectives, maps or measures of your own; may be given several times",
    )  # fmt: skip
    parser.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"attention_refine.commands.{name.replace('-', '_')}").add(commands, words)
    return parser


if __name__ == "__main__":
    sys.exit(main())
