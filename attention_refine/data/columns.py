"""Canonical columns: class lists, labels as indices, and the split of train into train and validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import datasets
import numpy as np


class DataError(ValueError):
    """Something is wrong with a dataset or a file of it: a sentence that names the file, row or field."""

    def __init__(self, message: str):
        # A DataLoader worker's error arrives as the text of its traceback, which ends in the sentence.
        super().__init__(message.rpartition("DataError: ")[2].strip())


class ClassIndex:
    """Label values, names or numbers, to indices of a class list."""

    def __init__(self, names: Sequence[str]):
        self.names = [str(n) for n in names]
        self.index = {name: i for i, name in enumerate(self.names)}
        repeated = [name for name, n in Counter(self.names).items() if n > 1]
        if repeated or not self.names:
            raise DataError(f"class names repeat {repeated[0]!r}" if repeated else "the list of class names is empty")

    def __call__(self, value, field: str, at: str) -> int:
        found = None if value is None else self.index.get(str(value))
        # A number may be an index instead, unless the names are numbers themselves.
        if found is None and type(value) is int and 0 <= value < len(self.names) and not _numeric(self.names):
            found = value
        if found is None:
            shown = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
            raise DataError(f"{at}: {field} {value!r} is not one of the {len(self.names)} classes ({shown})")
        return found


def as_list(value) -> list:
    return value if isinstance(value, list) else [value]


def sorted_names(values: Iterable) -> list[str]:
    """Distinct labels as sorted names; in numeric order where all are whole numbers."""
    names = {str(v) for v in values}
    return sorted(names, key=int) if _numeric(names) else sorted(names)


def _numeric(names: Iterable[str]) -> bool:
    return all(name.lstrip("-").isdecimal() for name in names)


def as_canonical(
    dataset: datasets.Dataset | datasets.IterableDataset,
    *,
    label_column: str | None = None,
    image_column: str | None = None,
    class_names: Sequence[str] | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """Any ``datasets`` dataset with canonical columns; see :func:`load_dataset`. Other columns are kept.

    Raises:
        DataError: no such column, several that could be meant, or a label outside ``class_names`` (for a stream, when
            the row is read).
    """
    if isinstance(dataset, dict):
        raise DataError(
            f"expected one split of a dataset, not all of {', '.join(dataset)}: index it with a split's name"
        )
    if dataset.features is None:
        dataset = dataset._resolve_features()  # a stream that does not declare its columns: read a first row
    features = dict(dataset.features)
    image = find_image(features, image_column)
    classes = [name for name, kind in features.items() if isinstance(inner(kind), datasets.ClassLabel)]
    label = _column("label", label_column, ["label", "labels"], classes, features)
    kind = features[label]
    if not isinstance(inner(kind), (datasets.ClassLabel, datasets.Value)):
        raise DataError(f"column {label!r} holds {kind}, not classes: label_column= names another")
    canonical = "label" if inner(kind) is kind else "labels"
    for old, new in ((image, "image"), (label, canonical)):
        if old != new:
            dataset = dataset.remove_columns(new) if new in dataset.column_names else dataset
            dataset = dataset.rename_column(old, new)
    own = getattr(inner(kind), "names", None)
    if own is not None and (class_names is None or list(class_names) == own):
        return dataset
    return _relabel(dataset, canonical, own, class_names)


def find_image(features: dict, image_column: str | None) -> str:
    """The column that holds the images.

    Raises:
        DataError: no such column, several that could be meant, or one that holds something else.
    """
    pictures = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    images = [name for name in pictures if name not in ("mask", "maps")]
    found = _column("image", image_column, ["image"], images, features)
    if not isinstance(features[found], datasets.Image):
        raise DataError(f"column {found!r} holds {features[found]}, not images: image_column= names another")
    return found


def inner(kind):
    """The element of a list feature, or the feature."""
    if isinstance(kind, list):
        return kind[0]
    return getattr(kind, "feature", kind)


def _column(what: str, asked: str | None, usual: list[str], candidates: list[str], features: dict) -> str:
    if asked is not None:
        if asked not in features:
            raise DataError(f"the dataset has no column {asked!r} ({what}_column): it has {', '.join(features)}")
        return asked
    for name in usual:
        if name in features:
            return name
    if len(candidates) == 1:
        return candidates[0]
    raise DataError(
        f"which column holds the {what} is unclear among {', '.join(features)}: name it with {what}_column="
    )


def _relabel(dataset, column: str, own: list[str] | None, names: Sequence[str] | None):
    """The dataset with its label column as ClassLabel over ``names`` (default: its sorted values)."""

    def value(v):
        return own[v] if own is not None and v is not None and 0 <= v < len(own) else v

    multi = column == "labels"
    if names is None:
        read = (row[column] for row in dataset.select_columns([column]))
        names = sorted_names(v for label in read for v in as_list(label) if v is not None)
    index = ClassIndex(names)

    def encode(label, row: int):
        at = f"row {row}"
        return [index(value(v), column, at) for v in label or []] if multi else index(value(label), column, at)

    label = datasets.ClassLabel(names=index.names)
    kind = datasets.List(label) if multi else label
    if isinstance(dataset, datasets.IterableDataset):
        bare = undecoded(dataset)  # a map would decode every image on its way
        features = datasets.Features({**bare.features, column: kind})
        bare = bare.map(lambda row, i: {column: encode(row[column], i)}, with_indices=True, features=features)
        return bare.cast(datasets.Features({**dataset.features, column: kind}))
    encoded = [encode(label, i) for i, label in enumerate(dataset.select_columns([column])[column])]
    return dataset.remove_columns(column).add_column(column, encoded, feature=kind)


def declares_classes(dataset, label_column: str | None) -> bool:
    features = dataset.features or {}
    named = [name for name in (label_column, "label", "labels") if name in features][:1] or list(features)
    return any(isinstance(inner(features[name]), datasets.ClassLabel) for name in named)


def is_multi_label(dataset) -> bool:
    """Whether rows carry ``labels``, a list of classes, rather than one ``label``."""
    return "labels" in dataset.features and "label" not in dataset.features


def class_names(dataset) -> list[str]:
    """Names of the classes of a canonical dataset, in the order of its label indices.

    Raises:
        DataError: the dataset has no class column.
    """
    return label_names(dataset)


def label_names(dataset) -> list[str]:
    column = "labels" if is_multi_label(dataset) else "label"
    kind = inner(dataset.features.get(column))
    if not isinstance(kind, datasets.ClassLabel):
        raise DataError(f"column {column!r} does not hold classes: pass the dataset through data.as_canonical first")
    return list(kind.names)


def split_train_validation(dataset: datasets.Dataset, fraction: float, seed: int) -> tuple:
    """(train, validation): ``fraction`` of every class goes to validation, drawn by ``seed``; rows keep their order.

    A class keeps at least one row in train. With several labels a row counts for the rarest of them.

    Raises:
        DataError: a stream, or too few rows for the fraction to give validation a row.
        ValueError: fraction outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise ValueError(f"the validation fraction must be between 0 and 1, both excluded, got {fraction}")
    if isinstance(dataset, datasets.IterableDataset):
        raise DataError("a stream cannot be split: read a validation split, or load the dataset without streaming")
    groups = _shuffled_by_class(dataset, seed)
    chosen = [row for rows in groups for row in rows[: min(round(fraction * len(rows)), len(rows) - 1)]]
    if not chosen:
        raise DataError(
            f"{len(dataset)} rows in {len(groups)} classes are too few for a validation fraction of {fraction}"
        )
    return _parted(dataset, chosen)[::-1]


