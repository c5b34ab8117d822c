"""``attention-refine annotate``: masks or boxes of what a text names, for the images that nobody annotated."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._arguments import add_command, add_device, new_folder, positive


def add(commands: Any, words: list[str]) -> None:
    parser = add_command(
        commands,
        "annotate",
        run,
        "find what a text names in the images that nobody annotated, and write them with masks",
    )
    parser.add_argument("source", metavar="DATA", help="folder of images, or another dataset")
    parser.add_argument("prompt", metavar="TEXT", nargs="?", help="of all images (default: each image's class name)")
    parser.add_argument(
        "--text", metavar="CLASS=TEXT", action="append", default=[], help="of a class, in place of TEXT; one for each"
    )
    parser.add_argument(
        "--model", required=True, metavar="MODEL",
        help="Hub id or folder of a CLIPSeg model, which makes masks, or of OWL-ViT, OWLv2 or Grounding DINO: boxes",
    )  # fmt: skip
    parser.add_argument(
        "--segmenter", metavar="MODEL", help="Hub id or folder of a SAM model: what is in the boxes cut out, as masks"
    )
    parser.add_argument("--revision", help="branch, tag or commit of the model")
    parser.add_argument(
        "--output", type=new_folder, required=True, metavar="FOLDER", help="folder to write the images to"
    )
    parser.add_argument("--split", default="train", help="of the images (default: %(default)s)")
    parser.add_argument(
        "--threshold", type=float, help="score from which a pixel, or a box, counts (default: the model's)"
    )
    parser.add_argument(
        "--min-confidence", type=float, default=0.0, help="leave out what is less sure (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=positive, default=8, help="images at a time (default: %(default)s)")
    parser.add_argument(
        "--cache",
        type=new_folder,
        metavar="FOLDER",
        help="where what is found is kept (default: .annotate in --output)",
    )
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    from ..data import annotate, load_dataset
    from ..data.writing import checked_target, write_images
    from ._arguments import chosen_device

    prompt = arguments.prompt
    if arguments.text:
        if prompt is not None:
            raise ValueError("give one TEXT for all images, or --text CLASS=TEXT for each class, not both")
        pairs = [each.partition("=") for each in arguments.text]
        wrong = next((each for each, pair in zip(arguments.text, pairs) if not pair[1]), None)
        if wrong is not None:
            raise ValueError(f"--text {wrong!r} is not CLASS=TEXT, such as --text 'cat=a tabby cat'")
        prompt = {name: text for name, _, text in pairs}
    checked_target(arguments.output, arguments.split)  # before hours of work
    dataset = annotate(
        load_dataset(arguments.source, arguments.split), prompt, model=arguments.model, revision=arguments.revision, segmenter=arguments.segmenter,
        threshold=arguments.threshold, min_confidence=arguments.min_confidence, batch_size=arguments.batch_size,
        cache=arguments.cache or Path(arguments.output) / ".annotate", device=chosen_device(arguments.device),
    )  # fmt: skip
    folder = write_images(dataset, arguments.output, arguments.split)
    made = [sure for sure, source in zip(dataset["mask_confidence"], dataset["mask_source"]) if source == "words"]
    people = dataset["mask_source"][:].count("person")
    what = "masks" if "mask" in dataset.column_names and "bbox" not in dataset.column_names else "masks or boxes"
    sure = f" (mean confidence {sum(made) / len(made):.2f})" if made else ""
    print(f"{folder}: {len(made)} images with {what} from words{sure}, {people} by people, "
          f"{len(dataset) - len(made) - people} without")  # fmt: skip
    print(f"look at them, and brush right what is wrong: attention-refine edit MODEL {arguments.output}")
