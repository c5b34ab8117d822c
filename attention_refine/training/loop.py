"""Fine-tuning with Accelerate: one visible loop for a CPU, a GPU or several processes, resumable at any step.

The only file that imports accelerate. What a run does is decided by (config, dataset, model, processes); on a CPU two
such runs end with the same bits, also when one of them was killed and resumed.
"""

from __future__ import annotations

import inspect
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    broadcast,
    broadcast_object_list,
    gather_object,
    send_to_device,
    set_seed,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset
from tqdm.auto import tqdm

from attention_refine.training.batches import Batch, BatchOrder, Collate, evaluation_batches, step_batches
from attention_refine.training.checkpoints import (
    atomic_folder,
    atomic_text,
    generator_states,
    list_checkpoints,
    load_checkpoint,
    newest_intact,
    read_state,
    restore_folder,
    save_checkpoint,
    weights_damage,
)
from attention_refine.training.config import TrainingConfig, TrainingError
from attention_refine.training.parameter_groups import frozen, keep_batch_norm, make_optimizer
from attention_refine.training.progress import (
    Progress,
    check_finite,
    check_same_run,
    close_epoch,
    count_skipped,
    improves,
)
from attention_refine.training.schedules import learning_rate_factor
from attention_refine.training.validation import check_labels, validate

__all__ = ["TrainingConfig", "TrainingError", "TrainingResult", "finetune"]

Evaluate = Callable[[nn.Module, Accelerator], dict[str, float]]
SHARDED = ("FSDP", "DEEPSPEED", "MEGATRON_LM")  # no second derivatives through their wrappers


@dataclass
class TrainingResult:
    """What a run did.

    Args:
        history: an entry per epoch: ``epoch`` (from 1), ``step``, ``learning_rate``, ``train/<loss>`` (means over the
            epoch, every component) and ``eval/<metric>`` where the epoch was evaluated.
        best_metric: the best value of the monitored metric; None without evaluation.
        best_step: the optimiser step it was reached at.
        best_path: ``best/``, loadable by ``attention_refine.load``; None without evaluation.
        last_path: ``last/``, the weights of the last step.
        steps: optimiser steps taken in all.
        skipped_steps: of these, those that fp16 skipped because the scaled gradient overflowed.
        skipped_images: images of the dataset that could not be read (``skipped_count``, with ``on_error="skip"``).
        stopped_early: whether ``early_stopping_patience`` ended the run.
    """

    history: list[dict[str, float]]
    best_metric: float | None
    best_step: int | None
    best_path: str | None
    last_path: str
    steps: int
    skipped_steps: int
    skipped_images: int
    stopped_early: bool


