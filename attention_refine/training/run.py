"""A run of fine-tuning: what it was asked, where it stands, and the epochs, steps and checkpoints it is made of."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list, gather_object
from safetensors.torch import load_file
from torch import nn
from tqdm.auto import tqdm

from attention_refine.core.files import atomic_text, room_for
from attention_refine.data import collate as usual_collate
from attention_refine.training.averaging import AveragedWeights
from attention_refine.training.background import Held, Writer
from attention_refine.training.batch_norms import kept_batch_norms, statistics_line
from attention_refine.training.batches import Collate, check_collated, evaluation_batches
from attention_refine.training.checkpoints import (
    atomic_folder,
    check_weights,
    generator_states,
    load_progress,
    load_weights,
    newest_intact,
    optimizer_tensors,
    read_state,
    save_checkpoint,
    weights_damage,
)
from attention_refine.training.choosing import (
    CHOOSING,
    MEASURED_LATER,
    Choice,
    check_measured,
    choose,
    sentence,
    since_best,
)
from attention_refine.training.config import TrainingConfig, TrainingError
from attention_refine.training.console import data_line, epoch_line, fading_line, half_line
from attention_refine.training.drift import StartingPredictions
from attention_refine.training.image_kinds import check_annotations, read_by_objectives, say_unseen
from attention_refine.training.interruption import Request, lost_processes
from attention_refine.training.keeping import BestModels
from attention_refine.training.masters import narrow, stored_as, widen
from attention_refine.training.mixing import mixed_parts
from attention_refine.training.panel import Pace, log_picture, panel_for
from attention_refine.training.parameter_groups import frozen_parameters, hold, make_optimizer
from attention_refine.training.prior import start_at_prior
from attention_refine.training.progress import Progress, check_same_run, close_epoch, drifted
from attention_refine.training.sharding import bring_back, divided
from attention_refine.training.sharing_out import shared_line, shared_out
from attention_refine.training.starting import (
    check_beginnings,
    check_setting,
    claim_output,
    identity,
    say_shared,
    schedule,
    trackers,
    training_passes,
)
from attention_refine.training.stepping import prepared, take_step
from attention_refine.training.strategies import Part, Strategy
from attention_refine.training.validation import validate

logger = logging.getLogger(__name__)

Evaluate = Callable[[nn.Module, Accelerator], dict[str, float]]
OnEpoch = Callable[[dict[str, float]], None]


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
        left_out_steps: of these, those that ``skip_steps`` left out because a loss or the gradient was not finite.
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
    left_out_steps: int
    skipped_images: int
    stopped_early: bool
    verdict: str = ""


class Run:
    """A run from what it is made of to its result; :func:`attention_refine.finetune` says in which order.

    Made, it is refused or has its output folder, and stands where the checkpoint that it goes on from says.

    Args:
        sets: datasets by name, ``training``, ``unlabeled`` and ``validation``; None for those that are not there.
        collate, evaluate, on_epoch: as :func:`attention_refine.finetune` takes them.

    Attributes:
        progress: where it is.
        trained: the model as the processes share it; ``model`` is the one that was given.
    """

    def __init__(
        self, model: nn.Module, config: TrainingConfig, accelerator: Accelerator, sets: dict[str, Any],
        collate: Collate | None, evaluate: Evaluate | None, on_epoch: OnEpoch | None = None,
    ):  # fmt: skip
        self.on_epoch = on_epoch
        process, processes = accelerator.process_index, accelerator.num_processes
        self.output = Path(config.output_dir)
        self.checkpoints = self.output / "checkpoints"
        self.resume_from = newest_intact(self.checkpoints) if config.resume else None
        self.state: dict[str, Any] = {} if self.resume_from is None else read_state(self.resume_from)
        began = self.state.get("identity")
        if began is not None:
            config = shared_out(model, config, processes, began)
        self.model, self.config, self.accelerator, self.sets = model, config, accelerator, sets
        self.validated = evaluate is None and sets["validation"] is not None
        check_setting(
            model, sets["training"], config, accelerator, self.validated, self.validated or evaluate is not None
        )
        loading = {
            "num_workers": config.num_workers, "pin_memory": accelerator.device.type == "cuda",
            "collate": collate or usual_collate, "timeout": config.worker_timeout,
        }  # fmt: skip
        check_annotations(model, sets["training"])
        self.strategy = Strategy(model, sets["training"], sets["unlabeled"], config, process, processes, loading, began)
        self.total_steps = config.max_steps or config.epochs * self.strategy.length
        self.rate = schedule(config, self.total_steps, self.strategy.steps)
        check_beginnings(model, config, self.total_steps)
        if collate is not None:
            for name in ("training", "validation", "unlabeled"):
                if sets[name] is not None:
                    check_collated(sets[name], collate, config.seed)
        self.start: StartingPredictions | None = None
        if config.max_prediction_drift is not None:
            first = None if began is None else began["num_processes"]
            self.start = StartingPredictions(self.output / "start", process, processes, first)
        self.evaluate: Callable[..., dict[str, float]] | None = evaluate
        if self.validated:
            size = config.eval_batch_size or config.batch_size
            self.loader = evaluation_batches(sets["validation"], size, process, processes, seed=config.seed, **loading)
            self.evaluate = partial(validate, self.loader, objectives=config.measures_objectives, start=self.start)
        claim_output(config, self.output, self.checkpoints, accelerator)
        self.facts = identity(config, self.strategy.images, sets, accelerator, began)
        if self.validated and accelerator.is_main_process:
            say_shared(sets["training"], sets["validation"])
        self.half = widen(model)
        self.kept = self.half if config.keep_dtype else {}
        self.progress, self.models = Progress(), BestModels(self.output, self.kept)
        self.supervised = bool(read_by_objectives(model))
        self.hidden = not (config.progress and accelerator.is_main_process)
        self.request, self.writer = Request(), Writer()
        if self.resume_from is not None:
            self._stand_where_it_was(self.resume_from)

    def _stand_where_it_was(self, checkpoint: Path) -> None:
        before = self.state["identity"]
        if self.state["progress"]["best_step"] is None:  # nothing was chosen yet: what chooses may be put right
            before = before | {name: self.facts[name] for name in CHOOSING}
        check_same_run(checkpoint, before, self.facts)
        self.progress = progress = Progress(**self.state["progress"])
        progress.kept = self.models.held(progress.best_step, progress.kept)
        weights = self.output / "best" / "model.safetensors"
        fault = weights_damage(weights) if progress.best_step is not None else None
        if fault is not None:
            raise TrainingError(f"{fault}, and it was this run's best model: put it back, or start with overwrite=True")
        if self.validated and self.start is not None:
            self.start.check()

    def begin(self) -> None:
        """The weights to start from, the optimiser, and all that a checkpoint has of them."""
        model, config, accelerator = self.model, self.config, self.accelerator
        if self.resume_from is None:
            start_at_prior(model, self.sets["training"], config)
            if accelerator.is_main_process:
                _try_saving(model, self.output)
        else:
            load_weights(self.resume_from, model)
        self.kept_norms = {thawed: kept_batch_norms(model, config, thawed) for thawed in (False, True)}
        self.thawing = frozen_parameters(model, config) if config.unfreeze_after_epochs is not None else []
        self.trained = divided(model, accelerator)
        optimizer = make_optimizer(self.trained, config)
        self.train_step, self.optimizer = prepared(self.trained, optimizer, config, accelerator)
        self.average = AveragedWeights(model, config.ema_decay) if config.ema_decay is not None else None
        accelerator.gradient_accumulation_steps = config.gradient_accumulation_steps
        usual = config.monitor == "accuracy" and config.second_monitor in (None, "auto")
        if self.validated and not usual and not self.progress.finished:
            first_batch = partial(validate, islice(self.loader, 1), objectives=config.measures_objectives)
            check_measured(_evaluate(first_batch, self.trained, accelerator), config, MEASURED_LATER)
        if self.resume_from is not None:
            load_progress(
                self.resume_from, optimizer=self.optimizer, process=accelerator.process_index,
                processes=accelerator.num_processes, seed=config.seed, average=self.average,
            )  # fmt: skip
            if accelerator.scaler is not None:
                accelerator.scaler.load_state_dict(self.state["scaler"])

    @contextmanager
    def going(self) -> Iterator[None]:
        """Say what begins; trackers and a bar until it ends."""
        if not self.hidden and not self.progress.finished:
            self._say_what_begins()
        shown: dict[str, Any] = {"desc": "finetune", "unit": "step", "disable": self.hidden}
        shown |= {"total": self.total_steps, "initial": self.progress.step}
        lost = lost_processes(self.accelerator, str(self.checkpoints))
        with lost, trackers(self.accelerator, self.config), tqdm(**shown) as self.bar, self.writer:
            seen = self.sets["validation"]
            self.panel = panel_for(self.model, seen, self.config.log_images, self.config.seed, self.accelerator)
            yield

    def _say_what_begins(self) -> None:
        shared = self.resume_from and shared_line(self.config, self.accelerator.num_processes, self.facts)
        if shared:
            print(shared)
        for name, data in self.sets.items():
            if data is not None:
                print(data_line(name, data))
        if self.half:
            print(half_line(self.half, self.config.keep_dtype))
        fading = fading_line(self.model, training_passes(self.config, self.total_steps))
        kept = self.kept_norms[self.config.unfreeze_after_epochs is not None]
        for line in (fading, statistics_line(self.model, kept, self.config, self.accelerator)):
            if line is not None:
                print(line)
        if self.config.mixed_precision == "auto":
            accelerator = self.accelerator
            print(f"mixed_precision: auto is {accelerator.mixed_precision} on this {accelerator.device.type}")

    def look_at_start(self) -> None:
        """Evaluate the starting model, where that is asked for."""
        if self.progress.step > 0 or not self.config.starts_with_evaluation:
            return
        evaluate = self.evaluate
        first = partial(evaluate, first=True) if evaluate is not None and self.validated else evaluate
        metrics = _evaluate(first, self.trained, self.accelerator)
        entry = {f"eval/{name}": value for name, value in metrics.items()}
        self.progress.history.append({"epoch": 0, "step": 0, **entry})
        self._remember(metrics)
        self.accelerator.log(entry, step=0)
        self._show_panel()

    def learn(self) -> None:
        """Training mode, but for what the config keeps as it is in this epoch."""
        self.trained.train()
        thawed = self.config.thawed(self.progress.epoch)
        hold(self.thawing, not thawed)
        for name in self.kept_norms[thawed]:
            self.trained.get_submodule(name).eval()

    def step(self, parts: list[Part]) -> dict[str, float]:
        """One step, at the rate that is its own; its losses."""
        progress, config = self.progress, self.config
        self.writer.check()
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.rate(progress.step)
        parts = mixed_parts(parts, config, progress.epoch, progress.step_in_epoch)
        losses = take_step(self.train_step, self.optimizer, parts, progress, config, self.accelerator)
        if self.average is not None:
            self.average.update(progress.step)
        return losses

    def train_epoch(self) -> None:
        """The steps that are left of an epoch."""
        progress, config = self.progress, self.config
        self.learn()
        steps = self.strategy.epoch(progress.epoch, progress.step_in_epoch)
        self.pace = pace = Pace(progress.images)
        for parts in steps if progress.step < self.total_steps else ():
            pace.loaded()
            losses = self.step(parts)
            pace.step(progress.images)
            self.bar.update()
            self.bar.set_postfix(epoch=progress.epoch + 1, loss=f"{losses['loss']:.4g}", refresh=False)
            if progress.step % config.log_every == 0:
                entry = {f"train/{name}": value for name, value in losses.items()}
                learning_rate = config.learning_rate * self.rate(progress.step - 1)
                entry |= {"learning_rate": learning_rate, **pace.read()}
                self.accelerator.log(entry, step=progress.step)
            if config.save_every_steps and progress.step % config.save_every_steps == 0:
                self._save()
            if progress.step == self.total_steps:
                break
            self.leave_if_asked()
            pace.start()
        if progress.images == 0:
            raise TrainingError(
                f"the stream gave fewer than {self.strategy.least} images: there is nothing to learn from"
            )

    def close_epoch(self) -> None:
        """Evaluate where that is due, keep what is the best now, and see whether the run has ended."""
        progress, config, accelerator = self.progress, self.config, self.accelerator
        last = progress.step >= self.total_steps
        due = self.evaluate is not None and (last or (progress.epoch + 1) % config.eval_every == 0)
        metrics = self._measure() if due else {}
        close_epoch(progress, metrics, config.learning_rate * self.rate(progress.step - 1))
        if accelerator.num_processes == 1:  # of several, one may have seen none of the few images that have a target
            say_unseen(self.model)
        choice = self._remember(metrics) if due else None
        if not self.hidden:
            epochs = None if self.strategy.steps is None else -(-self.total_steps // self.strategy.steps)
            self.bar.write(epoch_line(progress.history[-1], epochs, config, choice, self.pace.data_share))
        accelerator.log({f"eval/{name}": value for name, value in metrics.items()}, step=progress.step)
        patience = config.early_stopping_patience
        progress.stopped_early = patience is not None and progress.evaluations_since_best >= patience
        progress.stopped_early |= drifted(metrics, config)
        progress.finished = last or progress.stopped_early
        if accelerator.is_main_process:
            atomic_text(self.output / "history.json", json.dumps(progress.history, indent=1))
        if progress.finished or (config.save_every_epochs and progress.epoch % config.save_every_epochs == 0):
            self._save()
        if self.on_epoch is not None:
            self.on_epoch(progress.history[-1])
        if not progress.finished:
            self.leave_if_asked()  # not a step later: an epoch's evaluation may have used the time there was

    def leave_if_asked(self) -> None:
        """After a signal, a checkpoint and the end of the process: :mod:`attention_refine.training.interruption`."""
        if self.request.made(self.accelerator):
            self._save()
            self.writer.wait()
            self.accelerator.wait_for_everyone()  # torchrun ends those that are left soon after the first
            self.request.obey(self.progress.step, str(self.checkpoints), self.accelerator.is_main_process)

    def _averaged(self) -> AbstractContextManager[None]:
        """The weights that are judged and kept."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _measure(self) -> dict[str, float]:
        """What the evaluation of an epoch measures. The epoch is kept where that fails: an ``evaluate`` of one's own runs
        then for the first time."""
        try:
            with self._averaged():
                metrics = _evaluate(self.evaluate, self.trained, self.accelerator)
                self._show_panel()
        except Exception:
            if not self.validated and self.accelerator.num_processes == 1:  # another process may have got through
                self._save()
            raise
        try:
            check_measured(metrics, self.config)
        except TrainingError as error:
            self._save()
            raise TrainingError(
                f"{error}. The epoch is kept: put the monitor right, or what evaluate returns, and go on with resume=True"
            ) from None
        return metrics

    def _show_panel(self) -> None:
        """The panel to the trackers; a model whose map cannot be drawn trains on without."""
        if self.panel is None:
            return
        try:
            picture = self.panel.draw(self.trained, self.accelerator.device)
        except Exception as error:  # whatever it is: a picture ends no run
            logger.warning("log_images: no maps are drawn for the tracker: %s", error)
            self.panel = None
            return
        log_picture(self.accelerator, "eval/maps", picture, self.progress.step)

    def _save(self) -> None:
        """A checkpoint of all that goes on."""
        accelerator, behind = self.accelerator, self.config.background_checkpoints
        self.writer.wait()  # before there are two copies in memory
        generators = gather_object([generator_states()])
        bring_back(self.trained, self.model)
        tensors = optimizer_tensors(self.optimizer, keep=accelerator.is_main_process, copy=behind)
        if accelerator.is_main_process:
            check_weights(self.model, self.progress.step)
            scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
            write = partial(
                save_checkpoint, self.checkpoints, self.progress.step, model=Held(self.model) if behind else self.model,
                optimizer=tensors, generators=generators,
                state={"progress": asdict(self.progress), "identity": self.facts, "scaler": scaler},
                keep_last=self.config.keep_last, average=None if self.average is None else self.average.tensors(copy=behind),
            )  # fmt: skip
            if behind:
                self.writer.start(write)
            else:
                write()
        accelerator.wait_for_everyone()

    def _remember(self, metrics: dict[str, float]) -> Choice:
        """After an evaluation: which model is the best now, and its weights."""
        progress, config = self.progress, self.config
        check_measured(metrics, config)
        self.writer.wait()  # best/ never is of a later epoch than the one after the newest checkpoint
        before = progress.best_step
        choice = choose(progress.history, config, {*progress.kept, progress.step}, self.supervised)
        progress.evaluations_since_best = since_best(progress.history, config)
        progress.kept, progress.best_step = choice.kept, choice.step
        progress.best_metric = None if choice.entry is None else choice.entry[f"eval/{config.monitor}"]
        bring_back(self.trained, self.model)
        if self.accelerator.is_main_process:
            with self._averaged():
                self.models.keep(self.model, progress.step, before, choice)
        self.accelerator.wait_for_everyone()
        return choice

    def end(self) -> TrainingResult:
        """Save the last weights, say which are the best, and leave these in the model."""
        model, output, progress, accelerator = self.model, self.output, self.progress, self.accelerator
        _share_buffers(self.trained, accelerator)
        bring_back(self.trained, model)
        if self.average is not None:
            self.average.keep()
        model.to(accelerator.device)
        with stored_as(model, self.kept):
            _save_model(model, output / "last", accelerator)
        verdict = sentence(choose(progress.history, self.config, progress.kept, self.supervised), progress.epoch)
        if accelerator.is_main_process:
            self.models.finish()
        if not self.hidden:
            print(verdict)
        has_best = progress.best_step is not None
        if has_best:
            model.load_state_dict(load_file(str(output / "best" / "model.safetensors")))
        narrow(model, self.kept)
        model.eval()
        return TrainingResult(
            history=progress.history,
            best_metric=progress.best_metric,
            best_step=progress.best_step,
            best_path=str(output / "best") if has_best else None,
            last_path=str(output / "last"),
            steps=progress.step,
            skipped_steps=progress.skipped_steps,
            left_out_steps=progress.left_out_steps,
            skipped_images=getattr(self.sets["training"], "skipped_count", 0),
            stopped_early=progress.stopped_early,
            verdict=verdict,
        )


def _try_saving(model: Any, output: Path) -> None:
    """A model that cannot be saved, or not there, is refused before it is trained, not after."""
    with room_for(output), tempfile.TemporaryDirectory(dir=output, prefix=".try-") as folder:
        model.save_pretrained(Path(folder))


def _save_model(model: Any, folder: Path, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        with atomic_folder(folder) as temporary:
            model.save_pretrained(temporary)
    accelerator.wait_for_everyone()


def _share_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """The main process's batch statistics on all: DistributedDataParallel shares them in training forwards only."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            buffer.copy_(broadcast(buffer))


def _evaluate(evaluate: Evaluate | None, model: nn.Module, accelerator: Accelerator) -> dict[str, float]:
    assert evaluate is not None, "asked where there is one"
    _share_buffers(model, accelerator)
    model.eval()
    found = evaluate(model, accelerator)
    if not isinstance(found, Mapping):
        raise TrainingError(f"evaluate returned {found!r}, and must return a dict of numbers by name, such as accuracy")
    metrics = {name: float(value) for name, value in found.items()}
    return broadcast_object_list([metrics])[0] if accelerator.num_processes > 1 else metrics
