"""Video files made by PyAV for the tests."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")

CODECS = {".mp4": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4", ".mov": "mpeg4", ".mkv": "ffv1"}
PIXELS = {"ffv1": "bgr0", "qtrle": "argb"}


def moving(n: int = 30, size=(48, 36), seed: int = 0) -> list[np.ndarray]:
    """Frames of blocks that move right by a pixel a frame, (H, W, 3) uint8; a bar says which frame it is."""
    width, height = size
    blocks = np.random.default_rng(seed).integers(0, 256, (-(-height // 6), -(-width // 6), 3), dtype=np.uint8)
    still = blocks.repeat(6, 0).repeat(6, 1)[:height, :width]
    frames = [np.ascontiguousarray(np.roll(still, i, 1)) for i in range(n)]
    for i, frame in enumerate(frames):
        frame[:4] = 0
        frame[:4, : round(width * (i + 1) / n)] = 255
    return frames


def write(path: Path, frames, rate: int = 25, codec=None, pixels=None, times=None, options=None, muxer=None) -> Path:
    """A video of frames (H, W, 3 or 4) uint8; ``times`` in milliseconds where the rate varies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = codec or CODECS[path.suffix]
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=1000 if times else rate)
        stream.height, stream.width = frames[0].shape[:2] if frames else (32, 32)
        stream.pix_fmt = pixels or PIXELS.get(codec, "yuv420p")
        stream.options = {"crf": "12", "bf": "0", **(options or {})} if codec == "libx264" else options or {}
        if not frames:
            container.start_encoding()
        for i, frame in enumerate(frames):
            made = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24" if frame.shape[2] == 3 else "rgba")
            if times:
                made.pts, made.time_base = times[i], Fraction(1, 1000)
            for packet in stream.encode(made):
                container.mux(packet)
        for packet in stream.encode(None) if frames else ():
            container.mux(packet)
    return path


def read_from_the_start(path: Path) -> list[np.ndarray]:
    """Every frame as PyAV decodes it, one after another."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def write_sound(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", layout="mono")
        sound.sample_rate = 16000
        for packet in [*stream.encode(sound), *stream.encode(None)]:
            container.mux(packet)
    return path


def turn(path: Path, to: Path, quarters: int) -> Path:
    """The mp4 with a tag that says: shown turned by so many quarters with the clock."""
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4
    at += 40 if content[at] == 0 else 52
    one = 1 << 16
    across, down = [(one, 0), (0, one), (-one, 0), (0, -one)][quarters]
    matrix = (across, down, 0, -down, across, 0, 0, 0, 1 << 30)
    content[at : at + 36] = b"".join(int(value).to_bytes(4, "big", signed=True) for value in matrix)
    to.write_bytes(content)
    return to
