"""A row of videos to one clip: its frames, and the masks of the same moments.

What is said of every frame is said by one thing for each frame of the file, or by one for all of them: a mask is a video, a
folder with a picture a frame in the order of their names, or one picture; boxes are a list with an entry a frame, or with one
entry. An entry is a box ``[x, y, width, height]``, a list of boxes, or nothing.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attention_refine.data.boxes import as_boxes, check_boxes
from attention_refine.data.clip_sampling import ClipSampling
from attention_refine.data.images import read_mask
from attention_refine.data.labels import DataError
from attention_refine.data.listing import readable
from attention_refine.data.masks import object_pixels
from attention_refine.data.video import NEAR, Film, MovingPicture, open_video

FAINT = 32  # what compression leaves of a black frame stays below
SAME_LENGTH = 0.1  # of the video: by how much its mask may last longer or less long


@dataclass(frozen=True)
class Clip:
    """Frames of a video, and what is known of them.

    Attributes:
        frames: ``(T, 3, H, W)`` uint8.
        mask, cue_mask: ``(T, H, W)`` uint8, 1 object (cue), 0 background, 255 void; None where there is none.
        short: the video is shorter than a clip.
        rate: frames a second, at which the clip lasts as long as in the video.
    """

    frames: Tensor
    mask: np.ndarray | None = None
    cue_mask: np.ndarray | None = None
    short: bool = False
    rate: float = 1.0


def read_clips(row: dict[str, Any], where: str, sampling: ClipSampling, places: Sequence[float]) -> list[Clip]:
    """Clips of one row, the file opened once.

    Args:
        row: with ``video``, and if there are any ``start``, ``end`` (seconds), ``mask``, ``bbox``, ``cue_mask``,
            ``cue_bbox``, ``mask_values``, ``mask_void``.
        where: what to call it in a message.
        sampling: which moments.
        places: where each clip begins, from 0 to 1; see :meth:`ClipSampling.moments`.

    Raises:
        DataError: a video or mask that cannot be read, a part that is not in it, annotations that do not fit it.
    """
    with open_video(row["video"], where) as video:
        start, end = _part(row, video, where)
        rate = video.rate if sampling.fps is None else sampling.fps
        short = sampling.is_short(start, end, rate)
        moments = [sampling.moments(start, end, rate, place) for place in places]
        frames = video.at([moment for clip in moments for moment in clip])
        known = _Known(row, video, where)
        return [
            Clip(
                torch.from_numpy(np.ascontiguousarray(shown)).permute(0, 3, 1, 2).contiguous(),
                known.of("mask", "bbox", clip),
                known.of("cue_mask", "cue_bbox", clip),
                short,
                rate if sampling.fps is not None else rate / sampling.stride,
            )
            for clip, shown in zip(moments, frames.reshape(len(places), sampling.frames, *frames.shape[1:]))
        ]


def read_clip(video: Any, preprocessing: Mapping[str, Any]) -> Clip:
    """The middle of a video, as ``preprocessing`` samples it.

    Args:
        video: a path or bytes.
        preprocessing: with ``input_size`` (3, T, H, W), and ``fps`` or ``stride`` and ``short`` if any.

    Raises:
        DataError: it cannot be read as a video.
        ValueError: a preprocessing of images.
    """
    where = str(video) if isinstance(video, (str, Path)) else "the video"
    sampling = ClipSampling.of(preprocessing)
    if sampling is None:
        raise ValueError(f"input_size {list(preprocessing['input_size'])} is of images: a clip's is (3, T, H, W)")
    return read_clips({"video": video}, where, sampling, [0.5])[0]


def check_video(row: dict[str, Any], where: str, sampling: ClipSampling) -> None:
    """Read what :func:`read_clips` reads of the middle, and the last frame: a file that was cut off lacks that.

    Raises:
        DataError: as there.
    """
    read_clips(row, where, sampling, [0.5])
    with open_video(row["video"], where) as video:
        video.at([video.duration])


def video_size(path: str) -> tuple[int, int]:
    """(width, height), upright."""
    with open_video(path, path) as video:
        return video.size


def is_still(path: str) -> bool:
    """Whether a file is a picture that stands still, by its ending and its header."""
    if os.path.splitext(path)[1].lower() not in readable():
        return False
    try:
        with Image.open(path) as image:
            return getattr(image, "n_frames", 1) == 1
    except Exception:  # it is said where it is read
        return True


def _part(row: dict[str, Any], video: Film | MovingPicture, where: str) -> tuple[float, float]:
    """The seconds of the video that the row is about."""
    given = [row.get(name) for name in ("start", "end")]
    try:
        start, end = (
            default if value is None else float(value) for value, default in zip(given, (0.0, video.duration))
        )
    except (TypeError, ValueError):
        raise DataError(f"{where}: start {given[0]!r} and end {given[1]!r} must be numbers of seconds") from None
    if start >= video.duration or end > video.duration * (1 + SAME_LENGTH) + 1:
        raise DataError(f"{where} lasts {video.duration:.2f} s, and the row is about {start:g} to {end:g} s of it")
    if not 0 <= start < end:
        raise DataError(
            f"{where}: start {start:g} and end {end:g} are no part of a video: 0 <= start < end, in seconds"
        )
    return start, min(end, video.duration)


class _Known:
    """The masks of a row, at moments of its video."""

    def __init__(self, row: dict[str, Any], video: Film | MovingPicture, where: str):
        self.row, self.video, self.where = row, video, where
        self._times: list[float] | None = None

    def of(self, mask: str, boxes: str, moments: list[float]) -> np.ndarray | None:
        if self.row.get(mask) is not None:
            return self._masks(mask, moments)
        if self.row.get(boxes) is not None:
            return self._filled(boxes, moments)
        return None

    def _masks(self, name: str, moments: list[float]) -> np.ndarray:
        cell = self.row[name]
        path = cell.get("path") if isinstance(cell, dict) else cell
        called = f"the {name.replace('_', ' ')} {path or ''} of {self.where}".replace("  ", " ")
        options = {}
        if name == "mask":
            options = {"values": self.row.get("mask_values"), "void": self.row.get("mask_void")}
        if path is not None and os.path.isdir(path):
            files = [str(file) for file in sorted(Path(path).iterdir()) if file.suffix.lower() in readable()]
            places = self._places(len(files), moments, f"{called} holds {len(files)} pictures")
            read = {place: read_mask(files[place], f"the mask {files[place]}", **options) for place in set(places)}
            masks = np.stack([self._fitting(read[place], called) for place in places])
        elif path is not None and is_still(path):
            masks = np.stack([read_mask(cell, called, **options)] * len(moments))
        else:
            masks = self._moving(cell, called, moments, options)
        self._fitting(masks[0], called)
        return masks

    def _moving(self, cell: Any, called: str, moments: list[float], options: dict[str, Any]) -> np.ndarray:
        with open_video(cell, called) as video:
            own = self.video.duration
            if video.duration > 0 and len(video.times()) > 1 and abs(video.duration - own) > SAME_LENGTH * own + 0.1:
                raise DataError(f"{called} lasts {video.duration:.2f} s and its video {own:.2f} s: they must agree")
            pictures, lossy = video.pictures(moments), video.lossy
        # Under one another they are one picture: what its values mean is the same for all.
        labels = np.concatenate([np.asarray(picture) for picture in pictures])
        if lossy:
            grey = labels[..., 1]
            labels = np.where(grey < FAINT, 0, grey)
        stacked = Image.fromarray(labels)
        stacked.format = "JPEG" if lossy else None
        try:
            found = object_pixels(stacked, **options)
        except DataError as error:
            raise DataError(f"{called} {error}") from None
        return found.reshape(len(moments), -1, labels.shape[1])

    def _filled(self, name: str, moments: list[float]) -> np.ndarray:
        entries = frame_boxes(self.row[name], f"{self.where}: {name}")
        places = self._places(len(entries), moments, f"{self.where}: {name} has {len(entries)} entries")
        width, height = self.video.size
        y, x = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
        masks = np.zeros((len(moments), height, width), np.uint8)
        for mask, place in zip(masks, places):
            check_boxes(entries[place], self.video.size, f"{self.where}: {name}, entry {place},")
            for left, top, across, down in entries[place]:
                mask[(x >= left) & (x < left + across) & (y >= top) & (y < top + down)] = 1
        return masks

    def _places(self, count: int, moments: list[float], what: str) -> list[int]:
        """Which of ``count`` things, one a frame or one for all, goes with each moment."""
        if count == 1:
            return [0] * len(moments)
        self._times = self.video.times() if self._times is None else self._times
        if count != len(self._times):
            raise DataError(f"{what} and its video has {len(self._times)} frames: give one a frame, or one for all")
        return [max(0, bisect_right(self._times, moment + NEAR) - 1) for moment in moments]

    def _fitting(self, mask: np.ndarray, called: str) -> np.ndarray:
        if mask.shape != self.video.size[::-1]:
            height, width = mask.shape
            sizes = "{}x{}".format(*self.video.size)
            raise DataError(f"{called} is {width}x{height} but its video is {sizes} (width x height, upright)")
        return mask


def frame_boxes(value: Any, where: str) -> list[list[list[float]]]:
    """Boxes as a list of entries, one a frame or one for all, each a list of ``[x, y, width, height]``.

    Raises:
        DataError: something else.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"{where} {value!r} is no list of boxes [x, y, width, height], one a frame or one for all")
    if not any(isinstance(entry, (list, tuple)) for entry in value if entry is not None):
        return [as_boxes(value, where)]
    return [as_boxes(entry, where) if entry else [] for entry in value]
