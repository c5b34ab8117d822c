"""An objective that waits for annotations which never come says so, in any training loop."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PATIENCE = 20  # training passes
WHEN = "<when>"  # stands in the sentence until it is said


@dataclass
class Waiting:
    """What an objective remembers of the training passes in which it has not yet seen anything that it reads.

    :func:`attention_refine.finetune` says where an epoch ends (:meth:`epoch_ended`), other loops do not. Where images are
    numbered (column ``index``), it is over when the first image comes again; else, and in a long epoch,
    :data:`PATIENCE` passes have to do.
    """

    passes: int = 0
    first: int | None = None
    over: bool = False
    sentence: str = ""

    def saw_none(self, name: str, wanted: Sequence[str], batch: dict[str, Any]) -> None:
        """A training pass had nothing; the one that is too many warns, once.

        Args:
            name: of the objective.
            wanted: the columns that it reads.
        """
        if self.over or batch.get("labels") is None or batch.get("update"):  # unlabelled, or the same images once more
            return
        self.passes += 1
        self.sentence = _sentence(name, wanted, batch)
        rows = batch.get("index")
        if rows is not None and self.first is not None and bool((rows == self.first).any()):
            self.epoch_ended()
        elif self.passes >= PATIENCE:
            self._warn(f"its first {PATIENCE} training steps")
        if rows is not None and self.first is None:
            self.first = int(rows[0])

    def epoch_ended(self) -> None:
        """Every image was seen: warn, once, if there was nothing in any."""
        if self.passes and not self.over:
            self._warn("a whole epoch")

    def _warn(self, when: str) -> None:
        self.over = True
        warnings.warn(self.sentence.replace(WHEN, when), stacklevel=3)


def _sentence(name: str, wanted: Sequence[str], batch: dict[str, Any]) -> str:
    has = [key for key, value in batch.items() if value is not None and key not in ("index", "smoothing")]
    if "mask" in wanted and "mask" in has and bool((batch["mask"] == 255).all()):
        has[has.index("mask")] = "mask, which is void (255) all over"
    return (
        f"{name} saw nothing to learn from in {WHEN}, so it adds nothing: it reads {' or '.join(wanted)}, and a batch has "
        f"{', '.join(has)}. Give the images what it reads, see docs/data.md, or leave the objective out. If they have it, "
        "the batches have lost it: make them with collate_fn=ar.data.collate (of transformers.Trainer data_collator=), "
        "which keeps every column"
    )
