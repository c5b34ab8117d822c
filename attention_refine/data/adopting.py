"""Whatever people hold their images in, as items for a model: one way in for training and for evaluation."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from attention_refine.data.class_matching import class_places, listed, match_classes
from attention_refine.data.columns import as_canonical, video_feature
from attention_refine.data.items import Prepared, PreparedStream, Reader, prepare
from attention_refine.data.labels import ClassIndex, DataError, not_known
from attention_refine.data.listing import has_tables, split_folders
from attention_refine.data.sources import load_dataset
from attention_refine.data.unlabeled import load_unlabeled, pictures_alone

BESIDE = ("mask", "boxes", "cue", "edited_map", "edited", "group")  # what a dict of tensors may hold, too
TAKEN = (
    "a folder, the id of a dataset on the Hub, a datasets dataset, torchvision's ImageFolder, a list of (image, label) or "
    "of {'image': ..., 'label': ...}, or what attention_refine.data.prepare makes"
)


class NoDataset(DataError):
    """What was given for a dataset is none, of no kind that can be read."""


def as_prepared(
    model: nn.Module, dataset: Any, *, train: bool = False, labeled: bool = True, seed: int = 0, **options: Any
) -> Any:
    """Items for ``model``: ``pixel_values``, ``labels``, ``index`` and what the dataset knows beside.

    Classes meet by name: a dataset's labels become the model's indices. Where either side has numbers for names the
    order counts, and both must have as many.

    Args:
        model: with ``preprocessing`` and ``labels``, as :func:`attention_refine.wrap` makes it.
        dataset: what :func:`prepare` made, or any torch dataset whose items are dicts with ``pixel_values``: as it is.
            Or a folder or Hub id (its ``train`` split to train on, else its ``test`` split, or the whole of a folder
            without splits); a ``datasets`` dataset or stream, with canonical columns or such that :func:`as_canonical`
            finds; torchvision's ``ImageFolder``; a list, or a torch dataset, of ``(image, label)`` or of dicts with
            ``image`` and ``label``, and if wanted ``mask``, ``bbox``, ``cue_bbox``. An image is a path, a PIL image, an
            uint8 tensor (3, H, W), or a float tensor of pixels that are prepared already; for a model of clips ``image``
            or ``video`` is the path or the bytes of a video. A label is an index into the
            model's classes (of the dataset's ``classes``, if it has them), a name, or a list of them.
        train: augment.
        labeled: False leaves labels out; then the dataset needs none.
        seed: of the augmentation.
        options: of :func:`prepare`, for what is not prepared yet.

    Raises:
        DataError: another kind of thing (:class:`NoDataset`), a label that is no class of the model, classes that do not fit the model's,
            or a single class to train on.
        ValueError: the model does not say its preprocessing.
    """
    if isinstance(dataset, (str, Path)):
        split, media = _split_of(dataset, train), _media(model)
        dataset = (load_dataset if labeled else load_unlabeled)(dataset, split, media=media)
    if isinstance(dataset, (Mapping, datasets.DatasetDict)):
        raise DataError(f"give one split of a dataset, not all of {', '.join(map(str, dataset))}: index it by a name")
    if isinstance(dataset, torch.utils.data.DataLoader):
        raise DataError(f"a DataLoader makes batches of its own: give its dataset, or {TAKEN}")
    if isinstance(dataset, (Prepared, PreparedStream)):
        made = match_classes(dataset, _labels(model)) if labeled else dataset
    else:
        settings = {"train": train, "labeled": labeled, "seed": seed, **options}
        made = _adopted(model, dataset, settings)
    if train and labeled and not getattr(made, "is_multi_label", True) and len(made.class_names) == 1:
        raise DataError(
            f"there is one class to learn, {made.class_names[0]!r}: its loss is 0 whatever the model does. Give images "
            "of another class, or several labels an image"
        )
    present = set(getattr(made, "labels", None) or ()) if isinstance(made, Prepared) and not made.is_multi_label else ()
    if isinstance(made, Prepared) and train and labeled and len(present) == 1:
        name = made.class_names[next(iter(present))]
        warnings.warn(
            f"all {len(made)} images are of one class, {name!r}, of {len(made.class_names)}: there is nothing to tell apart",
            stacklevel=3,
        )
    return made


def _media(model: nn.Module) -> str:
    """What is read of a folder for a model: videos for one of clips, a folder of GIFs as well."""
    return "video" if _takes_clips(getattr(model, "preprocessing", None)) else "auto"


def _takes_clips(preprocessing: dict | None) -> bool:
    return preprocessing is not None and len(preprocessing["input_size"]) == 4


def _split_of(source: str | Path, train: bool) -> str:
    if train or ":" in str(source):
        return "train"
    folder = Path(source).expanduser()
    if not folder.is_dir() or has_tables(folder):
        return "test"
    try:
        return "test" if "test" in split_folders(folder, "test") else "train"
    except DataError:
        found = split_folders(folder, "train")
        if found == {"train": folder}:
            return "train"  # the whole of it
        raise DataError(
            f"{folder} has no split 'test' to judge on, but {', '.join(found)}: name one, "
            f"data.load_dataset({str(source)!r}, 'train')"
        ) from None


def _adopted(model: nn.Module, dataset: Any, settings: dict) -> Any:
    preprocessing = getattr(model, "preprocessing", None)
    if isinstance(dataset, (datasets.Dataset, datasets.IterableDataset)):
        canonical = as_canonical(dataset) if settings["labeled"] else pictures_alone(dataset)
    elif _is_image_folder(dataset):
        names = datasets.ClassLabel(names=list(dataset.classes))
        paths, labels = zip(*dataset.samples)
        features = datasets.Features(image=datasets.Image(), label=names)
        canonical = datasets.Dataset.from_dict({"image": list(map(str, paths)), "label": list(labels)}, features)
    elif isinstance(dataset, torch.utils.data.IterableDataset):
        return dataset
    elif hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__"):
        first = _first(dataset)
        if isinstance(first, Mapping) and "pixel_values" in first and not {"label", "target"} & first.keys():
            # items already; without labels label-free objectives alone learn from them
            return match_classes(dataset, _labels(model)) if settings["labeled"] and "labels" in first else dataset
        if first is None and isinstance(dataset, torch.utils.data.Dataset):
            return dataset
        return Listed(model, dataset, first, settings)
    else:
        raise NoDataset(f"{type(dataset).__name__} is no dataset: give {TAKEN}")
    if preprocessing is None:
        raise ValueError(
            f"{type(model).__name__} does not say its preprocessing: wrap it with ar.wrap, or give a dataset "
            "prepared by ar.data.prepare(dataset, preprocessing)"
        )
    if isinstance(canonical, datasets.IterableDataset):
        settings = {key: value for key, value in settings.items() if key not in ("labeled", "progress")}
    made = prepare(canonical, preprocessing, **settings)
    return match_classes(made, _labels(model)) if made.labeled else made


def _labels(model: nn.Module) -> list[str]:
    return list(getattr(model, "labels", None) or [])


def _is_image_folder(dataset: Any) -> bool:
    """Whether a dataset is torchvision's ImageFolder without transforms: a list of files and classes."""
    transforms = [getattr(dataset, name, "none") for name in ("transform", "target_transform")]
    return transforms == [None, None] and hasattr(dataset, "samples") and hasattr(dataset, "classes")


