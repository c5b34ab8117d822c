"""What lies in a folder, by name alone: images, films, masks and maps, metadata, and what is passed over and why."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from attention_refine.data.labels import DataError
from attention_refine.data.metadata import METADATA
from attention_refine.data.published import recognise
from attention_refine.data.split_names import SPLITS, canonical_split
from attention_refine.data.video import FILMS

# Folders of these names hold something about the images beside them, and are no class.
SIDES = ("masks", "maps", "cue_masks")
# Kinds of image that Pillow does not open by itself, with what makes it.
CLOSED = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "pillow-heif"),
    **dict.fromkeys((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf", ".raw"), None),
    **dict.fromkeys((".svg", ".jxl", ".psd", ".dcm", ".nii", ".czi", ".svs"), None),
    ".avif": "pillow-avif-plugin",
}

LeftOut = dict[str, list[str]]


class File(NamedTuple):
    """A file's path, and its parts from the folder that was listed."""

    path: str
    parts: tuple[str, ...]

    @property
    def stem(self) -> str:
        return os.path.splitext(self.parts[-1])[0]


@dataclass
class Listing:
    """The files of a folder, each list in the order of the names.

    Args:
        images: image files that are not in a folder of :data:`SIDES`, nor a mask beside its image (``1_mask.png``).
        films: video files, likewise.
        sides: files of the folders of each name in :data:`SIDES`.
        metadata: metadata files.
        left_out: what was passed over: paths by reason.
    """

    images: list[File] = field(default_factory=list)
    films: list[File] = field(default_factory=list)
    sides: dict[str, list[File]] = field(default_factory=lambda: {name: [] for name in SIDES})
    metadata: list[Path] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=dict)

    def leave_out(self, reason: str, path: str) -> None:
        self.left_out.setdefault(reason, []).append(path)


def list_folder(here: Path) -> Listing:
    """Every file under a folder, links followed; hidden folders and those of operating systems are passed over.

    Raises:
        DataError: a folder whose images are all of a kind that cannot be opened: a class would be gone.
    """
    found = Listing()
    _walk(str(here), (), found, {os.path.realpath(here)})
    there = {(*file.parts[:-1], file.stem) for file in found.images + found.films}
    called = [file for file in found.images + found.films if without_mask(file.stem) != file.stem]
    beside = {file for file in called if (*file.parts[:-1], without_mask(file.stem)) in there}
    found.sides["masks"] += [file for file in found.images + found.films if file in beside]
    found.images = [file for file in found.images if file not in beside]
    found.films = [file for file in found.films if file not in beside]
    return found


def _walk(folder: str, parts: tuple[str, ...], found: Listing, above: set[str]) -> None:
    images, closed = 0, []
    with os.scandir(folder) as found_there:
        entries = sorted(found_there, key=lambda entry: entry.name)
    if not entries:
        found.leave_out("empty folders", folder)
    for entry in entries:
        name = entry.name
        if not _is_text(name):
            shown = os.fsencode(entry.path).decode("utf-8", "backslashreplace")
            if entry.is_dir():
                raise DataError(f"the name of the folder {shown} is not UTF-8: rename it")
            found.leave_out("files whose names are not UTF-8 (rename them)", shown)
            continue
        if entry.is_dir():
            real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if name.startswith((".", "__", "@", "#", "$")):
                found.leave_out("hidden folders, or an operating system's", entry.path)
            elif real in above:
                found.leave_out("links to a folder that they lie in", entry.path)
            else:
                _walk(entry.path, (*parts, name), found, above | {os.path.realpath(entry.path)})
            continue
        suffix = os.path.splitext(name)[1].lower()
        side = next((part.lower() for part in parts if part.lower() in SIDES), None)
        if name.startswith((".", "__")) or name.lower() in ("thumbs.db", "desktop.ini"):
            continue
        if name in METADATA:
            found.metadata.append(Path(entry.path))
        elif side is not None and (suffix in readable() or _is_more_of(side, suffix)):
            found.sides[side].append(File(entry.path, (*parts, name)))
        elif not entry.is_file():
            found.leave_out("links to nothing" if entry.is_symlink() else "pipes and devices", entry.path)
        elif suffix in readable():
            images += 1
            found.images.append(File(entry.path, (*parts, name)))
        elif suffix in FILMS:
            found.films.append(File(entry.path, (*parts, name)))
        elif suffix in CLOSED:
            closed.append(entry.path)
        else:
            found.leave_out(f"{suffix or 'nameless'} files, which are no images", entry.path)
    if closed:
        kind = os.path.splitext(closed[0])[1].lower()
        with_it = f"pip install {CLOSED[kind]} and import it, or convert them" if CLOSED[kind] else "convert them"
        if not images:
            raise DataError(
                f"the {len(closed)} images in {folder} are {kind} files, which Pillow cannot open here: "
                f"{with_it} to JPEG or PNG"
            )
        for path in closed:
            found.leave_out(f"{kind} images, which Pillow cannot open here ({with_it} to JPEG or PNG)", path)


