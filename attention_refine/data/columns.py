"""Canonical columns: class lists, labels as indices, and the split of train into train and validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import numpy as np

from attention_refine.data.boxes import check_box_format, from_corners
from attention_refine.data.labels import ClassIndex, DataError, as_list, check_lists, label_text, sorted_names


def as_canonical(
    dataset: datasets.Dataset | datasets.IterableDataset,
    *,
    label_column: str | None = None,
    image_column: str | None = None,
    class_names: Sequence[str] | None = None,
    group_column: str | None = None,
    box_format: str = "xywh",
    mask_values: int | Sequence[int] | None = None,
    void: int | Sequence[int] | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """Any ``datasets`` dataset with canonical columns; see :func:`load_dataset`. Other columns are kept.

    Raises:
        DataError: no such column, several that could be meant, a label outside ``class_names`` (for a stream, when the
            row is read), or a row without a group.
        ValueError: an unknown ``box_format``.
    """
    check_box_format(box_format)
    if isinstance(dataset, dict):
        raise DataError(
            f"expected one split of a dataset, not all of {', '.join(dataset)}: index it with a split's name"
        )
    if dataset.features is None:
        dataset = dataset._resolve_features()  # a stream that does not declare its columns: read a first row
    dataset = videos_undecoded(dataset)
    features = dict(dataset.features)
    image = find_image(features, image_column)
    classes = [name for name, kind in features.items() if isinstance(inner(kind), datasets.ClassLabel)]
    usual = ["label", "labels", *(["cls"] if "__key__" in features else [])]  # a sample of a WebDataset has a key
    label = _column("label", label_column, usual, classes, features)
    kind = features[label]
    if not isinstance(inner(kind), (datasets.ClassLabel, datasets.Value)):
        raise DataError(f"column {label!r} holds {kind}, not classes: label_column= names another")
    canonical = "label" if inner(kind) is kind else "labels"
    for old, new in ((image, media_name(features[image])), (label, canonical)):
        if old != new:
            dataset = dataset.remove_columns(new) if new in dataset.column_names else dataset
            dataset = dataset.rename_column(old, new)
    dataset = _with_groups(dataset, group_column, (image, label))
    if box_format == "xyxy":
        dataset = _boxes_from_corners(dataset)
    for name, numbers in (("mask_values", mask_values), ("mask_void", void)):
        if numbers is not None and "mask" in dataset.features:
            dataset = _with_numbers(dataset, name, whole_numbers(numbers, name))
    own = getattr(inner(kind), "names", None)
    if own is not None and (class_names is None or list(class_names) == own):
        return dataset
    return _relabel(dataset, canonical, own, class_names)


def _with_groups(dataset: Any, asked: str | None, taken: tuple[str, str]) -> Any:
    """The dataset with its groups as a class column ``group``, where it has any."""
    name = asked or "group"
    if name not in dataset.features or asked in taken:
        if asked is None:
            return dataset
        others = [each for each in dataset.features if each not in taken]
        raise DataError(f"the dataset has no column {asked!r} (group_column) beside image and label: it has {others}")
    kind = dataset.features[name]
    if not isinstance(kind, (datasets.ClassLabel, datasets.Value)):
        if asked is None:
            return dataset  # something else that is called so
        raise DataError(f"column {asked!r} holds {kind}, not groups: group_column= names another")
    if isinstance(dataset, datasets.IterableDataset) and asked is None and not isinstance(kind, datasets.ClassLabel):
        return dataset  # not worth reading a stream's whole column for, unasked
    rows = () if isinstance(dataset, datasets.IterableDataset) else dataset.select_columns([name])[name]
    if asked is not None:
        check_groups(((value, f"row {i}") for i, value in enumerate(rows)), name)
    if name == "group" and isinstance(kind, datasets.ClassLabel):
        return dataset
    other = name != "group" and "group" in dataset.features
    if isinstance(dataset, datasets.IterableDataset):
        dataset = (dataset.remove_columns("group") if other else dataset).rename_column(name, "group")
        return dataset if isinstance(kind, datasets.ClassLabel) else _relabel(dataset, "group", None, None)
    if isinstance(kind, datasets.ClassLabel):
        cells, names = list(rows), kind.names
    else:
        cells, names = group_indices(list(rows))
    dataset = dataset.remove_columns("group") if "group" in dataset.features else dataset
    return dataset.add_column("group", cells, feature=datasets.ClassLabel(names=names))


def group_indices(values: Sequence) -> tuple[list[int | None], list[str]]:
    """Groups as indices of their sorted names, None where a row has none; and the names."""
    named = [label_text(value) for value in values]
    names = sorted_names((name for name in named if name is not None), "group")
    return [None if name is None else names.index(name) for name in named], names


def check_groups(values: Iterable[tuple], name: str) -> None:
    """Refuse a row without a group in a column that was asked for; ``values`` are (group, where)."""
    for value, at in values:
        if label_text(value) is None or value == -1:
            raise DataError(f"{at} has no {name!r} (group_column): give every row a group, or leave the row out")


def group_names(dataset: Any) -> list[str]:
    """Names of the groups that the index ``group`` of rows, items and batches counts; none where there are no groups.

    They are those of this split, sorted: match the groups of two splits by name. A row without a group has None, an item
    -1.

    Args:
        dataset: canonical, or prepared.
    """
    features = getattr(dataset, "features", None) or getattr(getattr(dataset, "dataset", None), "features", None) or {}
    return list(getattr(features.get("group"), "names", None) or [])


def whole_numbers(numbers: Any, name: str) -> list[int]:
    """Pixel values, one or several, as a list."""
    given = [numbers] if isinstance(numbers, (int, float, str)) else list(numbers)
    if not all(isinstance(each, (int, np.integer)) and not isinstance(each, bool) for each in given):
        raise DataError(f"{name} must be a whole number or several, the values of pixels, got {numbers!r}")
    return [int(each) for each in given]


def _with_numbers(dataset: Any, name: str, numbers: list[int]) -> Any:
    """The dataset with the same list in every row: a mask's meaning stays with it, whatever is done to the rows."""
    kind = datasets.List(datasets.Value("int64"))
    dataset = dataset.remove_columns(name) if name in dataset.features else dataset
    if not isinstance(dataset, datasets.IterableDataset):
        return dataset.add_column(name, [numbers] * len(dataset), feature=kind)
    features, bare = dataset.features, undecoded(dataset)
    bare = bare.map(lambda row: {name: numbers}, features=datasets.Features({**bare.features, name: kind}))
    return bare.cast(datasets.Features({**features, name: kind}))


