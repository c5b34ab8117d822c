"""Whose place and whose cue: the image that each one is put together with, drawn by the seed and its row alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Candidates:
    """Images that can lend something: their positions by class, ``{class: [position]}``."""

    of_class: dict[int, list[int]]

    @classmethod
    def among(cls, labels: Sequence[int | None], usable: Sequence[bool]) -> Candidates:
        found: dict[int, list[int]] = {}
        for position, (label, is_usable) in enumerate(zip(labels, usable)):
            if is_usable and label is not None:
                found.setdefault(label, []).append(position)
        return cls(found)

    def draw(self, row: int, seed: int, salt: int, classes: Sequence[int], excluding: int | None) -> int | None:
        """A class among ``classes`` and then one of its images, all alike; None where there is none but ``excluding``.

        Args:
            row: of the image that is put together, for its own random numbers.
            salt: sets one scene's numbers apart from another's.
            excluding: a position that does not count: the image itself.
        """
        there = {c: [p for p in self.of_class.get(c, ()) if p != excluding] for c in classes}
        open_classes = [c for c in classes if there[c]]
        if not open_classes:
            return None
        generator = torch.Generator().manual_seed((seed * 1_000_003 + row) * 31 + salt)
        images = there[open_classes[int(torch.randint(len(open_classes), (), generator=generator))]]
        return images[int(torch.randint(len(images), (), generator=generator))]
