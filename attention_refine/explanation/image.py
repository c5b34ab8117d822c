"""One photograph explained: what the model says it is, and its map drawn where it lies in the photograph."""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..core.files import atomic_file
from ..data import Transform, read_image
from ..drawing.overlay import overlay
from ..drawing.video_writer import KINDS, comment_of
from ..refined import Refined

LONGEST = 1600  # pixels on the longer side of a picture
NARROWEST = 320  # of a picture that is saved with its caption
MADE_BY = "attention_refine explain"  # in a PNG's field "Software": what tells a picture from a photograph later
MOST = 8  # times the side that the model sees otherwise, the longer side of a photograph that it looks at whole
STRIDE = 32  # sides of a photograph that is looked at whole are multiples of this


@dataclass(frozen=True, eq=False)
class Explanation:
    """A class, its probability, and the photograph with the map over it; in a notebook it shows itself.

    Attributes:
        label: the predicted class, or the one that was asked for.
        score: its probability, 0 to 1.
        picture: the photograph, whole and in its own proportions, with the map on the part that the model saw.
        method: whose map it is: ``"model"``, the head's own, or a name in :mod:`attention_refine.maps`.
        map: ``(H, W)``, the map as it came, at the resolution of what the model saw.
        box: ``(left, top, right, bottom)``, the part of the photograph that the model saw, in its pixels.
        note: in a sentence, whose map it is and of what.
    """

    label: str
    score: float
    picture: Image.Image
    method: str = "model"
    map: Tensor | None = field(default=None, repr=False)
    box: tuple[float, float, float, float] | None = None
    note: str = ""

    @property
    def caption(self) -> str:
        """Class, probability and note."""
        return " ".join(f"{self.label}, {self.score:.0%}. {self.note}".split())

    def __repr__(self) -> str:
        return f"Explanation({self.caption})"

    def _repr_html_(self) -> str:
        stored = io.BytesIO()
        self.picture.save(stored, "PNG")
        source = base64.b64encode(stored.getvalue()).decode()
        words = html.escape(self.caption)
        return (
            f'<figure style="margin:0"><img src="data:image/png;base64,{source}" alt="{words}" style="max-width:100%">'
            f"<figcaption>{words}</figcaption></figure>"
        )

    def save(self, path: str | Path) -> None:
        """Write the picture with the caption under it; ``.picture.save(path)`` writes it without."""
        kind = Image.registered_extensions().get(Path(path).suffix.lower(), "PNG")
        mark = PngInfo()
        mark.add_text("Software", MADE_BY)
        with atomic_file(Path(path)) as written:
            self._captioned().save(written, kind, **({"pnginfo": mark} if kind == "PNG" else {}))

    def _captioned(self) -> Image.Image:
        width = max(self.picture.width, NARROWEST)
        size = max(12, width // 45)
        font = _font(size)
        lines = _lines(self.caption, font, width - size)
        sheet = Image.new("RGB", (width, self.picture.height + round(size * (1.4 * len(lines) + 0.8))), "white")
        sheet.paste(self.picture)
        drawing = ImageDraw.Draw(sheet)
        for number, line in enumerate(lines):
            place = (size // 2, self.picture.height + round(size * (0.4 + 1.4 * number)))
            drawing.text(place, line, fill="black", font=font)
        return sheet


def is_explanation(path: str | Path) -> bool:
    """Whether a file is a PNG, a GIF or a video that an explanation's ``save`` wrote."""
    if Path(path).suffix.lower() in (".gif", *KINDS):
        return comment_of(path) == MADE_BY
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get("Software") == MADE_BY
    except Exception:  # not there, no picture, a broken one
        return False


def explain_image(
    model: Refined,
    image: str | Path | Image.Image,
    method: str = "auto",
    target: int | str | None = None,
    whole: bool = False,
) -> Explanation:
    """Predict one photograph and draw the map where it lies in it.

    A model sees the middle of a photograph (``preprocessing``: resized, then cropped). The map is drawn on that part
    and what lies outside is shaded.

    Args:
        model: its predictions are those of evaluation mode.
        image: a path or a PIL image; turned upright as its file says.
        method: as in :meth:`RefinedModel.explain <attention_refine.RefinedModel.explain>`: ``"auto"``, ``"model"``, or
            the name of a map in :mod:`attention_refine.maps`.
        target: the class to explain, by index or by name; the predicted one by default.
        whole: look at all of the photograph, at the scale at which the model sees its middle otherwise (smaller where
            its longer side would be more than eight times the model's); by a network that takes images of one size
            alone, squeezed into that. The prediction is then of the whole, and can be another one.

    Raises:
        DataError: the image cannot be read.
        ValueError: no map or class of that name, or a map that is of no class was asked for one.
    """
    from ..backbones.contexts import quiet

    wanted = class_index(model, target)
    picture = read_image(image, str(image) if isinstance(image, (str, Path)) else "the image")
    method = model.explained_by(method)
    with torch.no_grad(), quiet(model):
        pixel_values, logits, box, seen = (_look_at_all if whole else _look)(model, picture)
    scores = logits.softmax(1)[0]
    best = int(scores.argmax()) if wanted is None else wanted
    maps = model.explain(pixel_values, target=wanted, method=method)[0]
    own = method == "model"
    heat = (maps[best] if own and model.found_head().per_class else maps[0]).cpu()
    drawn = picture
    if max(picture.size) > LONGEST:
        drawn = picture.copy()
        drawn.thumbnail((LONGEST, LONGEST))
    across, down = drawn.width / picture.width, drawn.height / picture.height
    fitted = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    return Explanation(
        label=model.labels[best],
        score=float(scores[best]),
        picture=overlay(drawn, heat, box=fitted),
        method=method,
        map=heat,
        box=box,
        note=f"{whose_map(model, method)}; {seen}.",
    )


def whose_map(model: Refined, method: str) -> str:
    return f"Map of the {model.found_head().name} head" if method == "model" else f"Map by {method}"


Looked = tuple[Tensor, Tensor, tuple[float, float, float, float], str]  # pixels, logits, box, what was seen in words


def _look(model: Refined, picture: Image.Image) -> Looked:
    """As the model was trained to look: at the middle."""
    transform = Transform(model.preprocessing)
    pixel_values, logits = _predicted(model, transform, picture)
    left, top, right, bottom = box = transform.seen(*picture.size)
    share = (right - left) * (bottom - top) / (picture.width * picture.height)
    seen = (
        "the model saw the whole photograph" if share > 0.995 else f"the model saw the middle, {share:.0%} of the area"
    )
    return pixel_values, logits, box, seen


def _look_at_all(model: Refined, picture: Image.Image) -> Looked:
    left, top, right, bottom = Transform(model.preprocessing).seen(*picture.size)
    channels, height, width = model.preprocessing["input_size"]
    sides = (height * picture.height / (bottom - top), width * picture.width / (right - left))
    smaller = min(1.0, MOST * max(height, width) / max(sides))  # 20000 x 2 pixels would take gigabytes
    grown = [channels, *(max(STRIDE, STRIDE * round(smaller * side / STRIDE)) for side in sides)]
    everything = {**model.preprocessing, "crop_pct": 1.0, "crop_mode": "squash"}
    seen = "the model saw the whole photograph" + (f", at {grown[2]}x{grown[1]}" if smaller < 1 else "")
    try:
        pixel_values, logits = _predicted(model, Transform({**everything, "input_size": grown}), picture)
    except (AssertionError, RuntimeError, ValueError):  # how a network says that it takes one size
        pixel_values, logits = _predicted(model, Transform(everything), picture)
        seen += f", squeezed into {width}x{height}, the one size that its network takes"
    return pixel_values, logits, (0, 0, *picture.size), seen


def _predicted(model: Refined, transform: Transform, picture: Image.Image) -> tuple[Tensor, Tensor]:
    pixel_values = transform(picture)["pixel_values"][None].to(next(model.parameters()).device)
    return pixel_values, model(pixel_values, compute_losses=False).logits


def class_index(model: Refined, target: Any) -> int | None:
    """The index of a class given by index or by name; None for none.

    Raises:
        ValueError: no such class.
    """
    if isinstance(target, str):
        if target not in model.labels:
            raise ValueError(f"target {target!r} is not one of the model's classes: {', '.join(model.labels[:20])}")
        return model.labels.index(target)
    if target is not None and not 0 <= target < model.num_labels:
        raise ValueError(f"target {target} is not between 0 and {model.num_labels - 1}")
    return target


def _font(size: int) -> ImageFont.FreeTypeFont:
    """matplotlib's own, which has the letters of most languages that write with an alphabet."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _lines(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
