"""Runs that are killed at random moments and resumed until they are done: do they end with the weights of one that was not?

    python benchmarks/kills.py --kills 50 --terms 10      # a JSON line a kill

A small network with an attention branch (dropout, batch norm, augmentation, a moving average, two losses) learns the
embedded shapes in 10 steps, with a checkpoint every other step, of which two are kept, and an evaluation an epoch. The
kills go round over data (map-style, and a stream with a shuffle buffer), processes (1 and 2) and the phase they are meant
for (a step, a save, an evaluation, a rotation); a second process sends ``kill -9`` at a random moment of a random one of
these. Of two processes one is killed, and the other has 30 seconds to end by itself. What is compared, to the bit: the
weights of ``last/`` and of ``best/``, and the history.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("ACCELERATE_USE_CPU", "1")

import timm
import torch
from safetensors.torch import load_file

import attention_refine as ar
from attention_refine import data, shapes
from attention_refine.training import checkpoints, run
from attention_refine.training.interruption import RESUME_ME

RESULTS = Path(__file__).parent / "results" / "kills.jsonl"
PHASES = ("step", "save", "evaluation", "rotation")
DATA = ("map-style", "stream")
SIDE, IMAGES, STEPS = 32, 18, 10


def train(folder: str, kind: str, rank: int, processes: int, port: int, marks: Any) -> None:
    """One process of a run, resumed where there is something to resume; it marks the phase it is in."""
    if processes > 1:
        os.environ |= {"WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if marks is not None:
        _mark(run, "take_step", "step", marks)
        _mark(run.Run, "_save", "save", marks)
        _mark(run.Run, "_measure", "evaluation", marks)
        _mark(checkpoints.shutil, "rmtree", "rotation", marks, inside="save")
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=len(shapes.CLASSES), drop_rate=0.2)
    head = ar.AttentionBranch(fade_in_steps=10)
    model = ar.wrap(net, head, labels=list(shapes.CLASSES), preprocessing={"input_size": [3, SIDE, SIDE]})
    rows = shapes.make("train", IMAGES, size=SIDE)
    if kind == "stream":
        rows = rows.to_iterable_dataset(num_shards=4).shuffle(seed=1, buffer_size=8)
    config = ar.TrainingConfig(
        output_dir=folder, resume=True, max_steps=STEPS, batch_size=6 // processes, learning_rate=1e-3, ema_decay=0.9,
        save_every_steps=2, keep_last=2, warmup_steps=3, monitor_images=1, progress=False,
    )  # fmt: skip
    validation = data.prepare(shapes.make("validation", 6, size=SIDE), model.preprocessing)
    ar.finetune(model, data.prepare(rows, model.preprocessing, train=True), config, eval_dataset=validation)


def _mark(owner: Any, name: str, phase: str, marks: Any, inside: str | None = None) -> None:
    """Have a function say, in shared memory, when it is in a phase, and count how often."""
    function, number = getattr(owner, name), PHASES.index(phase)

    def marked(*args: Any, **options: Any) -> Any:
        before = marks[0]
        if inside is not None and before != PHASES.index(inside):
            return function(*args, **options)
        marks[0] = number
        marks[1 + number] += 1
        started = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            marks[0] = before
            marks[5 + number] += time.perf_counter() - started

    setattr(owner, name, marked)


class Runs:
    """Starts and ends the processes of runs."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["__main__"])  # imported once, not by each of them

    def start(self, folder: Path, kind: str, processes: int, marked: int | None = None) -> tuple[list, Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        marks = self.context.RawArray("d", [-1.0, *[0.0] * 8])
        started = [
            self.context.Process(
                target=train, args=(str(folder), kind, rank, processes, port, marks if rank == marked else None)
            )
            for rank in range(processes)
        ]
        for each in started:
            each.start()
        return started, marks

    def finish(self, folder: Path, kind: str, processes: int) -> Any:
        started, marks = self.start(folder, kind, processes, marked=0)
        for each in started:
            each.join(300)
        codes = [each.exitcode for each in started]
        if any(codes):
            raise SystemExit(f"{folder}: a run of {processes} on {kind} data ended with {codes}")
        return marks


def interrupt(
    runs: Runs, folder: Path, kind: str, processes: int, phase: str, number: int, rng: random.Random, pace: list[float]
) -> dict[str, Any] | None:
    """One run that gets a signal at a random moment of a phase; None where it was done before."""
    victim = rng.randrange(processes)
    started, marks = runs.start(folder, kind, processes, marked=victim)
    row = PHASES.index(phase)
    nth, wait = rng.randint(1, max(1, round(pace[1 + row]))), rng.random() * pace[5 + row] / max(1, pace[1 + row])
    while marks[1 + row] < nth and started[victim].is_alive():
        time.sleep(0.0002)
    time.sleep(wait)
    found = PHASES[int(marks[0])] if marks[0] >= 0 else "between"
    at = int(marks[1])
    if not started[victim].is_alive():
        for each in started:
            each.join()
        return None
    os.kill(started[victim].pid, number)
    alone = "-"
    deadline = time.monotonic() + 60
    for each in started:
        each.join(max(0.1, deadline - time.monotonic() - 30 * (number == signal.SIGKILL)))
    if processes > 1 and number == signal.SIGKILL:
        other = started[1 - victim]
        alone = "ended by itself" if other.exitcode is not None else "was ended"
    for each in started:
        if each.exitcode is None:
            each.kill()
            each.join()
    wanted = -signal.SIGKILL if number == signal.SIGKILL else RESUME_ME
    if started[victim].exitcode != wanted:
        return None if started[victim].exitcode == 0 else {"failed": f"exit status {started[victim].exitcode}"}
    return {"phase": found, "steps_begun": at, "other_process": alone}


def outcome(folder: Path) -> dict[str, Any]:
    return {
        "last": load_file(folder / "last" / "model.safetensors"),
        "best": load_file(folder / "best" / "model.safetensors"),
        "history": json.loads((folder / "history.json").read_text()),
    }


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    def largest(name: str) -> float:
        return max((found[name][key].double() - each.double()).abs().max().item() for key, each in wanted[name].items())

    return {"last": largest("last"), "best": largest("best"), "same_history": found["history"] == wanted["history"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--terms", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    rng, runs = random.Random(given.seed), Runs()
    settings = [(kind, processes) for processes in (1, 1, 1, 2) for kind in DATA]
    plan = [(signal.SIGKILL, n) for n in range(given.kills)] + [(signal.SIGTERM, n) for n in range(given.terms)]
    count: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        whole, paces = {}, {}
        for kind, processes in dict.fromkeys(settings):
            folder = Path(place) / f"{kind}-{processes}"
            paces[kind, processes] = list(runs.finish(folder, kind, processes))
            whole[kind, processes] = outcome(folder)
            print(
                f"{kind}, {processes} processes: "
                + ", ".join(f"{n:.0f} x {phase}" for phase, n in zip(PHASES, paces[kind, processes][1:5])),
                flush=True,
            )
        for number, n in plan:
            kind, processes = settings[n % len(settings)]
            phase = PHASES[n // len(settings) % len(PHASES)]
            folder, pace, hit = Path(place) / "cut", paces[kind, processes], None
            while hit is None:  # a moment past the end of the run is drawn again
                shutil.rmtree(folder, ignore_errors=True)
                hit = interrupt(runs, folder, kind, processes, phase, number, rng, pace)
            if "failed" not in hit:
                runs.finish(folder, kind, processes)
                hit |= differences(outcome(folder), whole[kind, processes])
            line = {
                "signal": signal.Signals(number).name,
                "data": kind,
                "processes": processes,
                "meant_for": phase,
                **hit,
            }
            line |= {"seed": given.seed, "n": n, "torch": torch.__version__.split("+")[0], "version": ar.__version__}
            with given.output.open("a") as file:
                file.write(json.dumps(line) + "\n")
            equal = hit.get("last") == hit.get("best") == 0.0 and hit.get("same_history")
            count["equal to the bit" if equal else "NOT EQUAL"] += 1
            count[f"{line['signal']} in: {hit.get('phase', hit.get('failed'))}"] += 1
            print(json.dumps(line), flush=True)
    for name, many in count.items():
        print(f"{many:4d} {name}")
    if count["NOT EQUAL"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
