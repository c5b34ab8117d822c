"""One step: the losses of its batches, their gradient, an update of the weights, and what the losses were.

With ``updates_per_batch`` a step makes several updates on the same batches, each with the gradient at the weights that
the one before left. What an objective carries from one to the next goes on as columns of the batch (DARC hides the same
again, so that losses compare), with ``update``, the number of those before it. A loss that rises from one update to the
next says that the rate is too high for the batch: it is halved for the updates that are left.
"""

from __future__ import annotations

import inspect
import logging
import math
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from attention_refine.training.config import TrainingConfig, TrainingError
from attention_refine.training.progress import Progress, check_finite, count_skipped
from attention_refine.training.sharding import is_sharded, whole
from attention_refine.training.strategies import Part
from attention_refine.training.validation import check_labels

logger = logging.getLogger(__name__)


class TrainStep(nn.Module):
    """The model as a function to its losses.

    What Accelerate prepares is this, so that the model itself is never patched, and DistributedDataParallel sees one
    output, the loss, from which it finds the parameters that a step leaves unused.

    Args:
        compiled: run the model under ``torch.compile``, where :func:`not_compiled` finds nothing against it.
    """

    def __init__(self, model: nn.Module, compiled: bool = False):
        super().__init__()
        self.model = model
        # of the function: a module would be in the state twice
        self.compiled = torch.compile(model.__call__) if compiled and not not_compiled(model) else None

    def forward(self, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        output = (self.compiled or self.model)(**inputs)
        if output.loss is None:
            raise TrainingError(
                "the model returned no loss for a batch with "
                f"{', '.join(inputs)}: the dataset needs labels, or the model an objective that does without"
            )
        loss = output.loss
        if (
            not loss.requires_grad and torch.is_grad_enabled()
        ):  # no image had what the objectives read: nothing to learn
            loss = loss + 0 * next(p for p in self.model.parameters() if p.requires_grad).sum()
        logged = {**output.losses, **(getattr(output, "measures", None) or {})}
        carried = getattr(output, "carried", None) or {}
        return loss, {name: value.detach() for name, value in logged.items()}, carried


def prepared(
    model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainingConfig, accelerator: Accelerator
) -> tuple[nn.Module, Any]:
    """A :class:`TrainStep` of the model, on the device and shared between the processes, and the optimiser."""
    if not is_sharded(accelerator):
        return accelerator.prepare(TrainStep(model, config.compile), optimizer)
    model, optimizer = accelerator.prepare(model, optimizer)  # in place, so that it is one also to evaluate it
    return TrainStep(model), optimizer


def not_compiled(model: nn.Module) -> list[str]:
    """Names of the objectives on whose account the whole pass runs eagerly; the log names them.

    A graph hides the feature at the site, from which objectives run the network again or take a gradient, and it cannot
    be differentiated twice.
    """
    names = list(getattr(model, "objectives", None) or ())
    if names:
        logger.warning(
            "compile=True: the passes run eagerly, because these objectives run parts of the network again or "
            "differentiate in it: %s", ", ".join(names),
        )  # fmt: skip
    return names


def take_step(
    train_step: nn.Module, optimizer: Any, parts: list[Part], progress: Progress, config: TrainingConfig,
    accelerator: Accelerator,
) -> dict[str, float]:  # fmt: skip
    """One step: the mean losses over all processes, at its last update; ``first_update/loss`` if there are more."""
    carried: list[dict[str, Any]] = [{} for part in parts for batch in part.batches]
    found: list[float] = []
    for update in range(config.updates_per_batch):
        if update:
            carried = [{**columns, "update": update} for columns in carried]
        losses, counts, carried = _update(train_step, optimizer, parts, carried, progress, config, accelerator)
        found.append(losses["loss"])
        if update and abs(found[-2] - found[-1]) < config.update_tolerance * abs(found[-2]):
            break
        if update and found[-1] > found[-2]:
            for group in optimizer.param_groups:  # the next step sets them anew
                group["lr"] *= 0.5
    if config.updates_per_batch > 1:
        losses["first_update/loss"], counts["first_update/loss"] = found[0], counts["loss"]
    if all(map(math.isfinite, losses.values())):  # else the step was left out
        for name, value in losses.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value * counts[name]
            progress.counts[name] = progress.counts.get(name, 0) + counts[name]
    progress.images += counts["loss"]
    progress.step += 1
    progress.step_in_epoch += 1
    return losses


def _update(
    train_step: nn.Module, optimizer: Any, parts: list[Part], carried: list[dict[str, Any]], progress: Progress,
    config: TrainingConfig, accelerator: Accelerator,
) -> tuple[dict[str, float], dict[str, int], list[dict[str, Any]]]:  # fmt: skip
    """One optimiser step: the losses, of how many images each is the mean, and each batch's columns for the next.

    With ``skip_steps`` one whose losses or gradient are not finite leaves the model as it was, statistics included.
    """
    model = accelerator.unwrap_model(train_step).model
    totals: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    handed_on = []
    # by name: a compiled pass puts a new tensor in a buffer's place
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()} if config.skip_steps else {}
    slots = [(part, batch) for part in parts for batch in part.batches]
    cause = partial(_cause, model, [batch for _, batch in slots], config, accelerator.mixed_precision)
    begun = reached = _begun(model)
    for slot, (part, batch) in enumerate(slots, start=1):
        inputs = _inputs(model, {**batch, **carried[slot - 1]}, config, accelerator)
        if part.objectives is not None:
            inputs["objectives"] = part.objectives
        share = len(batch["pixel_values"]) / part.images
        accelerator.sync_gradients = slot == len(slots)
        wrapper = model if is_sharded(accelerator) else train_step
        with nullcontext() if accelerator.sync_gradients else accelerator.no_sync(wrapper):
            with accelerator.autocast():
                loss, losses, columns = train_step(inputs)
            # DistributedDataParallel and backward() take means; in a short batch the shares are not all equal.
            accelerator.backward(loss * (share * accelerator.num_processes * config.gradient_accumulation_steps))
        handed_on.append(columns)
        reached = {name: torch.maximum(reached[name], count) for name, count in _begun(model).items()}
        _set_begun(model, reached if accelerator.sync_gradients else begun)
        for name, value in {**losses, "loss": loss.detach()}.items():
            name = name if name == "loss" else part.prefix + name
            totals[name] = totals.get(name, 0) + value.float() * share
            counts[name] = part.images
    counts["loss"] = sum(part.images for part in parts)
    summed = accelerator.reduce(torch.stack(list(totals.values())), "sum").tolist()
    losses = dict(zip(totals, summed, strict=True))
    try:
        check_finite(losses, progress, config, cause)
        accelerator.unscale_gradients(optimizer)
        if config.clip_grad_norm is not None or config.skip_steps:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            norm = whole(torch.nn.utils.clip_grad_norm_(parameters, config.clip_grad_norm or math.inf))
            if accelerator.scaler is None:
                check_finite({"gradient norm": norm.item()}, progress, config, cause)
    except TrainingError:
        if progress.left_out_steps >= config.skip_steps:
            raise
        progress.left_out_steps += 1
        for name, before in statistics.items():
            model.get_buffer(name).copy_(before)
        optimizer.zero_grad()
        return losses, counts, handed_on
    optimizer.step()
    optimizer.zero_grad()
    count_skipped(optimizer.step_was_skipped, progress, config)
    return losses, counts, handed_on


