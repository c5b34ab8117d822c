"""Scores of perturbed images: the forwards, cut into chunks of a size found by a short probe.

A *job* is one perturbed image to be forwarded. Jobs are made on the fly, a chunk at a time, so memory is bounded by the
chunk and not by images times steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..backbones import logits_of
from ..backbones.contexts import quiet

SCORES = ("softmax", "sigmoid", "logit")
# Small chunks stay in a processor's caches; a GPU wants large ones.
CANDIDATES = {"cpu": (8, 16, 32), "other": (32, 64, 128, 256)}


@contextmanager
def evaluating(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, no gradient, no autocast; each module's own training flag is put back, errors included."""
    with quiet(net), torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def check_images(pixel_values: Tensor, maps: Tensor | None = None) -> None:
    """Raise ValueError unless ``pixel_values`` is a non-empty ``(B, C, H, W)`` with as many samples as ``maps``."""
    if pixel_values.ndim != 4 or pixel_values.shape[0] == 0:
        raise ValueError(f"pixel_values must have shape (B, C, H, W) with B >= 1, got {tuple(pixel_values.shape)}")
    if maps is not None and len(maps) != len(pixel_values):
        raise ValueError(f"{len(maps)} maps for {len(pixel_values)} images: give one map an image")


def check_score(score: str) -> None:
    if score not in SCORES:
        raise ValueError(f"score {score!r} is not one of {', '.join(SCORES)}")


def class_scores(logits: Tensor, target: Tensor, score: str) -> Tensor:
    """``(n,)`` float32: the score of each row's target class. ``score`` is ``softmax``, ``sigmoid`` or ``logit``."""
    logits = logits.float()
    if score == "softmax":
        logits = logits.softmax(1)
    elif score == "sigmoid":
        logits = logits.sigmoid()
    return logits.gather(1, target[:, None])[:, 0]


def resolve_target(target: int | Tensor | None, logits: Tensor) -> Tensor:
    """``(B,)`` int64 class indices: the given ones, or each row's largest logit.

    Raises:
        ValueError: a target of the wrong shape or kind, or out of range.
    """
    if target is None:
        return logits.argmax(1)
    target = torch.as_tensor(target, device=logits.device)
    if target.is_floating_point() or target.dtype == torch.bool or target.ndim > 1:
        raise ValueError(
            f"target must be a class index or (B,) class indices, got {target.dtype} {tuple(target.shape)}"
        )
    if target.ndim == 1 and len(target) != len(logits):
        raise ValueError(f"{len(target)} targets for {len(logits)} images: give one class an image, or one for all")
    if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < logits.shape[1]:
        raise ValueError(f"targets must be between 0 and {logits.shape[1] - 1}, got {target.tolist()}")
    return target.long().expand(len(logits))


def network_input(net: nn.Module, pixel_values: Tensor) -> Tensor:
    """``pixel_values`` in float32, or in the precision of a network held in less."""
    kinds = {p.dtype for p in net.parameters() if p.is_floating_point()}
    return pixel_values.detach().to(kinds.pop() if len(kinds) == 1 else torch.float32)


def forward_in_chunks(
    net: nn.Module,
    make: Callable[[Tensor], Tensor],
    read: Callable[[Tensor, Tensor], Tensor],
    jobs: int,
    device: torch.device,
    batch_size: int | None = None,
    progress: bool = False,
) -> Tensor:
    """``read(logits, job indices)`` of every job, concatenated, where ``make(job indices)`` gives the images.

    With ``batch_size=None`` the size grows while that pays: after two chunks (the first at a size is slow: kernels are
    chosen) the next candidate gets a trial chunk if it is at most a tenth of the jobs left, and is kept if it is 10 %
    quicker per image. The trial is part of the work: no extra forward, and a bad one costs little. The size changes
    results by no more than the rounding of the network's own kernels; give a ``batch_size`` where two runs must agree
    to the last bit.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, or None to probe for a good one, got {batch_size}")
    size, *trials = [batch_size] if batch_size else CANDIDATES["cpu" if device.type == "cpu" else "other"]
    # A single thread is timed by its own work, whatever else the machine does.
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    timed: list[float] = []  # seconds an image of the chunks of `size` so far
    results, done = [], 0
    with tqdm(total=jobs, disable=not progress, unit="image", leave=False) as bar:
        while done < jobs:
            on_trial = len(timed) > 1 and len(trials) > 0 and 10 * trials[0] <= jobs - done
            chunk = trials[0] if on_trial else size
            index = torch.arange(done, min(done + chunk, jobs), device=device)
            started = clock()
            try:
                results.append(read(logits_of(net(make(index))).float(), index))
            except torch.cuda.OutOfMemoryError:
                if not on_trial:
                    raise
                trials = []
                continue
            if on_trial or (trials and len(timed) < 2):
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds = (clock() - started) / len(index)
                if not on_trial:
                    timed.append(seconds)
                elif seconds < 0.9 * min(timed):
                    size, timed, trials = chunk, [seconds], trials[1:]
                else:
                    trials = []  # past its best a chunk only gets worse
            done += len(index)
            bar.update(len(index))
    return torch.cat(results)


def usual_chunk(device: torch.device) -> int:
    """A chunk that is nowhere bad, for the few forwards not worth probing."""
    return 8 if device.type == "cpu" else 64


def forward_all(net: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Logits ``(B, classes)``, float32, of ``images``."""
    return forward_in_chunks(net, lambda i: images[i], lambda logits, _: logits, len(images), images.device, batch_size)
