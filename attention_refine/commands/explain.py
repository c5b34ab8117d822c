"""``attention-refine explain``: write images, or videos, with the model's map drawn over them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ._arguments import add_command, add_device, chosen_device, map_names, new_folder
from ._models import model_folder


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(commands, "explain", run, "write images, or videos, with the model's map drawn over them")
    parser.add_argument("model", metavar="MODEL", help="saved folder, run folder or Hub id")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image files or folders; of a model of clips videos, written as mp4 and gif",
    )
    parser.add_argument(
        "--output", type=new_folder, default="explained", help="folder to write to (default: %(default)s)"
    )
    parser.add_argument(
        "--method", default="auto",
        help="auto (the model's own map once trained, else grad_cam), model, or a map: " + map_names(words),
    )  # fmt: skip
    parser.add_argument(
        "--prompt", metavar="TEXT", action="append", default=[],
        help="of MODEL, a CLIP-like network (Hub id or folder): what an image may show; two or more",
    )  # fmt: skip
    parser.add_argument("--whole", action="store_true", help="look at the whole photograph, not at its middle")
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    from ..data import DataError
    from ..hub import load
    from ..prompting import zero_shot
    from ..refined import Refined

    output = Path(arguments.output)
    device = chosen_device(arguments.device)
    if arguments.prompt:
        model: Refined = zero_shot(arguments.model, arguments.prompt).to(device)
    else:
        model = load(model_folder(arguments.model), device=device)
    clips = len(model.preprocessing["input_size"]) == 4
    files = [file for given in arguments.images for file in _image_files(Path(given), output, clips)]
    written = _pictures(list(dict.fromkeys(files)), output, (".mp4", ".gif") if clips else (".png",))
    output.mkdir(parents=True, exist_ok=True)
    broken: list[Path] = []
    for file, pictures in tqdm(written.items(), desc="explaining", disable=len(written) < 2):
        try:
            found = model.show(file, method=arguments.method, whole=arguments.whole)
        except DataError as error:
            if len(written) == 1:
                raise
            broken.append(file)
            tqdm.write(f"attention-refine: {error}", file=sys.stderr)
            continue
        for path in pictures:
            found.save(path)
        tqdm.write(f"{file}: {found.caption} -> {', '.join(map(str, pictures))}")
    if len(written) > 1:
        print(f"{len(written) - len(broken)} of {len(written)} {'videos' if clips else 'images'} explained in {output}")
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(written)} images could not be explained: {', '.join(map(str, broken))}"
        )


def _pictures(files: list[Path], output: Path, endings: tuple[str, ...]) -> dict[Path, list[Path]]:
    """What is written for each image.

    Raises:
        ValueError: a picture would take the place of one of the images, or of a file that is not ours.
    """
    from ..explanation import is_explanation

    found: dict[Path, list[Path]] = {}
    taken: set[str] = set()
    originals = {file.resolve() for file in files}
    for file in files:
        name = file.stem
        while name in taken:  # a/cat.jpg and b/cat.jpg
            name += "_"
        taken.add(name)
        found[file] = [output / f"{name}{ending}" for ending in endings]
        for path in found[file]:
            if path.resolve() in originals or path.exists() and not is_explanation(path):
                raise ValueError(
                    f"{path} is there, and is no picture of explain: give another folder, --output explained"
                )
    return found


def _image_files(path: Path, output: Path, clips: bool = False) -> list[Path]:
    """An image (a video, for a model of clips), or those of a folder, without masks, hidden ones and pictures of explain."""
    from ..data.folders import left_out_lines
    from ..data.listing import list_folder
    from ..data.video import MOVING
    from ..explanation import is_explanation

    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path} does not exist")
    listing = list_folder(path)
    wanted, others = listing.images, listing.films
    if clips:
        moving = [file for file in listing.images if Path(file.path).suffix.lower() in MOVING]
        wanted, others = sorted([*listing.films, *moving]), [file for file in listing.images if file not in moving]
    files = [Path(file.path) for file in wanted]
    if output.resolve() == path.resolve() or any(
        file.resolve().parent == output.resolve() and not is_explanation(file) for file in files
    ):
        raise ValueError(
            f"--output {output} is a folder of the images, among which the pictures would lie: give another, such as "
            f"{path / 'explained'}"
        )
    ours = [file for file in files if is_explanation(file)]
    reasons = {
        "masks and maps": [file.path for side in listing.sides.values() for file in side],
        "images" if clips else "videos": [file.path for file in others],
        "pictures that explain wrote": list(map(str, ours)),
    }
    left_out = {reason: found for reason, found in {**listing.left_out, **reasons}.items() if found}
    files, lines = [file for file in files if file not in ours], left_out_lines(left_out, path)
    if not files:
        kinds = ".mp4, .webm, .avi, .mov, .mkv or .gif" if clips else ".jpg, .png, .gif, .webp or .tif"
        what = f"videos, such as {kinds}" if clips else f"images that can be opened, such as {kinds}"
        raise ValueError(f"{path} holds no {what}" + (f"; it holds {'; '.join(lines)}" if lines else ""))
    for line in lines:
        print(f"attention-refine: left out of {path}: {line}", file=sys.stderr)
    return files
