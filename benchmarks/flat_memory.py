"""Does a long run grow? Peak memory of each epoch, threads and open files, over 10,000 steps and 20 evaluations.

    python benchmarks/flat_memory.py                       # some minutes; one JSON line
    python benchmarks/flat_memory.py --workers 2           # with processes that load the images

The network is tiny, so that what the loop itself keeps would show: a few hundred weights, 8 images of 8 px a step, a
checkpoint and an evaluation an epoch, a moving average, the history. The system is asked for the peak of each epoch anew
(``VmHWM``, Linux). The first two epochs are left out, in which libraries allocate what they keep.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("ACCELERATE_USE_CPU", "1")

import torch
from safetensors.torch import save_model
from torch import nn
from torch.nn import functional

import attention_refine as ar
from attention_refine.training.run import Run

RESULTS = Path(__file__).parent / "results" / "flat_memory.jsonl"
BATCH, WARM = 8, 2


class Tiny(nn.Module):
    def __init__(self, leak: int):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.GELU(), nn.Dropout(0.1))
        self.classifier = nn.Linear(6, 3)
        self.labels = ["a", "b", "c"]
        self.leak, self.kept = leak, []

    def forward(self, pixel_values, labels=None):
        logits = self.classifier(self.features(pixel_values).mean((2, 3)))
        if self.training and self.leak:
            self.kept.append(b"1" * self.leak)
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss, losses={} if loss is None else {"task": loss})

    def save_pretrained(self, folder):
        save_model(self, str(Path(folder) / "model.safetensors"))


class Images(torch.utils.data.Dataset):
    def __init__(self, size: int):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, row):
        return {
            "pixel_values": torch.randn(3, 8, 8) + row % 3,
            "labels": torch.tensor(row % 3),
            "index": torch.tensor(row),
        }


def state() -> dict[str, int]:
    """Peak memory in KiB since this was last asked, threads, open files and child processes."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    Path("/proc/self/clear_refs").write_text("5")
    tasks = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "peak": int(lines["VmHWM"].split()[0]), "threads": int(lines["Threads"]),
        "files": len(os.listdir("/proc/self/fd")), "children": len(tasks),
    }  # fmt: skip


def measured(steps: int, epochs: int, workers: int = 0, leak: int = 0) -> dict[str, Any]:
    """What a run of so many steps and evaluations held: lists of an entry an epoch, and how flat they are."""
    found: list[dict[str, int]] = []
    close = Run.close_epoch

    def closed(run: Run) -> None:
        close(run)
        found.append(state())

    Run.close_epoch = closed
    torch.manual_seed(0)
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = ar.TrainingConfig(
                output_dir=folder, epochs=epochs, batch_size=BATCH, num_workers=workers, ema_decay=0.99,
                learning_rate=1e-3, progress=False,
            )  # fmt: skip
            ar.finetune(Tiny(leak), Images(steps // epochs * BATCH), config, eval_dataset=Images(64))
        after = state()
    finally:
        Run.close_epoch = close
    peaks = [entry["peak"] for entry in found[WARM:]]
    middle = sorted(peaks)[len(peaks) // 2]
    growth = (sum(peaks[-len(peaks) // 3 :]) - sum(peaks[: len(peaks) // 3 or 1])) / (len(peaks) // 3 or 1)
    return {
        "steps": steps, "evaluations": epochs, "workers": workers, "peaks_mib": [round(peak / 1024, 1) for peak in peaks],
        "spread": max(max(peaks) / middle - 1, 1 - min(peaks) / middle), "growth_kib_a_step": growth / steps,
        **{f"{name}_{when}": entry[name] for when, entry in (("early", found[WARM]), ("late", found[-1]), ("after", after))
           for name in ("threads", "files", "children")},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--leak", type=int, default=0, help="bytes that the network keeps a step: a growth to find")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    line = measured(given.steps, given.evaluations, given.workers, given.leak)
    line |= {"leak": given.leak, "torch": torch.__version__.split("+")[0], "version": ar.__version__}
    print(json.dumps(line))
    with given.output.open("a") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