VIDEO = (datasets.Video,) if hasattr(datasets, "Video") else ()


def _boxes_from_corners(dataset: Any) -> Any:
    for name in ("bbox", "cue_bbox"):
        if name not in dataset.features:
            continue
        kind = dataset.features[name]
        if isinstance(dataset, datasets.IterableDataset):
            features, bare = dataset.features, undecoded(dataset)
            bare = bare.map(
                lambda row, i, name=name: {name: from_corners(row[name], f"row {i}")}, with_indices=True,
                features=bare.features,
            )  # fmt: skip
            dataset = bare.cast(features)
        else:
            boxes = dataset.select_columns([name])[name]
            boxes = [from_corners(value, f"row {i}") for i, value in enumerate(boxes)]
            dataset = dataset.remove_columns(name).add_column(name, boxes, feature=kind)
    return dataset


def find_image(features: dict, image_column: str | None) -> str:
    """The column that holds the images, or the videos.

    Raises:
        DataError: no such column, several that could be meant, or one that holds something else.
    """
    pictures = [name for name, kind in features.items() if isinstance(kind, (datasets.Image, *VIDEO))]
    images = [name for name in pictures if name not in ("mask", "maps", "cue_mask")]
    found = _column("image", image_column, ["image", *(["video"] if "video" in images else [])], images, features)
    if not isinstance(features[found], (datasets.Image, *VIDEO)):
        raise DataError(f"column {found!r} holds {features[found]}, not images: image_column= names another")
    return found


def media_name(kind: Any) -> str:
    """The canonical name of the column of a feature that :func:`find_image` found: ``image``, or ``video``."""
    return "video" if isinstance(kind, VIDEO) else "image"


def media_column(dataset: Any) -> str:
    """The column of a canonical dataset that holds its pictures: ``video`` or ``image``."""
    return media_name((getattr(dataset, "features", None) or {}).get("video"))


def video_feature() -> Any:
    """The type of a column of videos, undecoded.

    Raises:
        DataError: this version of datasets has none.
    """
    if not VIDEO:
        raise DataError(f"datasets {datasets.__version__} has no videos: pip install 'attention-refine[video]'")
    return VIDEO[0](decode=False)


def inner(kind: Any) -> Any:
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


def _relabel(dataset: Any, column: str, own: list[str] | None, names: Sequence[str] | None) -> Any:
    """The dataset with its label column as ClassLabel over ``names`` (default: its sorted values)."""

    def value(v: Any) -> Any:
        return own[v] if own is not None and v is not None and 0 <= v < len(own) else v

    multi = column == "labels"
    if names is None:
        read = [row[column] for row in dataset.select_columns([column])]
        check_lists(read, column)
        names = sorted_names((v for label in read for v in as_list(label)), column)
    index = ClassIndex(names)

    def encode(label: Any, row: int) -> Any:
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


def declares_classes(dataset: Any, label_column: str | None) -> bool:
    features = dataset.features or {}
    named = [name for name in (label_column, "label", "labels") if name in features][:1] or list(features)
    return any(isinstance(inner(features[name]), datasets.ClassLabel) for name in named)


def is_multi_label(dataset: Any) -> bool:
    """Whether rows carry ``labels``, a list of classes, rather than one ``label``."""
    return "labels" in dataset.features and "label" not in dataset.features


def class_names(dataset: Any) -> list[str]:
    """Names of the classes of a canonical dataset, in the order of its label indices.

    Raises:
        DataError: the dataset has no class column.
    """
    return label_names(dataset)


def label_names(dataset: Any) -> list[str]:
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
    groups = shuffled_by_class(dataset, seed)
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
    groups = shuffled_by_class(dataset, seed)
    least = min(len(rows) for rows in groups)
    if least < per_class:
        raise DataError(f"{per_class} images of each class are more than there are: a class has {least}")
    return _parted(dataset, [row for rows in groups for row in rows[:per_class]])


def shuffled_by_class(dataset: datasets.Dataset, seed: int) -> list[list[int]]:
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


def undecoded(dataset: Any) -> Any:
    """The dataset with its files as they are: this module decodes them, and says which one it could not."""
    for column in ("image", "mask", "cue_mask", "maps"):
        if isinstance((dataset.features or {}).get(column), datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return videos_undecoded(dataset)


def videos_undecoded(dataset: Any) -> Any:
    """The dataset with its videos as files, before anything is done to a stream that would decode them."""
    for column, kind in (dataset.features or {}).items():
        if isinstance(kind, VIDEO) and kind.decode:
            dataset = dataset.cast_column(column, video_feature())
    return dataset
