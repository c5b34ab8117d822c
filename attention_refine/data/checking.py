"""What would be read of a source, and what is wrong with it, before anything is trained: names and headers, no pixels."""

from __future__ import annotations

import filecmp
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from attention_refine.data.boxes import as_boxes, check_box_format, check_boxes, from_corners
from attention_refine.data.clip_sampling import ClipSampling
from attention_refine.data.folders import field_value, label_field, left_out_lines, of_videos, read_split
from attention_refine.data.images import open_image, read_mask
from attention_refine.data.labels import ClassIndex, DataError, as_list, check_lists, label_text, sorted_names
from attention_refine.data.listing import check_source, has_tables, split_folders
from attention_refine.data.map_files import is_edited, read_map
from attention_refine.data.published import published_classes, recognise
from attention_refine.data.split_names import canonical_split
from attention_refine.data.summary import Summary, describe

HEADERS = 60  # annotated images of a split whose sizes are looked at, spread over it
PIXELS = 4  # masks, and maps, of a split that are read whole
VIDEOS = 12  # of a split that are opened
SHOWN = 5  # problems of a kind


@dataclass(frozen=True)
class Check:
    """What :func:`check` found; as text, what the command prints.

    Args:
        source: what was looked at.
        splits: what each split holds.
        problems: sentences, the first of each kind; empty where nothing was found.
    """

    source: str
    splits: dict[str, Summary] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [self.source]
        for name, found in self.splits.items():
            lines.append(f"{name}: {found}")
            lines += _wrapped("classes", found.classes) + _wrapped("groups", found.groups)
            lines += [f"  left out: {line}" for line in found.left_out]
        lines += [f"problem: {problem}" for problem in self.problems]
        if not self.problems:
            lines.append(
                f"no problem found (images were not decoded; sizes of at most {HEADERS} annotated ones a split)"
                if all(found.media == "image" for found in self.splits.values())
                else f"no problem found ({VIDEOS} videos a split were opened)"
            )
        return "\n".join(lines)


def _wrapped(title: str, counts: dict[str, int], most: int = 12) -> list[str]:
    if not counts:
        return []
    shown = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:most])
    return [f"  {title}: {shown}" + (f", ... ({len(counts)} in all)" if len(counts) > most else "")]


def check(
    source: str | Path,
    *,
    label_column: str | None = None,
    image_column: str | None = None,
    group_column: str | None = None,
    box_format: str = "xywh",
    mask_values: int | Sequence[int] | None = None,
    void: int | Sequence[int] | None = None,
    revision: str | None = None,
    media: str = "auto",
) -> Check:
    """Look at a folder as :func:`load_dataset` would read it. A thousand files take a twentieth of a second.

    Looked at are names, metadata, sizes of files, the headers of 60 annotated images of a split, spread over it, and the
    pixels of its first 4 masks and maps. Other sources are loaded and described.

    Args:
        source: a folder, or what else :func:`load_dataset` takes.
        label_column, image_column, group_column, box_format, mask_values, void, revision, media: as of :func:`load_dataset`.

    Raises:
        ValueError: an unknown box format.
        DataError: no such folder or dataset. What is wrong inside of one is a problem of the result.
    """
    check_box_format(box_format)
    check_source(source)
    folder = Path(source).expanduser()
    columns: dict[str, Any] = {"label_column": label_column, "image_column": image_column}
    if not folder.is_dir() or has_tables(folder):
        from attention_refine.data.sources import load_dataset

        found = load_dataset(source, revision=revision, group_column=group_column, box_format=box_format, **columns)
        return Check(str(source), {"train": describe(found)})
    result = Check(str(source))
    try:
        published = recognise(folder) if image_column is None else None
        split = published.splits()[0] if published is not None else _any_split(folder)
        found = split_folders(folder, split, image_column)
    except DataError as error:
        result.problems.append(str(error))
        return result
    names: list[str] | None = None
    seen: dict[str, list[dict]] = {}
    options = {"group_column": group_column, "box_format": box_format, "values": mask_values, "void": void}
    for split in sorted(found, key=lambda name: name != "train"):
        try:
            rows, left_out = read_split(folder, split, image_column, label_column, media=media)
            field = label_field(rows, label_column)
            labels = [as_list(field_value(row, field)) for row in rows]
            check_lists((row.get(field) for row in rows), field)
            names = published_classes(folder, split, image_column, label_column) or names
            names = names or sorted_names((value for label in labels for value in label), field)
            lines = tuple(left_out_lines(left_out, folder))
            result.splits[split] = _summary(rows, labels, names, group_column or "group", lines)
        except DataError as error:
            result.problems.append(str(error))
            continue
        result.problems.extend(_problems(split, rows, labels, field, names, options))
        if published is None:  # a published split is what it is, and one may be a part of another
            result.problems.extend(_copies(split, rows, seen))
        seen.setdefault(split, rows)
    return result


def _any_split(folder: Path) -> str:
    named = (canonical_split(path.name) for path in sorted(folder.iterdir()) if path.is_dir())
    return next((name for name in named if name), "train")


def _summary(rows: list[dict], labels: list[list], names: list[str], group: str, left_out: tuple[str, ...]) -> Summary:
    seen = Counter(label_text(value) for label in labels for value in label)
    groups = Counter(label_text(row.get(group)) for row in rows if not isinstance(row.get(group), (list, dict)))

    def given(key: str) -> int:
        return sum(row.get(key) not in (None, []) for row in rows)

    return Summary(
        images=len(rows), classes={name: seen[label_text(name)] for name in names}, masks=given("_mask"),
        boxes=given("bbox"), cue_masks=given("_cue_mask"), cue_boxes=given("cue_bbox"),
        edited_maps=sum(is_edited(row.get("edited"), row.get("_maps")) for row in rows),
        groups={name: groups[name] for name in sorted(name for name in groups if name)}, left_out=left_out,
        media="video" if of_videos(rows) else "image",
    )  # fmt: skip


