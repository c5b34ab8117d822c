"""A split of a folder of images or videos as rows: class folders, metadata that adds to them, masks and maps by their stem."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from attention_refine.data.labels import DataError, label_text
from attention_refine.data.listing import (
    SIDES,
    File,
    LeftOut,
    Listing,
    list_folder,
    readable,
    split_folders,
    without_mask,
)
from attention_refine.data.metadata import METADATA, existing, file_field, metadata_lines
from attention_refine.data.published import recognise
from attention_refine.data.split_names import canonical_split
from attention_refine.data.video import FILMS, MOVING

LIKE_MASKS = re.compile(
    r"\b(masks?|seg|segm[a-z]*|annot[a-z]*|labels?|trimaps?|mattes?|alphas?|saliency|silhouettes?|ground ?truths?|gts?)\b",
    re.IGNORECASE,
)
PAIRS = 3  # images with another of the same stem beside them that are looked at
MASK_COLOURS = 32
MEDIA = ("auto", "image", "video")
# The row's key of each folder of SIDES, and the metadata field that names such a file.
KEYS = {"masks": "_mask", "maps": "_maps", "cue_masks": "_cue_mask"}
FIELDS = {"masks": "mask_file_name", "maps": "maps_file_name", "cue_masks": "cue_mask_file_name"}


def read_split(
    root: Path,
    split: str,
    image_column: str | None = None,
    label_column: str | None = None,
    labeled: bool = True,
    media: str = "auto",
) -> tuple[list[dict], LeftOut]:
    """A split's rows, and what was left out of it: paths by reason.

    A row holds the fields of its metadata, with ``_image`` (the file, a video's as well) and where there are any
    ``_mask``, ``_maps`` and ``_cue_mask`` (paths that exist), ``_at`` (for messages) and ``label``, the class folder's
    name where the metadata has none. Files of class folders that no line names are rows too, behind the others.
    :func:`of_videos` says of rows which of the two they are.

    Raises:
        DataError: no images, a line that cannot be read, and whatever has two readings.
        ValueError: an unknown ``media``.
    """
    if media not in MEDIA:
        raise ValueError(f"media={media!r} is not one of {', '.join(MEDIA)}")
    root = Path(os.path.normpath(root))
    published = recognise(root) if image_column is None and media != "video" else None
    if published is not None:
        return published.rows(split)
    asked, label_column = label_column, None if label_column == "label" else label_column
    found = split_folders(root, split, image_column)
    here = found[split]
    listing = list_folder(here)
    if here != root:
        _list_root(root, here, set(found.values()), listing)
    rows = _named(here, root, {path.name for path in found.values()}, listing, image_column)
    sides = {row[key] for row in rows for key in KEYS.values() if key in row}
    videos = _choose(listing, rows, sides, media)
    images = [file for file in listing.images if not _among(file.path, sides)]
    for column, what in ((image_column, "image files"), (label_column if labeled else None, "labels")):
        if column is not None and not listing.metadata:
            raise DataError(f"{here} has no metadata file, so no field {column!r} to take {what} from")
    if asked == "label":
        rows = [{key: value for key, value in row.items() if key != "labels"} for row in rows]
    known = {row["_image"] for row in rows}
    unnamed = [file for file in images if file.path not in known]
    if labeled:
        rows += _labelled(rows, images, unnamed, here, label_column, listing)
    else:
        rows += [{"_at": file.path, "_image": file.path} for file in unnamed]
    for row in rows:
        row["_video"] = videos
    if not rows and not labeled:
        raise DataError(f"folder {here} holds no images")
    if not rows:
        held = left_out_lines(listing.left_out, here)
        raise DataError(
            f"dataset folder {here} is empty: no images in class folders, and no lines in a metadata.jsonl"
            + (f"; what it holds is {'; '.join(held[:3])}" if held else "")
        )
    for kind in SIDES:
        _sort_sides(listing, kind, rows, videos)
        _match(kind, rows, here, root, listing)
    return rows, listing.left_out


# images or videos ------------------------------------------------------------------------------------------------------


def of_videos(rows: list[dict]) -> bool:
    """Whether rows of :func:`read_split` are of videos."""
    return bool(rows) and rows[0]["_video"]


def _choose(listing: Listing, rows: list[dict], sides: set[str], media: str) -> bool:
    """Whether the folder is one of videos; what is of the other kind is left out of the listing.

    ``"auto"``: what the metadata names decides, then images that stand still, then films. Of videos a GIF is one, too.
    """
    endings = [(row, os.path.splitext(row["_image"])[1].lower()) for row in rows]
    still = [file for file in listing.images if not _among(file.path, sides) and _suffix(file) not in MOVING]
    films = any(ending in FILMS for _, ending in endings)
    videos = media == "video" or media == "auto" and (films or not rows and not still and bool(listing.films))
    for row, ending in endings:
        if videos and ending in readable() and ending not in MOVING | {".png", ".webp"}:
            raise DataError(
                f"{row['_at']}: {os.path.basename(row['_image'])} is an image, and the dataset is one of videos"
            )
        if not videos and ending in FILMS:
            raise DataError(
                f"{row['_at']}: {os.path.basename(row['_image'])} is a video, and the dataset is one of images"
            )
    if not videos:
        for file in listing.films:
            listing.leave_out("videos beside images (media='video' reads those)", file.path)
        return False
    for file in still:
        listing.leave_out("images beside videos", file.path)
    moving = [file for file in listing.images if _suffix(file) in MOVING and not _among(file.path, sides)]
    listing.images = sorted(listing.films + moving)
    return True


def _suffix(file: File) -> str:
    return os.path.splitext(file.path)[1].lower()


def _among(path: str, sides: set[str]) -> bool:
    """Whether a file is one of ``sides``, or lies in a folder of them."""
    return path in sides or os.path.dirname(path) in sides


def _sort_sides(listing: Listing, kind: str, rows: list[dict], videos: bool) -> None:
    """Of videos the pictures in a folder with the stem of one are one mask; of images, films are none."""
    files = listing.sides[kind]
    if not videos:
        for file in files:
            if _suffix(file) in FILMS:
                listing.leave_out(f"videos in {kind}, beside images", file.path)
        listing.sides[kind] = [file for file in files if _suffix(file) not in FILMS]
        return
    if kind == "maps" and files:
        raise DataError(
            f"{os.path.dirname(files[0].path)}: edited maps are of images, and the dataset is one of videos"
        )
    stems = {os.path.splitext(os.path.basename(row["_image"]))[0] for row in rows}
    found = [
        File(os.path.dirname(file.path), file.parts[:-1]) if file.parts[-2:-1] and file.parts[-2] in stems else file
        for file in files
    ]
    listing.sides[kind] = list(dict.fromkeys(found))


def _list_root(root: Path, here: Path, splits: set[Path], listing: Listing) -> None:
    """Add what lies beside the splits: metadata for all of them, folders of masks; name what is not read."""
    for path in sorted(root.iterdir()):
        if path in splits or path.name.startswith((".", "__", "@")):
            continue
        if path.name in METADATA:
            listing.metadata.insert(0, path)
        elif path.is_dir() and path.name.lower() in SIDES:
            beside = list_folder(path)
            kind = path.name.lower()
            listing.sides[kind] += (
                beside.images + beside.films + [each for files in beside.sides.values() for each in files]
            )
            listing.sides[kind] += [File(str(each), ()) for each in path.rglob("*.npy")]
        elif path.is_dir():
            listing.leave_out("folders beside the splits (a split's name reads one)", str(path))


# lines of metadata -----------------------------------------------------------------------------------------------------


def _named(here: Path, root: Path, splits: set[str], listing: Listing, image_column: str | None) -> list[dict]:
    """The rows of the metadata; lines that name the same image, or the same part of a video, are joined."""
    rows: dict[tuple, dict] = {}
    for file in listing.metadata:
        shared = file.parent == root != here  # one file for all splits, whose names begin with the split's folder
        for at, line in metadata_lines(file):
            field = file_field(line, image_column, at)
            split = Path(str(line[field]).replace("\\", "/")).parts[:1]
            if shared and split != (here.name,):
                if not splits.intersection(split):
                    listing.leave_out("lines of metadata beside the splits that name no file in one", at)
                continue
            row = line | {"_at": at, "_image": existing(file, line[field], field, at)}
            for kind, name in FIELDS.items():
                if line.get(name):
                    row[KEYS[kind]] = existing(file, line[name], name, at, folders=True)
            film = os.path.splitext(row["_image"])[1].lower() in FILMS | MOVING
            which = (row["_image"], *((row.get("start"), row.get("end")) if film else ()))
            if which in rows:
                _join(rows[which], {key: value for key, value in row.items() if key != field})
                listing.leave_out("lines of metadata that name an image again", at)
            rows.setdefault(which, row)
    return list(rows.values())


def _join(row: dict, again: dict) -> None:
    """Add to a row what another line of its image says, unless they disagree."""
    for key, value in again.items():
        if key == "_at" or key in FIELDS.values() or value is None:
            continue
        if row.get(key) is not None and not _alike(row[key], value):
            hint = "; several boxes of an image are one list, [[x, y, width, height], ...]" if "bbox" in key else ""
            raise DataError(
                f"{again['_at']}: {os.path.basename(row['_image'])} has {key.lstrip('_')} {value!r} here and "
                f"{row[key]!r} at {row['_at']}: one image, one line{hint}"
            )
        row[key] = value


def _alike(one: Any, other: Any) -> bool:
    """Whether two lines say the same; a cell of a table is text where JSON has a number, or true and false."""
    texts = (str(one), str(other))
    return (
        one == other
        or texts[0] == texts[1]
        or isinstance(one, bool) | isinstance(other, bool)
        and len({t.lower() for t in texts}) == 1
    )


# classes from folders --------------------------------------------------------------------------------------------------


def _labelled(
    rows: list[dict], images: list[File], unnamed: list[File], here: Path, label_column: str | None, listing: Listing
) -> list[dict]:
    """Fill in the labels that folders give, and return rows for the images that only a class folder labels."""
    field = label_field(rows, label_column)
    bare = [row for row in rows if row.get("label") is None and field == "label"]
    if not (unnamed or bare):
        return []
    of_file = {file.path: file for file in images}
    say = [row for row in rows if row.get(field) is not None]
    agree = [row for row in say if _folder_says(row, field, of_file)]
    if agree and len(agree) < len(say):
        row = next(row for row in say if row not in agree)
        raise DataError(
            f"{row['_at']}: {field} is {row[field]!r} and the image lies in {os.path.dirname(row['_image'])}, while "
            "other lines agree with their class folders: correct the line, or name every image in the metadata"
        )
    classes: dict[str, str] = {}
    if agree or not say and label_column is None:  # else the folders are no classes: the metadata says so
        classes = class_folders(
            unnamed + [of_file[row["_image"]] for row in bare if row["_image"] in of_file], here, rows
        )
    for row in bare:
        if row["_image"] in classes:
            row["label"] = classes[row["_image"]]
    for file in unnamed:
        if file.path not in classes:
            listing.leave_out("images that no line of the metadata names", file.path)
    return [
        {"_at": file.path, "_image": file.path, field: classes[file.path]} for file in unnamed if file.path in classes
    ]


def label_field(rows: list[dict], label_column: str | None) -> str:
    """The field that holds the label: the one asked for, ``label``, or ``labels`` where no line has that."""
    both = next((row for row in rows if row.get("label") is not None and row.get("labels") is not None), None)
    if both is not None and label_column is None:
        raise DataError(
            f"{both['_at']} has both label ({both['label']!r}) and labels ({both['labels']!r}): say which counts, "
            "label_column='labels' or 'label'"
        )
    several = any("labels" in row for row in rows) and not any("label" in row for row in rows)
    return label_column or ("labels" if several else "label")


def _folder_says(row: dict, field: str, of_file: dict[str, File]) -> bool:
    """Whether a line's label is the name of a folder that its image lies in."""
    folders = of_file[row["_image"]].parts[:-1] if row["_image"] in of_file else ()
    label = label_text(row[field]) if not isinstance(row[field], list) else None
    return label in [label_text(name) for name in folders]


def class_folders(files: list[File], here: Path, rows: list[dict]) -> dict[str, str]:
    """The class that the folders of each image name; images that lie in none are left out.

    The class is the first folder below the split (below folders that hold everything, such as ``images``).

    Raises:
        DataError: no image lies in a folder and nothing else labels them, or the folders have two readings.
    """
    deep = {file.path: file.parts[:-1] for file in files if len(file.parts) > 1}
    if not deep:
        if files and not rows:
            raise DataError(
                f"{files[0].path} lies in no class folder, and {here} has no metadata.jsonl or metadata.csv that labels it"
            )
        return {}
    if len(deep) < len(files) and not rows:
        flat = next(file.path for file in files if file.path not in deep)
        raise DataError(
            f"{flat} lies in no class folder, beside class folders: move it into one, or label it in a metadata.jsonl"
        )
    above: tuple[str, ...] = ()
    while len({parts[0] for parts in deep.values()}) == 1 and all(len(parts) > 1 for parts in deep.values()):
        above += next(iter(deep.values()))[:1]
        deep = {path: parts[1:] for path, parts in deep.items()}
    inner = sorted({parts[1] for parts in deep.values() if len(parts) > 1})
    tops = sorted({parts[0] for parts in deep.values()})
    inside = [name for name in inner if canonical_split(name) is not None]
    splits = bool(above) and all(canonical_split(top) is not None for top in tops)
    if splits and inner:
        raise DataError(f"{here} holds its splits in {'/'.join(above)}: give {os.path.join(here, *above)}")
    if inside or splits:
        where = f"{tops[0]}/{inside[0]}" if inside else f"{above[-1]}/{tops[0]}"
        raise DataError(
            f"{here} holds splits inside of classes ({where}): splits come first, such as train/cat and test/cat"
        )
    if all(len(parts) > 1 for parts in deep.values()):
        raise DataError(
            f"the folders of {here} have two readings: classes {_listed(tops)}, or classes {_listed(inner)} inside of "
            "them. Leave one level of folders, or label the images in a metadata.jsonl"
        )
    _refuse_mirror(files, deep, here)
    _refuse_pairs(files, here)
    return {path: parts[0] for path, parts in deep.items()}


def _refuse_mirror(files: list[File], deep: dict[str, tuple[str, ...]], here: Path) -> None:
    """Refuse a class whose files lie in it as the images of the other classes lie beside it: they are masks of these.

    Raises:
        DataError: naming the folder and what to call it.
    """
    places = {file.path: (*deep[file.path], file.stem) for file in files if file.path in deep}
    images = set(places.values())
    by_stem: dict[str, list[tuple[str, ...]]] = {}
    for place in places.values():
        by_stem.setdefault(without_mask(place[-1]), []).append(place)
    of_class: dict[str, list[tuple[str, ...]]] = {}
    inside: dict[str, list[tuple[str, ...]]] = {}
    for place in places.values():
        of_class.setdefault(place[0], []).append(place)
        if len(place) > 2 and _like_masks(place[1]):
            inside.setdefault(os.path.join(*place[:2]), []).append(place)
    for name in sorted(of_class.keys() | inside.keys()):
        own = inside.get(name) or of_class[name]
        pairs = [(place, place[1:]) for place in own if len(place) > 2 and place[1:] in images]
        if name in inside:
            pairs = [(place, (place[0], *place[2:])) for place in own if (place[0], *place[2:]) in images]
        elif len(pairs) < len(own):
            pairs = _flat_mirror(name, own, by_stem, len(places))
        if pairs:
            raise DataError(
                f"{os.path.join(here, name)} holds files for {len(pairs)} images beside it "
                f"({'/'.join(pairs[0][0])} for {'/'.join(pairs[0][1])}): if they are masks, call the folder masks; else take "
                "it out, or label the images in a metadata.jsonl if it is a class"
            )


def _like_masks(name: str) -> bool:
    """Whether a folder is called as those of masks are: ``SegmentationClass``, ``cat_masks``, ``gt``."""
    return LIKE_MASKS.search(re.sub(r"(?<=[a-z])(?=[A-Z])|[_\W]+", " ", name)) is not None


def _refuse_pairs(files: list[File], here: Path) -> None:
    """Refuse files that lie beside an image of the same stem and hold a few plain colours: masks without a place.

    Raises:
        DataError: naming two of them.
    """
    beside: dict[tuple[str, ...], list[File]] = {}
    for file in files:
        beside.setdefault((*file.parts[:-1], file.stem), []).append(file)
    pairs = [found for found in beside.values() if len(found) > 1]
    for found in pairs[:PAIRS]:
        plain = [file for file in found if _is_plain(file.path)]
        if plain and len(plain) < len(found):
            image = next(file for file in found if file not in plain)
            raise DataError(
                f"{len(pairs)} images of {here} have another file of their name beside them, and "
                f"{'/'.join(plain[0].parts)} looks like the mask of {'/'.join(image.parts)}: put masks into a folder masks, "
                f"or call them {image.stem}_mask.png"
            )


def _is_plain(path: str) -> bool:
    """Whether an image holds so few colours that it is a mask."""
    try:
        with Image.open(path) as image:
            return image.getcolors(MASK_COLOURS) is not None
    except Exception:  # it is said where it is read
        return False


def _flat_mirror(
    name: str, own: list[tuple[str, ...]], by_stem: dict[str, list[tuple[str, ...]]], images: int
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The files of a folder, each with the image of another folder that has its stem; none where it may be a class.

    Classes number their images alike, so a stem alone says little: the folder is called as masks are, or its stems are
    those of all images of two other folders at least, none of which has a stem of the others.
    """

    def other(place: tuple[str, ...]) -> tuple[str, ...] | None:
        return next((found for found in by_stem[without_mask(place[-1])] if found[0] != name), None)

    pairs = [(place, found) for place in own if (found := other(place)) is not None]
    if _like_masks(name):
        return pairs if 2 * len(pairs) >= len(own) else []
    if not len(pairs) == len(own) == images - len(own):
        return []
    others = [[place for place in found if place[0] != name] for found in by_stem.values()]
    folders = {place[0] for found in others for place in found}
    return pairs if len(folders) > 1 and all(len(found) < 2 for found in others) else []


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


# masks and maps by their stem ------------------------------------------------------------------------------------------


def _match(kind: str, rows: list[dict], here: Path, root: Path, listing: Listing) -> None:
    """Give each file of ``masks/`` (``maps/``, ``cue_masks/``) to the image whose place and stem it has.

    Raises:
        DataError: several images could be meant, or none of the files belongs to one.
    """
    key = KEYS[kind]
    taken = {row[key] for row in rows if key in row}
    files = [file for file in listing.sides[kind] if file.path not in taken]
    if not files:
        return
    by_stem: dict[str, list[dict]] = {}
    for row in rows:
        name = os.path.basename(row["_image"])
        for stem in {name, os.path.splitext(name)[0]}:
            by_stem.setdefault(stem, []).append(row)
    others = _other_splits(root, here, files)
    matched, strays = bool(taken), []
    for file in files:
        scope, inside = _scope(file.path, kind)
        stem = os.path.splitext(os.path.basename(file.path))[0]
        near = [row for row in by_stem.get(stem) or by_stem.get(without_mask(stem)) or [] if _under(row, scope)]
        mirrored = os.path.normpath(os.path.join(scope, inside))
        while not os.path.isdir(mirrored):
            mirrored = os.path.dirname(mirrored)
        near = [row for row in near if _under(row, mirrored)]
        candidates = [row for row in near if os.path.dirname(row["_image"]) == mirrored] or near
        if not candidates:
            strays.append(file.path)
            continue
        elsewhere = _elsewhere(stem, others) if mirrored == os.path.normpath(root) else None
        if len(candidates) > 1 or elsewhere:
            also = candidates[1]["_image"] if len(candidates) > 1 else elsewhere
            raise DataError(
                f"{file.path} could belong to {candidates[0]['_image']} or to {also}: put it into folders of the same "
                f"names inside {kind}, or name it in a metadata.jsonl"
            )
        matched = True
        row = candidates[0]
        if row.get(key) in taken:
            listing.leave_out(f"files in {kind} beside the one that the metadata names", file.path)
        elif key in row:
            raise DataError(f"{row['_image']} has two {kind}: {row[key]} and {file.path}")
        else:
            row[key] = file.path
    if strays and not matched and not others:
        raise DataError(
            f"{os.path.dirname(strays[0])} holds {len(strays)} files and no image has the stem of one, such as "
            f"{os.path.basename(strays[0])}: name them as their images, or rename the folder if it is a class"
        )
    for path in strays:
        if not _elsewhere(os.path.splitext(os.path.basename(path))[0], others):
            listing.leave_out(f"files in {kind} whose stem no image has", path)


def _scope(path: str, kind: str) -> tuple[str, str]:
    """The folder that holds the folder of masks, and the folders inside of that; a mask beside its image has its own."""
    parts = Path(path).parts
    at = next((i for i in range(len(parts) - 2, 0, -1) if parts[i].lower() == kind), None)
    if at is None:
        return os.path.dirname(path), ""
    return os.path.join(*parts[:at]), os.path.join(*parts[at + 1 : -1]) if at + 2 < len(parts) else ""


def _under(row: dict, folder: str) -> bool:
    return row["_image"].startswith(os.path.normpath(folder) + os.sep)


def _other_splits(root: Path, here: Path, files: list[File]) -> dict[str, str]:
    """Images of the other splits by stem, where a folder of masks lies beside the splits."""
    if here == root or all(file.path.startswith(str(here) + os.sep) for file in files):
        return {}
    found: dict[str, str] = {}
    for path in set(split_folders(root, here.name).values()) - {here}:
        beside = list_folder(path)
        for file in beside.images + beside.films:
            found[file.stem] = file.path
            found[file.parts[-1]] = file.path
    return found


def _elsewhere(stem: str, others: dict[str, str]) -> str | None:
    return others.get(stem) or others.get(without_mask(stem))


# what was left out -----------------------------------------------------------------------------------------------------


def left_out_lines(left_out: LeftOut, root: Path) -> list[str]:
    """A line a reason: how many, why, and the first of them."""
    lines = []
    for reason, paths in sorted(left_out.items()):
        shown = ", ".join(os.path.relpath(path, root) if os.path.isabs(path) else path for path in paths[:3])
        lines.append(f"{len(paths)} {reason}: {shown}{', ...' if len(paths) > 3 else ''}")
    return lines


OFTEN = ("class", "class_name", "category", "target", "species", "breed", "y")  # what others call a label


def field_value(row: dict, field: str) -> Any:
    """A row's label or labels.

    Raises:
        DataError: it has none.
    """
    value = row.get(field)
    for one in value if isinstance(value, list) else ():
        label_text(one, row["_at"])
    if isinstance(value, list) or label_text(value, row["_at"]) is not None:
        return value
    have = ", ".join(k for k in row if not k.startswith("_"))
    empty = f" (it is {'empty' if value is None else repr(value)})" if field in row else ""
    usual = [name for name in row if name.strip().lower() in (field, *OFTEN) and name != field]
    hint = f"label_column={usual[0]!r}, if that is it" if usual else "label_column= names another field"
    raise DataError(f"{row['_at']} has no {field!r}{empty}: it has {have or 'no fields'} ({hint})")
