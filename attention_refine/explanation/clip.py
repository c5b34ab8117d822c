"""One video explained: what the model says of its middle, and the map over the frames that it saw."""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.files import atomic_file
from ..data import Transform, read_clip
from ..drawing.frames import side_by_side, spread, with_maps
from ..drawing.video_writer import write_video
from ..refined import Refined
from .image import LONGEST, MADE_BY, class_index, whose_map


@dataclass(frozen=True, eq=False)
class ClipExplanation:
    """A class, its probability, and the frames that the model saw with the map over them; in a notebook it moves.

    Attributes:
        label: the predicted class, or the one that was asked for.
        score: its probability, 0 to 1.
        frames: the frames, whole and in their own proportions, with the map on the part that the model saw.
        fps: at which they last as long as in the video.
        method: whose map it is: ``"model"``, the head's own, or a name in :mod:`attention_refine.maps`.
        map: ``(T, H, W)``, the map as it came, at the resolution of what the model saw.
        note: in a sentence, whose map it is and of what.
    """

    label: str
    score: float
    frames: Sequence[Image.Image]
    fps: float
    method: str = "model"
    map: Tensor | None = field(default=None, repr=False)
    note: str = ""

    @property
    def caption(self) -> str:
        """Class, probability and note."""
        return " ".join(f"{self.label}, {self.score:.0%}. {self.note}".split())

    def __repr__(self) -> str:
        return f"ClipExplanation({self.caption})"

    def _repr_html_(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.gif"
            write_video(path, [np.asarray(frame) for frame in self.frames], self.fps)
            source = base64.b64encode(path.read_bytes()).decode()
        words = html.escape(self.caption)
        return (
            f'<figure style="margin:0"><img src="data:image/gif;base64,{source}" alt="{words}" style="max-width:100%">'
            f"<figcaption>{words}</figcaption></figure>"
        )

    @property
    def picture(self) -> Image.Image:
        """Some of the frames in a row."""
        return side_by_side([self.frames[i] for i in spread(len(self.frames))])

    def save(self, path: str | Path) -> None:
        """Write the frames as a video: ``.mp4`` or ``.gif``; with another ending :attr:`picture`.

        Raises:
            ImportError: an mp4, and PyAV is not installed.
        """
        suffix = Path(path).suffix.lower()
        with atomic_file(Path(path)) as written:
            if suffix not in (".mp4", ".gif"):
                self.picture.save(written, Image.registered_extensions().get(suffix))
                return
            write_video(written, [np.asarray(frame) for frame in self.frames], self.fps, suffix, MADE_BY)


def explain_clip(
    model: Refined, video: str | Path | bytes, method: str = "auto", target: int | str | None = None
) -> ClipExplanation:
    """Predict the middle of a video and draw the map where it lies in its frames, all frames on one scale.

    Args:
        model: of clips; its predictions are those of evaluation mode.
        video: a path or bytes.
        method: as in :meth:`RefinedModel.explain <attention_refine.RefinedModel.explain>`.
        target: the class to explain, by index or by name; the predicted one by default.

    Raises:
        DataError: the video cannot be read.
        ValueError: no map or class of that name.
    """
    from ..backbones.contexts import quiet

    wanted = class_index(model, target)
    clip = read_clip(video, model.preprocessing)
    transform = Transform(model.preprocessing)
    pixel_values = transform(clip.frames)["pixel_values"][None].to(next(model.parameters()).device)
    method = model.explained_by(method)
    with torch.no_grad(), quiet(model):
        scores = model(pixel_values, compute_losses=False).logits.softmax(1)[0]
    best = int(scores.argmax()) if wanted is None else wanted
    maps = model.explain(pixel_values, target=wanted, method=method)[0]
    heat = (maps[best] if method == "model" and model.found_head().per_class else maps[0]).cpu()
    pictures = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in clip.frames]
    left, top, right, bottom = transform.seen(*pictures[0].size)
    width, height = pictures[0].size
    for picture in pictures:
        picture.thumbnail((LONGEST, LONGEST))
    across, down = pictures[0].width / width, pictures[0].height / height
    box = (left * across, top * down, right * across, bottom * down)
    share = (right - left) * (bottom - top) / (width * height)
    part = "all of each" if share > 0.995 else f"the middle of each, {share:.0%} of the area"
    seconds = len(pictures) / clip.rate
    return ClipExplanation(
        label=model.labels[best],
        score=float(scores[best]),
        frames=with_maps(pictures, heat, box=box),
        fps=clip.rate,
        method=method,
        map=heat,
        note=f"{whose_map(model, method)}; the model saw {len(pictures)} frames of {seconds:.1f} s, {part}.",
    )
