"""Images without labels: every image of a source, whatever else it holds."""

from __future__ import annotations

from pathlib import Path

import datasets

from attention_refine.data.columns import find_image
from attention_refine.data.folders import read_split
from attention_refine.data.sources import has_tables, load_source


def load_unlabeled(
    source: str | Path,
    split: str = "train",
    *,
    revision: str | None = None,
    token: str | None = None,
    image_column: str | None = None,
) -> datasets.Dataset:
    """A dataset with the one column ``image``, for ``prepare(dataset, ..., labeled=False)``; labels are not read.

    Args:
        source: as of :func:`load_dataset`. Of a folder of image files, every one under the split's folder, in class
            folders or not, but masks and maps; a folder without splits is one.
        split: name of the split.
        revision, token: of the Hub.
        image_column: column with the image, when it is not ``image`` (or the only image column).

    Raises:
        DataError: no such source or split, or no images in it.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir() or has_tables(folder):
        dataset = load_source(source, split, revision=revision, token=token)
        column = find_image(dict(dataset.features), image_column)
        return dataset.select_columns([column]).rename_columns({column: "image"} if column != "image" else {})
    rows, _ = read_split(folder, split, image_column, labeled=False)
    files = [row["_image"] for row in rows]
    return datasets.Dataset.from_dict({"image": files}, features=datasets.Features({"image": datasets.Image()}))
