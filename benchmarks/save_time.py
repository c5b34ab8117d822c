"""What a checkpoint costs the step it follows, written in the foreground and in the background.

    python benchmarks/save_time.py        # one JSON line: seconds that saves hold the training, per save, and of the runs

ResNet-50 with an attention branch and AdamW on one thread, 64 px, batches of 4: a step takes about a second, a checkpoint is
a few hundred MiB. The two forms take turns, the first turn is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("ACCELERATE_USE_CPU", "1")

import timm
import torch

import attention_refine as ar
from attention_refine.training.run import Run

RESULTS = Path(__file__).parent / "results" / "save_time.jsonl"
EVERY = 8  # steps between saves


def run(background: bool, steps: int) -> dict[str, float]:
    """Seconds of each save that the training waits, of the whole run, and MiB of a checkpoint."""
    held: list[float] = []
    save = Run._save

    def timed(self: Run) -> None:
        began = time.perf_counter()
        save(self)
        held.append(time.perf_counter() - began)

    Run._save = timed
    torch.manual_seed(0)
    net = timm.create_model("resnet50", num_classes=6)
    model = ar.wrap(net, "abn", preprocessing={"input_size": [3, 64, 64]}, labels=list(ar.shapes.CLASSES))
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = ar.TrainingConfig(
                output_dir=folder, max_steps=steps, batch_size=4, save_every_steps=EVERY, save_every_epochs=None,
                background_checkpoints=background, progress=False,
            )  # fmt: skip
            began = time.perf_counter()
            ar.finetune(model, ar.shapes.make("train", 48, size=64), config)
            whole = time.perf_counter() - began
            newest = max(Path(folder, "checkpoints").glob("step-*"))
            size = sum(path.stat().st_size for path in newest.iterdir()) / 2**20
    finally:
        Run._save = save
    return {"save": statistics.median(held[:-1]), "run": whole, "mib": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    run(False, EVERY)
    for _ in range(given.turns):
        for background in found:
            found[background].append(run(background, given.steps))
    means = {
        name: {key: round(statistics.mean(each[key] for each in found[form]), 3) for key in ("save", "run", "mib")}
        for form, name in ((False, "foreground"), (True, "background"))
    }
    line = {**means, "share": round(means["background"]["save"] / means["foreground"]["save"], 3), "steps": given.steps}
    line |= {"cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1)}
    print(json.dumps(line))
    with given.output.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