def _begun(model: nn.Module) -> dict[str, Tensor]:
    """How often each head and objective that comes in over time has been trained."""
    return {name: each.clone() for name, each in model.named_buffers() if name.split(".")[-1] == "begun_steps"}


def _set_begun(model: nn.Module, counts: dict[str, Tensor]) -> None:
    """Between the batches of an update, which counts once however many there are."""
    for name, count in counts.items():
        model.get_buffer(name).copy_(count)


def _cause(model: nn.Module, batches: list[dict[str, Any]], config: TrainingConfig, precision: str) -> str:
    """Why a loss is not finite: weights or items that were not so before, else what may mend it."""
    for name, value in model.named_parameters():
        if not torch.isfinite(value).all():
            return f"the weights {name} were not finite before this step: start from a model whose weights are"
    for batch in batches:
        for name, value in batch.items():
            if not (isinstance(value, Tensor) and value.is_floating_point() and value.ndim):
                continue
            broken = (~torch.isfinite(value)).reshape(len(value), -1).any(1).nonzero().flatten()
            if len(broken):
                rows = batch["index"][broken] if "index" in batch else broken
                of = "of the dataset" if "index" in batch else "of this process's batch"
                shown = ", ".join(map(str, rows.tolist()[:5]))
                return f"{name} of row {shown} {of} are not finite: mend what makes them, or leave them out"
    remedies = f"try a learning_rate below {config.learning_rate}, clip_grad_norm=1.0 or warmup_steps"
    if precision != "no":
        remedies += f", or mixed_precision='no' in place of {precision!r}"
    return f"weights and images are finite, so it is a number on the way that grew too large: {remedies}"


def _inputs(
    model: nn.Module, batch: dict[str, Any], config: TrainingConfig, accelerator: Accelerator
) -> dict[str, Any]:
    """What the model's forward accepts of a batch, on the device."""
    check_labels(model, batch)
    accepted = inspect.signature(model.forward).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    inputs = {name: value for name, value in batch.items() if takes_all or name in accepted}
    if "maps" in inputs and getattr(model, "head", None) is not None:
        raise TrainingError(
            "the dataset has a column 'maps', which would act in place of the head's map, so the head would learn nothing: "
            "rename it; maps that the head is to learn from are a column edited_map, see docs/data.md"
        )
    inputs = send_to_device(inputs, accelerator.device, non_blocking=True)
    if config.channels_last:
        inputs["pixel_values"] = inputs["pixel_values"].contiguous(memory_format=torch.channels_last)
    if config.label_smoothing > 0:
        inputs["smoothing"] = config.label_smoothing
    return inputs