# lists and torch datasets ----------------------------------------------------------------------------------------------


class Listed(torch.utils.data.Dataset):
    """Pairs or dicts of image and label as items; see :func:`as_prepared`.

    The augmentation of a row depends on (seed, epoch, row) alone, as in :class:`Prepared`.
    """

    def __init__(self, model: nn.Module, source: Any, first: Any, settings: dict):
        if not len(source):
            raise DataError("the dataset is empty: there are no images")
        self.source, self.labeled = source, settings["labeled"]
        first = _row(first if first is not None else source[0], 0, self.labeled)
        self.class_names = _labels(model)
        own = getattr(source, "classes", None) or getattr(getattr(source, "dataset", None), "classes", None)
        self._own = None if own is None else class_places(list(map(str, own)), self.class_names)
        self._index = ClassIndex(self.class_names) if self.class_names else None
        self.is_multi_label = _ndim(first.get("label")) > 0
        self._raw = _is_pixels(first["image"])
        self._size = tuple((getattr(model, "preprocessing", None) or {}).get("input_size") or ()) or None
        self._reader: Reader | None = None
        if not self._raw:
            preprocessing = getattr(model, "preprocessing", None)
            if preprocessing is None:
                raise ValueError(
                    f"{type(model).__name__} does not say its preprocessing: wrap it with ar.wrap, or give tensors"
                )
            videos = _takes_clips(preprocessing)
            kinds = {**({"video": video_feature()} if videos else {"image": datasets.Image()}),
                     "mask": datasets.Image(), "cue_mask": datasets.Image(), "bbox": datasets.List(datasets.Value("float32")),
                     "cue_bbox": datasets.List(datasets.Value("float32"))}  # fmt: skip
            held = {**first, "video": first["image"]} if videos else first
            there = SimpleNamespace(features={name: kind for name, kind in kinds.items() if name in held})
            self._reader = Reader(
                there, preprocessing, settings["train"], settings.get("augment", "default"),
                settings.get("scale", (0.35, 1.0)), None, settings["seed"], labeled=False, clips=settings.get("clips", 1),
                cache_images=settings.get("cache_images"),
            )  # fmt: skip
        if self.labeled and isinstance(
            source, (list, tuple)
        ):  # a wrong label is said now, not in the middle of an epoch
            for i, item in enumerate(source):
                row = _row(item, i, self.labeled)
                self._label(row["label"], _where(row["image"], i))

    def set_epoch(self, epoch: int) -> None:
        if self._reader is not None:
            self._reader.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        row = _row(self.source[i], i, self.labeled)
        image = row["image"]
        where = _where(image, i)
        label = {"labels": self._label(row["label"], where)} if self.labeled else {}
        if self._reader is None:
            if not _is_pixels(image):
                raise DataError(f"{where} is a {type(image).__name__} and row 0 a tensor of pixels: give one kind")
            if self._size is not None and (image.ndim != len(self._size) or image.shape[0] != self._size[0]):
                raise DataError(
                    f"{where} has pixels of shape {tuple(image.shape)}, and the model takes {self._size}: tensors of floats "
                    "are taken as they are; PIL images, or uint8 tensors, are prepared"
                )
            beside = {name: value for name, value in row.items() if name in BESIDE and isinstance(value, Tensor)}
            return {"pixel_values": image.float(), **beside, **label, "index": torch.tensor(i)}
        cells = {name: row.get(name) for name in ("mask", "cue_mask", "bbox", "cue_bbox", "start", "end")}
        picture = image if self._reader.column == "video" else as_picture(image)
        return self._reader.item({**cells, self._reader.column: picture}, i, where, i) | label

    def _label(self, label: Any, where: str) -> Tensor:
        if not self.is_multi_label:
            return torch.tensor(self._class(label, where))
        if isinstance(label, (Tensor, np.ndarray)):
            hot = torch.as_tensor(label).float()
            if hot.shape != (len(self.class_names),) or not ((hot == 0) | (hot == 1)).all():
                raise DataError(f"{where}: labels must be {len(self.class_names)} numbers of 0 or 1, got {label}")
            return hot
        numbers = all(isinstance(one, int) for one in label)
        if numbers and len(label) == len(self.class_names) > len(set(label)) and set(label) <= {0, 1}:
            raise DataError(
                f"{where}: label {label} seems to be 0 or 1 for each class, and a list holds the classes that are there: "
                f"give torch.tensor({label})"
            )
        found = torch.zeros(len(self.class_names))
        return found.index_fill_(0, torch.tensor([self._class(one, where) for one in label], dtype=torch.long), 1.0)

    def _class(self, label: Any, where: str) -> int:
        label = label.item() if isinstance(label, (Tensor, np.generic)) else label
        if isinstance(label, str) and self._index is not None:
            return self._index(label, "label", where)
        if not isinstance(label, int) or isinstance(label, bool):
            raise DataError(f"{where}: label {label!r} is neither an index of a class nor the name of one")
        if self._own is not None and 0 <= label < len(self._own):
            return self._own[label]
        if label == -1:
            raise not_known(where, "label")
        if self.class_names and not 0 <= label < len(self.class_names):
            raise DataError(
                f"{where}: label {label} is not one of the model's {len(self.class_names)} classes, 0 to "
                f"{len(self.class_names) - 1} ({listed(self.class_names)})"
            )
        return label


