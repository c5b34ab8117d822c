"""Does the loader keep a network busy, and does its memory stay flat? Clips of mp4 files, against training steps on them.

    python benchmarks/video_loader.py

Videos of noise that moves, 320x240, 25 frames a second, 10 seconds, H.264, are read 2,000 times in training: a random
place, random crop and flip, 16 frames at 8 a second, by two workers. Printed are the processor time that a clip takes in a
worker and in a training step of the network on one thread, how many workers keep that step busy, which other load on the
machine does not change, and the memory of the workers along the way.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

import attention_refine as ar
from attention_refine import data
from attention_refine.drawing.video_writer import write_video

MARKS = (0.05, 0.1, 0.25, 0.5, 1)  # shares of the clips, after which memory is printed


class Watched(torch.utils.data.Dataset):
    """Items, the processor seconds each took, which process read it, and what that has held at most so far, in MiB."""

    def __init__(self, items, length: int):
        self.items, self.length = items, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int):
        begun = time.process_time()
        item = self.items[i % len(self.items)]
        took = time.process_time() - begun
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return item["pixel_values"], item["labels"], took, os.getpid(), held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--videos", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--network", default="r3d_18")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load of the machine, {os.cpu_count()} cores: {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.videos):
            _film(Path(folder) / f"class{number % 2}" / f"{number}.mp4", number)
        model = ar.wrap(
            given.network, labels=["class0", "class1"], pretrained=False,
            preprocessing={"input_size": [3, given.frames, given.size, given.size], "fps": 8},
        )  # fmt: skip
        items = data.prepare(data.load_dataset(folder), model.preprocessing, train=True)
        loader = DataLoader(Watched(items, given.clips), given.batch, num_workers=given.workers)
        begun, seen, took, held = time.perf_counter(), 0, 0.0, defaultdict(float)
        marks = [max(1, round(share * given.clips)) for share in MARKS]
        for _, _, seconds, workers, most in loader:
            seen, took = seen + len(seconds), took + float(seconds.sum())
            for worker, each in zip(workers.tolist(), most.tolist()):
                held[worker] = max(held[worker], each)
            while marks and seen >= marks[0]:
                print(
                    f"after {marks.pop(0)} clips the workers held at most "
                    + ", ".join(f"{each:.1f}" for each in held.values())
                    + " MiB",
                    flush=True,
                )
        wall = time.perf_counter() - begun
        print(
            f"a clip takes {1000 * took / seen:.1f} ms of processor time in a worker; {seen / wall:.1f} a second came out"
        )
        optimizer = torch.optim.SGD(model.train().parameters(), 1e-3)
        pixels, labels, *_ = next(iter(DataLoader(Watched(items, given.batch), given.batch)))
        steps = []
        for _ in range(3):
            begun_step = time.process_time()
            optimizer.zero_grad()
            model(pixels, labels=labels).loss.backward()
            optimizer.step()
            steps.append((time.process_time() - begun_step) / given.batch)
        step = sorted(steps)[1]
        print(f"and {1000 * step:.0f} ms in a training step of {given.network}, batch {given.batch}, one thread")
        print(
            f"{given.workers} workers beside it give {given.workers * step * seen / took:.0f} x as many clips as it takes"
        )


def _film(path: Path, seed: int, seconds: int = 10, size: tuple[int, int] = (320, 240)) -> None:
    width, height = size
    blocks = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    still = blocks.repeat(8, 0).repeat(8, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, [np.roll(still, 2 * i, 1) for i in range(25 * seconds)], 25)


if __name__ == "__main__":
    main()
