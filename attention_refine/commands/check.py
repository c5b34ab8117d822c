"""``attention-refine check``: say what would be read of a folder of images, and what is wrong with it."""

from __future__ import annotations

import argparse
from typing import Any

from ._arguments import add_command


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(
        commands, "check", run, "say what would be read of a folder of images, and what is wrong with it"
    )
    parser.add_argument("source", metavar="FOLDER", help="folder of images, or another dataset")
    parser.add_argument("--label-column", help="column of the labels, if not label or labels")
    parser.add_argument("--image-column", help="column of the images, if not image (in metadata: file_name)")
    parser.add_argument("--group-column", help="column of the groups, if not group")
    parser.add_argument("--box-format", default="xywh", help="xywh, or xyxy for corners (default: %(default)s)")
    parser.add_argument("--mask-values", type=int, nargs="+", help="pixel values of masks that are object")
    parser.add_argument("--void", type=int, nargs="+", help="pixel values of masks that are void (default: 128)")
    parser.add_argument("--revision", help="revision of a Hub dataset")
    parser.add_argument(
        "--media", default="auto", help="image or video: which of a folder's files (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    from ..data.checking import check

    names = ("label_column", "image_column", "group_column", "box_format", "mask_values", "void", "revision", "media")
    found = check(arguments.source, **{name: getattr(arguments, name) for name in names})
    print(found)
    if found.problems:
        raise ValueError(f"{arguments.source} is not ready to train on: see the problems above")
