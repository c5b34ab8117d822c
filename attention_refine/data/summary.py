"""What a dataset holds, counted without opening an image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from attention_refine.data.labels import as_list

LEFT_OUT = "left out: "


@dataclass(frozen=True)
class Summary:
    """What a dataset holds; as text one line, ``24 images, 3 classes, 4 masks, 0 boxes``.

    Args:
        images: how many; None for a stream, whose rows are not counted.
        classes: images of each class, in the order of the label indices; classes without any are there with 0. With
            several labels an image counts for each. Empty without labels.
        masks, boxes, cue_masks, cue_boxes: images that have such an annotation.
        edited_maps: images with a map that a person edited.
        groups: images of each group, empty where there are none.
        media: ``"image"``, or ``"video"`` where ``images`` are videos.
        left_out: what the folder holds and the dataset does not: a sentence a reason, with the number of files.
    """

    images: int | None
    classes: dict[str, int] = field(default_factory=dict)
    masks: int = 0
    boxes: int = 0
    cue_masks: int = 0
    cue_boxes: int = 0
    edited_maps: int = 0
    groups: dict[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    media: str = "image"

    def __str__(self) -> str:
        images = "a stream" if self.images is None else _counted(self.images, self.media)
        parts = [images, _counted(len(self.classes), "class", "classes")]
        if self.images is not None:
            parts += [_counted(self.masks, "mask"), _counted(self.boxes, "box", "boxes")]
        for number, one, several in (
            (self.cue_masks, "cue mask", None), (self.cue_boxes, "cue box", "cue boxes"),
            (self.edited_maps, "edited map", None), (len(self.groups), "group", None),
        ):  # fmt: skip
            parts += [_counted(number, one, several)] if number else []
        return ", ".join(parts)


def _counted(number: int, one: str, several: str | None = None) -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def describe(dataset: Any) -> Summary:
    """What a dataset holds. No image is opened.

    Args:
        dataset: canonical (from :func:`load_dataset`, or a part of such a one), or prepared: then without the rows
            that were skipped, which are named in ``left_out``.
    """
    import datasets  # takes a second, which a folder that is looked at does not need

    from attention_refine.data.columns import class_names, group_names, is_multi_label, media_column, undecoded

    rows, skipped = getattr(dataset, "rows", None), getattr(dataset, "skipped", [])
    table = dataset if hasattr(dataset, "features") else dataset.dataset
    left_out = [line.removeprefix(LEFT_OUT) for line in (table.info.description or "").splitlines()
                if line.startswith(LEFT_OUT)]  # fmt: skip
    if skipped:
        left_out.append(f"{_counted(len(skipped), media_column(table))} that cannot be used: {skipped[0][1]}")
    labelled = any(name in table.features for name in ("label", "labels"))
    names = class_names(table) if labelled else []
    if isinstance(table, datasets.IterableDataset):
        return Summary(None, dict.fromkeys(names, 0), left_out=tuple(left_out), media=media_column(table))
    if rows is not None and len(rows) < len(table):
        table = table.select(rows)
    table = undecoded(table.with_format(None))

    def given(name: str) -> int:
        if name not in table.column_names:
            return 0
        return sum(_is_there(cell) for cell in table.select_columns([name])[name])

    counts: dict[str, int] = {}
    if labelled:
        column = "labels" if is_multi_label(table) else "label"
        seen = Counter(v for label in table.select_columns([column])[column] for v in as_list(label))
        counts = {name: seen[i] for i, name in enumerate(names)}
    groups = group_names(table)
    of_group = Counter(table.select_columns(["group"])["group"]) if groups else Counter()
    edited = 0
    if "maps" in table.column_names:
        flags = table.select_columns(["edited"])["edited"] if "edited" in table.column_names else [True] * len(table)
        cells = table.select_columns(["maps"])["maps"]
        edited = sum(_is_there(cell) and str(flag).lower() not in ("false", "0") for cell, flag in zip(cells, flags))
    return Summary(
        images=len(table), classes=counts, masks=given("mask"), boxes=given("bbox"), cue_masks=given("cue_mask"),
        cue_boxes=given("cue_bbox"), edited_maps=edited,
        groups={name: of_group[i] for i, name in enumerate(groups)}, left_out=tuple(left_out),
        media=media_column(table),
    )  # fmt: skip


def _is_there(cell: Any) -> bool:
    if isinstance(cell, dict):
        return cell.get("path") is not None or cell.get("bytes") is not None
    return cell is not None and (not isinstance(cell, list) or len(cell) > 0)
