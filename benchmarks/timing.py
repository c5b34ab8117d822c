"""Ratios, not times: every job and the floor in turn, round after round, in one process; medians and spread of the ratio.

On a CPU the time is the process's own; on another device it is the clock's, with the device's work waited for.
"""

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
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--denormals", action="store_true",
        help="keep numbers below 1e-38, on which a CPU is many times slower; gradients of fresh networks have them",
    )  # fmt: skip
    if "networks" in defaults:
        parser.add_argument("--networks", nargs="+", default=defaults["networks"], choices=defaults["networks"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(not given.denormals)
    torch.manual_seed(0)
    given.on = given.device if given.device != "cpu" else f"{given.threads} threads"
    return given


def seconds(job: Callable[[], object], clock: bool = False) -> float:
    """How long a job takes: CPU time where that is all there is, so that another process on the machine does not count.

    Args:
        clock: the clock's time in any case, of a job that waits for other processes.
    """
    if not torch.cuda.is_initialized() and not clock:
        start = time.process_time()
        job()
        return time.process_time() - start
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else int
    wait()
    start = time.perf_counter()
    job()
    wait()
    return time.perf_counter() - start


def compare(
    jobs: dict[str, Callable[[], object]], reference: str, rounds: int, warm_up: bool = True
) -> dict[str, float]:
    """Run all jobs in turn and print each one's time as a multiple of the reference's in the same round.

    ``warm_up`` adds a round that is not counted.
    """
    ratios: dict[str, list[float]] = {name: [] for name in jobs}
    for counted in range(-warm_up, rounds):
        spent = {name: seconds(job) for name, job in jobs.items()}
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
    """The job's time over the reference's, each once, one after the other."""
    floor = seconds(reference)
    return seconds(job) / floor


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
