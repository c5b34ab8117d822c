"""Extra peak memory of a job above a plain forward, each job in a fresh process: the kernel's own high-water mark.

A benchmark that uses it has ``jobs(network, batch, size) -> (plain forward, {name: job})``.
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
    words = [
        sys.executable,
        __file__,
        Path(script).stem,
        network,
        name,
        str(given.batch),
        str(given.size),
        str(given.threads),
    ]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.strip().splitlines()[-1])


def report(script: str, network: str, names, given) -> None:
    print("extra peak memory above a plain forward, MiB")
    for name in names:
        print(f"  {name}: {extra(script, network, name, given):.0f}")


def high_water() -> float:
    """MiB of this process at its largest."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def main() -> None:
    script, network, name, batch, size, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    plain, jobs = import_module(script).jobs(network, int(batch), int(size))
    job = jobs[name]
    plain()
    plain()
    before = high_water()
    job()
    print(high_water() - before)


if __name__ == "__main__":
    main()
