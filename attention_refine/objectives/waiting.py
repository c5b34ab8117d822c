"""An objective that waits for annotations which never come says so, in any training loop."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PATIENCE = 20  # training passes


@dataclass
class Waiting:
    """What an objective remembers of the training passes in which it has not yet seen anything that it reads.

    No loop tells an objective where an epoch ends. Where images are numbered (column ``index``), it is over when the
    first image comes again; else, and in a long epoch, :data:`PATIENCE` passes have to do.
    """

    passes: int = 0
    first: int | None = None
    over: bool = False

    def saw_none(self, name: str, wanted: Sequence[str], batch: dict[str, Any]) -> None:
        """A training pass had nothing; the one that is too many warns, once.

        Args:
            name: of the objective.
            wanted: the columns that it reads.
        """
        if self.over or batch.get("labels") is None or batch.get("update"):  # unlabelled, or the same images once more
            return
        self.passes += 1
        rows = batch.get("index")
        again = rows is not None and self.first is not None and bool((rows == self.first).any())
        if rows is not None and self.first is None:
            self.first = int(rows[0])
        if not again and self.passes < PATIENCE:
            return
        self.over = True
        has = ", ".join(key for key, value in batch.items() if value is not None and key not in ("index", "smoothing"))
        warnings.warn(
            f"{name} saw nothing to learn from in {'a whole epoch' if again else f'its first {PATIENCE} training steps'}, "
            f"so it adds nothing: it reads {' or '.join(wanted)}, and a batch has {has}. Give the images what it reads, "
            "see docs/data.md, or leave the objective out. If they have it, the batches have lost it: make them with "
            "collate_fn=ar.data.collate (of transformers.Trainer data_collator=), which keeps every column",
            stacklevel=2,
        )
