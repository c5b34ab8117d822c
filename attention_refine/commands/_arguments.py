"""What several commands are told on the command line: a device, a folder to write, an address, a dataset's maps."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def add_command(commands: Any, name: str, run: Any, help: str) -> argparse.ArgumentParser:
    # Without abbreviations: --training.epoch would be taken for --training.epochs, and start.
    command = commands.add_parser(name, allow_abbrev=False, help=help, description=help[0].upper() + help[1:] + ".")
    command.set_defaults(run=run, command=name)
    return command


def map_names(words: list[str]) -> str:
    """The maps there are, for help; not looked up for commands without one, as torch takes seconds to import."""
    if not {"audit", "explain"} & set(words):
        return "(see --help)"
    from ..maps import list_maps

    return ", ".join(list_maps())


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one, else cpu)")


def add_goal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--goal", default="accuracy", choices=("accuracy", "shortcut", "map", "both", "parts"),
        help="of a repair: accuracy, where a shortcut lies too; shortcut, the same with nothing annotated, where places may mislead; "
        "map, on the object; both, right predictions and the map; parts, for fine-grained classes (default: %(default)s)",
    )  # fmt: skip


def add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--split", default="train", help="split whose maps are edited (default: %(default)s)")
    parser.add_argument(
        "--limit",
        type=positive,
        default=200,
        help="audit so many images, the rest stand behind (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=new_folder, default="edit", help="folder for audit and repairs (default: %(default)s)"
    )


def add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets others in (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=7860, help="0 for a free one (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def chosen_device(given: str | None) -> torch.device:
    """The device named on the command line, or the one to take when none is.

    Raises:
        ValueError: it does not exist here.
    """
    import torch

    there = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=given or there).device
    except (RuntimeError, AssertionError) as error:  # PyTorch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {given!r} cannot be used ({reason}); without --device this is {there!r}") from error


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def new_folder(text: str) -> str:
    if os.path.isfile(text):
        raise argparse.ArgumentTypeError(f"{text!r} is a file; name a folder, which is made where it is not there")
    return text
