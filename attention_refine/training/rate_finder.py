"""A learning rate to start from, found by a sweep (Smith, 2017): some steps with a rate that grows from each to the next.

Where the loss falls steepest, before its lowest point, the rate is high enough to learn fast and far from where the steps
grow too long. The loss is smoothed with a Gaussian over neighbouring steps: an average of earlier ones alone (fastai's,
0.98) lags by half of a short sweep, and its steepest place with it.
"""

from __future__ import annotations

import copy
import csv
import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import set_seed
from scipy.ndimage import gaussian_filter1d
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from attention_refine.core.files import atomic_file
from attention_refine.training.batches import Collate
from attention_refine.training.checkpoints import generator_states, restore_generators
from attention_refine.training.config import TrainingConfig, TrainingError
from attention_refine.training.loop import prepared_sets
from attention_refine.training.parameter_groups import frozen
from attention_refine.training.progress import close_epoch
from attention_refine.training.run import Run
from attention_refine.training.starting import make_accelerator

WIDTH = 0.06  # standard deviation of the smoothing, as a share of the steps asked for
RECENT = 0.9  # of the running average that says when the loss has grown too high: it forgets in ten steps


@dataclass(frozen=True)
class RateCurve:
    """What :func:`find_learning_rate` found.

    Attributes:
        rates: of each step.
        losses: of its batches, before the step was taken.
        smoothed: these, smoothed.
        suggestion: the rate at which the smoothed loss falls steepest before its lowest point; None where it never falls.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None

    def save(self, folder: str | Path) -> Path:
        """Write ``lr_find.csv`` and the picture ``lr_find.png`` into a folder; the picture's path."""
        from matplotlib.figure import Figure

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / "lr_find.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("learning_rate", "loss", "smoothed"))
            writer.writerows(zip(self.rates, self.losses, self.smoothed))
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.rates, self.losses, color="0.8", label="of the step")
        axes.plot(self.rates, self.smoothed, color="C0", label="smoothed")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, color="C1", label=f"steepest: {self.suggestion:.2g}")
        low, high = min(self.smoothed), max(self.smoothed[: max(1, len(self.smoothed) // 2)])
        axes.set(
            xscale="log", xlabel="learning rate", ylabel="loss", ylim=(low - 0.2 * (high - low) - 1e-9, 1.5 * high)
        )
        axes.legend()
        with atomic_file(folder / "lr_find.png") as path:
            figure.savefig(path, format="png", dpi=120)
        return folder / "lr_find.png"


def find_learning_rate(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig | None = None,
    *,
    unlabeled: Dataset | None = None,
    accelerator: Accelerator | None = None,
    collate: Collate | None = None,
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
    diverged_at: float = 4.0,
) -> RateCurve:
    """Sweep the learning rate as a run of ``config`` would take its steps; the model stays as it is, to the bit.

    A copy of the model is trained, with the config's batches, objectives, optimiser, groups of parameters and precision;
    its schedule and its rate do not count. The rate of step i is ``lowest * (highest / lowest) ** (i / (steps - 1))``. The
    sweep ends early where the loss, averaged over about ten steps, exceeds ``diverged_at`` times its least value, or is not
    finite.

    Args:
        model, dataset, config, unlabeled, accelerator, collate: as of :func:`attention_refine.finetune`.

    Raises:
        TrainingError: what ``finetune`` would refuse; a loss that is not finite from the start.
        ValueError: rates that do not rise, or fewer than ten steps.
    """
    if not (0 < lowest < highest) or steps < 10:
        raise ValueError(
            f"a sweep takes ten steps or more with rates that rise from above 0: got steps={steps}, lowest={lowest}, "
            f"highest={highest}"
        )
    before = generator_states()
    try:
        with tempfile.TemporaryDirectory(prefix="lr-find-") as folder:
            config = _of_a_sweep(config or TrainingConfig(), folder, steps)
            sets = prepared_sets(model, config, dataset, None, unlabeled)
            twin = copy.deepcopy(model)
            run = Run(twin, config, accelerator or make_accelerator(config), sets, collate, None)
            set_seed(config.seed, device_specific=True)
            with frozen(twin, config):
                run.begin()
                return _sweep(run, lowest * (highest / lowest) ** (np.arange(steps) / (steps - 1)), diverged_at)
    finally:
        restore_generators(before)


def _of_a_sweep(config: TrainingConfig, folder: str, steps: int) -> TrainingConfig:
    """The config without what a sweep has none of: an evaluation, an end, a place to be kept."""
    return replace(
        config, output_dir=folder, resume=False, overwrite=False, max_steps=steps, warmup_steps=0, warmup_ratio=0.0,
        schedule="constant", milestones=[], unfreeze_after_epochs=None, ema_decay=None, skip_steps=0, log_with=None,
        monitor=TrainingConfig.monitor, second_monitor=None, max_prediction_drift=None, early_stopping_patience=None,
        eval_objectives=False, eval_start=False,
    )  # fmt: skip


def _sweep(run: Run, rates: np.ndarray, diverged_at: float) -> RateCurve:
    factors = rates / run.config.learning_rate
    run.rate = lambda step: float(factors[step])
    losses: list[float] = []
    average, least = 0.0, math.inf
    with tqdm(total=len(rates), desc="learning rate", unit="step", disable=run.hidden) as bar:
        while True:
            run.learn()
            for parts in run.strategy.epoch(run.progress.epoch, 0):
                try:
                    losses.append(run.step(parts)["loss"])
                except TrainingError:
                    if not losses:
                        raise
                    return _curve(rates, losses)
                bar.update()
                average = RECENT * average + (1 - RECENT) * losses[-1]
                recent = average / (1 - RECENT ** len(losses))
                least = min(least, recent)
                if len(losses) == len(rates) or recent > diverged_at * least:
                    return _curve(rates, losses)
            close_epoch(run.progress, {}, 0.0)


def _curve(rates: np.ndarray, losses: list[float]) -> RateCurve:
    smoothed = gaussian_filter1d(np.asarray(losses), WIDTH * len(rates), mode="nearest")
    taken = rates[: len(losses)]
    return RateCurve(taken.tolist(), losses, smoothed.tolist(), steepest(taken, smoothed))


def steepest(rates: np.ndarray, losses: np.ndarray) -> float | None:
    """The rate at which a loss falls fastest over the logarithm of the rate, before its lowest point; None where it
    begins there."""
    lowest = int(losses.argmin())
    if lowest == 0:
        return None
    slopes = np.gradient(losses, np.log10(rates))[: lowest + 1]
    return float(rates[slopes.argmin()])
