"""``attention-refine serve``: a page to drop images on: predictions, several maps side by side, a map to draw."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_address, add_command, add_dataset, add_device, chosen_device
from ._models import model_folder


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(
        commands, "serve", run, "a page to drop images on: predictions, several maps side by side, a map to draw"
    )
    parser.add_argument("model", metavar="MODEL", help="saved folder, run folder or Hub id")
    parser.add_argument("--data", help="folder of images: the editor of its maps, as a further page")
    add_dataset(parser)
    add_address(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    from ..app import edit, serve

    model, device = model_folder(arguments.model), chosen_device(arguments.device)
    address = {"host": arguments.host, "port": arguments.port, "open_page": arguments.open}
    if arguments.data is None:
        serve(model, device=device, **address)
    else:
        edit(
            model, arguments.data, arguments.output, split=arguments.split, limit=arguments.limit, device=device,
            first="live", **address,
        )  # fmt: skip
