"""What a tracker is shown beside numbers: the same images with their maps at every evaluation, and how fast it goes."""

from __future__ import annotations

import time
import warnings
from functools import cached_property
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from attention_refine.backbones.contexts import own_randomness, quiet
from attention_refine.drawing.frames import side_by_side
from attention_refine.drawing.overlay import denormalize, outline, overlay
from attention_refine.training.batches import SeededItems, mixed_seed
from attention_refine.training.sharding import is_sharded

_PANEL = 4  # keeps the draw apart from those of strategies.py and mixing.py


class Panel:
    """Some validation images, drawn by the seed, above what the model makes of them.

    Args:
        dataset: items with ``pixel_values`` and, where known, ``mask``; it has a length.
        count: images, fewer where there are not as many.
    """

    def __init__(self, dataset: Any, count: int, seed: int):
        generator = torch.Generator().manual_seed(mixed_seed(seed, _PANEL))
        rows = sorted(torch.randperm(len(dataset), generator=generator)[:count].tolist())
        self.rows, self.seeded = rows, SeededItems(dataset, seed, 0)  # as the evaluation sees them

    @cached_property
    def items(self) -> list[dict[str, Any]]:
        """Read at the first drawing."""
        return [self.seeded[row] for row in self.rows]

    def draw(self, model: Any, device: torch.device) -> Image.Image:
        """Two rows: the images with the edges of their masks, and their maps over them.

        Args:
            model: with ``preprocessing`` and :meth:`explain <attention_refine.RefinedModel.explain>`; left in its mode.
        """
        pixels = torch.stack([item["pixel_values"] for item in self.items]).to(device)
        with own_randomness(device), quiet(model), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a map that has not come in, at every epoch
            maps = _of_prediction(model, model.explain(pixels, method="model"), pixels)
        masks = [item.get("mask") for item in self.items]
        if pixels.ndim == 5:  # of a clip the frame in the middle
            middle = pixels.shape[2] // 2
            pixels, maps = pixels[:, :, middle], maps[:, middle]
            masks = [None if mask is None else mask[:, middle] for mask in masks]
        shown = [denormalize(each, model.preprocessing) for each in pixels]
        above = side_by_side([outline(image, mask) for image, mask in zip(shown, masks)])
        below = side_by_side([overlay(image, map) for image, map in zip(shown, maps.cpu())])
        return Image.fromarray(np.concatenate([np.asarray(above), np.asarray(below)]))


def panel_for(model: nn.Module, dataset: Any, count: int, seed: int, accelerator: Accelerator) -> Panel | None:
    """The panel of a run, on the process that logs; None where no tracker takes pictures, or there is nothing to draw."""
    drawable = callable(getattr(model, "explain", None)) and not is_sharded(accelerator)
    there = dataset is not None and not isinstance(dataset, IterableDataset)
    if not (
        count and drawable and there and accelerator.is_main_process and any(map(_takes_pictures, accelerator.trackers))
    ):
        return None
    return Panel(dataset, count, seed)


def log_picture(accelerator: Accelerator, name: str, picture: Image.Image, step: int) -> None:
    """The picture to every tracker that takes pictures, in its own words."""
    pixels = np.asarray(picture)
    for tracker in filter(_takes_pictures, accelerator.trackers):
        if tracker.name == "tensorboard":
            tracker.log_images({name: pixels[None]}, step=step, dataformats="NHWC")
        elif tracker.name == "trackio":
            import trackio

            tracker.log({name: trackio.Image(pixels)}, step=step)
        else:
            tracker.log_images({name: [pixels]}, step=step)


def _takes_pictures(tracker: GeneralTracker) -> bool:
    return tracker.name in ("tensorboard", "wandb", "swanlab", "trackio")


def _of_prediction(model: nn.Module, maps: Tensor, pixels: Tensor) -> Tensor:
    """``(B, ...)``: the first-ranked map of each image, or that of the predicted class."""
    if not getattr(getattr(model, "head", None), "per_class", False) or maps.shape[1] == 1:
        return maps[:, 0]
    with torch.no_grad():
        predicted = model(pixel_values=pixels).logits.argmax(1)
    return maps[torch.arange(len(maps)), predicted]


class Pace:
    """How fast the steps are: evaluations and checkpoints are left out, waiting for images is in and counted beside.

    Args:
        images: of the epoch so far.

    Attributes:
        steps, seconds, waited: of all steps so far: how many, how long they took, and how long their images took to come.
    """

    def __init__(self, images: int):
        self.images, self.steps, self.seconds, self.waited = images, 0, 0.0, 0.0
        self._keep()
        self.start()

    def start(self) -> None:
        """The next step's images are waited for from now on."""
        self.since = time.perf_counter()

    def loaded(self) -> None:
        """They have come."""
        self.waited += time.perf_counter() - self.since

    def step(self, images: int) -> None:
        """The step was taken; so many images of the epoch are done."""
        self.images = images
        self.steps += 1
        self.seconds += time.perf_counter() - self.since

    @property
    def data_share(self) -> float:
        """The share of the time in which images were waited for."""
        return self.waited / self.seconds if self.seconds else 0.0

    def read(self) -> dict[str, float]:
        """Since it was last read: images a second, of all processes; seconds a step waited for its images, their share."""
        images, steps, seconds, waited = (
            now - before for now, before in zip((self.images, self.steps, self.seconds, self.waited), self.before)
        )
        self._keep()
        return {
            "images_per_second": images / seconds, "data_seconds": waited / steps, "data_share": waited / seconds,
        }  # fmt: skip

    def _keep(self) -> None:
        self.before = (self.images, self.steps, self.seconds, self.waited)
