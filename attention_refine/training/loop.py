"""Fine-tuning with Accelerate: one visible loop for a CPU, a GPU or several processes, resumable at any step.

What a run does is decided by (config, datasets, model, processes); on a CPU two such runs end with the same bits, also
when one of them was killed and resumed. Only this package imports accelerate.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list, gather_object, set_seed
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from attention_refine.data import as_prepared
from attention_refine.data.adopting import NoDataset
from attention_refine.files import room_for
from attention_refine.training.batches import Collate, check_collated, evaluation_batches
from attention_refine.training.checkpoints import (
    atomic_folder,
    atomic_text,
    generator_states,
    load_progress,
    load_weights,
    optimizer_tensors,
    read_state,
    save_checkpoint,
    weights_damage,
)
from attention_refine.training.choosing import MEASURED_LATER, Choice, check_measured, choose, sentence, since_best
from attention_refine.training.config import TrainingConfig, TrainingError
from attention_refine.training.console import data_line, epoch_line, fading_line, half_line
from attention_refine.training.drift import StartingPredictions
from attention_refine.training.keeping import BestModels
from attention_refine.training.kinds import check_annotations, read_by_objectives
from attention_refine.training.masters import narrow, stored_as, widen
from attention_refine.training.parameter_groups import frozen, kept_batch_norms, make_optimizer
from attention_refine.training.prior import start_at_prior
from attention_refine.training.progress import Progress, check_same_run, close_epoch, drifted
from attention_refine.training.sharding import bring_back, divided
from attention_refine.training.starting import (
    check_beginnings,
    check_setting,
    claim_output,
    identity,
    make_accelerator,
    schedule,
    trackers,
    training_passes,
)
from attention_refine.training.stepping import prepared, take_step
from attention_refine.training.strategies import Strategy
from attention_refine.training.validation import validate

__all__ = ["TrainingConfig", "TrainingError", "TrainingResult", "finetune"]

Evaluate = Callable[[nn.Module, Accelerator], dict[str, float]]


@dataclass
class TrainingResult:
    """What a run did.

    Args:
        history: an entry per epoch: ``epoch`` (from 1), ``step``, ``learning_rate``, ``train/<loss>`` (means over the
            epoch, every component) and ``eval/<metric>`` where the epoch was evaluated. Where the starting model is
            evaluated, an entry for epoch 0 comes first, without training's numbers.
        best_metric: the monitored metric of the best epoch, see :mod:`attention_refine.training.choosing`; None without
            evaluation.
        best_step: the optimiser step it was reached at.
        best_path: ``best/``, loadable by ``attention_refine.load``; None without evaluation.
        last_path: ``last/``, the weights of the last step.
        steps: optimiser steps taken in all.
        skipped_steps: of these, those that fp16 skipped because the scaled gradient overflowed.
        skipped_images: images of the dataset that could not be read (``skipped_count``, with ``on_error="skip"``).
        stopped_early: whether ``early_stopping_patience`` or ``max_prediction_drift`` ended the run.
        verdict: which epoch is the best and how it was chosen, a sentence.
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
    verdict: str = ""


