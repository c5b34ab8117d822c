"""The learning rate as a pure function of the optimiser step: nothing to save, so nothing that a resume can lose."""

from __future__ import annotations

import math
from collections.abc import Sequence

SCHEDULES = ("constant", "linear", "cosine", "step")


def learning_rate_factor(
    step: int,
    total_steps: int,
    schedule: str = "cosine",
    *,
    warmup_steps: int = 0,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
    floor: float = 0.0,
) -> float:
    """What the base learning rate is multiplied by for one optimiser step.

    Warm-up is linear, ``(step + 1) / (warmup_steps + 1)``: the first step already learns and step ``warmup_steps`` has
    the full rate. After it, with ``p = (step - warmup_steps) / (total_steps - warmup_steps)``:

    * ``constant``: 1
    * ``linear``: ``floor + (1 - floor) (1 - p)``
    * ``cosine``: ``floor + (1 - floor) (1 + cos(pi p)) / 2``
    * ``step``: ``gamma`` to the number of milestones reached (``milestone <= step``), never below ``floor``

    Args:
        step: the optimiser step about to be taken, from 0.
        total_steps: optimiser steps in the whole run.
        schedule: one of ``constant linear cosine step``.
        warmup_steps: optimiser steps of warm-up; fewer than ``total_steps``.
        milestones: for ``step``, the optimiser steps at which the rate falls.
        gamma: for ``step``, what the rate is multiplied by at a milestone.
        floor: the least factor that the decay comes down to, in [0, 1].

    Raises:
        ValueError: an unknown schedule, or a warm-up as long as the run.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule {schedule!r} is not one of {', '.join(SCHEDULES)}")
    if warmup_steps and warmup_steps >= total_steps:
        raise ValueError(
            f"a warm-up of {warmup_steps} steps does not fit in a run of {total_steps} steps: shorten warmup_steps"
        )
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return max(gamma ** sum(milestone <= step for milestone in milestones), floor)
    progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    decay = 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return floor + (1 - floor) * decay
