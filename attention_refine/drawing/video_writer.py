"""Video files written, and PyAV, which writes and reads them, where it is installed."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

KINDS = {".mp4": ("mp4", "libx264", "yuv420p"), ".mkv": ("matroska", "ffv1", "bgr0")}


def pyav() -> ModuleType:
    """PyAV.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError("videos are decoded and written by PyAV: pip install attention-refine[video]") from error
    return av


def write_video(
    path: str | Path, frames: Sequence[np.ndarray], fps: float, kind: str | None = None, comment: str = ""
) -> None:
    """Frames as a file: H.264 in mp4, FFV1, which is exact, in mkv, or a GIF.

    Args:
        path: its ending says which: ``.mp4``, ``.mkv`` or ``.gif``.
        frames: (H, W, 3) uint8 each; mp4 repeats the last row or column of an odd side.
        fps: frames a second.
        kind: one of these endings, in place of the path's.
        comment: written into the file; see :func:`comment_of`.

    Raises:
        ValueError: another ending.
        ImportError: PyAV is not installed; a GIF needs none.
    """
    suffix = kind or Path(path).suffix.lower()
    if suffix == ".gif":
        first, *others = [Image.fromarray(frame) for frame in frames]
        first.save(
            path, "GIF", save_all=True, append_images=others, duration=1000 / fps, loop=0, comment=comment.encode()
        )
        return
    if suffix not in KINDS:
        raise ValueError(f"{path} must end in .mp4, .mkv or .gif")
    muxer, codec, pixels = KINDS[suffix]
    options = {"crf": "14", "bf": "0"} if codec == "libx264" else {}
    av = pyav()
    with av.open(str(path), "w", format=muxer) as container:
        container.metadata.update({"comment": comment} if comment else {})
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.pix_fmt = pixels
        for number, frame in enumerate(frames):
            if suffix == ".mp4":
                frame = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
            if number == 0:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        container.mux(stream.encode(None))


def comment_of(path: str | Path) -> str:
    """The comment in a GIF, or in a video that PyAV opens; empty where there is none, and where nothing can be read."""
    try:
        if Path(path).suffix.lower() == ".gif":
            with Image.open(path, formats=["GIF"]) as image:
                return image.info.get("comment", b"").decode()
        with pyav().open(str(path), metadata_errors="replace") as container:
            return container.metadata.get("comment", "")
    except Exception:  # not there, no video, a broken one
        return ""