def finetune(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig | None = None,
    *,
    eval_dataset: Dataset | None = None,
    accelerator: Accelerator | None = None,
    collate: Collate | None = None,
    evaluate: Evaluate | None = None,
) -> TrainingResult:
    """Train ``model`` on ``dataset``.

    ``output_dir`` receives ``checkpoints/step-*`` (resumable), ``best/`` (the model with the best ``config.monitor``),
    ``last/`` and ``history.json``, each of them whole or absent. With an evaluation the model in memory ends with the
    best weights, without one with the last. Batch statistics are per process, as in DistributedDataParallel; the global
    random generators are seeded. On several machines ``output_dir`` must be a folder that all of them see.

    Args:
        model: takes ``model(pixel_values=, labels=, ...)`` and returns an object with ``.loss``, ``.losses`` (scalars
            by name) and ``.logits`` (B, classes); saves itself with ``save_pretrained(folder)``. Entries of a batch
            that its ``forward`` does not accept are left out. What is outside ``model.backbone``, and the backbone's
            classifier, has the head's learning rate.
        dataset: items, such as :class:`attention_refine.data.Prepared`; ``set_epoch(epoch)`` is called if it has one.
            The order of the images and the random numbers of an item depend on (seed, epoch, row) only. A stream
            (``IterableDataset``) comes in its own order, must seed its own augmentation, and needs ``max_steps``.
        config: the options; defaults where None.
        eval_dataset: images to evaluate on: ``loss`` (of the task, without objectives), ``accuracy``, ``macro_f1``, for
            multi-hot labels ``mean_average_precision``, and ``mask_correlation`` where there are head maps and masks.
        accelerator: one to use in place of one made from ``config`` (its precision and trackers then count).
        collate: makes a batch of a list of items; :func:`attention_refine.data.collate` where None.
        evaluate: ``evaluate(model, accelerator) -> {metric: value}`` in place of the evaluation above. Called on every
            process with the model in evaluation mode; the main process's values count.

    Raises:
        TrainingError: the run cannot start, be resumed or go on (a loss that is not finite, a label outside the
            classes, a damaged checkpoint, an output_dir that is in use); earlier checkpoints stay as they were.
        ValueError: a dataset too small for the batch size, or a warm-up longer than the run.
    """
    config = config or TrainingConfig()
    accelerator = accelerator or _make_accelerator(config)
    _check_setting(model, dataset, config, accelerator, eval_dataset is not None or evaluate is not None)
    collate = collate or _default_collate()
    processes, slots = accelerator.num_processes, config.gradient_accumulation_steps
    size = None if isinstance(dataset, IterableDataset) else len(dataset)
    order = BatchOrder(size, config.batch_size, processes, slots, config.seed)
    total_steps = config.max_steps or config.epochs * order.steps
    rate = _schedule(config, total_steps, order)
    loading = {"num_workers": config.num_workers, "pin_memory": accelerator.device.type == "cuda", "collate": collate}
    if evaluate is None and eval_dataset is not None:
        eval_size = config.eval_batch_size or config.batch_size
        loader = evaluation_batches(
            eval_dataset, eval_size, accelerator.process_index, processes, seed=config.seed, **loading
        )
        evaluate = partial(_measure, loader)

    output = Path(config.output_dir)
    checkpoints = output / "checkpoints"
    resume_from = _claim_output(config, output, checkpoints, accelerator)
    identity = json.loads(json.dumps(_identity(config, order, accelerator)))
    progress = Progress()
    if resume_from is not None:
        state = read_state(resume_from)
        check_same_run(resume_from, state["identity"], identity)
        progress = Progress(**state["progress"])
        fault = weights_damage(output / "best" / "model.safetensors") if progress.best_step is not None else None
        if fault is not None:
            raise TrainingError(f"{fault}, and it was this run's best model: put it back, or start with overwrite=True")

    set_seed(config.seed, device_specific=True)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    with frozen(model, config):
        optimizer = make_optimizer(model, config)
        train_step, optimizer = accelerator.prepare(_TrainStep(model), optimizer)
        accelerator.gradient_accumulation_steps = config.gradient_accumulation_steps
        if resume_from is None:
            _try_saving(model)
        else:
            load_checkpoint(resume_from, model=model, optimizer=optimizer, process=accelerator.process_index)
            if accelerator.scaler is not None:
                accelerator.scaler.load_state_dict(state["scaler"])

        def save() -> None:
            generators = gather_object([generator_states()])
            if accelerator.is_main_process:
                scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
                save_checkpoint(
                    checkpoints, progress.step, model=model, optimizer=optimizer, generators=generators,
                    state={"progress": asdict(progress), "identity": identity, "scaler": scaler},
                    keep_last=config.keep_last,
                )  # fmt: skip
            accelerator.wait_for_everyone()

        hidden = not (config.progress and accelerator.is_main_process)
        with (
            _trackers(accelerator, config),
            tqdm(total=total_steps, initial=progress.step, disable=hidden, desc="finetune", unit="step") as bar,
        ):
            while not progress.finished:
                model.train()
                keep_batch_norm(model, config)
                steps = step_batches(
                    dataset,
                    order,
                    progress.epoch,
                    accelerator.process_index,
                    first_step=progress.step_in_epoch,
                    **loading,
                )
                for batches, images in steps if progress.step < total_steps else ():
                    for group in optimizer.param_groups:
                        group["lr"] = group["initial_lr"] * rate(progress.step)
                    losses = _take_step(train_step, optimizer, batches, images, progress, config, accelerator)
                    bar.update()
                    bar.set_postfix(epoch=progress.epoch + 1, loss=f"{losses['loss']:.4g}", refresh=False)
                    if progress.step % config.log_every == 0:
                        entry = {f"train/{name}": value for name, value in losses.items()}
                        learning_rate = config.learning_rate * rate(progress.step - 1)
                        accelerator.log({**entry, "learning_rate": learning_rate}, step=progress.step)
                    if config.save_every_steps and progress.step % config.save_every_steps == 0:
                        save()
                    if progress.step == total_steps:
                        break
                if progress.images == 0:
                    raise TrainingError(
                        f"the stream gave fewer than {order.least} images: there is nothing to learn from"
                    )

                last = progress.step >= total_steps
                due = evaluate is not None and (last or (progress.epoch + 1) % config.eval_every == 0)
                metrics = _evaluate(evaluate, model, accelerator) if due else {}
                if due and improves(metrics, progress, config):
                    _save_model(model, output / "best", accelerator)
                close_epoch(progress, metrics, config, config.learning_rate * rate(progress.step - 1))
                accelerator.log({f"eval/{name}": value for name, value in metrics.items()}, step=progress.step)
                patience = config.early_stopping_patience
                progress.stopped_early = patience is not None and progress.evaluations_since_best >= patience
                progress.finished = last or progress.stopped_early
                if accelerator.is_main_process:
                    atomic_text(output / "history.json", json.dumps(progress.history, indent=1))
                if progress.finished or (config.save_every_epochs and progress.epoch % config.save_every_epochs == 0):
                    save()

    _share_buffers(model, accelerator)
    _save_model(model, output / "last", accelerator)
    has_best = progress.best_step is not None
    if has_best:
        model.load_state_dict(load_file(str(output / "best" / "model.safetensors")))
    model.eval()
    return TrainingResult(
        history=progress.history,
        best_metric=progress.best_metric,
        best_step=progress.best_step,
        best_path=str(output / "best") if has_best else None,
        last_path=str(output / "last"),
        steps=progress.step,
        skipped_steps=progress.skipped_steps,
        skipped_images=getattr(dataset, "skipped_count", 0),
        stopped_early=progress.stopped_early,
    )


