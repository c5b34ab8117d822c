"""The moving picture of the README: the same images before and after the demo's repair, one fading into the other.

    attention-refine demo && python benchmarks/animation.py --demo attention-refine-demo --output docs/images/before_after.webp

Images whose badge lies, one a class, the first of each in the test split on which the plain network is wrong and the
mended one right.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import attention_refine as ar
from attention_refine import shapes
from attention_refine.core.files import atomic_file
from attention_refine.demo import SIDE

SCALE, GAP, BAR, FADE = 3, 10, 46, 5  # of the images; pixels between them and above them; pictures of a fade
HOLD, STEP = 1600, 60  # milliseconds


def sheet(title: str, colour: str, cells: list[tuple[Image.Image, str]]) -> Image.Image:
    font = ImageFont.load_default(17)
    side = SIDE * SCALE
    page = Image.new("RGB", (len(cells) * (side + GAP) + GAP, BAR + side + 34), "white")
    draw = ImageDraw.Draw(page)
    draw.text((GAP, 12), title, fill=colour, font=ImageFont.load_default(20))
    for number, (picture, words) in enumerate(cells):
        left = GAP + number * (side + GAP)
        page.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (left, BAR))
        draw.text((left, BAR + side + 6), words, fill=colour, font=font)
    return page


def chosen(models: dict[str, ar.RefinedModel], count: int) -> dict[str, list[tuple[Image.Image, str]]]:
    """Of each model the pictures, with what it says."""
    found: dict[str, list[tuple[Image.Image, str]]] = {name: [] for name in models}
    rows, taken = shapes.make("test", size=SIDE), set()
    for row in rows:
        shown = {name: model.show(row["image"]) for name, model in models.items()}
        right = {name: each.label == shapes.CLASSES[row["label"]] for name, each in shown.items()}
        if row["label"] in taken or right["before"] or not right["after"]:
            continue
        taken.add(row["label"])
        for name, each in shown.items():
            found[name].append((each.picture, f"{each.label}: " + ("right" if right[name] else "wrong")))
        if len(taken) == count:
            return found
    raise SystemExit("too few images that are wrong before and right after: is this the folder of a whole demo?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("attention-refine-demo"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4)
    given = parser.parse_args()
    folders = {"before": "plain", "after": "mended"}
    models = {name: ar.load(given.demo / folder / "last") for name, folder in folders.items()}
    cells = chosen(models, given.count)
    before = sheet("before: it reads the badge in the background", "#a33", cells["before"])
    after = sheet("after repair from boxes of 5 % of the images: it looks at the object", "#27652b", cells["after"])
    fade = [Image.blend(before, after, float(share)) for share in np.linspace(0, 1, FADE + 2)[1:-1]]
    frames = [before, *fade, after, *reversed(fade)]
    times = [HOLD, *[STEP] * FADE, HOLD, *[STEP] * FADE]
    with atomic_file(given.output) as path:
        frames[0].save(path, "WEBP", save_all=True, append_images=frames[1:], duration=times, loop=0, quality=70)


if __name__ == "__main__":
    main()
