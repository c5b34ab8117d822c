"""Does the loader keep a network busy, and does its memory stay flat? Clips of mp4 files, against training steps on them.

    python benchmarks/video_loader.py

Videos of noise that moves, 320x240, 25 frames a second, 10 seconds, H.264, are read 2,000 times in training: a random
place, random crop and flip, 16 frames at 8 a second, by two workers. Printed are the clips a second that come out of the
loader alone, those that a training step of the network takes, and the memory of the workers along the way.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

import attention_refine as ar
from attention_refine import data
from attention_refine.drawing.video_writer import write_video


class Watched(torch.utils.data.Dataset):
    """Items, and what this process has held at most since it began, in MiB."""

    def __init__(self, items, length: int):
        self.items, self.length = items, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int):
        item = self.items[i % len(self.items)]
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return item["pixel_values"], item["labels"], held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--network", default="r3d_18")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.videos):
            _film(Path(folder) / f"class{number % 2}" / f"{number}.mp4", number)
        model = ar.wrap(
            given.network, labels=["class0", "class1"], pretrained=False,
            preprocessing={"input_size": [3, given.frames, given.size, given.size], "fps": 8},
        )  # fmt: skip
        items = data.prepare(data.load_dataset(folder), model.preprocessing, train=True)
        loader = DataLoader(Watched(items, given.clips), given.batch, num_workers=given.workers)
        held, begun, seen = [], time.perf_counter(), 0
        for pixels, _, most in loader:
            seen += len(pixels)
            held.append((seen, float(most.max())))
        loaded = given.clips / (time.perf_counter() - begun)
        marks = [held[min(len(held) - 1, int(share * len(held)))] for share in (0.1, 0.25, 0.5, 1)]
        print(f"loader, {given.workers} workers: {loaded:.1f} clips a second")
        print("memory of the largest worker: " + ", ".join(f"{most:.0f} MiB after {n} clips" for n, most in marks))
        optimizer = torch.optim.SGD(model.train().parameters(), 1e-3)
        pixels, labels, _ = next(iter(DataLoader(Watched(items, given.batch), given.batch)))
        seconds = []
        for _ in range(4):
            begun = time.perf_counter()
            optimizer.zero_grad()
            model(pixels, labels=labels).loss.backward()
            optimizer.step()
            seconds.append(time.perf_counter() - begun)
        step = given.batch / sorted(seconds)[1]
        print(
            f"{given.network}, batch {given.batch}: {step:.1f} clips a second in training; the loader gives {loaded / step:.1f} x"
        )


def _film(path: Path, seed: int, seconds: int = 10, size: tuple[int, int] = (320, 240)) -> None:
    width, height = size
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    still = blocks.repeat(8, 0).repeat(8, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, [np.roll(still, 2 * i, 1) for i in range(25 * seconds)], 25)


if __name__ == "__main__":
    main()
