"""Training in shards (FSDP2): each process holds a part of every weight, of its gradient and of the optimiser's state.

The model that ``finetune`` was given stays whole, and as it was made: a copy of it is divided and trained, and its
weights are brought back where one is saved, and at the end. So what is saved are the same files on any number of
processes, and the model can be used afterwards as if it had never been divided.
"""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from attention_refine.backbones.blocks import block_classes
from attention_refine.training.config import TrainingConfig, TrainingError

logger = logging.getLogger(__name__)


def is_sharded(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type.name == "FSDP"


def check_sharding(model: nn.Module, config: TrainingConfig, accelerator: Accelerator) -> None:
    """Refuse what cannot be trained in shards, and ways to divide a model that this library does not know.

    Raises:
        TrainingError: with the remedy.
    """
    kind = accelerator.distributed_type.name
    if kind in ("DEEPSPEED", "MEGATRON_LM"):
        raise TrainingError(
            f"{kind} is not supported: its engine takes over the optimiser and the checkpoints. To divide a model that "
            "does not fit, use FSDP2 (accelerate launch --use_fsdp --fsdp_version 2), which shards gradients and "
            "optimiser as ZeRO-2 does, and the weights as well"
        )
    if not is_sharded(accelerator):
        if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
            logger.warning("FSDP was asked for, and accelerate divides models on several GPUs only: they stay whole")
        return
    if not accelerator.is_fsdp2:
        raise TrainingError("FSDP version 1 is not supported: use version 2 (accelerate launch --fsdp_version 2)")
    asked = [name for name in ("compile", "channels_last") if getattr(config, name)]
    if asked:
        raise TrainingError(f"{asked[0]}=True does not go with FSDP: leave one of them out")
    for name in ("ema_decay", "unfreeze_after_epochs"):
        if getattr(config, name) is not None:
            raise TrainingError(f"{name}={getattr(config, name)} does not go with FSDP: leave one of them out")
    if accelerator.mixed_precision == "fp16":
        raise TrainingError("mixed_precision='fp16' does not go with FSDP: use 'bf16' or 'no'")
    twice = [name for name, each in (getattr(model, "objectives", None) or {}).items() if each.takes_gradients]
    if twice:
        raise TrainingError(
            f"{', '.join(twice)}: differentiates in the network within a pass, which a model in shards cannot. Use a map "
            "that is no gradient (head='abn' or 'brnpa'), or leave the model whole (torchrun or accelerate launch "
            "--multi_gpu, without FSDP)"
        )


def divided(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """A copy of the model for ``accelerator.prepare`` to divide, block by block; the model itself where none is."""
    if not is_sharded(accelerator):
        return model
    plugin = accelerator.state.fsdp_plugin
    # bf16 is autocast, as on a whole model; accelerate would hold and add up everything in bf16, norms and losses too
    plugin.mixed_precision_policy = None
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # nothing writes into what is returned
    twin: Any = copy.deepcopy(model)
    twin._no_split_modules = block_classes(getattr(getattr(model, "backbone", model), "net", model))
    return twin


def bring_back(trained: nn.Module, model: nn.Module) -> None:
    """The weights of the divided copy into the whole model, on every process; nothing where they are one."""
    if trained is model:
        return
    state = model.state_dict(keep_vars=True)
    for name, value in trained.state_dict().items():
        state[name].data.copy_(whole(value))


def whole(value: Tensor) -> Tensor:
    """A tensor that is divided between the processes, put together; every process must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def divided_like(value: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a whole tensor of the parameter's shape, which every process has."""
    if not isinstance(parameter, DTensor):
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def equally_often(batches: Iterable[Any], accelerator: Accelerator) -> Iterator[tuple[Any, bool]]:
    """Batches, and whether each counts: a process that has fewer than another repeats its last.

    A pass of a divided model takes all processes.

    Raises:
        TrainingError: this process has none.
    """
    remaining, batch = iter(batches), None
    while True:
        following = next(remaining, None)
        there = torch.tensor(float(following is not None), device=accelerator.device)
        if not accelerator.reduce(there, "sum"):
            return
        batch = batch if following is None else following
        if batch is None:
            raise TrainingError(
                f"there are fewer images to evaluate on than the {accelerator.num_processes} processes of a model in "
                "shards: use more images, or fewer processes"
            )
        yield batch, following is not None
