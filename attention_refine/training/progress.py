"""Where a training run is, and whether it may go on. Plain values only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attention_refine.data import difference
from attention_refine.training.config import TrainingConfig, TrainingError

MOST_SKIPPED = 25  # fp16 halves its scale at each skipped step: past 2**-25 the gradient itself is not finite


@dataclass
class Progress:
    """Where a run is: all that a checkpoint holds beside the tensors and the random generators."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    images: int = 0  # seen in this epoch
    sums: dict[str, float] = field(default_factory=dict)  # of each loss over the images it was taken of
    counts: dict[str, int] = field(default_factory=dict)  # of these images
    history: list[dict[str, float]] = field(default_factory=list)
    best_metric: float | None = None
    best_step: int | None = None
    kept: list[int] = field(default_factory=list)  # steps whose weights are there and may become the best
    evaluations_since_best: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    left_out_steps: int = 0  # of a loss or gradient that was not finite, with skip_steps
    stopped_early: bool = False
    finished: bool = False


def check_same_run(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to continue the checkpoint ``folder`` of a run with the facts ``before`` as one with the facts ``now``."""
    before = {**TrainingConfig().choices_that_matter(), **before}  # an option that came later was at its default
    for name in sorted((before.keys() | now.keys()) - {"data"}):
        if before.get(name) != now.get(name):
            raise TrainingError(
                f"{folder} was made with {name}={before.get(name)!r} and this run has {name}={now.get(name)!r}, which "
                f"would change its outcome: resume with {name}={before.get(name)!r}, or start a new run in another "
                "output_dir"
            )
    for which, print_now in now.get("data", {}).items():
        differs = difference(before.get("data", {}).get(which), print_now)
        if differs is not None:
            raise TrainingError(
                f"{folder} was made on other {which} data, which would change its outcome: {differs}. Put the data back "
                "as they were, or start a new run in another output_dir, or with overwrite=True in place of this one"
            )


def check_finite(
    values: dict[str, float], progress: Progress, config: TrainingConfig, cause: Callable[[], str]
) -> None:
    """Stop before a step whose losses or gradient are not finite, naming those that are not and what ``cause`` finds."""
    broken = {name: value for name, value in values.items() if not math.isfinite(value)}
    if broken:
        parts = [name for name in broken if name != "loss"] or list(broken)
        raise TrainingError(
            f"training stopped at step {progress.step + 1} (epoch {progress.epoch + 1}): {' and '.join(parts)} "
            f"{'is' if len(parts) == 1 else 'are'} {broken[parts[0]]}; {cause()}; earlier checkpoints in "
            f"{config.output_dir} are intact"
        )


def count_skipped(skipped: bool, progress: Progress, config: TrainingConfig) -> None:
    """Count a step that fp16 left out; stop when it leaves out nothing else."""
    progress.skipped_steps += skipped
    progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if skipped else 0
    if progress.skipped_in_a_row >= MOST_SKIPPED:
        raise TrainingError(
            f"training stopped at step {progress.step + 1}: the fp16 gradient was not finite in {MOST_SKIPPED} steps "
            f"in a row; use mixed_precision='bf16' or 'no', or a learning_rate below {config.learning_rate}"
        )


def close_epoch(progress: Progress, metrics: dict[str, float], learning_rate: float) -> None:
    """Write the epoch into the history and stand at the start of the next."""
    means = {f"train/{name}": total / progress.counts[name] for name, total in progress.sums.items()}
    entry = {"epoch": progress.epoch + 1, "step": progress.step, "learning_rate": learning_rate, **means}
    progress.history.append({**entry, **{f"eval/{name}": value for name, value in metrics.items()}})
    progress.epoch += 1
    progress.step_in_epoch = progress.images = 0
    progress.sums, progress.counts = {}, {}


def drifted(metrics: dict[str, float], config: TrainingConfig) -> bool:
    """Whether the predictions have moved further from the starting ones than the run may go."""
    if config.max_prediction_drift is None or not metrics:
        return False
    if "prediction_drift" not in metrics:
        raise TrainingError(
            f"max_prediction_drift={config.max_prediction_drift} watches prediction_drift, which nothing measures: "
            "give eval_dataset, or an evaluate that does"
        )
    return metrics["prediction_drift"] > config.max_prediction_drift
