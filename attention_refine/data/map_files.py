"""A stored map: read, and held against what a map is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from attention_refine.data.images import open_image
from attention_refine.data.labels import DataError


def read_map(cell: Any, where: str = "the map") -> np.ndarray:
    """A stored map as (h, w) float32 in [0, 1].

    Args:
        cell: a path (``.npy``, or an image), rows of numbers, or an image as :func:`read_image` takes it. 16-bit images
            are scaled by 65535, others by 255; one of 0 and 1 alone is a mask.
        where: what to call it in a message.

    Raises:
        DataError: it cannot be read, or is no map in [0, 1].
    """
    if isinstance(cell, (list, np.ndarray)):
        return checked_map(cell, where)
    path = cell if isinstance(cell, (str, Path)) else cell.get("path") if isinstance(cell, dict) else None
    try:
        if path is not None and str(path).endswith(".npy") and not (isinstance(cell, dict) and cell.get("bytes")):
            values = np.load(path, allow_pickle=False)
        else:
            with open_image(cell) as image:
                wide = image.mode.startswith("I")
                values = np.asarray(image if wide else image.convert("L"), dtype=np.float32)
                values = values / (1 if values.max() <= 1 else 65535 if wide else 255)
    except Exception as error:  # decoders raise OSError, ValueError, SyntaxError, EOFError, ...
        raise DataError(f"{where} cannot be read ({' '.join(str(error).split()) or type(error).__name__})") from error
    return checked_map(values, where)


def is_edited(flag: Any, cell: Any) -> bool:
    """Whether a row's map is one to learn from: there is one, and no flag says otherwise."""
    return cell is not None and str(flag).lower() not in ("false", "0")


def checked_map(map: Any, where: str) -> np.ndarray:
    """Numbers, a tensor's too, as a map.

    Raises:
        DataError: they are no map in [0, 1].
    """
    try:
        values = np.asarray(map.detach().cpu().float() if hasattr(map, "detach") else map, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} is not a table of numbers ({error})") from None
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2 or values.size == 0:
        raise DataError(f"{where} has the shape {values.shape}: give one map, (h, w)")
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise DataError(f"{where} has values from {values.min():.3g} to {values.max():.3g}: a map lies in [0, 1]")
    return values