def _is_text(name: str) -> bool:
    """Whether a name is text: bytes that are not UTF-8 come as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_more_of(side: str, suffix: str) -> bool:
    """Whether a file that is no image belongs into a folder of :data:`SIDES`: a map in numbers, the mask of a video."""
    return suffix == ".npy" if side == "maps" else suffix in FILMS


@cache
def readable() -> frozenset[str]:
    """Suffixes of the image files that Pillow opens."""
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN) - FILMS


def without_mask(stem: str) -> str:
    """A mask's stem without the word that says so: ``1_mask`` and ``mask_1`` are masks of ``1``."""
    word = "mask|seg|segmentation|gt|ground[ _-]?truth"
    return re.sub(rf"[ _.-]({word})$|^({word})[ _.-]", "", stem, flags=re.IGNORECASE)


def split_folders(folder: Path, split: str, image_column: str | None = None) -> dict[str, Path]:
    """The folder of each split, the one asked for also under the name it was asked by.

    Of a published set it is the same for all of them, unless its table is to be read as metadata (``image_column``).

    Raises:
        DataError: the folder has no such split, or two folders that could be it.
    """
    published = recognise(folder) if image_column is None else None
    if published is not None:
        published.split(split)
        return dict.fromkeys((*published.splits(), split), folder)
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = canonical_split(path.name) if path.is_dir() else None
        if name is None:
            continue
        if name in found:
            raise DataError(
                f"both {found[name].name!r} and {path.name!r} in {folder} could be the split {name!r}: "
                "join them, or move one away"
            )
        found[name] = path
    if found and (folder / split).is_dir():
        found.setdefault(split, folder / split)
    found = dict(sorted(found.items(), key=lambda entry: list(SPLITS).index(entry[0]) if entry[0] in SPLITS else 3))
    found = found or {"train": folder}
    name = split if split in found else canonical_split(split) or split
    if name not in found:
        raise DataError(f"dataset folder {folder} has no split {name!r}: it has {', '.join(found)}")
    return {**found, split: found[name]}


def has_tables(folder: Path) -> bool:
    """Whether the folder holds tables that ``datasets`` reads, and no more image files than tables beside them."""
    if (folder / "state.json").exists() or (folder / "dataset_dict.json").exists():
        return True
    if recognise(folder) is not None:
        return False
    kinds = [f"{at}*.{kind}" for kind in ("parquet", "arrow", "tar", "zip") for at in ("", "*/")]
    tables = sum(path.name not in METADATA for kind in kinds for path in folder.glob(kind))
    if not tables:
        return False
    suffixes = readable() | FILMS
    names = (name for _, _, names in os.walk(folder) for name in names)
    return sum(os.path.splitext(name)[1].lower() in suffixes for name in names) <= tables


def check_source(source: str | Path) -> None:
    """Refuse an empty name: as a folder it would be the current one.

    Raises:
        DataError: it is empty.
    """
    if not str(source).strip() or str(source) != str(source).strip("\0"):
        raise DataError(f"dataset {str(source)!r} names nothing: give a folder, or the id of a dataset on the Hub")