def split_few_labels(dataset: datasets.Dataset, per_class: int, seed: int) -> tuple:
    """(few, rest): ``per_class`` rows of every class, drawn by ``seed``, and all others; rows keep their order.

    More of a seed's rows are a superset of fewer. With several labels a row counts for the rarest of them.

    Raises:
        DataError: a stream, or a class that has fewer rows.
        ValueError: ``per_class`` below 1.
    """
    if per_class < 1:
        raise ValueError(f"per_class must be 1 or more, got {per_class}")
    if isinstance(dataset, datasets.IterableDataset):
        raise DataError("a stream cannot be split: load the dataset without streaming")
    groups = _shuffled_by_class(dataset, seed)
    least = min(len(rows) for rows in groups)
    if least < per_class:
        raise DataError(f"{per_class} images of each class are more than there are: a class has {least}")
    return _parted(dataset, [row for rows in groups for row in rows[:per_class]])


def _shuffled_by_class(dataset: datasets.Dataset, seed: int) -> list[list[int]]:
    """The rows of each class, in a random order; a row with several labels counts for the rarest."""
    column = "labels" if is_multi_label(dataset) else "label"
    labels = [as_list(label) for label in dataset.select_columns([column])[column]]
    counts = Counter(v for label in labels for v in label)
    groups: dict = {}
    for row, label in enumerate(labels):
        groups.setdefault(min(label, key=lambda v: (counts[v], v), default=None), []).append(row)
    rng = np.random.default_rng(seed)
    return [rng.permutation(groups[key]).tolist() for key in sorted(groups, key=lambda k: (k is None, k))]


def _parted(dataset: datasets.Dataset, chosen: list[int]) -> tuple:
    """(the chosen rows, the others), both in their order."""
    kept = set(chosen)
    return dataset.select(sorted(kept)), dataset.select([row for row in range(len(dataset)) if row not in kept])


def undecoded(dataset):
    """The dataset with its files as they are: this module decodes them, and says which one it could not."""
    for column in ("image", "mask", "maps"):
        if isinstance((dataset.features or {}).get(column), datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return dataset
