"""From a folder of 200 photographs to a repaired model with 20 brushed maps: how long does a person sit there?

    python benchmarks/person_time.py --data shared/data --weights shared/weights/resnet18.safetensors       # one JSON line

The commands are a person's own: ``attention-refine finetune plain_folder``, ``edit``, and in the page twenty images, the worst
first, three strokes each, then *Repair the model*. A headless Chromium is the hand; where it draws comes from the masks
of places3, which the folder does not have. ``--pace`` seconds are waited before each stroke and before the next image,
as a person looks and moves; what is waited for the page is measured, and so is what the machine does alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

import attention_refine as ar

RESULTS = Path(__file__).parent / "results" / "person_time.jsonl"
COMMAND = [sys.executable, "-m", "attention_refine.cli"]


def photographs(source: Path, folder: Path, images: int, test: int) -> dict[str, Path]:
    """A folder without masks, ``images`` to train on, as many of each class; the masks by the images' names."""
    masks = {}
    for split, count in (("train", images), ("test", test)):
        rows = [json.loads(line) for line in (source / split / "metadata.jsonl").read_text().splitlines()]
        kept = [rows[i * len(rows) // count] for i in range(count)]
        (folder / split).mkdir(parents=True)
        for row in kept:
            shutil.copy(source / split / row["file_name"], folder / split)
            masks[row["file_name"]] = source / split / row.pop("mask_file_name")
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    return masks


@contextmanager
def editor(model: Path, folder: Path, output: Path, training: list[str]) -> Iterator[str]:
    process = subprocess.Popen(
        [*COMMAND, "edit", str(model), str(folder), "--output", str(output), "--port", "0", *training],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        address = next(found[0] for line in process.stdout if (found := re.search(r"http://[\d.]+:\d+", line)))
        yield address
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def strokes(mask: Path, count: int = 3) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Lines across the object, in shares of the picture: one a third of its height."""
    there = np.asarray(Image.open(mask)) == 255
    rows = np.flatnonzero(there.any(1))
    lines = []
    for n in range(count):
        y = rows[int((n + 0.5) / count * len(rows))]
        x = np.flatnonzero(there[y])
        lines.append(((x[0] / there.shape[1], y / there.shape[0]), (x[-1] / there.shape[1], y / there.shape[0])))
    return lines


def draw(page: Page, masks: dict[str, Path], count: int, pace: float) -> dict[str, Any]:
    """Brush ``count`` images from the first on; what each stroke and each next image was waited for, beside the pace."""
    answered: dict[str, list[float]] = {"stroke": [], "next": []}
    began = time.monotonic()
    for n in range(count):
        name = page.locator("#name").inner_text()
        box = page.locator("canvas.draw").bounding_box()
        assert box is not None
        for (x0, y), (x1, _) in strokes(masks[Path(name.split(": ")[0]).name]):
            time.sleep(pace)
            page.mouse.move(box["x"] + x0 * box["width"], box["y"] + y * box["height"])
            page.mouse.down()
            page.mouse.move(box["x"] + x1 * box["width"], box["y"] + y * box["height"], steps=10)
            page.mouse.up()
            asked = time.monotonic()
            expect(page.locator("#status")).to_have_text("Saved.")
            answered["stroke"].append(time.monotonic() - asked)
        expect(page.locator("#count")).to_contain_text(f"{n + 1} of ")
        if n + 1 < count:
            time.sleep(pace)
            asked = time.monotonic()
            page.keyboard.press("n")
            expect(page.locator("#name")).not_to_have_text(name)
            answered["next"].append(time.monotonic() - asked)
    return {
        "seconds_drawing": round(time.monotonic() - began, 1),
        **{f"median_{key}_seconds": round(statistics.median(found), 2) for key, found in answered.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of places3")
    parser.add_argument(
        "--weights", type=Path, required=True, help="a safetensors file of ImageNet weights of resnet18"
    )
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--test", type=int, default=149)
    parser.add_argument("--maps", type=int, default=20)
    parser.add_argument("--pace", type=float, default=2.0, help="seconds before each stroke and each next image")
    parser.add_argument("--output", type=Path, help="keep the folder, the runs and screenshots here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = timed(given, given.output or Path(scratch))
    line = json.dumps(found | {"torch": torch.__version__.split("+")[0], "version": ar.__version__})
    with open(RESULTS, "a") as out:
        out.write(line + "\n")
    print(line)


def timed(given: argparse.Namespace, home: Path) -> dict[str, Any]:
    masks = photographs(given.data / "places3", home / "photographs", given.images, given.test)
    training = ["--training.epochs", "8", "--training.mixed_precision", "no", "--training.batch_size", "32"]
    at = [time.monotonic()]
    subprocess.run(
        [*COMMAND, "finetune", "plain_folder", "--data.source", str(home / "photographs"), "--model.backbone", "resnet18",
         "--model.pretrained", str(given.weights), "--training.output_dir", str(home / "run"), *training],
        check=True,
    )  # fmt: skip
    at.append(time.monotonic())
    with (
        editor(home / "run", home / "photographs", home / "mended", training) as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        expect.set_options(timeout=120_000)
        page.goto(address + "/edit")
        expect(page.locator("#scores table")).to_be_visible()
        at.append(time.monotonic())
        drawn = draw(page, masks, given.maps, given.pace)
        page.screenshot(path=home / "drawn.png")
        at.append(time.monotonic())
        page.get_by_role("button", name="Repair the model").click()
        expect(page.get_by_role("button", name="Stop")).to_be_visible()
        expect(page.get_by_role("button", name="Stop")).to_be_hidden(timeout=1_800_000)
        at.append(time.monotonic())
        verdict = page.locator("#stage").inner_text()
        page.screenshot(path=home / "repaired.png")
        browser.close()
    trained, opened, brushed, mended = (round(later - earlier, 1) for earlier, later in zip(at, at[1:]))
    return {
        "images": given.images, "maps": given.maps, "pace": given.pace, "seconds_finetune": trained,
        "seconds_until_the_page": opened, "seconds_of_a_person": brushed, **drawn, "seconds_repair": mended, "verdict": verdict,
    }  # fmt: skip


if __name__ == "__main__":
    main()
