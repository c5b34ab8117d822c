"""A run that goes on with other processes than it began with: the same global batches, shared out anew.

A step takes ``num_processes x gradient_accumulation_steps x batch_size`` images. The product stays what it was when the
run began, and with it every step; the factors may change, and on other processes the accumulation is made to fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from attention_refine.backbones.synchronizing import BATCH_NORM
from attention_refine.training.batch_norms import kept_batch_norms
from attention_refine.training.config import TrainingConfig, TrainingError
from attention_refine.training.image_kinds import objectives_of

FACTORS = ("num_processes", "gradient_accumulation_steps", "batch_size", "unlabeled_batch_size")


def shared_out(model: nn.Module, config: TrainingConfig, processes: int, began: Mapping[str, Any]) -> TrainingConfig:
    """The options with which these processes take the steps that the run began with.

    Args:
        began: the :data:`FACTORS` of its beginning.

    Raises:
        TrainingError: they cannot, or not to the same outcome; with what can.
    """
    before, slots, size, unlabeled = (began[name] for name in FACTORS)
    whole = before * slots * size
    fitting, rest = divmod(whole, processes * config.batch_size)
    if rest or (processes == before and fitting != config.gradient_accumulation_steps):
        raise TrainingError(
            f"a step of this run takes {whole} images, {_product(before, slots, size)}; "
            f"{_product(processes, config.gradient_accumulation_steps, config.batch_size)} would change its outcome: "
            f"{_remedy(config, processes, began)}"
        )
    for what, name, one, now in (
        (_sees_a_batch(model, config), "batch_size", size, config.batch_size),
        (_sees_all_batches(model, config), "num_processes x batch_size", before * size, processes * config.batch_size),
    ):
        if what is not None and one != now:
            raise TrainingError(
                f"{what}: the run began with {name}={one}, and {now} would change its outcome; resume with {one}"
            )
    wanted = (unlabeled or size) * config.batch_size / size
    if (config.unlabeled_batch_size or config.batch_size) != wanted:
        raise TrainingError(
            f"unlabeled_batch_size={config.unlabeled_batch_size} would give a step other unlabelled images than the run "
            f"began with: give unlabeled_batch_size={wanted:g}"
        )
    return replace(config, gradient_accumulation_steps=fitting)


def shared_line(config: TrainingConfig, processes: int, began: Mapping[str, Any]) -> str | None:
    """What has changed, a sentence; None where nothing has."""
    now = (processes, config.gradient_accumulation_steps, config.batch_size)
    before = tuple(began[name] for name in FACTORS[:3])
    if now == before:
        return None
    return f"resumed with {_product(*now)}, begun with {_product(*before)}: a step takes the same images"


def _product(processes: int, slots: int, size: int) -> str:
    return f"num_processes={processes} x gradient_accumulation_steps={slots} x batch_size={size}"


def _remedy(config: TrainingConfig, processes: int, began: Mapping[str, Any]) -> str:
    before, slots, size, _ = (began[name] for name in FACTORS)
    if processes == before:
        return f"resume with batch_size={size} and gradient_accumulation_steps={slots}, or others that make as many"
    fit = [str(each) for each in range(1, before * slots + 1) if before * slots % each == 0]
    ways = [f"start {' or '.join(fit)} processes with batch_size={size}"]
    whole = before * slots * size
    if whole % processes == 0:
        ways.insert(0, f"give a batch_size that divides {whole // processes}")
    return ", or ".join(ways)


def _sees_a_batch(model: nn.Module, config: TrainingConfig) -> str | None:
    """What depends on how many images a process takes at once."""
    if config.annotated_per_batch or config.balance:
        return f"{'annotated_per_batch' if config.annotated_per_batch else 'balance'} fills each batch"
    norms = [] if config.sync_batch_norm else _learning_norms(model, config)
    return f"the batch norm {norms[0]} takes the statistics of each batch" if norms else None


def _sees_all_batches(model: nn.Module, config: TrainingConfig) -> str | None:
    """What depends on how many images all processes take at once."""
    names = [name for name, each in objectives_of(model).items() if getattr(each, "compares_images", False)]
    names += _learning_norms(model, config) if config.sync_batch_norm else []
    return f"{names[0]} puts together the images of all processes" if names else None


def _learning_norms(model: nn.Module, config: TrainingConfig) -> list[str]:
    kept = kept_batch_norms(model, config, thawed=True)
    return [name for name, each in model.named_modules() if isinstance(each, BATCH_NORM) and name not in kept]
