"""Images without labels: every image of a source, whatever else it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets

from attention_refine.data.columns import find_image, media_name, video_feature, videos_undecoded
from attention_refine.data.folders import of_videos, read_split
from attention_refine.data.listing import has_tables
from attention_refine.data.sources import load_source


def load_unlabeled(
    source: str | Path,
    split: str = "train",
    *,
    revision: str | None = None,
    token: str | None = None,
    image_column: str | None = None,
    media: str = "auto",
) -> datasets.Dataset:
    """A dataset with the one column ``image`` (or ``video``), for ``prepare(dataset, ..., labeled=False)``; labels are not read.

    Args:
        source: as of :func:`load_dataset`. Of a folder of image files, every one under the split's folder, in class
            folders or not, but masks and maps; a folder without splits is one.
        split: name of the split.
        revision, token: of the Hub.
        image_column: column with the image, when it is not ``image`` (or the only image column).
        media: as of :func:`load_dataset`.

    Raises:
        DataError: no such source or split, or no images in it.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir() or has_tables(folder):
        dataset = load_source(source, split, revision=revision, token=token)
        return pictures_alone(dataset, image_column)
    rows, _ = read_split(folder, split, image_column, labeled=False, media=media)
    name, kind = ("video", video_feature()) if of_videos(rows) else ("image", datasets.Image())
    columns, features = {name: [row["_image"] for row in rows]}, {name: kind}
    for part in ("start", "end"):
        if name == "video" and any(row.get(part) is not None for row in rows):
            columns[part], features[part] = [row.get(part) for row in rows], datasets.Value("float64")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def pictures_alone(dataset: Any, image_column: str | None = None) -> Any:
    """The dataset's images or videos (and the part of each), under their canonical name, without all other columns."""
    dataset = videos_undecoded(dataset)
    column = find_image(dict(dataset.features), image_column)
    name = media_name(dataset.features[column])
    kept = [column, *(part for part in ("start", "end") if name == "video" and part in dataset.features)]
    return dataset.select_columns(kept).rename_columns({column: name} if column != name else {})
