"""Which evaluated epoch is the best, from the history alone, and the sentence that says why.

* The best value of ``monitor``; of equal ones the better loss, of these the later epoch.
* Where a map is drawn to annotations, the map has a say: among the epochs whose monitor is within ``monitor_tolerance`` of
  the best one, that with the best ``second_monitor``. An epoch that another beats in both is never chosen again, so only
  the weights of the others are kept.
* A share of right answers on few images says little: with fewer than ``monitor_images`` of them the last epoch is kept.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from attention_refine.training.config import DRIFTS, TrainingConfig, TrainingError, larger_is_better

COUNTED = ("accuracy", "macro_f1", "worst_group_accuracy")  # shares of images: one image moves them
FEWEST_MASKS = 10  # for the map to have a say without being asked for
MAP_MEASURE = "mask_correlation"
# What the first batch of the validation images does not show: others may have masks or be of groups.
MEASURED_LATER = (MAP_MEASURE, "worst_group_accuracy", "group_gap", *DRIFTS)

# The options that decide which epoch is the best, and nothing else.
CHOOSING = ("monitor", "monitor_mode", "monitor_images", "monitor_tolerance", "second_monitor")

Entry = dict[str, float]


@dataclass(frozen=True)
class Choice:
    """The best epoch so far.

    Args:
        entry: of the history; None where no evaluation counts.
        kept: the optimiser steps of all epochs that may still become the best, this one included.
        reason: how it was chosen, to follow "best: epoch 3 of 9, ".
        several: whether more than one epoch may have to be kept.
    """

    entry: Entry | None
    kept: list[int]
    reason: str = ""
    several: bool = False

    @property
    def step(self) -> int | None:
        return None if self.entry is None else int(self.entry["step"])


def choose(history: Sequence[Entry], config: TrainingConfig, held: Collection[int], supervised: bool) -> Choice:
    """The best of the epochs whose weights are there.

    Args:
        history: an entry an epoch, evaluated ones with ``eval/<metric>``.
        held: the steps whose weights are there.
        supervised: whether an objective draws the map to annotations.
    """
    known = [e for e in counted(history, config) if e["step"] in held and not math.isnan(e[f"eval/{config.monitor}"])]
    if not known:
        return Choice(None, [])
    last = known[-1]
    images = last.get("eval/images")
    if config.monitor in COUNTED and images is not None and images < config.monitor_images:
        points = 100 / images
        return Choice(last, [int(last["step"])], f"the last: {images:.0f} validation images are too few to choose by "
                      f"{config.monitor}, one is {points:.1f} points")  # fmt: skip
    second = second_monitor(last, config, supervised)
    sign = 1 if config.larger_is_better else -1

    def value(entry: Entry) -> float:
        return sign * entry[f"eval/{config.monitor}"]

    def rank(entry: Entry) -> tuple[float, float, float, float]:
        of_second = -math.inf
        if second is not None and not math.isnan(entry.get(f"eval/{second}", math.nan)):
            of_second = entry[f"eval/{second}"] * (1 if larger_is_better(second) else -1)
        return of_second, value(entry), -entry.get("eval/loss", 0.0), entry["step"]

    tolerance = config.monitor_tolerance if second is not None else 0.0
    bound = max(value(e) for e in known) - tolerance * (1 + 1e-9)
    within = [e for e in known if value(e) >= bound]
    best = max(within, key=rank)
    kept = [e for e in within if not any(value(o) >= value(e) and rank(o) > rank(e) for o in within)]
    number = f" on {images:.0f} images" if images is not None else ""
    reason = f"chosen by {config.monitor}{number}"
    if second is not None:
        shown = last.get("eval/mask_correlation_images") if second == MAP_MEASURE else None
        on = f" on {shown:.0f} images" if shown is not None else ""
        reason = f"chosen by {second}{on} among those within {config.monitor_tolerance:g} of the best {config.monitor}{number}"
    return Choice(best, [int(e["step"]) for e in kept], reason, several=second is not None)


def counted(history: Sequence[Entry], config: TrainingConfig) -> list[Entry]:
    """The evaluated epochs whose predictions have not moved too far."""
    bound = math.inf if config.max_prediction_drift is None else config.max_prediction_drift
    evaluated = [entry for entry in history if f"eval/{config.monitor}" in entry]
    return [entry for entry in evaluated if entry.get("eval/prediction_drift", 0.0) <= bound]


def since_best(history: Sequence[Entry], config: TrainingConfig) -> int:
    """Evaluations since the monitor was last better than ever before; an equal value is no better."""
    sign = 1 if config.larger_is_better else -1
    values = [sign * entry[f"eval/{config.monitor}"] for entry in counted(history, config)]
    values = [-math.inf if math.isnan(value) else value for value in values]
    return len(values) - 1 - values.index(max(values)) if values else 0


def second_monitor(entry: Entry, config: TrainingConfig, supervised: bool) -> str | None:
    """What chooses among epochs that are nearly as good, if anything does."""
    if config.second_monitor != "auto":
        return config.second_monitor
    enough = entry.get("eval/mask_correlation_images", 0) >= FEWEST_MASKS
    return MAP_MEASURE if supervised and enough and config.monitor != MAP_MEASURE else None


def check_measured(names: Collection[str], config: TrainingConfig, later: Collection[str] = ()) -> None:
    """Refuse a monitor that an evaluation does not measure.

    Args:
        names: what was measured.
        later: what may be measured yet.

    Raises:
        TrainingError: naming the monitor, what is measured and the closest of that.
    """
    wanted = {"monitor": config.monitor}
    if config.second_monitor not in (None, "auto"):
        wanted["second_monitor"] = config.second_monitor
    for option, name in wanted.items():
        if name not in names and name not in later:
            names = [each for each in sorted(names) if not each.endswith("images")]  # those are counts
            known = ", ".join(names) or "nothing, as the evaluation is empty"
            bare = re.sub(r"^(eval|val|valid|validation|test)[_/ ]", "", name.lower())  # as other trainers call it
            close = [each for each in names if bare in each] if bare else []
            close = close or difflib.get_close_matches(bare, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TrainingError(f"{option}={name!r} was not measured; measured are {known}{hint}")


def sentence(choice: Choice, epochs: int) -> str:
    """``best: epoch 3 of 9, chosen by accuracy on 120 images``; of a run without an evaluation that it has none."""
    if choice.entry is None:
        return "best: none was chosen, as nothing was evaluated; the last weights are kept"
    return f"best: epoch {choice.entry['epoch']:.0f} of {epochs}, {choice.reason}"
