"""Masks from words: a network that reads text says where in each image the thing is that a text names.

Rows that people annotated keep what they have. What is made says of itself that words made it (``mask_source``) and how
sure the network was (``mask_confidence``): see :mod:`attention_refine.data.made_masks`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from tqdm.auto import tqdm

from attention_refine.backbones.word_models import CutOut, WordModel, cut_out, load_word_model
from attention_refine.core.files import atomic_file, save_array
from attention_refine.data.boxes import as_boxes
from attention_refine.data.columns import is_multi_label, label_names, media_column, undecoded
from attention_refine.data.images import read_image
from attention_refine.data.labels import DataError, as_list
from attention_refine.data.made_masks import (
    cut_mask,
    file_identity,
    upright_size,
    weights_digest,
    with_made,
    without_made,
)
from attention_refine.data.map_files import is_edited

BOXES = datasets.List(datasets.List(datasets.Value("float64")))


def annotate(
    dataset: datasets.Dataset,
    prompt: str | Mapping[str, str] | None = None,
    *,
    model: str | Path,
    revision: str | None = None,
    segmenter: str | Path | None = None,
    threshold: float | None = None,
    min_confidence: float = 0.0,
    batch_size: int = 8,
    cache: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> datasets.Dataset:
    """``dataset`` with masks, or boxes, of what a text names, for the rows that nobody annotated.

    A segmentation network (CLIPSeg) gives the column ``mask``, of each image's own size, 255 where its map is at
    ``threshold`` or above. A detector (OWL-ViT, OWLv2, Grounding DINO) gives the column ``bbox``, of which items have
    their mask, too: the boxes filled in; with a ``segmenter`` (SAM) it gives the column ``mask``, what is in the boxes cut
    out.

    Args:
        dataset: canonical columns, as from :func:`attention_refine.data.load_dataset`; without classes a text is needed.
        prompt: one text for all images, ``"a bird"``; a text for each class by its name; or ``None``, the class names
            themselves. A row with several classes has the union of what their texts find.
        model: an id on the Hub, or a folder, of one of the kinds that
            :data:`attention_refine.backbones.word_models.KINDS` lists. No code of a repository is run, and weights are
            read from safetensors alone.
        revision: of the model: a branch, a tag or a commit.
        segmenter: a Hub id or folder of a SAM model, which cuts out what the detector ``model`` put boxes round.
        threshold: in (0, 1), from which a pixel, or a box, counts. By default 0.5 for CLIPSeg, 0.1 for OWL, 0.25 for
            Grounding DINO: the last two are those of transformers.
        min_confidence: rows whose mask is less sure stay without one.
        batch_size: images at a time.
        cache: a folder for what the network found, a file an image: a call that broke off goes on at the image where it
            was, and another threshold costs nothing. It is used again for the same image, text, weights and revision only.
        device: by default a GPU where there is one.
        progress: show a bar.

    Returns:
        The dataset with ``mask`` or ``bbox``, ``mask_source`` (``"person"``, ``"words"`` or null) and ``mask_confidence``:
        of a mask the overlap to be expected if the map were the probability of each pixel; of boxes the mean of their
        scores; 1 for a person's, 0 for none. Masks and boxes that words or :func:`attention_refine.propagate` had made
        before are made anew.

    Raises:
        DataError: a stream, videos, no images, an image that cannot be read, or no classes to take the texts from.
        ValueError: an option out of range, texts that are not of the classes, a model of another kind.
        OSError: the model cannot be fetched.
    """
    if isinstance(dataset, datasets.IterableDataset):
        raise DataError("a stream has no rows to give masks to: load the dataset without streaming")
    if media_column(dataset) != "image" or not isinstance(dataset.features.get("image"), datasets.Image):
        raise DataError("annotate takes images, and the dataset has no image column 'image': see data.as_canonical")
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(
            f"threshold must be between 0 and 1, both excluded, or None for the model's, got {threshold!r}"
        )
    if not 0 <= min_confidence <= 1:
        raise ValueError(f"min_confidence must be between 0 and 1, got {min_confidence}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    dataset = without_made(dataset.with_format(None), ("model", "words"))
    rows = undecoded(dataset)
    drawn = _drawn(rows)
    texts = [[] if flag else each for flag, each in zip(drawn, _texts(rows, prompt), strict=True)]
    words = load_word_model(model, revision, device)
    finder: WordModel | CutOut = words
    level = finder.kind.threshold if threshold is None else threshold
    if segmenter is not None:
        finder = cut_out(words, level, segmenter)
        level = finder.kind.threshold
    column, kind = ("mask", datasets.Image()) if finder.kind.finds == "maps" else ("bbox", BOXES)
    cells: list[Any] = list(rows[column]) if column in rows.column_names else [None] * len(rows)
    if column == "bbox":
        cells = [as_boxes(cell, f"row {row}") if cell else None for row, cell in enumerate(cells)]
    sources: list[str | None] = ["person" if flag else None for flag in drawn]
    confidences = [float(flag) for flag in drawn]
    images = rows.select_columns(["image"])
    for row, found in _found(finder, images, texts, batch_size, cache, progress):
        made, sure = _cut(found, images[row]["image"], level) if column == "mask" else _chosen(found, level)
        if made is not None and sure >= min_confidence:
            cells[row], sources[row], confidences[row] = made, "words", sure
    return with_made(dataset, column, cells, kind, sources, confidences)


def _drawn(rows: datasets.Dataset) -> list[bool]:
    """Which rows have a mask, boxes or an edited map."""
    cells = {name: rows[name] for name in ("mask", "bbox", "maps", "edited") if name in rows.column_names}
    drawn = [False] * len(rows)
    for name in {"mask", "bbox"} & set(cells):
        drawn = [flag or bool(cell) for flag, cell in zip(drawn, cells[name])]
    if "maps" in cells:
        flags = cells.get("edited", [None] * len(rows))
        drawn = [flag or is_edited(edited, map or None) for flag, edited, map in zip(drawn, flags, cells["maps"])]
    return drawn


# The texts -------------------------------------------------------------------------------------------------------------


def _texts(rows: datasets.Dataset, prompt: str | Mapping[str, str] | None) -> list[list[str]]:
    """The texts of each row, one a class that it has."""
    if isinstance(prompt, str):
        return [[_checked(prompt)]] * len(rows)
    if prompt is not None and not isinstance(prompt, Mapping):
        raise ValueError(f"prompt must be a text, a text for each class by its name, or None, got {prompt!r}")
    column = "labels" if is_multi_label(rows) else "label"
    if column not in rows.column_names:
        raise DataError("the dataset has no classes to take texts from: give one text for all images, prompt='a bird'")
    names = label_names(rows)
    of_name = {name: name.replace("_", " ") for name in names} if prompt is None else dict(prompt)
    for said, wrong in (
        ("the prompt has texts for {}, which are no classes", [name for name in of_name if name not in names]),
        ("the prompt has no text for {}", [name for name in names if name not in of_name]),
    ):
        if wrong:
            raise ValueError(f"{said.format(', '.join(map(repr, wrong)))}: the classes are {', '.join(names)}")
    texts = {name: _checked(text) for name, text in of_name.items()}
    cells = [as_list(cell) for cell in rows[column]]
    return [[texts[names[label]] for label in cell if label is not None and label >= 0] for cell in cells]


def _checked(text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"a prompt must be a text that names something, such as 'a bird', got {text!r}")
    return text


# What is found ---------------------------------------------------------------------------------------------------------


def _found(
    finder: WordModel | CutOut, images: datasets.Dataset, texts: list[list[str]], batch_size: int, cache: str | Path | None,
    progress: bool,
) -> Iterator[tuple[int, np.ndarray]]:  # fmt: skip
    """Each row that has texts, with what they found, from the cache where it is there."""
    tokens = {text: finder.tokens(text) for text in dict.fromkeys(text for row in texts for text in row)}
    folder = None if cache is None else Path(cache).expanduser()
    of_model = "" if folder is None else weights_digest(finder.net) + finder.facts
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    wanted = [row for row, each in enumerate(texts) if each]
    with tqdm(total=len(wanted), desc="annotate", unit="image", disable=not progress, leave=False) as bar:
        waiting: list[tuple[int, Path | None]] = []
        for place, row in enumerate(wanted):
            file = None
            if folder is not None:
                facts = [of_model, file_identity(images[row]["image"]), [(text, tokens[text]) for text in texts[row]]]
                file = folder / f"{hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()}.npy"
            before = _read(file)
            if before is None:
                waiting.append((row, file))
            else:
                bar.update()
                yield row, before
            if len(waiting) == batch_size or place == len(wanted) - 1:
                for (each, file), found in zip(waiting, _looked(finder, images, texts, [each for each, _ in waiting])):
                    if file is not None:
                        with atomic_file(file) as path:
                            save_array(path, found)
                    bar.update()
                    yield each, found
                waiting = []


def _read(file: Path | None) -> np.ndarray | None:
    """What the cache holds of an image; a file that is damaged is made anew."""
    with suppress(OSError, ValueError, EOFError):
        return None if file is None else np.load(file, allow_pickle=False)
    return None


def _looked(
    finder: WordModel | CutOut, images: datasets.Dataset, texts: list[list[str]], which: Sequence[int]
) -> list[np.ndarray]:
    """What the network finds in these rows: of several texts the largest of their maps, or all their boxes."""
    if not which:
        return []
    cells = [images[row]["image"] for row in which]
    read = [read_image(cell, f"row {row} ({cell.get('path') or 'in memory'})") for row, cell in zip(which, cells)]
    pairs = [(image, text) for image, row in zip(read, which) for text in texts[row]]
    found = iter(finder.find(*zip(*pairs)))
    of_row = [[next(found) for _ in texts[row]] for row in which]
    return [_largest(each) if finder.kind.finds == "maps" else np.concatenate(each) for each in of_row]


def _largest(maps: list[np.ndarray]) -> np.ndarray:
    """At each place the largest of several maps of one image; one that holds nothing may be a single pixel."""
    found = [map for map in maps if map.any()] or maps[:1]
    return np.maximum.reduce(found)


def _cut(map: np.ndarray, image: Any, level: float) -> tuple[dict[str, Any] | None, float]:
    return cut_mask(torch.from_numpy(map).float()[None], upright_size(image), level)


def _chosen(found: np.ndarray, level: float) -> tuple[list[list[float]] | None, float]:
    """Boxes ``[x, y, width, height]`` of a score at the level or above, and the mean of their scores."""
    found = found[found[:, 4] >= np.float32(level)].astype(np.float64)
    if not len(found):
        return None, 0.0
    return np.concatenate([found[:, :2], found[:, 2:4] - found[:, :2]], 1).tolist(), float(found[:, 4].mean())
