"""Which moments of a video a network is shown: its frames at a rate, at random in training, in the middle otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHORT = ("hold", "loop")


@dataclass(frozen=True)
class ClipSampling:
    """How many frames, how far apart.

    Args:
        frames: of a clip.
        fps: frames a second, whatever the file's own rate; a slower file repeats frames.
        stride: without ``fps``, every how many frames of the file (of its mean rate, where that varies).
        short: what a video shorter than the clip is filled up with: ``"hold"`` repeats its last frame, ``"loop"``
            begins again.

    Raises:
        ValueError: a number out of range, both ``fps`` and ``stride``, or an unknown ``short``.
    """

    frames: int
    fps: float | None = None
    stride: int = 1
    short: str = "hold"

    def __post_init__(self) -> None:
        for name, value in (("frames", self.frames), ("stride", self.stride)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} of a clip must be a whole number of 1 or more, got {value!r}")
        if self.fps is not None and not (isinstance(self.fps, (int, float)) and 0 < self.fps < float("inf")):
            raise ValueError(f"fps of a clip must be above 0, got {self.fps!r}")
        if self.fps is not None and self.stride != 1:
            raise ValueError(f"a clip has fps ({self.fps}) or stride ({self.stride}), not both: leave one out")
        if self.short not in SHORT:
            raise ValueError(f"short={self.short!r} is not one of {', '.join(SHORT)}")

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any]) -> ClipSampling | None:
        """What ``preprocessing`` says, its ``input_size`` being (3, T, H, W); None where it is of images."""
        size = preprocessing["input_size"]
        if len(size) != 4:
            return None
        given = {
            name: preprocessing[name] for name in ("fps", "stride", "short") if preprocessing.get(name) is not None
        }
        return cls(int(size[1]), **given)

    def span(self, rate: float) -> float:
        """Seconds that a clip covers in a file of ``rate`` frames a second."""
        return self.frames * self._step(rate)

    def moments(self, start: float, end: float, rate: float, at: float = 0.5) -> list[float]:
        """When the frames are taken, each in the middle of the time that it stands for.

        Args:
            start, end: seconds between which they lie.
            rate: of the file.
            at: where the clip begins, from 0, as early as can be, over 0.5, in the middle, to 1, as late as can be.
        """
        room = end - start - self.span(rate)
        begin = start + at * max(0.0, room)
        if self.fps is None:  # on the file's own frames
            begin = start + round((begin - start) * rate) / rate
        within = 0.5 * self._step(rate) if self.fps is not None else 0.5 / rate
        found = [begin + i * self._step(rate) + within for i in range(self.frames)]
        if self.short == "loop":
            return [start + (moment - start) % (end - start) if moment >= end else moment for moment in found]
        inside = [moment for moment in found if moment < end] or [(start + end) / 2]
        return inside + inside[-1:] * (self.frames - len(inside))

    def is_short(self, start: float, end: float, rate: float) -> bool:
        """Whether frames are missing: a clip of the file's last moments begun anew, or held."""
        return end - start < self.span(rate) - 0.5 * self._step(rate)

    def _step(self, rate: float) -> float:
        return 1 / self.fps if self.fps is not None else self.stride / rate