# --- before the first step -------------------------------------------------------------------------------------------


def _make_accelerator(config: TrainingConfig) -> Accelerator:
    # Accelerate keeps one precision per Python process; an earlier run's must not decide this one's.
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != config.mixed_precision:
        AcceleratorState._reset_state()
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        log_with=config.log_with,
        project_dir=config.output_dir,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=config.find_unused_parameters)],
    )
    if config.log_with is not None and not accelerator.log_with:
        raise TrainingError(f"log_with={config.log_with!r} names a tracker that is not installed: pip install it")
    return accelerator


def _check_setting(
    model: nn.Module, dataset: Dataset, config: TrainingConfig, accelerator: Accelerator, evaluated: bool
) -> None:
    if isinstance(dataset, IterableDataset):
        if config.max_steps is None or config.milestones:
            raise TrainingError(
                "the length of an epoch of a stream is not known: give max_steps in place of epochs, and no milestones"
            )
    elif not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TrainingError(f"{type(dataset).__name__} is no dataset of torch: attention_refine.data.prepare makes one")
    if accelerator.distributed_type.name in SHARDED:
        raise TrainingError(
            f"{accelerator.distributed_type.name} is not supported, because objectives differentiate twice: use "
            "several processes with DistributedDataParallel (torchrun, or accelerate launch --multi_gpu)"
        )
    precision = accelerator.mixed_precision
    if config.mixed_precision not in ("no", precision):
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
    if not callable(getattr(model, "save_pretrained", None)):
        raise TrainingError(f"{type(model).__name__} has no save_pretrained: wrap it first, attention_refine.wrap(net)")


def _default_collate() -> Collate:
    from attention_refine.data import collate

    return collate


def _schedule(config: TrainingConfig, total_steps: int, order: BatchOrder) -> Callable[[int], float]:
    warmup = config.warmup_steps or math.floor(config.warmup_ratio * total_steps)
    milestones = [round(milestone * order.steps) for milestone in config.milestones]

    def rate(step: int) -> float:
        return learning_rate_factor(
            step, total_steps, config.schedule, warmup_steps=warmup, milestones=milestones, gamma=config.gamma,
            floor=config.final_learning_rate_ratio,
        )  # fmt: skip

    rate(0)  # a warm-up that does not fit is said now
    return rate


def _identity(config: TrainingConfig, order: BatchOrder, accelerator: Accelerator) -> dict[str, Any]:
    """All that must be the same in a resumed run, apart from the model itself."""
    facts = {
        "num_processes": accelerator.num_processes,
        "images": order.size,
        "mixed_precision": accelerator.mixed_precision,
    }
    return {**config.choices_that_matter(), **facts}


