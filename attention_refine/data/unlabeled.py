"""Images without labels: every image of a source, whatever else it holds."""

from __future__ import annotations

from pathlib import Path

import datasets

from attention_refine.data.columns import DataError, find_image
from attention_refine.data.sources import folder_rows, has_tables, is_image, load_source, metadata_files, split_folders


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
        source: as of :func:`load_dataset`. Of a folder of image files, those that its metadata names, or, without
            metadata, every image file under the split's folder, in class folders or not; a folder without splits is
            one.
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
    here = split_folders(folder, split)[split]
    if metadata_files(here, folder)[0]:
        files = [row["_image"] for row in folder_rows(here, folder, image_column)]
    else:
        files = [str(path) for path in sorted(here.rglob("*")) if is_image(path, here)]
    if not files:
        raise DataError(f"folder {here} holds no images")
    return datasets.Dataset.from_dict({"image": files}, features=datasets.Features({"image": datasets.Image()}))