def _problems(
    split: str, rows: list[dict], labels: list[list], field: str, names: list[str], options: dict[str, Any]
) -> list[str]:
    found = list(islice(_labels(rows, labels, field, names), SHOWN))
    if split == "train" and len(names) == 1 and len(labels) == sum(len(label) == 1 for label in labels):
        found.append(f"{split} has one class, {names[0]!r}: there is nothing to tell apart")
    empty = [row["_image"] for row in rows if _bytes(row["_image"]) == 0]
    if empty:
        found.append(
            f"{len(empty)} {'videos' if of_videos(rows) else 'images'} of {split} are empty files: {', '.join(map(_name, empty[:3]))}"
        )
    found += islice(_groups(rows, options["group_column"]), 1)
    kinds = (_annotations(rows, options["box_format"]), _masks(rows, options), _maps(rows))
    for of_kind in (_videos(rows),) if of_videos(rows) else kinds:
        found += islice(of_kind, SHOWN)
    return found


def _copies(split: str, rows: list[dict], seen: dict[str, list[dict]]) -> Iterator[str]:
    """Images that are in another split too: of the same name and size, and the first few the same to the byte."""

    def mark(row: dict) -> tuple[str, int]:
        return os.path.basename(row["_image"]), os.path.getsize(row["_image"])

    for other, theirs in seen.items():
        known = {mark(row): row["_image"] for row in theirs}
        pairs = [(row["_image"], known[mark(row)]) for row in rows if mark(row) in known]
        if pairs and all(filecmp.cmp(*pair, shallow=False) for pair in pairs[:PIXELS]):
            yield (
                f"{len(pairs)} of the {len(rows)} images of {split} are in {other} too, such as {pairs[0][0]}: what is "
                "measured there says how well they are known by heart"
            )


def _labels(rows: list[dict], labels: list[list], field: str, names: list[str]) -> Iterator[str]:
    index = ClassIndex(names)
    for row, label in zip(rows, labels):
        for value in label:
            try:
                index(value, field, row["_at"])
            except DataError as error:
                yield str(error)


def _groups(rows: list[dict], asked: str | None) -> Iterator[str]:
    holes = [row["_at"] for row in rows if label_text(row.get(asked or "group")) is None]
    if holes and (asked is not None or len(holes) < len(rows)):
        yield f"{len(holes)} of {len(rows)} images have no {asked or 'group'!r}, the first at {holes[0]}"


def _annotations(rows: list[dict], box_format: str) -> Iterator[str]:
    """Boxes and masks held against the sizes of their images."""
    kinds = ("_mask", "_cue_mask", "bbox", "cue_bbox")
    annotated = [row for row in rows if any(row.get(kind) not in (None, []) for kind in kinds)]
    for row in annotated[:: -(-len(annotated) // HEADERS) or 1]:
        try:
            size = _size(row["_image"])
            for kind in kinds[:2]:
                if row.get(kind) and _size(row[kind]) != size:
                    width, height = _size(row[kind])
                    yield f"{_name(row[kind])} is {width}x{height} but its image {_name(row['_image'])} is {size[0]}x{size[1]}"
            for kind in kinds[2:]:
                if row.get(kind) is not None:
                    boxes = from_corners(row[kind], row["_at"]) if box_format == "xyxy" else row[kind]
                    check_boxes(as_boxes(boxes, row["_at"]), size, f"{row['_at']}: {kind}")
        except DataError as error:
            yield str(error)


def _videos(rows: list[dict]) -> Iterator[str]:
    """Videos spread over the split: the middle of each with what is known of it, and its last frame."""
    from attention_refine.data.clip_reading import check_video

    names = {"_image": "video", "_mask": "mask", "_cue_mask": "cue_mask"}
    for row in rows[:: -(-len(rows) // VIDEOS) or 1]:
        cells = {names.get(key, key): value for key, value in row.items()}
        try:
            check_video(cells, row["_image"], ClipSampling(2))
        except DataError as error:
            yield str(error)


def _bytes(cell: Any) -> int:
    return len(cell["bytes"]) if isinstance(cell, dict) else os.path.getsize(cell)


def _name(cell: Any) -> str:
    """What a message calls an image: its file, or its place in the array that it lies in."""
    return cell["path"] if isinstance(cell, dict) else cell


def _size(cell: Any) -> tuple[int, int]:
    """(width, height) of an image as it is seen upright, from its header."""
    try:
        with open_image(cell) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return image.size[::-1] if turned else image.size
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, DecompressionBombError, ...
        raise DataError(f"{_name(cell)} cannot be read as an image ({' '.join(str(error).split())})") from error


def _masks(rows: list[dict], options: dict[str, Any]) -> Iterator[str]:
    for row in islice((row for row in rows if row.get("_mask")), PIXELS):
        given = {
            name: row.get(key) or options[name] for name, key in (("values", "mask_values"), ("void", "mask_void"))
        }
        given = {name: as_list(each) if each is not None else None for name, each in given.items()}
        try:
            if not (read_mask(row["_mask"], f"the mask {_name(row['_mask'])}", **given) == 1).any():
                yield f"the mask {_name(row['_mask'])} holds no object: all of it is background, or void"
        except DataError as error:
            yield str(error)


def _maps(rows: list[dict]) -> Iterator[str]:
    for row in islice((row for row in rows if row.get("_maps")), PIXELS):
        try:
            read_map(row["_maps"], f"the map {row['_maps']}")
        except DataError as error:
            yield str(error)
