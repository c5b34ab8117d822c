"""How long a run takes to its first step, and to the first one after a resume, as the image folder grows.

    python benchmarks/start_time.py --images 1000 10000 50000      # one JSON line a size

The folder has 300 classes of tiny JPEGs, made for the time of the measurement. Each number is of a process of its own,
from its start to the beginning of its first step: imports, listing and checking the folder, the network, and what a run
notes of its data to know them again. Beside the clock's seconds, in which the machine may have done other things, are
the processor's. ``--profile`` prints what they went to.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

RESULTS = Path(__file__).parent / "results" / "start_time.jsonl"
CLASSES, SIDE = 300, 32


def write(folder: Path, images: int) -> None:
    """Images of 64 contents and sizes in bytes."""
    rng = np.random.default_rng(0)
    contents = []
    for _ in range(64):
        buffer = io.BytesIO()
        pixels = rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(rng.integers(40, 95)))
        contents.append(buffer.getvalue())
    for row in range(images):
        place = folder / f"class_{row % CLASSES:03d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{row:06d}.jpg").write_bytes(contents[row % 64])


def train(folder: str, output: str, began: float, profiled: bool) -> None:
    """A run that ends after its first step with a checkpoint, and says when that step began."""
    import timm
    import torch

    import attention_refine as ar
    from attention_refine.training import run
    from attention_refine.training.interruption import Interrupted

    take_step, at, imported = run.take_step, {}, time.process_time()

    def first(*arguments):
        at.update(clock=time.time() - began, cpu=time.process_time(), cpu_imports=imported)
        profile.disable()
        os.kill(os.getpid(), signal.SIGTERM)
        return take_step(*arguments)

    run.take_step = first
    torch.set_num_threads(1)
    profile = cProfile.Profile()
    if profiled:
        profile.enable()
    labels = sorted(path.name for path in Path(folder).iterdir())
    net = timm.create_model("test_resnet", num_classes=len(labels))
    model = ar.wrap(net, "abn", labels=labels, preprocessing={"input_size": [3, SIDE, SIDE]})
    try:
        ar.finetune(model, folder, ar.TrainingConfig(output_dir=output, resume=True, max_steps=9, progress=False))
    except Interrupted:
        print(json.dumps(at))
    if profiled:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats("attention_refine|datasets/", 30)


def measured(folder: Path, output: Path, profiled: bool) -> dict[str, float]:
    words = [
        sys.executable,
        __file__,
        "--train",
        folder,
        output,
        str(time.time()),
        *(["--profile"] if profiled else []),
    ]
    done = subprocess.run(
        words, env={**os.environ, "ACCELERATE_USE_CPU": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )
    return {name: round(value, 2) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 50_000])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        train(*given.train[:2], float(given.train[2]), given.profile)
        return
    for images in given.images:
        with tempfile.TemporaryDirectory() as place:
            folder, output = Path(place) / "images", Path(place) / "run"
            write(folder, images)
            found = {name: measured(folder, output, given.profile) for name in ("start", "resume")}
        line = {
            "images": images,
            "classes": CLASSES,
            **found,
            "load": round(os.getloadavg()[0], 1),
            "cores": os.cpu_count(),
        }
        print(json.dumps(line), flush=True)
        if not given.profile:
            with given.output.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
