"""Extra peak memory of a job above a plain forward, each job in a fresh process: the kernel's own high-water mark. On a GPU it is
PyTorch's mark, in this process.

A benchmark that uses it has ``jobs(network, batch, size, device) -> (plain forward, {name: job})``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import torch


def extra(script: str, network: str, name: str, given) -> float:
    """MiB of one job of ``benchmarks/<script>``.

    Raises:
        RuntimeError: the process failed.
    """
    job = (Path(script).stem, network, name, given.batch, given.size, given.device)
    if given.device != "cpu":  # its mark can be set back, so that no process of its own is needed
        return measured(*job)
    words = [sys.executable, __file__, *map(str, job), str(given.threads)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.strip().splitlines()[-1])


def measured(script: str, network: str, name: str, batch: int, size: int, device: str) -> float:
    """MiB of one job above a plain forward, in this process."""
    plain, jobs = import_module(script).jobs(network, batch, size, device)
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    plain()
    plain()
    before = high_water(device)
    jobs[name]()
    return high_water(device) - before


def report(script: str, network: str, names, given) -> None:
    print("extra peak memory above a plain forward, MiB")
    for name in names:
        print(f"  {name}: {extra(script, network, name, given):.0f}")


def high_water(device: str) -> float:
    """MiB at the most so far: of the process, or of its tensors on the GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def main() -> None:
    script, network, name, batch, size, device, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    print(measured(script, network, name, int(batch), int(size), device))


if __name__ == "__main__":
    main()
