"""The map becomes the mask: what a model supervised by a few masks shows of all other images, cut into masks for them.

The map may also be that of a :mod:`~attention_refine.mending.segmenter` fitted to the annotated images on the network's frozen
features (``method="segmenter"``): no training, seconds, and the surest masks that we measured (docs/propagate.md). With
``method="unsupervised"`` the segmenter learns from what stands out in the images themselves, and nobody annotates.

The cut is the one that fits the annotated images best. Rows that have an annotation keep it; the masks of the others say
of themselves that a model made them (``mask_source``) and how sure it was (``mask_confidence``). A second training learns
from them as from any masks: :class:`~attention_refine.objectives.Transplant` puts the objects so found on other places.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..backbones.contexts import quiet
from ..core.files import atomic_file, save_array
from ..data import DataError, Prepared, collate, match_classes
from ..data.made_masks import cut_mask, file_identity, upright_size, weights_digest, with_made, without_made
from ..drawing.compositing import extent
from ..maps import by_name, normalize, resize
from ..objectives import class_map, map_targets, multi_hot
from ..refined import Refined
from .segmenter import Segmenter, SegmenterConfig, fit_segmenter

CUTS = np.linspace(0.02, 0.98, 49)
SURE = 0.7  # the cut of a segmenter that no outline taught; chosen on true masks of training photographs
SEGMENTERS = ("segmenter", "unsupervised")
FORM = 2  # of what a segmenter learns: maps of another form in a cache are made anew
CHUNK = 256  # rows whose maps are one file of the cache


@dataclass(frozen=True)
class Propagation:
    """What :func:`propagation` found.

    Attributes:
        dataset: the rows with ``mask``, ``mask_source`` and ``mask_confidence``.
        cut: the threshold, in [0, 1].
        scale: ``"none"``, or ``"minmax"`` where every map was stretched to [0, 1] first.
        iou: mean IoU of the cut maps with the annotated rows' regions; ``None`` where none is annotated.
        iou_left_out: the same, of each row at the cut that the others choose. The model has still seen these rows, where
            it was trained on them: of the other rows expect less.
        annotated, made, empty: rows that kept their annotation, that were given a mask, and whose map found nothing.
    """

    dataset: datasets.Dataset
    cut: float
    scale: str
    iou: float | None
    iou_left_out: float | None
    annotated: int
    made: int
    empty: int

    def to_dict(self) -> dict[str, Any]:
        """What was found, without the rows."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "dataset"}


def propagate(model: Refined, dataset: datasets.Dataset, **options: Any) -> datasets.Dataset:
    """``dataset`` with a mask for every row, from the model's maps where nobody drew one; see :func:`propagation`."""
    return propagation(model, dataset, **options).dataset


