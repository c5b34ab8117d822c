"""Mean and spread over seeds of finished runs, as the rows of docs/results.md.

    python benchmarks/results_table.py runs/pets3-resnet18-plain-0 runs/pets3-resnet18-plain-1 ...

A folder is named data-backbone-method-seed and holds the evaluation.json that `attention-refine finetune` or `evaluate` wrote.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

from repeated import spread

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
        cells = [spread(row[name], COLUMNS[name]) for name in shown]
        print(f"| {' | '.join(key)} | {max(map(len, row.values()))} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
