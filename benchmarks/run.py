"""Every cost that has a goal, measured and judged: what falls short is printed at the end, and is the exit status.

python benchmarks/run.py [--quick] [--only overhead darc ...] [--device cuda]

Each row runs its own script in a process of its own, with that script's options, and judges the ratios it prints.
``--quick`` takes fewer rounds and smaller batches: it finds what is broken, not what is a few per cent too slow.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """A line of a script's output that has a goal.

    Attributes:
        name: what it is called here.
        script: in this folder, with its options.
        pattern: finds the ratio, its first group, in what the script prints; every match is judged.
        goal: the most that it may be.
        waits_for: a device without which the row has nothing to say, and is left out.
    """

    name: str
    script: tuple[str, ...]
    pattern: str
    goal: float
    waits_for: str | None = None


ROWS = (
    Row("overhead", ("overhead.py", "--compiled", "--batches", "1", "--networks", "mobilenetv3_small_100", "resnet18",
                     "convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"),
        r"batch 1, .*?(?:eager|compiled) +(\d+\.\d+) \(", 1.10),
    Row("abn", ("abn_step.py",), r"^light: (\d+\.\d+) x", 1.15),
    Row("mining", ("mining_step.py",), r"it adds (\d+\.\d+) x those after the site", 1.1),
    Row("darc", ("darc_step.py",), r"clean: .*over N \(step \+ decoder\): time (\d+\.\d+)", 1.1),
    Row("consistency, fast", ("atcon_step.py",), r"^fast: (\d+\.\d+) x", 2.3),
    Row("consistency, exact", ("atcon_step.py",), r"^exact: (\d+\.\d+) x", 3.6),
    Row("throughput", ("throughput.py", "--processes"), r"abn .* images/s, (\d+\.\d+) x plain", 1.15, waits_for="cuda"),
    Row("processes", ("throughput.py", "--precisions", "bf16", "--only-eager"), r"takes (\d+\.\d+) x its share", 1.11,
        waits_for="cuda"),  # the efficiency of 0.9 that docs/scaling.md reckons with
    Row("guided backprop", ("guided_backprop.py", "--networks", "resnet50"), r"^ours +(\d+\.\d+)", 2.4),
)  # fmt: skip


@cache
def ran(options: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """A script run to its end, once for all the rows that read it; what it printed is shown."""
    done = subprocess.run(
        [sys.executable, *options], cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(done.stdout, flush=True)
    return done


def judge(row: Row, quick: bool, device: str) -> list[str]:
    """What of a row is short of its goal, in sentences; an empty list where nothing is."""
    options = [*row.script, "--device", device, *(["--rounds", "3"] if quick else [])]
    if quick and row.script[0] != "overhead.py":
        options += ["--batch", "2"]
    print(f"\n{row.name}: {' '.join(options)}, at most {row.goal}", flush=True)
    done = ran(tuple(options))
    found = [(line, float(value)) for line in done.stdout.splitlines() for value in re.findall(row.pattern, line)]
    if not found:
        return [f"{row.name}: {row.script[0]} printed no ratio to judge (exit status {done.returncode})"]
    return [f"{row.name}: {value:.2f}, goal {row.goal}: {line}" for line, value in found if value > row.goal]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three rounds, small batches")
    parser.add_argument("--only", nargs="+", default=[row.name for row in ROWS], choices=[row.name for row in ROWS])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    given = parser.parse_args()
    rows = [row for row in ROWS if row.name in given.only and row.waits_for in (None, given.device)]
    short = [said for row in rows for said in judge(row, given.quick, given.device)]
    print("\n".join(["\nshort of the goal:", *short]) if short else "\nevery row is within its goal")
    return bool(short)


if __name__ == "__main__":
    raise SystemExit(main())
