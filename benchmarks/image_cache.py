"""What loading an epoch costs without cache_images, in its first epoch and in its second.

    python benchmarks/image_cache.py                          # made JPEGs of 1500 x 1000 pixels
    python benchmarks/image_cache.py --folder photographs     # one's own

One JSON line: images a second of one process that decodes, crops and flips as training does, for 224 pixels. The three
take turns, in which each epoch is timed once; the middle one of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from attention_refine.data import load_dataset, prepare

RESULTS = Path(__file__).parent / "results" / "image_cache.jsonl"
PREPROCESSING = {
    "input_size": [3, 224, 224], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    "interpolation": "bicubic", "crop_pct": 0.95,
}  # fmt: skip


def write(folder: Path, images: int) -> None:
    """Photograph-like JPEGs: noise at several scales."""
    rng = np.random.default_rng(0)
    for i in range(images):
        layers = [
            np.asarray(Image.fromarray(rng.integers(0, 255, (rows, rows * 3 // 2, 3), np.uint8)).resize((1500, 1000)))
            for rows in (8, 60, 250, 1000)
        ]
        mixed = sum(share * layer.astype(float) for share, layer in zip((0.5, 0.25, 0.15, 0.1), layers))
        place = folder / f"class {i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(mixed).astype(np.uint8)).save(place / f"{i}.jpg", quality=90)


def seconds(dataset: Any) -> float:
    began = time.perf_counter()
    for i in range(len(dataset)):
        dataset[i]
    return (time.perf_counter() - began) / len(dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="images, in place of made ones")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {"without": [], "first": [], "second": []}
    with tempfile.TemporaryDirectory() as place:
        folder, kept = given.folder or Path(place) / "images", Path(place) / "kept"
        if given.folder is None:
            write(folder, given.images)
        rows = load_dataset(folder)
        rows = rows.select(range(min(given.images, len(rows))))
        plain = prepare(rows, PREPROCESSING, True)
        cached = prepare(rows, PREPROCESSING, True, cache_images=kept)
        for _ in range(given.turns):
            shutil.rmtree(kept, ignore_errors=True)
            for name, dataset in (("without", plain), ("first", cached), ("second", cached)):
                found[name].append(seconds(dataset))
        size = sum(path.stat().st_size for path in kept.rglob("*.pixels")) / len(rows) / 2**20
        stored = sum(os.path.getsize(cell["path"]) for cell in plain.dataset["image"]) / len(rows) / 2**20
    middle = {name: statistics.median(each) for name, each in found.items()}
    line = {
        "images": "made, 1500 x 1000" if given.folder is None else given.folder.name,
        "count": len(rows),
        "images_a_second": {name: round(1 / each, 1) for name, each in middle.items()},
        "second_over_without": round(middle["without"] / middle["second"], 2),
        "first_over_without": round(middle["without"] / middle["first"], 2),
        "mib_kept_an_image": round(size, 2),
        "mib_a_file": round(stored, 2),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(line))
    with given.output.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
