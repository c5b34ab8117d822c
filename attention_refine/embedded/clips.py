"""The embedded clips: five actions of textured shapes on moving backgrounds, exact masks for every frame, a cue that lies.

The brother of :mod:`attention_refine.embedded.shapes` for video. Nothing is downloaded; every clip is drawn from a seed. The class
is what the object does (:data:`CLASSES`): it moves along a line, turns, grows, blinks or shakes. Its shape, texture, colour,
place and size are drawn independently of that, so no single frame says the class. The background drifts, in a direction
of its own.

Backgrounds stand for patients or cameras: each serves a clip of every action, and none is in two splits (column
``background``). In
the background sits a badge that stands still, in the colour that goes with the action in ``train`` and ``validation``
(probability :data:`CUE`). At ``test`` the badge is drawn independently of the action; ``test_intact`` keeps it as in
training. The difference between the two says how much a network leans on it.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..drawing.video_writer import write_video
from . import shapes
from ._writing import write_splits

if TYPE_CHECKING:
    import datasets

CLASSES = ("move", "turn", "grow", "blink", "shake")
CUE = 0.95
SIZES = {"train": 400, "validation": 100, "test": 200, "test_intact": 200}
BACKGROUNDS = 8  # that take turns, until each has served every action
FRAMES = 16
FPS = 8

_SPLITS = tuple(SIZES)
_OVERSAMPLE = 3  # inside tests a pixel side, as in shapes
_RADIUS = (0.13, 0.2)  # of the object, in sides of the frame
_GROWN = 1.7  # how much larger an object that grows ends


def badge_colour(label: int) -> np.ndarray:
    """RGB in [0, 1] of the badge that goes with an action."""
    return shapes.colour(label / len(CLASSES), 0.9, 0.95)


class _Background:
    """A texture that drifts: a window that wanders over a larger picture."""

    def __init__(self, rng: np.random.Generator, size: int):
        grounds = [shapes.colour(rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.25, 0.85)) for _ in range(2)]
        x = np.arange(2 * size) + 0.5
        angle, k = rng.uniform(0, math.pi), rng.uniform(0.06, 0.2) * 96 / size * math.pi
        wave = np.sin(k * (x * math.cos(angle) + x[:, None] * math.sin(angle)) + rng.uniform(0, 6))
        mixed = (1 / (1 + np.exp(-1.5 * (shapes.noise(rng, 2 * size) + 1.2 * wave))))[..., None]
        self.picture = grounds[0] * (1 - mixed) + grounds[1] * mixed
        self.size = size

    def at(self, across: float, down: float) -> np.ndarray:
        """(size, size, 3): the window whose corner lies at fractions of a pixel, bilinear."""
        (left, part_x), (top, part_y) = (divmod(value, 1) for value in (across, down))
        left, top, size = int(left), int(top), self.size
        rows = [self.picture[top + i : top + i + size] for i in (0, 1)]
        mixed = rows[0] * (1 - part_y) + rows[1] * part_y
        return mixed[:, left : left + size] * (1 - part_x) + mixed[:, left + 1 : left + 1 + size] * part_x


def _paths(rng: np.random.Generator, label: int, frames: int, size: int) -> dict[str, np.ndarray]:
    """Place (in pixels), radius, turn and presence of the object in every frame."""
    time = np.linspace(0, 1, frames)
    radius = np.full(frames, rng.uniform(*_RADIUS) * size)
    if label == 2:
        radius = radius * (1 + (_GROWN - 1) * time) * rng.uniform(0.75, 1)
    room = radius.max() * 1.05 + 0.04 * size
    way = np.zeros((frames, 2))
    angle = rng.uniform(0, 2 * math.pi)
    direction = np.array([math.cos(angle), math.sin(angle)])
    if label == 0:
        way = (time[:, None] - 0.5) * rng.uniform(0.3, 0.45) * size * direction
    elif label == 4:
        period = rng.uniform(2.5, 4)  # frames
        beat = np.sin(2 * math.pi * np.arange(frames) / period + rng.uniform(0, 6))
        way = beat[:, None] * rng.uniform(0.03, 0.05) * size * direction
    reach = room + abs(way).max(0)
    centre = np.array([rng.uniform(min(r, size / 2), max(size - r, size / 2)) for r in reach])
    turn = np.full(frames, rng.uniform(0, 2 * math.pi))
    if label == 1:
        turn = turn + time * rng.choice([-1, 1]) * rng.uniform(0.6, 1.1) * 2 * math.pi
    there = np.ones(frames, bool)
    if label == 3:
        period = int(rng.integers(4, 7))
        there = (np.arange(frames) + int(rng.integers(period))) % period < (period + 1) // 2
    return {"centre": centre + way, "radius": radius, "turn": turn, "there": there}


def draw(
    rng: np.random.Generator, background: np.random.Generator, label: int, cue: int, size: int, frames: int
) -> dict[str, Any]:
    """One clip.

    Args:
        rng: of the clip.
        background: of the background's texture, the same for all of its clips.
        label: the action, an index into :data:`CLASSES`.
        cue: the action whose badge is shown.
        size: side in pixels.
        frames: how many.

    Returns:
        ``video`` (frames, size, size, 3) uint8, ``mask`` (frames, size, size) uint8 with 255 on the object, ``bbox`` one
        [x, y, width, height] a frame or None where the object is away, ``cue_bbox`` one for all frames.
    """
    ground = _Background(background, size)
    paths = _paths(rng, label, frames, size)
    shape, kind = (int(each) for each in rng.integers(len(shapes.CLASSES), size=2))
    dark = shapes.colour(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.15, 0.45))
    light = shapes.colour(rng.random(), rng.uniform(0.1, 0.6), rng.uniform(0.6, 0.95))
    swapped, k = rng.random() < 0.5, rng.uniform(6, 9)

    corner, angle = rng.uniform(0.3, 0.7, 2) * size, rng.uniform(0, 2 * math.pi)
    drift = rng.uniform(0.1, 0.25) * size * np.array([math.cos(angle), math.sin(angle)])
    badge = rng.uniform(0.07, 0.09) * size
    spots = rng.uniform(badge + 1, size - badge - 1, (48, 2))
    clear = np.hypot(*(spots[:, None] - paths["centre"]).transpose(2, 0, 1)) - paths["radius"]
    badge_x, badge_y = spots[np.argmax(clear.min(1))]

    x = np.arange(size) + 0.5
    y = x[:, None]
    fine = ((np.arange(size * _OVERSAMPLE) + 0.5) / _OVERSAMPLE).reshape(size, _OVERSAMPLE)
    reach = np.hypot(x - badge_x, y - badge_y)
    rim, disc = (np.clip(part * badge + 0.5 - reach, 0, 1)[..., None] for part in (1, 0.75))
    video, masks, boxes = [], [], []
    for frame in range(frames):
        image = ground.at(*np.clip(corner + (frame / max(1, frames - 1) - 0.5) * drift, 0, size - 2))
        image += rim * (0.95 - image)
        image += disc * (badge_colour(cue) - image)
        centre, radius, turn = paths["centre"][frame], paths["radius"][frame], paths["turn"][frame]

        def own(x: Any, y: Any, centre: Any = centre, radius: Any = radius, turn: Any = turn) -> tuple[Any, Any]:
            dx, dy = (x - centre[0]) / radius, (y - centre[1]) / radius
            return dx * math.cos(turn) + dy * math.sin(turn), dy * math.cos(turn) - dx * math.sin(turn)

        mask = np.zeros((size, size), bool)
        if paths["there"][frame]:
            # The object is drawn only where it can be.
            across, down = (
                slice(max(0, int(c - shapes.REACH * radius)), int(c + shapes.REACH * radius) + 1) for c in centre
            )
            fine_x, fine_y = fine[across], fine[down]
            within = shapes.inside(shape, *own(fine_x.reshape(1, -1), fine_y.reshape(-1, 1)))
            cover = within.reshape(len(fine_y), _OVERSAMPLE, len(fine_x), _OVERSAMPLE).mean((1, 3))
            pattern = shapes.texture(kind, own(x[across], y[down]), k)[..., None]
            pattern = 1 - pattern if swapped else pattern
            drawn = image[down, across]
            drawn += cover[..., None] * (dark * (1 - pattern) + light * pattern - drawn)
            mask[down, across] = cover >= 0.5
        image += rng.normal(0, 0.02, image.shape)
        video.append((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8))
        masks.append(mask.astype(np.uint8) * 255)
        boxes.append(_box(mask))
    return {
        "video": np.stack(video),
        "mask": np.stack(masks),
        "bbox": boxes,
        "cue_bbox": [float(badge_x - badge), float(badge_y - badge), float(2 * badge), float(2 * badge)],
    }


def _box(mask: np.ndarray) -> list[float] | None:
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [float(v) for v in (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)]


def rows(
    split: str, n: int | None = None, size: int = 64, frames: int = FRAMES, seed: int = 0, cue: float = CUE
) -> Iterator[dict[str, Any]]:
    """The rows of a split, one dict at a time: ``draw``'s fields, ``label``, ``cue`` and ``background``; see :func:`make`."""
    if split not in _SPLITS:
        raise ValueError(f"clips has no split {split!r}: it has {', '.join(_SPLITS)}")
    if not 0 <= cue <= 1:
        raise ValueError(f"cue is a probability between 0 and 1, got {cue}")
    if size < 32:
        raise ValueError(f"clips are drawn at 32 pixels a side or more, got size={size}")
    if frames < 4:
        raise ValueError(f"a clip has 4 frames or more, got frames={frames}")
    n = SIZES[split] if n is None else n
    if n < 1:
        raise ValueError(f"a split has at least one clip, got n={n}")
    told, place = 0.0 if split == "test" else cue, _SPLITS.index(split)
    for i in range(n):
        # One generator a clip: the first 100 of 400 clips are the 100 of a smaller split.
        rng = np.random.default_rng(np.random.SeedSequence([seed, place, i]))
        label = i % len(CLASSES)
        shown = label if rng.random() < told else int(rng.integers(len(CLASSES)))
        number = i // (len(CLASSES) * BACKGROUNDS) * BACKGROUNDS + i % BACKGROUNDS
        background = np.random.default_rng(np.random.SeedSequence([seed, place, number, 1]))
        clip = draw(rng, background, label, shown, size, frames)
        yield {**clip, "label": label, "cue": shown, "background": f"{split} {number}"}


