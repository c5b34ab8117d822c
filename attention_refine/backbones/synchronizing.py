"""Batch norms that take their statistics of all processes' images, while a model is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from timm.layers import convert_sync_batchnorm
from torch import nn

BATCH_NORM = nn.modules.batchnorm._BatchNorm


@contextmanager
def synchronized(model: nn.Module) -> Iterator[None]:
    """torch's ``SyncBatchNorm`` in the place of every batch norm within the block; afterwards the model's own again.

    Weights and statistics are the same tensors under the same names. timm's batch norms, which hold the activation that
    follows, keep it (``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` would lose it).
    """
    own = {name: module for name, module in model.named_modules() if isinstance(module, BATCH_NORM)}
    for name, norm in own.items():
        _put(model, name, convert_sync_batchnorm(norm))
    try:
        yield
    finally:
        for name, norm in own.items():
            shared = model.get_submodule(name)
            norm._buffers.update(shared._buffers)  # others than before, where the model went to another device
            _put(model, name, norm.train(shared.training))


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