def propagation(
    model: Refined,
    dataset: datasets.Dataset,
    *,
    method: str = "model",
    cut: float | str = "auto",
    flip: bool = True,
    min_confidence: float = 0.0,
    image_size: int | None = None,
    segmenter: SegmenterConfig | dict[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 32,
    cache: str | Path | None = None,
    progress: bool = True,
) -> Propagation:
    """Masks for the rows that have none, cut from the model's maps.

    The map of a row is that of its own labels, over the whole image. Its mask has the size of the image; its confidence
    is the overlap to be expected if the map were the probability of each pixel to be object,
    ``sum of the map inside the mask / (pixels of the mask + sum of the map outside)``.

    Args:
        model: trained on the dataset's annotated rows, so that its map is one of the object; for a segmenter any
            model with pretrained weights, its head and classifier are not used.
        dataset: canonical columns, as from :func:`attention_refine.data.load_dataset`. A row is annotated where it has a
            ``mask``, boxes (``bbox``), or an edited map.
        method: ``"model"``, the head's map (Grad-CAM without a head), the name of a map in ``ar.maps``,
            ``"segmenter"``: fitted here to the annotated rows, on the network's frozen features, or ``"unsupervised"``:
            a segmenter of what stands out in the images, whether or not rows are annotated.
        cut: from which value of the map a pixel is object, or ``"auto"``: where the mean IoU with the annotated rows is
            largest, of the map as it is and stretched to [0, 1]. A segmenter's is chosen on maps of rows that it was not
            fitted to (two halves, each mapped from the other); where nobody drew an outline it is 0.7, or less
            where more than about a tenth of the rows would get no mask.
        flip: the mean over the image and its mirror image.
        min_confidence: rows whose mask is less sure stay without one.
        image_size: side in pixels at which the network sees the images; the model's own if not given. Convolutional
            networks take larger ones than they are trained with, for finer maps.
        segmenter: options of the segmenter.
        seed: of the segmenter's fit.
        batch_size: images at a time.
        cache: a folder for the maps, so that a call that broke off goes on where it was and another ``cut`` costs
            nothing. Maps of other weights, rows or options in it are made anew.
        progress: show a bar.

    Returns:
        the dataset with the columns ``mask`` (an image, 255 on the object; the old column where a row has one),
        ``mask_source`` (``"person"``, ``"words"`` of :func:`attention_refine.data.annotate`, ``"model"`` or null) and
        ``mask_confidence`` (1 for a person's; 0 for none), for :func:`attention_refine.data.prepare`, and what was
        found.

    Raises:
        DataError: a stream, columns that are not canonical, classes that are not the model's, or no annotated row
            where one is needed: for ``"segmenter"``, and for ``cut="auto"`` of any other but ``"unsupervised"``.
        ValueError: an option out of range, or an unknown map.
    """
    if isinstance(dataset, datasets.IterableDataset):
        raise DataError("a stream has no rows to give masks to: load the dataset without streaming")
    if cut != "auto" and not (isinstance(cut, (int, float)) and 0 < cut < 1):
        raise ValueError(f"cut must be between 0 and 1, both excluded, or 'auto', got {cut!r}")
    if not 0 <= min_confidence <= 1:
        raise ValueError(f"min_confidence must be between 0 and 1, got {min_confidence}")
    taught = method in SEGMENTERS
    if method != "model" and not taught:
        by_name(method)
    whole = {**model.preprocessing, "crop_pct": 1.0, "crop_mode": "squash"}  # the map is of the whole image
    if image_size is not None:
        whole["input_size"] = [3, image_size, image_size]
    begun = without_made(dataset, ("model",))  # a further round begins from what it did not make itself
    items = match_classes(Prepared(begun, whole, progress=progress), model.labels)
    # A head's map is one in [0, 1]; another has no scale of its own.
    scales = ("none", "minmax") if method == "model" and model.head is not None else ("minmax",)
    scales = ("none",) if taught else scales
    annotated = [any(flags) for flags in zip(*_annotations(items))] or [False] * len(items)
    outlined = _outlined(items)
    unguided = taught and (method == "unsupervised" or (any(annotated) and not any(outlined)))
    if cut == "auto" and not unguided and not any(annotated):
        raise DataError(
            "no row has a mask, boxes or an edited map to choose the cut by: give cut=0.5, for example, or annotate a few"
        )
    facts = {"preprocessing": whole, "method": method, "flip": flip}
    unseen: dict[int, Tensor] = {}
    if taught:
        config = segmenter if isinstance(segmenter, SegmenterConfig) else SegmenterConfig(**(segmenter or {}))
        facts |= {"segmenter": asdict(config), "seed": seed, "annotations": _digest_of_annotations(items), "form": FORM}
        teachers = None if method == "unsupervised" else annotated
        fitted, unseen = _fitted(model, items, teachers, outlined, config, seed, flip, batch_size)
    folder = None if cache is None else _opened(Path(cache).expanduser(), model, items, facts)
    read = partial(_segmented, model, fitted) if taught else partial(_one_way, model, method=method)
    maps = torch.cat(list(_maps(model, items, read, flip, batch_size, folder, progress)))
    if cut == "auto" and unguided:
        cut = _unguided_cut(maps)
    judged = maps.clone()
    for row, map in unseen.items():
        judged[row] = map
    scale, level, iou, left_out = _best_cut(items, judged, annotated, outlined, scales, cut, boxed=taught)
    maps = normalize(maps, "minmax") if scale == "minmax" else maps
    edited = items.annotations.get("edited_map", [False] * len(items))
    return _with_masks(
        items.dataset, dataset, maps, annotated, edited, float(level), scale, iou, left_out, min_confidence
    )


def _annotations(items: Prepared) -> list[list[bool]]:
    return [flags for column, flags in items.annotations.items() if column != "cue"]


def _outlined(items: Prepared) -> list[bool]:
    """The rows whose annotation follows the object: a mask or an edited map, not a box."""
    drawn = [flags for name, flags in items.annotations.items() if name == "edited_map"]
    drawn += [[cell is not None for cell in items.dataset["mask"]]] if "mask" in items.dataset.column_names else []
    return [any(flags) for flags in zip(*drawn)] if drawn else [False] * len(items)


# The maps --------------------------------------------------------------------------------------------------------------


def _maps(
    model: Refined, items: Prepared, read: Callable[[Tensor, Tensor], Tensor], flip: bool, batch_size: int,
    folder: Path | None, progress: bool,
) -> Iterator[Tensor]:  # fmt: skip
    """The maps ``(n, 1, h, w)`` float32 of the rows, on the CPU, a chunk at a time; from the folder where it has them."""
    with quiet(model), tqdm(total=len(items), desc="propagate", unit="image", disable=not progress, leave=False) as bar:
        for start in range(0, len(items), CHUNK):
            rows = range(start, min(start + CHUNK, len(items)))
            file = None if folder is None else folder / f"maps-{start:08d}.npy"
            if file is not None and file.exists():
                found = torch.from_numpy(np.load(file, allow_pickle=False))
                bar.update(len(rows))
            else:
                pieces = []
                for first in range(0, len(rows), batch_size):
                    batch = collate([items[row] for row in rows[first : first + batch_size]])
                    pieces.append(_map_of(model, batch, read, flip).float().cpu())
                    bar.update(len(pieces[-1]))
                found = torch.cat(pieces)
                if file is not None:
                    with atomic_file(file) as path:
                        save_array(path, found.numpy())
            yield found


def _map_of(model: Refined, batch: dict[str, Any], read: Callable[[Tensor, Tensor], Tensor], flip: bool) -> Tensor:
    """``(B, 1, h, w)``, 0 or more: one map an image, of its labels."""
    device = next(model.parameters()).device
    pixels, labels = batch["pixel_values"].to(device), batch["labels"].to(device)
    if not flip:
        return read(pixels, labels)
    return (read(pixels, labels) + read(pixels.flip(-1), labels).flip(-1)) / 2


def _one_way(model: Refined, pixels: Tensor, labels: Tensor, method: str) -> Tensor:
    if method == "model" and model.head is not None:
        with torch.no_grad():
            return class_map(model, model(pixels, compute_losses=False), labels)
    method = "grad_cam" if method == "model" else method
    positive = multi_hot(labels, model.num_labels)

    def score(logits: Tensor) -> Tensor:  # of all the image's classes, for any number of copies of the batch
        return (logits * positive.to(logits).repeat(len(logits) // len(positive), 1)).sum(1)

    chosen = by_name(method)
    return chosen(model, pixels, score if chosen.per_class else None).mean(1, keepdim=True).relu()


# A segmenter's ---------------------------------------------------------------------------------------------------------

ENOUGH_TO_HALVE = 4  # annotated rows from which each half teaches a segmenter for the other


def _segmented(model: Refined, segmenter: Segmenter, pixels: Tensor, labels: Tensor) -> Tensor:
    return segmenter.predict(model.backbone.net, pixels)


def _fitted(
    model: Refined, items: Prepared, annotated: list[bool] | None, outlined: list[bool], config: SegmenterConfig,
    seed: int, flip: bool, batch_size: int,
) -> tuple[Segmenter, dict[int, Tensor]]:  # fmt: skip
    """A segmenter of all annotated rows, and the maps ``(1, h, w)`` of these rows from segmenters that lack them.

    With ``None`` all rows teach by what stands out in them, and no annotation is looked at.
    """
    rows = [row for row in range(len(items)) if annotated is None or annotated[row]]
    if not rows:
        raise DataError("no row has a mask, boxes or an edited map to fit a segmenter to: annotate a few")
    if len(rows) > config.max_images:  # from all over the dataset: its rows may be sorted by class
        rows = [rows[i] for i in np.linspace(0, len(rows) - 1, config.max_images).round().astype(int)]
    device, net = next(model.parameters()).device, model.backbone.net

    def annotations(of: list[int]) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        for first in range(0, len(of), batch_size):
            batch = collate([items[row] for row in of[first : first + batch_size]])
            batch["pixel_values"] = batch["pixel_values"].to(device)
            if annotated is None:
                target = known = torch.ones_like(batch["pixel_values"][:, :1])
            else:
                target, known, _ = map_targets(batch, "auto")
            rough = torch.tensor([annotated is None or not outlined[row] for row in of[first : first + batch_size]])
            yield batch["pixel_values"], target, known, rough

    unseen: dict[int, Tensor] = {}
    if annotated is not None and len(rows) >= ENOUGH_TO_HALVE:
        for half, other in ((rows[::2], rows[1::2]), (rows[1::2], rows[::2])):
            read = partial(_segmented, model, fit_segmenter(net, annotations(half), config, seed=seed))
            for first in range(0, len(other), batch_size):
                some = other[first : first + batch_size]
                found = _map_of(model, collate([items[row] for row in some]), read, flip).float().cpu()
                unseen.update(zip(some, found))
    return fit_segmenter(net, annotations(rows), config, seed=seed), unseen


def _digest_of_annotations(items: Prepared) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in ("mask", "bbox", "maps", "edited"):
        if name in items.dataset.column_names:
            for cell in items.dataset.select_columns([name])[name]:
                is_image = isinstance(cell, dict) and (cell.get("bytes") is not None or cell.get("path"))
                digest.update((file_identity(cell) if is_image else repr(cell)).encode())
    return digest.hexdigest()


def _opened(folder: Path, model: Refined, items: Prepared, facts: dict[str, Any]) -> Path:
    """The cache, emptied of maps that are not of these weights, rows and options."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.blake2b(weights_digest(model).encode(), digest_size=16)
    for cell in items.dataset.select_columns(["image"])["image"]:
        digest.update(file_identity(cell).encode())
    digest.update(repr([each.tolist() if isinstance(each, Tensor) else each for each in items.labels or ()]).encode())
    facts = json.loads(json.dumps({"of": digest.hexdigest(), "rows": len(items), **facts}))
    about = folder / "maps.json"
    if not about.exists() or json.loads(about.read_text()) != facts:
        about.unlink(missing_ok=True)  # first: a call that breaks off here leaves maps that nobody takes for its own
        for old in folder.glob("maps-*.npy"):
            old.unlink()
        with atomic_file(about) as path:
            path.write_text(json.dumps(facts, indent=1))
    return folder


# The cut ---------------------------------------------------------------------------------------------------------------


def _unguided_cut(maps: Tensor) -> float:
    """``SURE``, or less where more than about a tenth of the maps would be left without a mask.

    A tenth less than what nine in ten reach: enlarged to its image a map has a lower peak.
    """
    reached = maps.amax((1, 2, 3)).quantile(0.1, interpolation="lower")
    return max(0.02, min(SURE, 0.9 * float(reached)))


def _best_cut(
    items: Prepared,
    maps: Tensor,
    annotated: list[bool],
    outlined: list[bool],
    scales: tuple[str, ...],
    cut: float | str,
    boxed: bool,
) -> tuple[str, float, float | None, float | None]:
    """Scale and cut, their mean IoU with the annotated rows, and that of each row at what the others would choose.

    Where rows have boxes alone and the map follows the object's outline (``boxed``), the boxes round the cut maps count.
    """
    rows = [row for row, flag in enumerate(annotated) if flag]
    if boxed and any(outlined):
        rows = [row for row in rows if outlined[row]]  # the box round a mask says less of where to cut
    levels = CUTS if cut == "auto" else np.array([float(cut)])
    tables: dict[str, list[Any]] = {scale: [] for scale in scales}
    for row in rows:
        item = items[row]
        region, known, given = map_targets(collate([item]), "auto")
        region, known = region[0, 0] >= 0.5, known[0, 0] > 0
        if not given.any() or not (region & known).any():
            continue
        overlaps = _box_overlaps if boxed and not outlined[row] else _overlaps
        for scale, table in tables.items():
            table.append(overlaps(_at_size(maps[row], tuple(region.shape), scale), region, known, levels))
    found = {scale: np.array(table) for scale, table in tables.items() if table}
    if not found:
        if cut == "auto":
            raise DataError("the annotated rows have no object on them to choose the cut by: give cut=0.5, for example")
        return scales[0], float(cut), None, None
    every = np.concatenate(list(found.values()), axis=1)  # rows by (scale, cut)
    best = int(every.mean(0).argmax())
    scale, level = list(found)[best // len(levels)], levels[best % len(levels)]
    others = (every.sum(0) - every) / max(len(every) - 1, 1)
    left_out = every[np.arange(len(every)), others.argmax(1)].mean() if len(every) > 1 else None
    return scale, float(level), float(every[:, best].mean()), None if left_out is None else float(left_out)


def _at_size(map: Tensor, size: tuple[int, ...], scale: str) -> Tensor:
    """``(H, W)``: one map ``(1, h, w)`` on its scale at the size of an image, as the masks are cut from it."""
    whole = normalize(map[None], "minmax") if scale == "minmax" else map[None]
    return resize(whole, tuple(size))[0, 0]


def _overlaps(values: Tensor, region: Tensor, known: Tensor, levels: np.ndarray) -> np.ndarray:
    """IoU of what is at or above each level with the region, over what is known; all ``(H, W)``."""
    values, region = values[known], region[known]
    found = values[None] >= torch.from_numpy(levels).to(values)[:, None]
    both, either = (found & region).sum(1), (found | region).sum(1)
    return (both / either.clamp_min(1)).double().numpy()


def _box_overlaps(values: Tensor, region: Tensor, known: Tensor, levels: np.ndarray) -> np.ndarray:
    """IoU of the region with the box round what is at or above each level; all ``(H, W)``."""
    found = values[None] >= torch.from_numpy(levels).to(values)[:, None, None]
    top, bottom, left, right = extent(found[:, None]).unbind(1)
    y, x = (torch.arange(side) for side in region.shape)
    rows = (y >= top[:, None]) & (y < bottom[:, None])
    columns = (x >= left[:, None]) & (x < right[:, None])
    box = rows[:, :, None] & columns[:, None]
    both, either = (box & region).flatten(1).sum(1), (box | region).flatten(1).sum(1)
    return (both / either.clamp_min(1)).double().numpy()


# The masks -------------------------------------------------------------------------------------------------------------


def _with_masks(
    rows: datasets.Dataset, dataset: datasets.Dataset, maps: Tensor, annotated: list[bool], edited: list[bool], level: float,
    scale: str, iou: float | None, left_out: float | None, min_confidence: float,
) -> Propagation:  # fmt: skip
    old = rows["mask"] if "mask" in rows.column_names else [None] * len(annotated)
    words = rows["mask_source"] if "mask_source" in rows.column_names else [None] * len(annotated)
    words = [None if mine else source for mine, source in zip(edited, words)]  # a person went over what words made
    known = rows["mask_confidence"] if "mask_confidence" in rows.column_names else [None] * len(annotated)
    cells: list[dict | None] = []
    sources: list[str | None] = []
    confidences: list[float] = []
    images = rows.select_columns(["image"])["image"]
    for image, mask, flag, map, source, sure in zip(images, old, annotated, maps, words, known, strict=True):
        if flag:
            made, source, sure = (mask, "words", sure) if source == "words" else (mask, "person", 1.0)
        else:
            made, sure = cut_mask(map, upright_size(image), level)
            made, sure = (None, 0.0) if sure < max(min_confidence, 1e-9) else (made, sure)
            source = "model" if made is not None else None
        cells.append(made)
        sources.append(source)
        confidences.append(sure)
    return Propagation(
        dataset=with_made(dataset, "mask", cells, datasets.Image(), sources, confidences), cut=level, scale=scale, iou=iou,
        iou_left_out=left_out, annotated=sum(annotated), made=sources.count("model"), empty=sources.count(None),
    )  # fmt: skip
