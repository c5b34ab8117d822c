"""Frames of a video file at given moments, whatever its format: by seeking, not by reading from the start.

A moment is a time in seconds after the first frame, and the frame at a moment is the one that a player shows then: the
last that begins at it or before. So a variable rate needs no rule of its own. Films are decoded by PyAV, which carries its
codecs (``pip install attention-refine[video]``); moving pictures (GIF, PNG, WebP) by Pillow. Which of the two a file is, its
first bytes say, not its ending.

Frames come upright, as the file's rotation says, with 8 bits a channel; transparency is dropped, as in images.
"""

from __future__ import annotations

import io
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attention_refine.data.images import to_rgb
from attention_refine.data.labels import DataError
from attention_refine.drawing.video_writer import pyav

FILMS = frozenset(
    (".mp4", ".webm", ".avi", ".mov", ".mkv", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp", ".ogv")
)
MOVING = frozenset((".gif", ".apng"))  # Pillow opens these too, as images: the first frame
LOSSLESS = frozenset(("ffv1", "png", "apng", "qtrle", "rawvideo", "huffyuv", "ffvhuff", "gif", "utvideo"))
GAP = 3.0  # seconds between two wanted frames from which on seeking is tried rather than decoding what lies between
FURTHER_BACK = (0.0, 1.0, 4.0, 16.0)  # seconds, where a seek ended behind what was wanted
SLACK = 0.1  # of the length that a file gives itself: frames that end earlier by more were cut off
NEAR = 6e-4  # seconds: the clocks of many files tick in milliseconds, to which times are rounded
UNTIMED = 0.1  # seconds that a frame of a GIF lasts which gives no time, as browsers have it
KEPT = 2**20  # pixels of a moving picture, all frames together, up to which none is decoded twice


@contextmanager
def open_video(cell: Any, where: str = "the video") -> Iterator[Film | MovingPicture]:
    """A video to take frames from.

    Args:
        cell: a path, bytes, or the ``{"path", "bytes"}`` cell of a ``datasets.Video(decode=False)`` column.
        where: what to call it in a message.

    Raises:
        DataError: it cannot be read, holds no frames or no video, or is cut off; the message names the file. So do the
            errors of what is done with the video inside of the ``with``.
        ImportError: PyAV is not installed.
    """
    try:
        with _source(cell) as source:
            kind = MovingPicture if _is_moving_picture(source) else Film
            with kind(source) as video:
                yield video
    except (DataError, ImportError, AssertionError, AttributeError, NameError, TypeError):
        raise  # said already, or no fault of the file
    except Exception as error:  # PyAV raises subclasses of OSError, ValueError, ...; Pillow what it likes
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        if type(error).__name__ == "InvalidDataError":
            reason = "it is no video, or one that is cut off or damaged"
        raise DataError(f"{where} cannot be read as a video ({reason})") from error


@contextmanager
def _source(cell: Any) -> Iterator[Any]:
    """A path, or a file of bytes."""
    path: Any = cell.get("path") if isinstance(cell, dict) else cell
    content = cell.get("bytes") if isinstance(cell, dict) else None
    if isinstance(path, (bytes, bytearray)):
        path, content = None, bytes(path)
    if content is not None:
        yield io.BytesIO(content)
    elif path is None:
        raise ValueError("there is no video in this row")
    elif "://" in str(path):  # of a stream: fetched piece by piece, as it is read
        from datasets.utils.file_utils import xopen

        with xopen(str(path), "rb") as file:
            yield file
    else:
        if not Path(path).is_file():
            raise ValueError("there is no such file")
        yield str(path)


def _is_moving_picture(source: Any) -> bool:
    if isinstance(source, str):
        with open(source, "rb") as file:
            head = file.read(16)
    else:
        head = source.read(16)
        source.seek(0)
    return head.startswith((b"GIF8", b"\x89PNG")) or head[:4] == b"RIFF" and head[8:12] == b"WEBP"


class Film:
    """A file that PyAV decodes; see :func:`open_video`.

    Attributes:
        size: (width, height), upright.
        duration: seconds.
        lossy: whether colours are only nearly what was stored.
    """

    def __init__(self, source: Any):
        self._source = source

    def __enter__(self) -> Film:
        self._open()
        try:
            self._nominal = float(self._stream.average_rate or self._stream.guessed_rate or 25)
            first = next((frame for _, frame in self._decoded(0.0)), None)
            if first is None:
                raise ValueError("it holds no frames")
            self.turned = round((first.rotation or 0) / 90) % 4  # quarters, against the clock
            self.size = (first.width, first.height) if self.turned % 2 == 0 else (first.height, first.width)
            self._length()
        except BaseException:
            self._container.close()
            raise
        return self

    def __exit__(self, *exception: Any) -> None:
        self._container.close()

    def _open(self) -> None:
        av = pyav()
        if not isinstance(self._source, str):
            self._source.seek(0)
        self._container = av.open(self._source, metadata_errors="replace")
        covers = av.stream.Disposition.attached_pic
        found = [stream for stream in self._container.streams.video if not stream.disposition & covers]
        if not found:
            held = sorted({stream.type for stream in self._container.streams})
            self._container.close()
            raise ValueError(f"it holds no video, only {' and '.join(held) or 'nothing'}")
        self._stream = found[0]
        self._stream.codec_context.thread_count = 1  # the loader's workers are the threads
        self.lossy = self._stream.codec_context.name not in LOSSLESS
        self._start = float((self._stream.start_time or 0) * self._stream.time_base)
        self._at_start = True

    def _length(self) -> None:
        """What the file says of its length and rate; what it does not say is counted."""
        stream, container = self._stream, self._container
        self._stated = None
        if stream.duration:
            self._stated = float(stream.duration * stream.time_base)
        elif container.duration:
            self._stated = container.duration / 1e6 - max(0.0, self._start)
        self._frames = stream.frames
        if self._stated is not None:
            self.duration = self._stated
            return
        times = self.times()  # what a pipe wrote, or a bare stream
        self._frames, self.duration = len(times), times[-1] + 1 / self._nominal

    @property
    def rate(self) -> float:
        """Frames a second, the mean of a variable rate; counted where the file does not say how many there are."""
        self._frames = self._frames or len(self.times())
        return self._frames / self.duration

    def times(self) -> list[float]:
        """When each frame of the file begins, in seconds; every packet is read, and none decoded."""
        self._container.close()
        self._open()
        self._at_start = False
        found = [packet.pts if packet.pts is not None else packet.dts
                 for packet in self._container.demux(self._stream) if packet.size]  # fmt: skip
        if any(each is None for each in found):
            return [i / self._nominal for i in range(len(found))]
        return [float(each * self._stream.time_base) - self._start for each in sorted(found)]

    def at(self, moments: Sequence[float]) -> np.ndarray:
        """``(n, H, W, 3)`` uint8, upright: what is shown at each moment, in the order asked.

        A moment behind the last frame is shown that.

        Raises:
            ValueError: the file ends long before it says.
        """
        wanted = sorted(set(moments))
        runs: list[list[float]] = []
        for moment in wanted:
            if runs and moment - runs[-1][-1] <= GAP:
                runs[-1].append(moment)
            else:
                runs.append([moment])
        found: dict[float, Any] = {}
        for run in runs:
            found |= self._shown(run)
        drawn: dict[int, np.ndarray] = {}
        for frame in found.values():
            if id(frame) not in drawn:
                drawn[id(frame)] = np.rot90(frame.to_ndarray(format="rgb24"), self.turned)
        return np.stack([drawn[id(found[moment])] for moment in moments])

    def pictures(self, moments: Sequence[float]) -> list[Image.Image]:
        """The same as pictures of the kind that was stored: palette indices of a GIF stay what they are."""
        return [Image.fromarray(frame) for frame in self.at(moments)]

    def _shown(self, moments: list[float]) -> dict[float, Any]:
        for back in FURTHER_BACK:
            if moments[0] - back <= 0:
                break
            found = self._from(moments[0] - back, moments)
            if found is not None:
                return found
        found = self._from(0.0, moments)
        assert found is not None  # from the first frame on, every moment has one
        return found

    def _from(self, seek_to: float, moments: list[float]) -> dict[float, Any] | None:
        """The frames at moments, decoded from a time on; None where decoding began behind the first of them."""
        left, found, last = list(moments), {}, None
        for time, frame in self._decoded(seek_to):
            while left and left[0] < time - NEAR:
                if last is None:
                    if seek_to > 0:
                        return None
                    last = frame
                found[left.pop(0)] = last
            if not left:
                return found
            last, ends = frame, time
        if last is None:
            if seek_to > 0:
                return None
            raise ValueError("it holds no frames")
        self._check_end(ends)
        return found | dict.fromkeys(left, last)

    def _check_end(self, last: float) -> None:
        """Hold the end of the last frame's time against the length that the file gives itself."""
        ends = max(last + 1 / self._nominal, self._packets_end)
        if self._stated is not None and ends < self._stated * (1 - SLACK) - 2 / self._nominal:
            raise ValueError(f"it is cut off: it says that it lasts {self._stated:.2f} s, and ends at {ends:.2f} s")

    def _decoded(self, seek_to: float) -> Iterator[tuple[float, Any]]:
        """(time, frame) in order, from the key frame at a time or before."""
        if seek_to > 0:
            there = math.floor((seek_to + self._start) / self._stream.time_base)
            self._container.seek(there, stream=self._stream)
        elif not self._at_start:  # not every format can be sought to its very first packet
            self._container.close()
            self._open()
        self._at_start, stream = False, self._stream
        count, self._packets_end = 0, 0.0
        for packet in self._container.demux(*self._heard()):
            if packet.pts is not None and packet.size:
                ends = float((packet.pts + (packet.duration or 0)) * packet.time_base) - self._start
                self._packets_end = max(self._packets_end, ends)
            if packet.stream.index != stream.index:
                continue
            for frame in packet.decode():
                time = frame.pts if frame.pts is not None else frame.dts
                if time is None and seek_to > 0:
                    return  # nothing says where this is: from the start it can be counted
                yield count / self._nominal if time is None else float(time * frame.time_base) - self._start, frame
                count += 1

    def _heard(self) -> list[Any]:
        """The streams that are read: sound as well where the file has one length for all of them."""
        streams = [self._stream]
        if not self._stream.duration:
            streams += list(self._container.streams.audio)
        return streams


class MovingPicture:
    """A GIF, PNG or WebP of several frames, or of one; attributes and methods as of :class:`Film`."""

    def __init__(self, source: Any):
        self._source = source

    def __enter__(self) -> MovingPicture:
        self._image = Image.open(self._source)
        count = getattr(self._image, "n_frames", 1)
        self.lossy = False
        self._begins, time = [], 0.0
        self._decoded: dict[int, Image.Image] = {}
        keep = count * self._image.width * self._image.height <= KEPT
        for i in range(count):
            self._image.seek(i)
            self._image.load()  # WebP says only then how long the frame lasts
            if keep:
                self._decoded[i] = self._image.copy()
            self._begins.append(time)
            time += self._image.info.get("duration", 0) / 1000 or UNTIMED
        self.size, self.duration, self.rate = self._image.size, time, count / time
        return self

    def __exit__(self, *exception: Any) -> None:
        self._image.close()

    def times(self) -> list[float]:
        return self._begins

    def at(self, moments: Sequence[float]) -> np.ndarray:
        return np.stack([np.asarray(to_rgb(picture)) for picture in self.pictures(moments)])

    def pictures(self, moments: Sequence[float]) -> list[Image.Image]:
        places = [max(0, bisect_right(self._begins, moment + NEAR) - 1) for moment in moments]
        drawn = dict(self._decoded)
        for place in sorted(set(places) - set(drawn)):
            self._image.seek(place)
            drawn[place] = self._image.copy()
        return [drawn[place] for place in places]