def _where(image: Any, i: int) -> str:
    return f"row {i} ({image})" if isinstance(image, (str, Path)) else f"row {i}"


def _row(item: Any, i: int, labeled: bool) -> dict[str, Any]:
    """An item as a dict with ``image`` and ``label``."""
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return {"image": item[0], "label": item[1]}
    if not labeled and not isinstance(item, (Mapping, tuple, list)):
        return {"image": item}
    if not isinstance(item, Mapping):
        kind = f"a {type(item).__name__} of {len(item)}" if isinstance(item, (tuple, list)) else type(item).__name__
        raise DataError(f"row {i} is {kind}: it must be (image, label), or a dict with 'image' and 'label'")
    image = next((name for name in ("image", "img", "video", "pixel_values") if name in item), None)
    label = next((name for name in ("label", "labels", "target") if name in item), None)
    if image is None or (labeled and label is None):
        lacks = "image" if image is None else "label"
        raise DataError(f"row {i} has no {lacks!r}: it has {', '.join(map(str, item)) or 'nothing'}")
    return {**item, "image": item[image], "label": item.get(label)}


def _is_pixels(image: Any) -> bool:
    return isinstance(image, Tensor) and image.is_floating_point()


def as_picture(image: Any) -> Any:
    """An image given as numbers from 0 to 255, as a PIL image; others as they are."""
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and len(image) in (1, 3):
        image = image.permute(1, 2, 0).numpy()
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        return Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image)
    return str(image) if isinstance(image, Path) else image


def _ndim(label: Any) -> int:
    return 1 if isinstance(label, (list, tuple)) else getattr(label, "ndim", 0)


def _first(dataset: Any) -> Any:
    """The first item, the random generators left as they were; None where there is none, or a torch dataset fails.

    What fails here fails again where the items are read, after what else is wrong with the dataset has been said.
    """
    if not len(dataset):
        return None
    with _untouched_generators():
        try:
            return dataset[0]
        except Exception:
            if isinstance(dataset, torch.utils.data.Dataset):
                return None
            raise


@contextmanager
def _untouched_generators() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
