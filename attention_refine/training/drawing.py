"""The rows of an epoch where its batches must hold so many of a kind: images with an annotation, classes, groups.

The rows of each kind are gone through pass after pass, shuffled at each pass, so that all of a kind come equally often;
a kind with few rows comes round more often than one with many. An epoch has as many steps as ever. No image comes twice
in a step, unless its kind has fewer images than the step takes of it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from fractions import Fraction

import torch


class _Rows:
    """Rows gone through pass after pass."""

    def __init__(self, rows: list[int], generator: torch.Generator):
        self.rows, self.generator, self.left = rows, generator, list[int]()

    def draw(self, taken: set[int]) -> int:
        """The next row that is not among ``taken``; the next one where all that are left are."""
        if not self.left:
            self.left = _shuffled(self.rows, self.generator)
        last = len(self.left) - 1  # from the end: removing there is quick
        at = next((at for at in range(last, -1, -1) if self.left[at] not in taken), last)
        return self.left.pop(at)


class _Groups:
    """Groups of rows taken in turn, in another order at each round."""

    def __init__(self, groups: list[list[int]], generator: torch.Generator):
        self.groups, self.generator = [_Rows(rows, generator) for rows in groups], generator
        self.round: list[_Rows] = []

    def draw(self, taken: set[int]) -> int:
        if not self.round:
            self.round = _shuffled(self.groups, self.generator)
        return self.round.pop().draw(taken)


def drawn(
    count: int, step: int, generator: torch.Generator, *, kinds: Sequence[bool], per: tuple[int, int],
    groups: Sequence[Hashable] | None,
) -> list[int]:  # fmt: skip
    """``count`` rows of a dataset, in the order of an epoch.

    Args:
        step: rows in an optimiser step.
        kinds: of each row of the dataset, whether it is one of those that every batch must hold.
        per: ``(n, b)``: at least ``n`` of them are among any ``b`` rows that follow each other, evenly spread, so that a
            step may be divided between processes and slots. Where the dataset has a larger share of them, so have these.
        groups: of each row; they come equally often. None where groups do not count.
    """
    wanted = [row for row, one in enumerate(kinds) if one]
    others = [row for row, one in enumerate(kinds) if not one]
    n, b = max(per, (len(wanted), len(kinds)), key=lambda share: Fraction(*share))
    sources = [_source(rows, groups, generator) for rows in (others, wanted)]
    found: list[int] = []
    taken: set[int] = set()
    for at in range(count):
        if at % step == 0:
            taken = set()
        due = -(-(at + 1) * n // b) > -(-at * n // b)  # rounded up: a last, short step has one, too
        found.append(sources[due].draw(taken))
        taken.add(found[-1])
    return found


def _source(rows: list[int], groups: Sequence[Hashable] | None, generator: torch.Generator) -> _Rows | _Groups:
    if groups is None:
        return _Rows(rows, generator)
    of_group: dict[Hashable, list[int]] = {}
    for row in rows:
        of_group.setdefault(groups[row], []).append(row)
    return _Groups(list(of_group.values()), generator)


def _shuffled(values: list, generator: torch.Generator) -> list:
    return [values[at] for at in torch.randperm(len(values), generator=generator).tolist()]
