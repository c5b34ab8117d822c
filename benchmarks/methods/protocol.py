"""What every cell has in common: which images it sees, how they are annotated, how the network is made and trained."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import nn

import attention_refine as ar
from attention_refine import data, shapes
from attention_refine.mending.propagation import propagation

BATCH = 32
BOXES = datasets.List(datasets.List(datasets.Value("float32")))
CONVOLUTIONAL = {"optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4}
TRANSFORMER = {"optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 0.05}  # recommendations.yaml
DATASETS = ("places3", "pets3", "cub20", "shapes")
NETWORKS = ("resnet18", "deit_tiny_patch16_224", "resnet50", "mobilenetv2_100")


@dataclass(frozen=True)
class Cell:
    """A training and what is judged of it. ``labels_per_class``: a number, or ``"all"``; ``annotation``: ``"none"``,
    ``"groups"``, ``"cues"``, or as ``"boxes 5 %"`` which of the labelled images have what. ``mixed_precision`` is that of
    the training; what is judged is computed in float32."""

    dataset: str
    network: str
    method: str
    annotation: str = "none"
    labels_per_class: int | str = "all"
    seed: int = 0
    steps: int = 75
    image_size: int = 128
    mixed_precision: str = "no"

    @property
    def key(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def transformer(self) -> bool:
        return is_transformer(self.network)


@dataclass(frozen=True)
class Places:
    """Where the images and the published weights are."""

    data: Path
    weights: Path


def is_transformer(network: str) -> bool:
    return "vit" in network or "deit" in network


def image_size(network: str) -> int:
    return 224 if is_transformer(network) else 128


def training_rows(cell: Cell, places: Places) -> datasets.Dataset:
    """The labelled training images of a cell with all that is known of them; ``ceiling`` has those without a shortcut."""
    if cell.dataset == "shapes":
        rows = shapes.make("train", 600, cue=0.0 if cell.method == "ceiling" else shapes.CUE)
    else:
        rows = data.load_dataset(places.data / (cell.dataset + "_fair" * (cell.method == "ceiling")), "train")
    if cell.labels_per_class != "all":
        rows, _ = data.split_few_labels(rows, int(cell.labels_per_class), cell.seed)
    return rows


def test_rows(cell: Cell, places: Places) -> datasets.Dataset:
    if cell.dataset == "shapes":
        return shapes.make("test", 600)
    rows = data.load_dataset(places.data / cell.dataset, "test")
    if "bbox" in rows.column_names:
        return rows
    cells = rows.cast_column("mask", datasets.Image(decode=False))["mask"]
    return rows.add_column("bbox", [[_box(Path(cell["path"]))] for cell in cells], feature=BOXES)  # for MaxBoxAcc


def annotated(rows: datasets.Dataset, annotation: str, seed: int) -> datasets.Dataset:
    """The rows with what ``annotation`` says they have, and nothing else of it: as many images of each class, at least one."""
    kind, _, share = annotation.partition(" ")
    cues = [name for name in ("cue_bbox", "cue_mask") if name in rows.column_names]
    if kind != "cues":
        rows = rows.remove_columns(cues)
    if kind not in ("masks", "boxes"):
        return rows.remove_columns([name for name in ("mask", "bbox") if name in rows.column_names])
    if kind == "masks" and "mask" not in rows.column_names:
        raise ValueError(f"annotation {annotation!r}: these images have no masks; accepted are boxes")
    kept = _drawn(rows, float(share.split()[0]) / 100, seed)
    if kind == "boxes":
        return _boxed(rows, kept)
    cells = rows.cast_column("mask", datasets.Image(decode=False))["mask"]
    bare = rows.remove_columns([name for name in ("mask", "bbox") if name in rows.column_names])
    return bare.add_column(
        "mask", [cell if row in kept else None for row, cell in enumerate(cells)], feature=datasets.Image()
    )


def _drawn(rows: datasets.Dataset, share: float, seed: int) -> set[int]:
    rng = np.random.default_rng(seed)
    labels, kept = np.array(rows["label"]), set()
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        kept.update(rng.choice(of_class, max(1, round(share * len(of_class))), replace=False).tolist())
    return kept


def _boxed(rows: datasets.Dataset, kept: set[int]) -> datasets.Dataset:
    if "bbox" in rows.column_names:
        found = [cell if row in kept else None for row, cell in enumerate(rows["bbox"])]
        feature = rows.features["bbox"]
    else:
        cells = rows.cast_column("mask", datasets.Image(decode=False))["mask"]
        found = [[_box(Path(cell["path"]))] if row in kept else None for row, cell in enumerate(cells)]
        feature = BOXES
    bare = rows.remove_columns([name for name in ("mask", "bbox") if name in rows.column_names])
    return bare.add_column("bbox", found, feature=feature)


def _box(mask: Path) -> list[float]:
    there = np.asarray(Image.open(mask)) > 0
    y, x = np.flatnonzero(there.any(1)), np.flatnonzero(there.any(0))
    return [float(v) for v in (x[0], y[0], x[-1] - x[0] + 1, y[-1] - y[0] + 1)]


def wrapped(
    cell: Cell, places: Places, labels: list[str], head: ar.Head | None = None, objectives: Any = (), resolution: int = 1,
    network: Callable[[str, Path], nn.Module] | None = None,
) -> ar.RefinedModel:  # fmt: skip
    """The published network with a fresh classifier; ``network`` makes another of its name and file."""
    torch.manual_seed(cell.seed)
    size = {"input_size": [3, cell.image_size, cell.image_size], "interpolation": "bilinear"}
    weights = places.weights / f"{cell.network}.safetensors"
    source = cell.network if network is None else network(cell.network, weights)
    return ar.wrap(
        source, head=head, objectives=objectives, labels=labels, pretrained=weights if network is None else True,
        preprocessing=size, resolution=resolution,
    )  # fmt: skip


def fit(
    model: ar.RefinedModel, rows: datasets.Dataset, cell: Cell, steps: int, augment: Any = "default", **training: Any
) -> None:
    """``steps`` updates; the batch is 32, or all images where there are fewer."""
    options = (TRANSFORMER if cell.transformer else CONVOLUTIONAL) | {"warmup_ratio": 0.1} | training
    with tempfile.TemporaryDirectory() as folder:
        config = ar.TrainingConfig(
            output_dir=folder, max_steps=steps, batch_size=min(BATCH, len(rows)), seed=cell.seed, progress=False,
            channels_last=True, save_every_epochs=None, mixed_precision=cell.mixed_precision, **options,
        )  # fmt: skip
        ar.finetune(model, data.prepare(rows, model.preprocessing, train=True, seed=cell.seed, augment=augment), config)


def segmented(cell: Cell, places: Places, rows: datasets.Dataset) -> tuple[datasets.Dataset, dict[str, Any]]:
    """The rows with masks for all, from a segmenter on the features of the network as it was published: taught by what
    is annotated, or by what stands out."""
    model = wrapped(cell, places, data.class_names(rows))
    found = propagation(
        model, rows, method="unsupervised" if cell.annotation == "none" else "segmenter",
        image_size=None if cell.transformer else 224, seed=cell.seed, flip=False, progress=False,
    )  # fmt: skip
    return found.dataset, {"cut": found.cut, "expected_iou": found.iou, "empty": found.empty}


def true_iou(found: datasets.Dataset, rows: datasets.Dataset) -> float:
    """Mean IoU of the masks that were made with the true ones, their void left out."""
    overlaps = []
    made = found.cast_column("mask", datasets.Image(decode=False))["mask"]
    true = rows.cast_column("mask", datasets.Image(decode=False))["mask"]
    for source, own, other in zip(found["mask_source"], made, true):
        if source == "model":
            a, b = data.read_mask(own), data.read_mask(other)
            a, b, known = a == 1, b == 1, b != 255
            overlaps.append((a & b & known).sum() / max(((a | b) & known).sum(), 1))
    return float(np.mean(overlaps))