def finetune(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig | None = None,
    *,
    eval_dataset: Dataset | None = None,
    unlabeled: Dataset | None = None,
    accelerator: Accelerator | None = None,
    collate: Collate | None = None,
    evaluate: Evaluate | None = None,
) -> TrainingResult:
    """Train ``model`` on ``dataset``.

    ``output_dir`` receives ``checkpoints/step-*`` (resumable), ``best/`` (the model with the best ``config.monitor``),
    ``last/`` and ``history.json``, each of them whole or absent. With an evaluation the model in memory ends with the
    best weights, without one with the last. Weights in half precision become float32, in place, and stay so
    (``config.keep_dtype`` puts them back in the end, and saves them as they came). Batch statistics are per process, as
    in DistributedDataParallel; the global random generators are seeded. On several machines ``output_dir`` must be a
    folder that all of them see.

    Args:
        model: takes ``model(pixel_values=, labels=, ...)`` and returns an object with ``.loss``, ``.losses`` (scalars
            by name) and ``.logits`` (B, classes); saves itself with ``save_pretrained(folder)``. Entries of a batch
            that its ``forward`` does not accept are left out. What is outside ``model.backbone``, and the backbone's
            classifier, has the head's learning rate.
        dataset: items, such as :class:`attention_refine.data.Prepared`, or whatever
            :func:`attention_refine.data.as_prepared` makes into such: a folder, a ``datasets`` dataset, ``ImageFolder``,
            a list of (image, label). ``set_epoch(epoch)`` is called if it has one.
            The order of the images and the random numbers of an item depend on (seed, epoch, row) only. A stream
            (``IterableDataset``) comes in its own order, must seed its own augmentation, and needs ``max_steps``.
        config: the options; defaults where None.
        eval_dataset: images to evaluate on: ``loss`` (of the task, without objectives), ``accuracy``, ``macro_f1``, for
            multi-hot labels ``mean_average_precision``, and ``mask_correlation`` where there are head maps and masks.
            Without labels, where asked for: ``loss/<objective>``, ``prediction_drift``, ``prediction_kl``.
        unlabeled: images without labels (or with labels that are ignored) beside ``dataset``, taken as
            ``config.strategy`` says; it must have a length. Without one, the strategies that take unlabelled images
            take those of ``dataset``. See :mod:`attention_refine.training.strategies`.
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
    try:
        dataset = as_prepared(model, dataset, train=True, seed=config.seed)
        if eval_dataset is not None:
            eval_dataset = as_prepared(model, eval_dataset)
        if unlabeled is not None:
            unlabeled = as_prepared(model, unlabeled, train=True, labeled=False, seed=config.seed)
    except NoDataset as error:
        raise TrainingError(str(error)) from None
    accelerator = accelerator or make_accelerator(config)
    validated = evaluate is None and eval_dataset is not None
    check_setting(model, dataset, config, accelerator, validated, validated or evaluate is not None)
    if collate is not None:
        for each in (dataset, eval_dataset, unlabeled):
            if each is not None:
                check_collated(each, collate, config.seed)
    collate = collate or _default_collate()
    process, processes = accelerator.process_index, accelerator.num_processes
    loading = {"num_workers": config.num_workers, "pin_memory": accelerator.device.type == "cuda", "collate": collate}
    check_annotations(model, dataset)
    strategy = Strategy(model, dataset, unlabeled, config, process, processes, loading)
    total_steps = config.max_steps or config.epochs * strategy.steps
    rate = schedule(config, total_steps, strategy.steps)
    check_beginnings(model, config, total_steps)
    output = Path(config.output_dir)
    start = None
    if config.max_prediction_drift is not None:
        start = StartingPredictions(output / "start" / f"predictions-{process}.safetensors")
    if validated:
        eval_size = config.eval_batch_size or config.batch_size
        loader = evaluation_batches(eval_dataset, eval_size, process, processes, seed=config.seed, **loading)
        evaluate = partial(validate, loader, objectives=config.measures_objectives, start=start)
    checkpoints = output / "checkpoints"
    resume_from = claim_output(config, output, checkpoints, accelerator)
    sets = {"training": dataset, "unlabeled": unlabeled, "validation": eval_dataset}
    facts = identity(config, strategy.images, sets, accelerator)
    half = widen(model)
    kept = half if config.keep_dtype else {}
    progress, models = Progress(), BestModels(output, kept)
    supervised = bool(read_by_objectives(model))
    if resume_from is not None:
        state = read_state(resume_from)
        check_same_run(resume_from, state["identity"], facts)
        progress = Progress(**state["progress"])
        progress.kept = models.held(progress.best_step, progress.kept)
        fault = weights_damage(output / "best" / "model.safetensors") if progress.best_step is not None else None
        if fault is not None:
            raise TrainingError(f"{fault}, and it was this run's best model: put it back, or start with overwrite=True")
        if validated and start is not None:
            start.check()

    set_seed(config.seed, device_specific=True)
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    with frozen(model, config):
        if resume_from is None:
            start_at_prior(model, dataset, config)
            if accelerator.is_main_process:
                _try_saving(model, output)
        else:
            load_weights(resume_from, model)
        kept_norms = kept_batch_norms(model, config)
        trained = divided(model, accelerator)
        optimizer = make_optimizer(trained, config)
        train_step, optimizer = prepared(trained, optimizer, config, accelerator)
        accelerator.gradient_accumulation_steps = config.gradient_accumulation_steps
        usual = config.monitor == "accuracy" and config.second_monitor in (None, "auto")
        if validated and not usual and not progress.finished:
            first_batch = partial(validate, islice(loader, 1), objectives=config.measures_objectives)
            check_measured(_evaluate(first_batch, trained, accelerator), config, MEASURED_LATER)
        if resume_from is not None:
            load_progress(resume_from, optimizer=optimizer, process=process)
            if accelerator.scaler is not None:
                accelerator.scaler.load_state_dict(state["scaler"])

        def save() -> None:
            generators = gather_object([generator_states()])
            bring_back(trained, model)
            tensors = optimizer_tensors(optimizer, keep=accelerator.is_main_process)
            if accelerator.is_main_process:
                scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
                save_checkpoint(
                    checkpoints, progress.step, model=model, optimizer=tensors, generators=generators,
                    state={"progress": asdict(progress), "identity": facts, "scaler": scaler},
                    keep_last=config.keep_last,
                )  # fmt: skip
            accelerator.wait_for_everyone()

        def remember(metrics: dict[str, float]) -> Choice:
            """After an evaluation: which model is the best now, and its weights."""
            check_measured(metrics, config)
            before = progress.best_step
            choice = choose(progress.history, config, {*progress.kept, progress.step}, supervised)
            progress.evaluations_since_best = since_best(progress.history, config)
            progress.kept, progress.best_step = choice.kept, choice.step
            progress.best_metric = None if choice.entry is None else choice.entry[f"eval/{config.monitor}"]
            bring_back(trained, model)
            if accelerator.is_main_process:
                models.keep(model, progress.step, before, choice)
            accelerator.wait_for_everyone()
            return choice

        hidden = not (config.progress and accelerator.is_main_process)
        if not hidden and not progress.finished:
            for name, data in sets.items():
                if data is not None:
                    print(data_line(name, data))
            if half:
                print(half_line(half, config.keep_dtype))
            fading = fading_line(model, training_passes(config, total_steps))
            if fading is not None:
                print(fading)
            if config.mixed_precision == "auto":
                print(f"mixed_precision: auto is {accelerator.mixed_precision} on this {accelerator.device.type}")
        epochs = None if strategy.steps is None else -(-total_steps // strategy.steps)
        with (
            trackers(accelerator, config),
            tqdm(total=total_steps, initial=progress.step, disable=hidden, desc="finetune", unit="step") as bar,
        ):
            if progress.step == 0 and config.starts_with_evaluation:
                first = partial(evaluate, first=True) if validated else evaluate
                metrics = _evaluate(first, trained, accelerator)
                progress.history.append({"epoch": 0, "step": 0, **{f"eval/{name}": v for name, v in metrics.items()}})
                remember(metrics)
                accelerator.log({f"eval/{name}": value for name, value in metrics.items()}, step=0)
            while not progress.finished:
                trained.train()
                for name in kept_norms:
                    trained.get_submodule(name).eval()
                steps = strategy.epoch(progress.epoch, progress.step_in_epoch)
                for parts in steps if progress.step < total_steps else ():
                    for group in optimizer.param_groups:
                        group["lr"] = group["initial_lr"] * rate(progress.step)
                    losses = take_step(train_step, optimizer, parts, progress, config, accelerator)
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
                        f"the stream gave fewer than {strategy.least} images: there is nothing to learn from"
                    )

                last = progress.step >= total_steps
                due = evaluate is not None and (last or (progress.epoch + 1) % config.eval_every == 0)
                metrics = _evaluate(evaluate, trained, accelerator) if due else {}
                close_epoch(progress, metrics, config.learning_rate * rate(progress.step - 1))
                choice = remember(metrics) if due else None
                if not hidden:
                    bar.write(epoch_line(progress.history[-1], epochs, config, choice))
                accelerator.log({f"eval/{name}": value for name, value in metrics.items()}, step=progress.step)
                patience = config.early_stopping_patience
                progress.stopped_early = patience is not None and progress.evaluations_since_best >= patience
                progress.stopped_early |= drifted(metrics, config)
                progress.finished = last or progress.stopped_early
                if accelerator.is_main_process:
                    atomic_text(output / "history.json", json.dumps(progress.history, indent=1))
                if progress.finished or (config.save_every_epochs and progress.epoch % config.save_every_epochs == 0):
                    save()

    _share_buffers(trained, accelerator)
    bring_back(trained, model)
    model.to(accelerator.device)
    with stored_as(model, kept):
        _save_model(model, output / "last", accelerator)
    verdict = sentence(choose(progress.history, config, progress.kept, supervised), progress.epoch)
    if accelerator.is_main_process:
        models.finish()
    if not hidden:
        print(verdict)
    has_best = progress.best_step is not None
    if has_best:
        model.load_state_dict(load_file(str(output / "best" / "model.safetensors")))
    narrow(model, kept)
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
        verdict=verdict,
    )


def _default_collate() -> Collate:
    from attention_refine.data import collate

    return collate


# --- the end of an epoch ---------------------------------------------------------------------------------------------


def _try_saving(model: nn.Module, output: Path) -> None:
    """A model that cannot be saved, or not there, is refused before it is trained, not after."""
    with room_for(output), tempfile.TemporaryDirectory(dir=output, prefix=".try-") as folder:
        model.save_pretrained(Path(folder))


def _save_model(model: nn.Module, folder: Path, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        with atomic_folder(folder) as temporary:
            model.save_pretrained(temporary)
    accelerator.wait_for_everyone()


def _share_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """The main process's batch statistics on all: DistributedDataParallel shares them in training forwards only."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer))


def _evaluate(evaluate: Evaluate, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
    _share_buffers(model, accelerator)
    model.eval()
    found = evaluate(model, accelerator)
    if not isinstance(found, Mapping):
        raise TrainingError(f"evaluate returned {found!r}, and must return a dict of numbers by name, such as accuracy")
    metrics = {name: float(value) for name, value in found.items()}
    return broadcast_object_list([metrics])[0] if accelerator.num_processes > 1 else metrics