def _claim_output(config: TrainingConfig, output: Path, checkpoints: Path, accelerator: Accelerator) -> Path | None:
    """The checkpoint to resume from, if any; refuses a folder that holds another run."""
    found = newest_intact(checkpoints) if config.resume else None
    if list_checkpoints(checkpoints) and not config.resume and not config.overwrite:
        raise TrainingError(
            f"{checkpoints} holds the checkpoints of an earlier run: set resume=True to continue it, overwrite=True to "
            "delete it, or another output_dir"
        )
    accelerator.wait_for_everyone()  # every process has looked before one of them deletes
    if accelerator.is_main_process:
        restore_folder(output / "best")
        if config.overwrite:
            for name in ("checkpoints", "best", "last"):
                shutil.rmtree(output / name, ignore_errors=True)
        output.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    return found


@contextmanager
def _trackers(accelerator: Accelerator, config: TrainingConfig) -> Iterator[None]:
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


# --- a step ----------------------------------------------------------------------------------------------------------


class _TrainStep(nn.Module):
    """The model as a function to its losses.

    What Accelerate prepares is this, so that the model itself is never patched, and DistributedDataParallel sees one
    output, the loss, from which it finds the parameters that a step leaves unused.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        output = self.model(**inputs)
        if output.loss is None:
            raise TrainingError(
                "the model returned no loss for a batch with "
                f"{', '.join(inputs)}: the dataset needs labels, or the model an objective that does without"
            )
        logged = {**output.losses, **(getattr(output, "measures", None) or {})}
        return output.loss, {name: value.detach() for name, value in logged.items()}


def _take_step(
    train_step: nn.Module, optimizer: Any, batches: list[Batch], images: int, progress: Progress,
    config: TrainingConfig, accelerator: Accelerator,
) -> dict[str, float]:  # fmt: skip
    """One optimiser step on a global batch of ``images``, of which this process has ``batches``; its mean losses."""
    model = accelerator.unwrap_model(train_step).model
    totals: dict[str, Tensor] = {}
    for slot, batch in enumerate(batches, start=1):
        inputs = _inputs(model, batch, config, accelerator)
        share = len(batch["pixel_values"]) / images
        accelerator.sync_gradients = slot == len(batches)
        with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(train_step):
            loss, parts = train_step(inputs)
            # DistributedDataParallel and backward() take means; in a short batch the shares are not all equal.
            accelerator.backward(loss * (share * accelerator.num_processes * config.gradient_accumulation_steps))
        for name, value in {**parts, "loss": loss.detach()}.items():
            totals[name] = totals.get(name, 0) + value.float() * share
    summed = accelerator.reduce(torch.stack(list(totals.values())), "sum").tolist()
    losses = dict(zip(totals, summed, strict=True))
    check_finite(losses, progress, config)

    accelerator.unscale_gradients(optimizer)
    if config.clip_grad_norm is not None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.clip_grad_norm)
        if accelerator.scaler is None:
            check_finite({"gradient norm": norm.item()}, progress, config)
    optimizer.step()
    optimizer.zero_grad()
    count_skipped(optimizer.step_was_skipped, progress, config)

    for name, value in losses.items():
        progress.sums[name] = progress.sums.get(name, 0.0) + value * images
    progress.images += images
    progress.step += 1
    progress.step_in_epoch += 1
    return losses


def _inputs(
    model: nn.Module, batch: dict[str, Any], config: TrainingConfig, accelerator: Accelerator
) -> dict[str, Any]:
    """What the model's forward accepts of a batch, on the device."""
    check_labels(model, batch)
    accepted = inspect.signature(model.forward).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    inputs = {name: value for name, value in batch.items() if takes_all or name in accepted}
    inputs = send_to_device(inputs, accelerator.device, non_blocking=True)
    if config.channels_last:
        inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
    if config.label_smoothing > 0:
        inputs["label_smoothing"] = config.label_smoothing
    return inputs


# --- the end of an epoch ---------------------------------------------------------------------------------------------


def _try_saving(model: nn.Module) -> None:
    """A model that cannot be saved is refused before it is trained, not after."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(Path(folder))


def _save_model(model: nn.Module, folder: Path, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        with atomic_folder(folder) as temporary:
            model.save_pretrained(temporary)
    accelerator.wait_for_everyone()


def _measure(loader: Any, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
    return validate(model, loader, accelerator)


def _share_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """The main process's batch statistics on all: DistributedDataParallel shares them in training forwards only."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer))


def _evaluate(evaluate: Evaluate, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
    _share_buffers(model, accelerator)
    model.eval()
    metrics = {name: float(value) for name, value in evaluate(model, accelerator).items()}
    return broadcast_object_list([metrics])[0] if accelerator.num_processes > 1 else metrics
