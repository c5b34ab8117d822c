"""Every method on the same images with as many updates: one command that goes on where it was, a JSON line a cell.

    python benchmarks/methods --data shared/data --weights shared/weights --fill 90      # minutes; what tells most comes first
    python benchmarks/methods --data ... --weights ... --fill 600 --workers 16
    python benchmarks/methods --data ... --weights ... --methods plain repair --networks resnet18 --datasets places3
    python benchmarks/methods --data ... --weights ... --validate                        # options, on training images held out
    python benchmarks/methods --plan                                                     # what there is, and what is missing
    python benchmarks/methods --verify 10 --data ... --weights ...                       # ten lines run anew, beside what they say

A cell is a method, a network, a set, how many labelled images a class has, what is annotated, and a seed. 75 updates of 32
images (of all, where there are fewer) at 128 px, a transformer's 224; SGD 0.01, a transformer's AdamW 1e-4; the last
weights are judged, on the test images, once. New cells train in bfloat16, twice as fast on processors that have it, and are
compared with plain cells that did. Options of the methods are in registry.py. --data holds places3, places3_fair, pets3 and
cub20 as image folders; --weights files named as timm names the networks.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/, whichever folder this is started from

from repeated import fill, lines

from methods import plan, running, validation
from methods.filling import ready, run_all
from methods.protocol import DATASETS, NETWORKS, Cell, Places
from methods.registry import METHODS
from methods.tables import RESULTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--fill", type=float, metavar="MINUTES", help="stop beginning cells after so long")
    parser.add_argument("--datasets", nargs="+", default=DATASETS, choices=DATASETS)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--labels", nargs="+", default=list(map(str, plan.LABELS)), choices=list(map(str, plan.LABELS)))
    parser.add_argument("--annotations", nargs="+", help="of those that the methods offer")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(plan.SEEDS)))
    parser.add_argument(
        "--mixed-precision", default="bf16", choices=["no", "bf16"], help="of cells that have no line yet"
    )
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--workers", type=int, default=1, help="cells at once, each in a process of its own")
    parser.add_argument("--plan", action="store_true", help="print what there is of each set and network, and stop")
    parser.add_argument(
        "--validate", action="store_true", help="try options of --methods on training images of --datasets held out"
    )
    parser.add_argument("--verify", type=int, metavar="N", help="run N of the lines anew, and print the differences")
    given = parser.parse_args()
    labels = [each if each == "all" else int(each) for each in given.labels]
    wanted = plan.cells(given.datasets, given.networks, given.methods, labels, given.seeds, given.mixed_precision)
    if given.annotations:
        wanted = [cell for cell in wanted if cell.annotation in given.annotations]
    if given.plan:
        _print_plan(wanted)
        return
    if given.data is None or given.weights is None:
        parser.error("--data and --weights are needed to run cells")
    places = Places(given.data, given.weights)
    if given.validate:
        ready(given.threads)
        fill(
            validation.RESULTS,
            validation.cells(given.datasets, given.methods),
            lambda **key: validation.run(key, places),
        )
        return
    if given.verify:
        ready(given.threads)
        _verify(given.verify, places)
        return
    left = plan.missing(wanted, lines(RESULTS))
    run_all(left, places, RESULTS, given.fill or float("inf"), given.workers, given.threads)


def _print_plan(wanted: list[Cell]) -> None:
    left = plan.missing(wanted, lines(RESULTS))
    all_of, left_of = (
        Counter((cell.dataset, cell.network, cell.labels_per_class) for cell in each) for each in (wanted, left)
    )
    for key, count in all_of.items():
        print(*key, "a class:", f"{count - left_of[key]} of {count}")
    for cell in left[:20]:
        print("next:", json.dumps(cell.key))


def _verify(count: int, places: Places) -> None:
    found = [line for line in lines(RESULTS) if "relative" in line]
    for line in random.Random(0).sample(found, min(count, len(found))):
        cell = Cell(**{key: line[key] for key in Cell.__dataclass_fields__})
        again = running.run(cell, places)
        off = {
            key: (line[key], again[key])
            for key in again
            if isinstance(again[key], float) and not key.startswith(("cpu", "relative")) and again[key] != line[key]
        }
        print(json.dumps({**cell.key, "differs": off}), flush=True)


if __name__ == "__main__":
    main()
