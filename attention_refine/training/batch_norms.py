"""Whose images batch norms take their statistics of: none of this run, each process's own, or those of all."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from accelerate import Accelerator
from torch import nn

from attention_refine.backbones.synchronizing import BATCH_NORM, synchronized
from attention_refine.training.config import TrainingConfig, TrainingError
from attention_refine.training.image_kinds import objectives_of
from attention_refine.training.parameter_groups import after_site, backbone_of


def kept_batch_norms(model: nn.Module, config: TrainingConfig, thawed: bool = False) -> list[str]:
    """Names of the backbone's or extractor's batch norms that stay in evaluation mode, if the config says so.

    Args:
        thawed: ``unfreeze_after_epochs`` are over.
    """
    if not (config.freeze_batch_norm or (config.freeze_backbone or config.freeze_extractor) and not thawed):
        return []
    everything = config.freeze_batch_norm or config.freeze_backbone
    learning = set() if everything else {inner for module in after_site(model) for inner in module.modules()}
    kept = {
        module for module in backbone_of(model).modules() if isinstance(module, BATCH_NORM) and module not in learning
    }
    return [name for name, module in model.named_modules() if module in kept]


def shared_statistics(
    model: nn.Module, config: TrainingConfig, accelerator: Accelerator
) -> AbstractContextManager[None]:
    """Within the block, where ``sync_batch_norm`` asks for it, statistics are those of all processes' images."""
    asked = config.sync_batch_norm and accelerator.num_processes > 1
    return synchronized(model) if asked else nullcontext()


def check_shared_statistics(model: nn.Module, config: TrainingConfig, accelerator: Accelerator) -> None:
    """Refuse ``sync_batch_norm`` where statistics cannot be shared.

    Raises:
        TrainingError: several processes on a CPU; objectives that differentiate a gradient, or whose further passes may
            be made by one process and not by another, which would then wait for it.
    """
    if not config.sync_batch_norm or accelerator.num_processes == 1:
        return
    if accelerator.device.type == "cpu":
        raise TrainingError(
            "sync_batch_norm=True needs GPUs: torch's SyncBatchNorm does not run on a CPU. Leave it out, or use "
            "freeze_batch_norm=True"
        )
    for name, each in objectives_of(model).items():
        second = getattr(getattr(each, "config", None), "bn_second_pass", "eval")
        if each.takes_gradients or each.second_order or each.own_passes or second != "eval":
            remedy = "give it bn_second_pass='eval', or " if second != "eval" and not each.takes_gradients else ""
            raise TrainingError(
                f"sync_batch_norm=True does not go with {name}, which runs the network again on some images or "
                f"differentiates in it: {remedy}leave one of them out, or use freeze_batch_norm=True"
            )


def statistics_line(model: nn.Module, kept: list[str], config: TrainingConfig, accelerator: Accelerator) -> str | None:
    """What is to be said of batch norms that learn from parts of a batch; None where there is nothing."""
    learning = [name for name, module in model.named_modules() if isinstance(module, BATCH_NORM) and name not in kept]
    if accelerator.num_processes == 1 or not learning:
        return None
    if config.sync_batch_norm:
        return "batch norm: statistics of all processes' images (sync_batch_norm)"
    offered = (
        "freeze_batch_norm=True keeps them" if accelerator.device.type == "cpu" else "sync_batch_norm=True shares them"
    )
    return f"batch norm: statistics of each process's own {config.batch_size} images; {offered}"
