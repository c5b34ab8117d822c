"""Before the first step: what a run is made of, what refuses it, and whose output folder it is."""

from __future__ import annotations

import atexit
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from attention_refine.backbones.rebuild import describe
from attention_refine.data import fingerprint
from attention_refine.data.digests import shared
from attention_refine.refined import Refined
from attention_refine.training.batch_norms import check_shared_statistics
from attention_refine.training.checkpoints import list_checkpoints, restore_folder
from attention_refine.training.config import TrainingConfig, TrainingError
from attention_refine.training.image_kinds import objectives_of
from attention_refine.training.mixing import check_mixing
from attention_refine.training.schedules import learning_rate_factor
from attention_refine.training.sharding import check_sharding
from attention_refine.training.sharing_out import FACTORS
from attention_refine.training.strategies import label_free


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """What a run's processes share their work by; of those that ``torchrun`` starts on a CPU as well.

    Raises:
        TrainingError: a tracker that is not installed.
    """
    if PartialState().num_processes == 1 and processes_started() > 1:  # accelerate joins them on a GPU unasked
        PartialState._reset_state()
        PartialState(cpu=True)
    precision = resolved_precision(config.mixed_precision)
    # Accelerate keeps one precision per Python process; an earlier run's must not decide this one's.
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()
    # what is frozen for some epochs is shared from the start, and unused until then
    unused = config.find_unused_parameters or config.unfreeze_after_epochs is not None
    accelerator = Accelerator(
        cpu=PartialState().device.type == "cpu",
        mixed_precision=precision,
        log_with=config.log_with,
        project_dir=config.output_dir,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)],
    )
    if config.log_with is not None and not accelerator.log_with:
        raise TrainingError(f"log_with={config.log_with!r} names a tracker that is not installed: pip install it")
    if accelerator.num_processes > 1:
        atexit.unregister(_leave)
        atexit.register(_leave)
    return accelerator


def processes_started() -> int:
    """How many processes ``torchrun``, or ``accelerate launch``, has started for this run."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1


def resolved_precision(asked: str) -> str:
    """What ``mixed_precision`` is on this machine: ``"auto"`` is bf16 on a GPU that has it and on a CPU with
    instructions for it. Without those a step in bf16 takes over ten times as long as one in float32."""
    if asked != "auto":
        return asked
    if PartialState().device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"


def _leave() -> None:
    """End the process group before the interpreter ends: its threads, still running then, can abort the process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def check_setting(
    model: nn.Module, dataset: Dataset, config: TrainingConfig, accelerator: Accelerator,
    validated: bool, evaluated: bool,
) -> None:  # fmt: skip
    if isinstance(dataset, IterableDataset) and (config.max_steps is None or config.milestones):
        raise TrainingError(
            "the length of an epoch of a stream is not known: give max_steps in place of epochs, and no milestones"
        )
    check_sharding(model, config, accelerator)
    if isinstance(model, Refined) and model.backbone.spec is None:
        describe(model.backbone.net)  # says why it could not be saved in the end, before an epoch is spent on it
    check_shared_statistics(model, config, accelerator)
    check_mixing(model, config)
    if accelerator.num_processes == 1 and processes_started() > 1:
        raise TrainingError(
            f"{processes_started()} processes were started, and the accelerator given knows of one: each would train for "
            "itself, in the same folder. Make it with Accelerator(cpu=True), or leave it out"
        )
    precision = accelerator.mixed_precision
    if config.mixed_precision not in ("no", "auto", precision):
        raise TrainingError(
            f"mixed_precision={config.mixed_precision!r}, but the accelerator given was made with {precision!r}: "
            "make them equal"
        )
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise TrainingError("mixed_precision='fp16' needs a GPU and this is a CPU: use 'bf16' or 'no'")
    if config.early_stopping_patience is not None and not evaluated:
        raise TrainingError(
            f"early_stopping_patience={config.early_stopping_patience} watches {config.monitor!r}, which nothing "
            "measures: give eval_dataset or evaluate"
        )
    if config.monitor != TrainingConfig.monitor and not evaluated:
        warnings.warn(
            f"monitor={config.monitor!r} chooses the best epoch, and nothing measures it: give eval_dataset or evaluate. "
            "The last weights are kept",
            stacklevel=4,  # the caller of finetune
        )
    if config.measures_objectives and validated and not label_free(model):
        asked = "eval_objectives=True" if config.eval_objectives else f"monitor={config.monitor!r}"
        raise TrainingError(f"{asked} measures the label-free objectives, and of those the model has none")
    if config.starts_with_evaluation and not evaluated:
        given = f"max_prediction_drift={config.max_prediction_drift}" if not config.eval_start else "eval_start=True"
        raise TrainingError(f"{given} evaluates the starting model, and nothing does: give eval_dataset or evaluate")
    together = config.batch_size * accelerator.num_processes
    for name, objective in objectives_of(model).items():
        least = getattr(objective, "least_images", 1)
        if together < least:
            raise TrainingError(
                f"{name} would do nothing: it compares the images of a batch with each other, and batch_size is {together}: "
                f"give at least {least}, or leave the objective out"
            )
    if not callable(getattr(model, "save_pretrained", None)):
        raise TrainingError(f"{type(model).__name__} has no save_pretrained: wrap it first, attention_refine.wrap(net)")


