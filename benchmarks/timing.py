"""Ratios, not times: every job and the floor in turn, round after round, in one process; medians and spread of the ratio."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def arguments(description: str, **defaults) -> argparse.Namespace:
    """The options every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--rounds", type=int, default=defaults.get("rounds", 7), help="rounds, after one that is not counted"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--size", type=int, default=224, help="side in pixels")
    if "networks" in defaults:
        parser.add_argument("--networks", nargs="+", default=defaults["networks"], choices=defaults["networks"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    return given


def compare(
    jobs: dict[str, Callable[[], object]], reference: str, rounds: int, warm_up: bool = True
) -> dict[str, float]:
    """Run all jobs in turn and print each one's time as a multiple of the reference's in the same round.

    ``warm_up`` adds a round that is not counted.
    """
    ratios: dict[str, list[float]] = {name: [] for name in jobs}
    for counted in range(-warm_up, rounds):
        spent = {}
        for name, job in jobs.items():
            start = time.process_time()  # CPU time: another process on the machine does not count
            job()
            spent[name] = time.process_time() - start
        if counted >= 0:
            for name in jobs:
                ratios[name].append(spent[name] / spent[reference])
    wide = max(map(len, jobs))
    medians = {}
    for name, values in ratios.items():
        medians[name] = statistics.median(values)
        print(f"{name:<{wide}}  {medians[name]:6.2f}  ({min(values):.2f} to {max(values):.2f}, {rounds} rounds)")
    return medians


def one_round(reference: Callable[[], object], job: Callable[[], object]) -> float:
    """CPU time of the job over the reference's, each once, one after the other."""
    spent = []
    for each in (reference, job):
        start = time.process_time()  # CPU time: another process on the machine does not count
        each()
        spent.append(time.process_time() - start)
    return spent[1] / spent[0]


def multiply_adds(job: Callable[[], object]) -> float:
    """Multiply-adds of a job's matrix products and convolutions, forward and backward."""
    with _Counter() as counter:
        job()
    return counter.total / 2


class _Counter(TorchDispatchMode):
    """FlopCounterMode without its account by module, whose hooks autograd.grad with a leaf refuses."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=output)
        return output