def _moving_picture(frames: np.ndarray) -> dict[str, Any]:
    """Frames as a PNG that moves: exact, and decoded without PyAV."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    content = io.BytesIO()
    first.save(content, "PNG", save_all=True, append_images=others, duration=1000 / FPS, compress_level=1)
    return {"bytes": content.getvalue(), "path": None}


def make(
    split: str = "train", n: int | None = None, size: int = 64, frames: int = FRAMES, seed: int = 0, cue: float = CUE
) -> datasets.Dataset:
    """A split, in memory.

    Args:
        split: ``train``, ``validation``, ``test`` (the cue is independent of the action) or ``test_intact``.
        n: clips; None for :data:`SIZES`. Classes take turns, so they are balanced.
        size: side in pixels, 32 or more.
        frames: of a clip, 4 or more; there are :data:`FPS` a second.
        seed: splits of one seed never share a clip or a background, nor do two seeds.
        cue: probability that the badge is the action's own; otherwise it is any action's, all alike. ``test`` ignores it.

    Returns:
        A dataset with ``video``, ``label``, ``mask`` (a video: 255 object, 0 background), ``cue`` (the action whose badge
        is shown), ``cue_bbox`` and ``background``.

    Raises:
        ValueError: an unknown split, or n, size, frames or cue out of range.
    """
    import datasets

    features = _features()
    columns: dict[str, list] = {name: [] for name in features}
    for row in rows(split, n, size, frames, seed, cue):
        row.update({name: _moving_picture(row[name]) for name in ("video", "mask")}, cue_bbox=[[row["cue_bbox"]]])
        for name, values in columns.items():
            values.append(row[name])
    return datasets.Dataset.from_dict(columns, features=features)


def _features() -> datasets.Features:
    import datasets

    names, video = datasets.ClassLabel(names=list(CLASSES)), datasets.Video(decode=False)
    boxes = datasets.List(datasets.List(datasets.List(datasets.Value("float32"))))
    text = datasets.Value("string")
    return datasets.Features(video=video, label=names, mask=video, cue=names, cue_bbox=boxes, background=text)


def write(folder: str | Path, splits: tuple[str, ...] = _SPLITS, n: int | None = None, **options: Any) -> Path:
    """The dataset as a folder of videos: ``<folder>/<split>/*.mp4``, ``masks/*.mkv`` (exact) and ``metadata.jsonl``.

    Args:
        folder: made if missing; a split that is already there is refused.
        splits: which splits.
        n: clips a split; None for :data:`SIZES`.
        **options: ``size``, ``frames``, ``seed`` and ``cue`` of :func:`make`.

    Raises:
        ValueError: a split's folder exists already, or as :func:`make`.
        ImportError: PyAV is not installed.
    """
    return write_splits(folder, {split: rows(split, n, **options) for split in splits}, _save)


def _save(here: Path, name: str, row: dict[str, Any]) -> dict[str, Any]:
    write_video(here / f"{name}.mp4", row["video"], FPS)
    write_video(here / "masks" / f"{name}.mkv", row["mask"][..., None].repeat(3, 3), FPS)
    line = {"file_name": f"{name}.mp4", "label": CLASSES[row["label"]], "mask_file_name": f"masks/{name}.mkv"}
    return line | {"cue": CLASSES[row["cue"]], "cue_bbox": row["cue_bbox"], "background": row["background"]}
