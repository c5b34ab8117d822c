"""An embedded set as a folder: a folder for each split, whole or not there, with ``masks/`` and ``metadata.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..core.files import new_folder

Row = dict[str, Any]


def write_splits(
    folder: str | Path, splits: Mapping[str, Iterable[Row]], save: Callable[[Path, str, Row], Row]
) -> Path:
    """Write the rows of each split.

    Args:
        folder: made if missing.
        splits: rows by the split's name.
        save: writes a row's files into a split's folder, under a name without an ending, and returns its metadata.

    Raises:
        ValueError: a split's folder exists already.
    """
    folder = Path(folder)
    for split, rows in splits.items():
        here = folder / split
        if here.exists():
            raise ValueError(f"{here} exists already: remove it or write to another folder")
        with new_folder(here):
            lines = []
            for i, row in enumerate(rows):
                (here / "masks").mkdir(parents=True, exist_ok=True)
                lines.append(json.dumps(save(here, f"{i:05d}", row)))
            (here / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder
