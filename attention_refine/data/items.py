"""Datasets of items for a model, plain and streaming, and batches of them."""

from __future__ import annotations

import hashlib
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

import datasets
import numpy as np
import pyarrow.compute
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from attention_refine.data.augmenting import name_of
from attention_refine.data.boxes import as_boxes, check_boxes
from attention_refine.data.clip_reading import check_video, read_clips
from attention_refine.data.clip_sampling import ClipSampling
from attention_refine.data.columns import VIDEO, group_names, is_multi_label, label_names, media_column, undecoded
from attention_refine.data.images import read_image, read_mask
from attention_refine.data.labels import ClassIndex, DataError, not_known
from attention_refine.data.map_files import is_edited, read_map
from attention_refine.data.thumbnails import Thumbnails, shrunk_boxes, shrunk_mask
from attention_refine.data.transforms import Transform


class Reader:
    """A canonical row to an item; what a map-style and a streaming dataset share."""

    def __init__(
        self,
        dataset: Any,
        preprocessing: Any,
        train: Any,
        augment: Any,
        scale: Any,
        names: Any,
        seed: Any,
        labeled: Any = True,
        clips: Any = 1,
        cache_images: Any = None,
    ) -> None:
        self.column = media_column(dataset)
        if self.column == "image" and not isinstance((dataset.features or {}).get("image"), datasets.Image):
            raise DataError("the dataset has no image column 'image': pass it through data.as_canonical first")
        self.sampling = ClipSampling.of(preprocessing)
        if (self.sampling is not None) != (self.column == "video"):
            held, wanted = ("videos", "images") if self.sampling is None else ("images", "clips")
            raise DataError(
                f"the dataset holds {held}, and preprocessing input_size {list(preprocessing['input_size'])} is of {wanted}: "
                f"wrap a network that takes {held}, such as {'r3d_18' if held == 'videos' else 'resnet50'}"
            )
        if type(clips) is not int or clips < 1:
            raise ValueError(f"clips must be a whole number of 1 or more, got {clips!r}")
        self.clips = 1 if train else clips
        self._said_short = False
        own = label_names(dataset) if labeled else []
        self.labeled = labeled
        self.names = list(own if names is None else names)
        self.multi = labeled and is_multi_label(dataset)
        self.transform = Transform(preprocessing, train, augment, scale)
        self.thumbnails: Thumbnails | None = None
        if cache_images is not None:
            if self.column == "video" or not train:
                what = "videos" if self.column == "video" else "images that are judged: those are read as they are"
                raise ValueError(
                    f"cache_images={str(cache_images)!r} keeps images to train on, not {what}; leave it out"
                )
            self.thumbnails = Thumbnails(cache_images, self.transform, scale[0])
        self.random, self.seed = train, int(seed)
        self.own_augmentation = train and callable(augment)
        self._own, self._classes = own, ClassIndex(self.names) if labeled else None
        self._has_mask, self._has_cue_mask = (
            isinstance(dataset.features.get(k), (datasets.Image, *VIDEO)) for k in ("mask", "cue_mask")
        )
        self.groups = group_names(dataset)
        lists = (list, datasets.List, datasets.LargeList)
        self._has_boxes, self._has_cue = (isinstance(dataset.features.get(k), lists) for k in ("bbox", "cue_bbox"))
        self._has_maps = "maps" in dataset.features
        self._has_confidence = "mask_confidence" in dataset.features
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # shared, so that running workers see a new one

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(int(epoch))

    def label(self, row: dict, where: str) -> Tensor:
        field = "labels" if self.multi else "label"
        found = []
        for value in (row[field] or []) if self.multi else [row[field]]:
            if value == -1:
                raise not_known(where, field)
            if value is None or not 0 <= value < len(self._own):
                raise DataError(f"{where}: {field} {value!r} is not one of the dataset's {len(self._own)} classes")
            assert self._classes is not None, "labeled"
            found.append(self._classes(self._own[value], field, where))
        if not self.multi:
            return torch.tensor(found[0])
        return torch.zeros(len(self.names)).index_fill_(0, torch.tensor(found, dtype=torch.long), 1.0)

    def load(self, row: dict, where: str) -> tuple:
        """(image, mask, boxes, edited map, cue boxes, cue mask) as :class:`Transform` takes them.

        Raises:
            DataError: an unreadable file, a mask of another size, a malformed box.
        """
        image, size = self._image(row["image"], where)
        boxes = edited = cue = None
        mask = self._mask(row, "mask", size, where) if self._has_mask else None
        cue_mask = self._mask(row, "cue_mask", size, where) if self._has_cue_mask else None
        if self._has_boxes and row["bbox"] is not None and len(row["bbox"]):  # an empty list says nothing of the object
            boxes = as_boxes(row["bbox"], where)
            check_boxes(boxes, size, f"{where}: bbox")
        if self._has_maps:
            wanted = is_edited(row.get("edited"), row["maps"])
            edited = read_map(row["maps"], f"the map of {where}") if wanted else np.zeros((1, 1), np.float32)
        if self._has_cue and row["cue_bbox"] is not None:
            cue = as_boxes(row["cue_bbox"], where)
            check_boxes(cue, size, f"{where}: cue_bbox")
        if image.size != size:  # a thumbnail
            mask, cue_mask = (None if each is None else shrunk_mask(each, image.size) for each in (mask, cue_mask))
            boxes, cue = (None if each is None else shrunk_boxes(each, size, image.size) for each in (boxes, cue))
        return image, mask, boxes, edited, cue, cue_mask

    def _image(self, cell: Any, where: str) -> tuple[Image.Image, tuple[int, int]]:
        """The image, or its thumbnail, and the (width, height) that masks and boxes are of."""
        if self.thumbnails is not None:
            return self.thumbnails.read(cell, where)
        image = read_image(cell, where)
        return image, image.size

    def _mask(self, row: dict, name: str, size: tuple[int, int], where: str) -> np.ndarray | None:
        if row[name] is None:
            return None
        there = " ".join(f"the {name.replace('_', ' ')} {_name(row[name])} of {where}".split())
        options = {"values": row.get("mask_values"), "void": row.get("mask_void")} if name == "mask" else {}
        mask = read_mask(row[name], there, **options)
        height, width = mask.shape
        if (width, height) != size:
            sizes = f"{width}x{height} but its image is {size[0]}x{size[1]}"
            remedy = (
                "images are turned upright by their EXIF data, where they have any: turn the mask as well"
                if (height, width) == size
                else "they must agree"
            )
            raise DataError(f"{there} is {sizes} (width x height, upright): {remedy}")
        return mask

    def check(self, row: dict, where: str) -> None:
        """Read what an item is made of, and say what is wrong with it; see :meth:`load`."""
        if self.sampling is None:
            self.load(row, where)
        else:
            check_video(row, where, self.sampling)

    def _clip(self, row: dict, where: str) -> dict[str, Tensor]:
        """One clip of a video: at a random place in training; else the middle one of those that lie spread over it."""
        if self.random:
            places = torch.rand(1).tolist()
        else:
            places = torch.linspace(0, 1, self.clips).tolist() if self.clips > 1 else [0.5]
        assert self.sampling is not None, "of clips"
        found = read_clips(row, where, self.sampling, places)
        if found[0].short and not self._said_short:
            self._said_short = True
            filled = "its last frame is repeated" if self.sampling.short == "hold" else "it begins again"
            warnings.warn(f"{where} is shorter than a clip of {self.sampling.frames} frames: {filled}", stacklevel=2)
        middle = found.pop(len(found) // 2)
        item = self.transform(middle.frames, middle.mask, cue_mask=middle.cue_mask)
        if found:
            item["more_clips"] = torch.stack([self.transform(clip.frames)["pixel_values"] for clip in found])
        return item

    def item(self, row: dict, index: int, where: str, key: object) -> dict[str, Tensor]:
        label = {"labels": self.label(row, where)} if self.labeled else {}
        with _seeded(self.seed, self.epoch, key) if self.random else nullcontext():
            item = self.transform(*self.load(row, where)) if self.sampling is None else self._clip(row, where)
        if self._has_maps:
            item["edited"] = torch.tensor(is_edited(row.get("edited"), row["maps"]))
        if self._has_confidence:  # of a mask that was made; a map that a person edited counts before it
            sure = 1.0 if self._has_maps and item["edited"] else float(row["mask_confidence"] or 0.0)
            item["mask_confidence"] = torch.tensor(sure)
        if self.groups:
            item["group"] = torch.tensor(-1 if row["group"] is None else row["group"])
        return item | label | {"index": torch.tensor(index)}


def _given(dataset: datasets.Dataset, column: str) -> list[bool]:
    """Which rows have something in a column: no null and no empty list; empty without the column."""
    if column not in dataset.column_names:
        return []
    cells = dataset.select_columns([column]).with_format("arrow")[:][column]
    listed = pyarrow.types.is_list(cells.type) or pyarrow.types.is_large_list(cells.type)
    filled = pyarrow.compute.greater(pyarrow.compute.list_value_length(cells), 0) if listed else cells.is_valid()
    return [bool(one) for one in filled.to_pylist()]  # of a null the length is null


def _name(cell: Any) -> str:
    path = cell.get("path") if isinstance(cell, dict) else None
    return str(path or "")


def _where(row: dict, index: int) -> str:
    name = _name(row["video" if "video" in row else "image"])
    return f"row {index} ({name})" if name else f"row {index}"


@contextmanager
def _seeded(*key: Any) -> Iterator[None]:
    """torch's CPU generator seeded by ``key`` and put back afterwards; other devices' generators are left alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest, "little") >> 1)
        yield


class _Described:
    """What is known of a dataset's items before any is read."""

    _reader: Reader

    @property
    def labeled(self) -> bool:
        return self._reader.labeled

    @property
    def class_names(self) -> list[str]:
        return self._reader.names

    @property
    def group_names(self) -> list[str]:
        """Names of the groups that ``group`` of an item counts; none where the dataset has no groups."""
        return self._reader.groups

    @property
    def is_multi_label(self) -> bool:
        return self._reader.multi


class Prepared(_Described, torch.utils.data.Dataset):
    """A dataset as items for a model: ``pixel_values``, ``labels``, ``index`` and, where known, ``mask`` and ``boxes``.

    Where the dataset has a column ``maps``, every item also has ``edited_map``, (1, H, W) float32 in [0, 1] moved with
    the image, and the flag ``edited``; the map of an item that was not edited is zero. What should not be looked at,
    a column ``cue_mask`` or ``cue_bbox``, becomes ``cue``, (1, H, W) uint8, and the column ``group`` an int64 index of
    :attr:`group_names`, -1 for none. ``mask_confidence`` of :func:`attention_refine.propagate` is a float32 scalar.

    ``labels`` is an int64 scalar, or a float32 multi-hot vector; ``index`` the row in ``dataset``. In training the
    augmentation of a row depends on (seed, epoch, row) alone, so it is the same for any number of workers and
    processes, and a resumed run sees what an uninterrupted one would: call :meth:`set_epoch` before each epoch.

    Args:
        dataset: with canonical columns, from :func:`load_dataset` or :func:`as_canonical`.
        preprocessing, train, augment, scale: see :class:`Transform`.
        class_names: the model's classes, in order; the dataset's labels are matched to them by name.
        on_error: ``"raise"``, or ``"skip"`` to leave out rows whose image, mask or boxes cannot be read (or disagree).
            They are found by reading every file once here, before training, so that every worker and process agrees on
            the rows and their number; ``skipped`` lists them as (row, reason).
        seed: of the augmentation.
        progress: show a bar while checking.
        labeled: ``False`` leaves the labels out of the items; the dataset then needs no label column.
        cache_images: of images to train on, a folder that keeps each of them decoded, as small as random crops allow
            (:mod:`attention_refine.data.thumbnails`), so that later epochs decode none. With an ``augment`` of one's own
            ``scale[0]`` says how small a share its crops keep.
        clips: of videos, when not training: how many of each, spread over it. The middle one is ``pixel_values``, the
            others ``more_clips`` (clips - 1, 3, T, H, W); predictions are the mean over all of them.

    Of videos an item's ``pixel_values`` is (3, T, H, W), ``mask`` and ``cue`` (1, T, H, W), with boxes filled in. The
    frames of a clip are ``preprocessing``'s: T of ``input_size``, ``fps`` or ``stride``, and ``short``
    (:class:`~attention_refine.data.clip_sampling.ClipSampling`). In training where a clip begins is drawn with the
    augmentation, which is one for all of its frames.

    Raises:
        DataError: columns that are not canonical, a label outside the classes (naming row, file and value), no readable
            row, an augmentation of one's own that fails or loses something of the first row; and from indexing, an
            unreadable file.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        preprocessing: dict,
        train: bool = False,
        *,
        class_names: Sequence[str] | None = None,
        augment: str | Callable[[dict], dict] = "default",
        scale: tuple[float, float] = (0.35, 1.0),
        on_error: str = "raise",
        seed: int = 0,
        progress: bool = True,
        labeled: bool = True,
        clips: int = 1,
        cache_images: str | os.PathLike | None = None,
    ):
        _check_on_error(on_error)
        self._reader = Reader(
            dataset, preprocessing, train, augment, scale, class_names, seed, labeled, clips, cache_images
        )
        self.dataset = undecoded(dataset.with_format(None))
        if labeled:
            self._check_labels()
        self.rows: Sequence[int] = range(len(dataset))
        self.skipped: list[tuple[int, str]] = []
        if on_error == "skip":
            self.skipped = [(row, reason) for row, reason in enumerate(self._reasons(progress)) if reason is not None]
            bad = {row for row, _ in self.skipped}
            self.rows = [row for row in self.rows if row not in bad]
        if not self.rows:
            raise DataError(
                f"none of the {len(dataset)} {self._reader.column}s can be read"
                if self.skipped
                else "the dataset has no rows"
            )
        if self._reader.own_augmentation:
            self._try_augmentation()

    def _try_augmentation(self) -> None:
        """Of the first row, and of the first that has a mask, boxes or a map: what it does wrong is said before training."""
        known = [row for row, *flags in zip(self.rows, *self.annotations.values()) if any(flags)]
        for row in {self.rows[0], *known[:1]}:
            cells = self.dataset[row]
            where = _where(cells, row)
            try:
                self._reader.check(cells, where)
            except DataError:
                continue  # said when it is read, or left out there
            python, numpy = random.getstate(), np.random.get_state()
            try:
                self._reader.item(cells, row, where, row)
            except Exception as error:
                given = self._reader.transform.augment
                augment = given if given is None else name_of(given)
                reason = " ".join(str(error).split())
                said = reason if isinstance(error, DataError) else f"the augmentation {augment} fails: {reason}"
                raise DataError(f"{where}: {said}") from error
            finally:
                random.setstate(python)
                np.random.set_state(numpy)

    def _check_labels(self) -> None:
        column = "labels" if self._reader.multi else "label"
        seen = set()  # of 50,000 images few have a label that none before had
        for row, label in enumerate(self.dataset.select_columns([column])[column][:]):
            kind = tuple(label or ()) if self._reader.multi else label
            if kind in seen:
                continue
            seen.add(kind)
            try:
                self._reader.label({column: label}, "")
            except DataError:
                self._reader.label({column: label}, _where(self.dataset[row], row))  # again, with the file's name

    def _reasons(self, progress: bool) -> list[str | None]:
        def reason(row: int) -> str | None:
            cells = self.dataset[row]
            try:
                self._reader.check(cells, _where(cells, row))
            except DataError as error:
                return str(error)
            return None

        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
            found = pool.map(reason, range(len(self.dataset)))
            return list(tqdm(found, total=len(self.dataset), desc="checking images", disable=not progress, leave=False))

    @property
    def labels(self) -> list[int] | list[Tensor] | None:
        """The class of each item, or its multi-hot classes, as the items have them; None without labels. Reads no image."""
        if not self._reader.labeled:
            return None
        column = "labels" if self._reader.multi else "label"
        cells = self.dataset.select_columns([column])[column][:]
        if self._reader.multi:
            return [self._reader.label({column: cells[row]}, f"row {row}") for row in self.rows]
        of_cell = {
            cell: int(self._reader.label({column: cell}, "the dataset")) for cell in {cells[row] for row in self.rows}
        }
        return [of_cell[cells[row]] for row in self.rows]

    @property
    def annotations(self) -> dict[str, list[bool]]:
        """Which items have an annotation, by the name it has in an item: ``mask`` (an own one, or filled boxes),
        ``boxes``, ``edited_map``, ``cue``. Kinds that the dataset has no column of are left out; no file is read."""
        there = {name: _given(self.dataset, name) for name in ("mask", "bbox", "maps", "cue_mask", "cue_bbox")}
        found = {"boxes": there["bbox"]} if self._reader.column == "image" else {}  # a clip's are filled in
        for name, boxes in (("mask", "bbox"), ("cue", "cue_bbox")):
            kinds = [flags for flags in (there.get("cue_mask" if name == "cue" else name), there[boxes]) if flags]
            found[name] = [any(either) for either in zip(*kinds, strict=True)]
        if there["maps"]:
            flags = self.dataset["edited"] if "edited" in self.dataset.column_names else [None] * len(self.dataset)
            found["edited_map"] = [
                is_edited(flag, cell or None) for flag, cell in zip(flags, there["maps"], strict=True)
            ]
        return {name: [flags[row] for row in self.rows] for name, flags in found.items() if flags}

    @property
    def groups(self) -> list | None:
        """The name of each item's group, None for one without; None without such a column."""
        if not self.group_names:
            return None
        cells, names = self.dataset.select_columns(["group"])["group"], self.group_names
        return [None if cells[row] is None else names[cells[row]] for row in self.rows]

    @property
    def skipped_count(self) -> int:
        return len(self.skipped)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the augmentation depends on; it reaches workers that are already running, too."""
        self._reader.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        row = self.rows[i]
        cells = self.dataset[row]
        return self._reader.item(cells, row, _where(cells, row), row)


class PreparedStream(_Described, torch.utils.data.IterableDataset):
    """:class:`Prepared` for a streaming dataset: the same items, in the stream's order.

    Rows of a stream have no number of their own: ``index`` counts them as read (worker ``w`` of ``n`` counts w, w + n,
    ...), and the augmentation depends on (seed, epoch, the image's file name, or its bytes where it has none). With
    ``on_error="skip"`` a row that cannot be read is left out as it comes, with a warning, and counted in
    ``skipped_count``. Shuffle with ``dataset.shuffle(seed=, buffer_size=)`` beforehand; :meth:`set_epoch` reshuffles.
    Arguments and errors as for :class:`Prepared`, but a label outside the classes is found when its row is read.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        preprocessing: dict,
        train: bool = False,
        *,
        class_names: Sequence[str] | None = None,
        augment: str | Callable[[dict], dict] = "default",
        scale: tuple[float, float] = (0.35, 1.0),
        on_error: str = "raise",
        seed: int = 0,
        clips: int = 1,
        cache_images: str | os.PathLike | None = None,
    ):
        _check_on_error(on_error)
        options = {"clips": clips, "cache_images": cache_images}
        self._reader = Reader(dataset, preprocessing, train, augment, scale, class_names, seed, **options)
        self.dataset = undecoded(dataset)
        self.on_error = on_error
        self._skipped = torch.zeros(1, dtype=torch.int64).share_memory_()  # workers count into it

    @property
    def skipped_count(self) -> int:
        return int(self._skipped)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the augmentation and the order of a shuffled stream depend on."""
        self._reader.set_epoch(epoch)

    def rows(self) -> Iterator[tuple[int, dict]]:
        """The epoch's rows as they are read, with their numbers, none of them decoded; :meth:`item` is of one of them.

        So readers that want some of them each (processes, or a run that is resumed) pass over the others for little. With
        ``on_error="skip"`` every row is looked at, so that all of them agree which are left out.
        """
        self.dataset.set_epoch(self._reader.epoch)
        for index, row in enumerate(self.dataset):
            if self.on_error == "skip":
                try:
                    self._reader.check(row, _where(row, index))
                except DataError as error:
                    self._skip(error)
                    continue
            yield index, row

    def item(self, index: int, row: dict) -> dict[str, Tensor]:
        """A row as an item."""
        return self._reader.item(row, index, _where(row, index), _identity(row[self._reader.column]))

    def _skip(self, error: DataError) -> None:
        self._skipped += 1
        warnings.warn(f"skipped: {error}", stacklevel=3)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        self.dataset.set_epoch(self._reader.epoch)
        for n, row in enumerate(self.dataset):
            try:
                item = self.item(first + n * step, row)
            except DataError as error:
                if self.on_error == "raise":
                    raise
                self._skip(error)
                continue
            yield item


def prepare(dataset: Any, preprocessing: dict, train: bool = False, **options: Any) -> Prepared | PreparedStream:
    """:class:`PreparedStream` of a streaming dataset, :class:`Prepared` of any other; options are theirs."""
    kind = PreparedStream if isinstance(dataset, datasets.IterableDataset) else Prepared
    return kind(dataset, preprocessing, train, **options)


def _identity(cell: Any) -> object:
    content = cell.tobytes() if isinstance(cell, Image.Image) else cell.get("bytes") or b""
    return _name(cell) or hashlib.blake2b(content, digest_size=16).hexdigest()


def _check_on_error(on_error: str) -> None:
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error {on_error!r} is not one of raise, skip")


def collate(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Items to a batch: tensors stacked, numbers made into tensors, ``boxes`` as a list.

    What some items have and others lack is there for all of them: a ``mask`` is then void, a ``cue`` empty, ``boxes``
    none.

    Raises:
        DataError: values of a column that are of several sizes, or text.
    """
    size = items[0]["pixel_values"].shape[1:]
    lacking = {
        "mask": torch.full((1, *size), 255, dtype=torch.uint8),
        "cue": torch.zeros(1, *size, dtype=torch.uint8),
        "boxes": torch.zeros(0, 4),
    }
    some = {key: value for key, value in lacking.items() if any(key in item for item in items)}
    items = [{**some, **item} for item in items]
    shared = [key for key in items[0] if all(key in item for item in items)]
    return {k: [i[k] for i in items] if k == "boxes" else _stacked(k, [i[k] for i in items]) for k in shared}


def _stacked(name: str, values: list) -> Tensor:
    try:
        tensors = [each if isinstance(each, Tensor) else torch.as_tensor(each) for each in values]
    except (TypeError, ValueError, RuntimeError) as error:  # of text, of lists of unequal lengths, of None
        odd = next((each for each in values if not isinstance(each, (Tensor, int, float))), values[0])
        raise DataError(
            f"{name} of an item is {odd!r}, and must be a tensor or numbers (labels: the index of a class)"
        ) from error
    shapes = list(dict.fromkeys(tuple(each.shape) for each in tensors))
    if len(shapes) > 1:
        remedy = "; ar.data.prepare brings images to one size" if name == "pixel_values" else ""
        raise DataError(
            f"{name} of the items of a batch are of several sizes, {' and '.join(map(str, shapes[:2]))}{remedy}"
        )
    return torch.stack(tensors)