def training_passes(config: TrainingConfig, total_steps: int) -> int:
    """How often heads and objectives count a pass: once an update, of however many batches it is made."""
    return total_steps * config.updates_per_batch


def check_beginnings(model: nn.Module, config: TrainingConfig, total_steps: int) -> None:
    """Refuse an objective that begins after the run has ended.

    Raises:
        TrainingError: naming the objective and the passes there are.
    """
    passes = training_passes(config, total_steps)
    for name, objective in objectives_of(model).items():
        start = getattr(objective.config, "start_step", 0) if hasattr(objective, "config") else 0
        done = int(getattr(objective, "begun_steps", 0))
        if start and start - done >= passes:
            raise TrainingError(
                f"{name} would do nothing: it begins after {start} training passes (start_step), {done} are done, and this "
                f"run has {passes}"
            )


def schedule(config: TrainingConfig, total_steps: int, epoch_steps: int | None) -> Callable[[int], float]:
    """The factor of the learning rate at a step."""
    warmup = config.warmup_steps or math.floor(config.warmup_ratio * total_steps)
    milestones = [round(milestone * (epoch_steps or 0)) for milestone in config.milestones]

    def rate(step: int) -> float:
        return learning_rate_factor(
            step, total_steps, config.schedule, warmup_steps=warmup, milestones=milestones, gamma=config.gamma,
            floor=config.final_learning_rate_ratio,
        )  # fmt: skip

    rate(0)  # a warm-up that does not fit is said now
    return rate


def identity(
    config: TrainingConfig, images: dict[str, int | None], data: dict[str, Any], accelerator: Accelerator,
    began: Mapping[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """All that must be the same in a resumed run, apart from the model itself; of ``data``, datasets by name, prints.

    How it is divided is what it ``began`` with, where that has been judged.
    The main process's prints count for all: machines may hold copies of the data that were made at other times.
    """
    facts = {"num_processes": accelerator.num_processes, "mixed_precision": accelerator.mixed_precision}
    facts |= {name: began[name] for name in FACTORS if began is not None}
    prints: list[Any] = [None]
    if accelerator.is_main_process:
        prints = [{name: fingerprint(each) for name, each in data.items() if each is not None}]
    if accelerator.num_processes > 1:
        broadcast_object_list(prints)
    return json.loads(json.dumps({**config.choices_that_matter(), **images, **facts, "data": prints[0]}))


def say_shared(training: Any, validation: Any) -> None:
    """Warn where images that are trained on are judged: what is measured on them chooses an epoch by heart."""
    images = shared(validation, training)
    if images:
        warnings.warn(
            f"{images} of the {len(validation)} validation images are training images: the numbers say how well those are "
            "known by heart, and choose the best epoch so. Give eval_dataset other images, such as another split, or the "
            "second part of ar.data.split_train_validation(dataset, 0.2, seed=0)",
            stacklevel=4,  # the caller of finetune
        )


def claim_output(config: TrainingConfig, output: Path, checkpoints: Path, accelerator: Accelerator) -> None:
    """Make the folder this run's; refuses one that holds another run."""
    if list_checkpoints(checkpoints) and not config.resume and not config.overwrite:
        raise TrainingError(
            f"{checkpoints} holds the checkpoints of an earlier run: set resume=True to continue it, overwrite=True to "
            "delete it, or another output_dir"
        )
    accelerator.wait_for_everyone()  # every process has looked before one of them deletes
    if accelerator.is_main_process:
        restore_folder(output / "best")
        if config.overwrite:
            for name in ("checkpoints", "best", "last", "start", "candidates"):
                shutil.rmtree(output / name, ignore_errors=True)
        output.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()


@contextmanager
def trackers(accelerator: Accelerator, config: TrainingConfig) -> Iterator[None]:
    """Start the trackers, unless the caller has, and finish those started here."""
    ours = bool(accelerator.log_with) and not accelerator.trackers
    if ours:
        plain = {name: value for name, value in config.to_dict().items() if isinstance(value, int | float | str)}
        accelerator.init_trackers("attention_refine", config=plain)
    try:
        yield
    finally:
        if ours:  # not accelerator.end_training(), which would also end the process group
            for tracker in accelerator.trackers:
                tracker.finish()
            accelerator.trackers = []
