"""Masks from words on the page: a network that reads texts proposes a map, which a person then brushes right."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from attention_refine.backbones.word_models import WordModel, load_word_model


class Words:
    """A network of :data:`attention_refine.backbones.word_models.KINDS`, loaded here; it answers one question at a time.

    Raises:
        ValueError: a model of another kind.
        OSError: it cannot be fetched.
    """

    def __init__(self, model: str | Path, device: torch.device | str = "cpu"):
        self._finder: WordModel = load_word_model(model, device=device)
        self._asking = threading.Lock()

    def propose(self, photograph: Image.Image, text: str, size: tuple[int, int]) -> np.ndarray:
        """A map, ``(height, width)`` of that size over the whole photograph: 1 where the text is found, 0 elsewhere.

        Found is what :func:`attention_refine.data.annotate` takes by default.

        Raises:
            ValueError: no text, one that is too long, or nothing is found.
        """
        if not text.strip():
            raise ValueError("write what to find, such as: a bird")
        with self._asking:
            self._finder.tokens(text)
            (found,) = self._finder.find([photograph], [text])
        level = self._finder.kind.threshold
        if self._finder.kind.finds == "maps":
            map = torch.from_numpy(found).float()[None, None]
            drawn = (F.interpolate(map, size, mode="bilinear", align_corners=False)[0, 0] >= level).float().numpy()
        else:
            drawn = np.zeros(size, np.float32)
            scale = np.array([size[1] / photograph.width, size[0] / photograph.height] * 2)
            for left, top, right, bottom in np.round(found[found[:, 4] >= level, :4] * scale).astype(int):
                drawn[top:bottom, left:right] = 1
        if not drawn.any():
            raise ValueError(f"nothing here is {text!r} to the network: try other words, or draw it")
        return drawn
