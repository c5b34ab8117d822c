"""What a model makes of a photograph: its prediction, its maps where they lie in it, and its prediction with a person's."""

from __future__ import annotations

import copy
import io
import threading
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from attention_refine.backbones.contexts import quiet
from attention_refine.data import Transform
from attention_refine.maps import by_name, list_maps
from attention_refine.maps._scale import resize
from attention_refine.refined import Refined
from attention_refine.repairing.repair import map_of

CELLS = 256  # on the longer side of a map that is drawn on
LONGEST = 1024  # pixels on the longer side of a picture that is shown
# Maps of hundreds of passes are made from fewer than by default: somebody waits. The page says so.
FEWER: dict[str, dict[str, int]] = {"rise": {"masks": 300}, "score_cam": {"top_channels": 64}}


@dataclass(frozen=True, eq=False)
class Seen:
    """A photograph as the model takes it, and as it is shown.

    Attributes:
        pixel_values: ``(1, 3, H, W)``, of the part in ``box``.
        size: ``(width, height)`` of the photograph.
        box: ``(left, top, right, bottom)``, the part that the model sees, as shares of the photograph's sides.
        picture: the photograph as a JPEG file, at most :data:`LONGEST` on a side.
    """

    pixel_values: Tensor
    size: tuple[int, int]
    box: tuple[float, float, float, float]
    picture: bytes

    @property
    def grid(self) -> tuple[int, int]:
        """``(height, width)`` of a map over the whole photograph."""
        scale = CELLS / max(self.size)
        width, height = (max(1, round(side * scale)) for side in self.size)
        return height, width


class Viewer:
    """A model in evaluation mode that several threads ask.

    Predictions are made one at a time, and so are maps, on a copy of the model: a slow one holds up no prediction.

    Attributes:
        model: the refined model.
        own: the method of the map that is the model's: ``"model"``, its head's, or the one that an audit looks at.

    Raises:
        ValueError: a network of clips.
    """

    def __init__(self, model: Refined):
        if len(model.preprocessing["input_size"]) != 3:
            raise ValueError(
                f"this network takes clips of {model.preprocessing['input_size'][1]} frames, and the pages show photographs: "
                "look at a video with model.show, and repair it with attention-refine repair"
            )
        self.model = model.eval()
        self.own = map_of(model) if model.head is None else "model"
        self.own = model.explained_by(self.own)
        self._transform = Transform(model.preprocessing)
        self._predicting, self._mapping = threading.Lock(), threading.Lock()

    @property
    def acts(self) -> bool:
        """Whether a person's map can change a prediction: there is a head for it to act through."""
        return self.model.head is not None

    def methods(self) -> list[str]:
        """Names :meth:`map` knows, the model's own first."""
        return list(dict.fromkeys([self.own, *list_maps()]))

    def look(self, photograph: Image.Image) -> Seen:
        """Make a photograph, upright and RGB, ready."""
        width, height = photograph.size
        left, top, right, bottom = self._transform.seen(width, height)
        box = (max(0, left / width), max(0, top / height), min(1, right / width), min(1, bottom / height))
        shown = photograph.copy()
        shown.thumbnail((LONGEST, LONGEST))
        stored = io.BytesIO()
        shown.save(stored, "JPEG", quality=88)
        pixel_values = self._transform(photograph)["pixel_values"][None]
        return Seen(pixel_values, (width, height), box, stored.getvalue())

    def predict(self, seen: Seen, drawn: np.ndarray | None = None) -> list[float]:
        """The probability of each class, with the model's map or with a person's in its place.

        Args:
            drawn: ``(h, w)`` in [0, 1] over the whole photograph.

        Raises:
            ValueError: a map, and no head for it to act through.
        """
        maps = None if drawn is None else self._cropped(drawn)
        with self._predicting, torch.no_grad(), quiet(self.model):
            pixel_values = seen.pixel_values.to(self._device)
            maps = None if maps is None else maps.to(self._device)
            logits = self.model(pixel_values, maps=maps, compute_losses=False).logits
        return logits[0].float().softmax(0).tolist()

    def map(self, seen: Seen, method: str, target: int | None = None) -> Tensor:
        """``(H, W)`` of what the model sees, as it comes.

        Args:
            method: one of :meth:`methods`.
            target: class that is explained; the predicted one by default. Maps of no class leave it out.

        Raises:
            ValueError: an unknown method, or one that this network does not have.
        """
        pixel_values = seen.pixel_values.to(self._device)
        if method == "model":
            with self._predicting, torch.no_grad(), quiet(self.model):
                output = self.model(pixel_values, compute_losses=False)
            best = int(output.logits.argmax()) if target is None else target
            made = output.head_maps[:, [best if self.model.found_head().per_class else 0]]
        else:
            chosen = by_name(method)
            wanted = target if chosen.per_class else None
            with self._mapping, torch.no_grad():
                made = chosen(self._copy, pixel_values, target=wanted, **FEWER.get(method, {}))[:, :1]
        return resize(made.float(), pixel_values.shape[2:])[0, 0].cpu()

    def placed(self, seen: Seen, values: Tensor, unit: bool) -> np.ndarray:
        """``(h, w)`` float32 in [0, 1] over the whole photograph, nothing outside of what the model sees.

        Args:
            values: ``(H, W)`` of what it sees.
            unit: they are in [0, 1] as they are; else their lowest becomes 0 and their highest 1.
        """
        if not unit:
            low, high = values.min(), values.max()
            values = (values - low) / (high - low) if high > low else torch.zeros_like(values)
        height, width = seen.grid
        left, right = (round(seen.box[at] * width) for at in (0, 2))
        top, bottom = (round(seen.box[at] * height) for at in (1, 3))
        whole = torch.zeros(height, width)
        size = (max(1, bottom - top), max(1, right - left))
        fitted = F.interpolate(values[None, None], size, mode="bilinear", align_corners=False, antialias=True)[0, 0]
        whole[top : top + size[0], left : left + size[1]] = fitted.clamp(0, 1)
        return whole.numpy()

    def own_map(self, seen: Seen) -> np.ndarray:
        """The model's map over the whole photograph, as :meth:`placed` gives it."""
        return self.placed(seen, self.map(seen, self.own), unit=self.own == "model")

    @cached_property
    def _copy(self) -> Refined:
        with self._predicting:  # or the copy would keep the hooks of a pass on its way
            return copy.deepcopy(self.model)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _cropped(self, drawn: np.ndarray) -> Tensor:
        """``(1, 1, H, W)``, cut as training cuts an edited map."""
        height, width = drawn.shape
        return self._transform(Image.new("RGB", (width, height)), edited_map=drawn)["edited_map"][None]
