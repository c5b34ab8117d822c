"""Mean and spread over seeds of finished runs, as the rows of docs/results.md.

    python benchmarks/results_table.py runs/pets3-resnet18-plain-0 runs/pets3-resnet18-plain-1 ...

A folder is named data-backbone-method-seed and holds the evaluation.json that `attention-refine finetune` or `evaluate` wrote.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

COLUMNS = {"accuracy": 100, "macro_f1": 100, "mask_correlation": 1, "iou": 1, "box_iou": 1, "energy_inside": 1, "pointing_game": 1,
           "insertion": 1, "deletion": 1}  # fmt: skip


def main() -> None:
    values: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for folder in map(Path, sys.argv[1:]):
        data, backbone, method, _seed = folder.name.split("-")
        summary = json.loads((folder / "evaluation.json").read_text())["summary"]
        for name, cells in summary["maps"].items():
            row = values[data, backbone, method, name]
            for measure, cell in {**summary["classification"], **cells}.items():
                if measure in COLUMNS and cell["value"] is not None:
                    row[measure].append(COLUMNS[measure] * cell["value"])
    shown = [name for name in COLUMNS if any(name in row for row in values.values())]
    print("| data | backbone | method | map | seeds | " + " | ".join(name.replace("_", " ") for name in shown) + " |")
    print("|---" * (5 + len(shown)) + "|")
    for key, row in sorted(values.items()):
        cells = [_spread(row[name], 1 if COLUMNS[name] == 100 else 3) for name in shown]
        print(f"| {' | '.join(key)} | {max(map(len, row.values()))} | " + " | ".join(cells) + " |")


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"


if __name__ == "__main__":
    main()
