"""The Hub: save and load, push and pull. A checkpoint is data: no pickle is read, no code from a repo is run."""

from __future__ import annotations

from pathlib import Path

import torch

from ..refined import Refined
from .card import Card
from .checkpoint import Checkpoint, save_pretrained
from .config import CONFIG, FORMAT, CheckpointError, build, model_config, read_config
from .pulling import Source, open_checkpoint, pull
from .pushing import PushError, push_to_hub
from .weights import INDEX, WEIGHTS

__all__ = [
    "CONFIG",
    "Card",
    "Checkpoint",
    "CheckpointError",
    "FORMAT",
    "INDEX",
    "PushError",
    "WEIGHTS",
    "build",
    "from_pretrained",
    "load",
    "model_config",
    "peek",
    "pull",
    "push_to_hub",
    "read_config",
    "save_pretrained",
]


def from_pretrained(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    device: str | torch.device | None = None,
) -> Refined:
    """The model that :func:`save_pretrained` wrote or :func:`push_to_hub` sent, in evaluation mode.

    From the Hub, the config and the header of the weights are fetched and judged before the weights are; all files are
    of one commit. Where the Hub cannot be reached, what the cache holds of that revision is taken, with a warning.

    Args:
        source: a folder, or a Hub id, ``"user/name"`` or ``"user/name@revision"``.
        revision, token, cache_dir, local_files_only: as in ``huggingface_hub``.
        device: where to put it; the CPU by default.

    Raises:
        CheckpointError: no such repo or no access; a file that is missing, damaged, hostile or of another config.
    """
    options = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    model = open_checkpoint(Source.of(source, revision, **options)).load()
    return model.to(device) if device is not None else model


load = from_pretrained


def peek(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Config and header of a saved model, checked against each other; its weights are not fetched.

    Raises:
        CheckpointError: see :func:`from_pretrained`.
    """
    options = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    return open_checkpoint(Source.of(source, revision, **options), weights=False)
