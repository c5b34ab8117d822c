"""What the pixels of a mask file mean.

Unless ``mask_values`` or ``void`` say otherwise: 0 is background, 128 is void (unknown, left out of every measure), any
other value is object: 0/255, 0/1, and ids of several objects. Where that rule would misread a mask it is read, or refused,
by what it is:

* edges that were smoothed, in a picture of 0 and 255, and what JPEG makes of them: cut at half;
* a mask that lies in the transparency of a picture of one colour: its transparency;
* class ids beside a border of 255 (PASCAL VOC), a trimap of 1, 2, 3 (no 0), fractions: refused, as 255, 3 or 0.7 may be
  either; ``void=255``, or ``mask_values=[1]`` with ``void=[3]``, says it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from attention_refine.data.labels import DataError

VOID = 128
LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP")
MOST_COLOURS = 256
VOC_VOID = (224, 224, 192)  # as a colour


def object_pixels(
    image: Image.Image, values: Sequence[int] | None = None, void: Sequence[int] | None = None
) -> np.ndarray:
    """A mask's pixels as (H, W) uint8: 0 background, 1 object, 255 void.

    Args:
        image: upright; its ``format`` says whether it was stored with losses. Palette indices count as values.
        values: what is object; all but 0 and void where None.
        void: what is void; where None 128, or nothing if ``values`` are given.

    Raises:
        DataError: the values do not say what is object; the message goes behind the mask's name.
    """
    labels = _labels(image)
    lossy = image.format in LOSSY
    if labels.ndim == 3:
        if values is not None or void is not None:
            raise DataError("is in colours, and mask_values and void name numbers: store class ids")
        return _from_colours(labels, lossy)
    if values is None and void is None:
        return _lossy(labels) if lossy else _by_rule(labels)
    both = sorted(set(values or ()) & set(void or ()))
    if both:
        raise DataError(f"cannot be read with {both[0]} among both mask_values and void: leave it out of one")
    unknown = np.isin(labels, list(void or ()))
    found = np.isin(labels, list(values)) if values is not None else (labels != 0) & ~unknown
    if values is not None and not found.any() and (labels == 255).any() and 255 not in (*values, *(void or ())):
        raise DataError(f"holds {_shown(labels)}, and mask_values are {list(values)}: is 255 the object, or void?")
    return np.where(unknown, 255, found).astype(np.uint8)


def _labels(image: Image.Image) -> np.ndarray:
    """A number a pixel (H, W), or a colour (H, W, 3)."""
    pixels = np.asarray(image)
    if pixels.dtype == bool:
        return pixels.astype(np.uint8)
    if image.mode == "F":
        if not np.isfinite(pixels).all() or (pixels != np.round(pixels)).any():
            raise DataError("holds fractions: store whole numbers, 0 for background and 255 for the object")
        return pixels.astype(np.int64)
    if pixels.ndim == 2:
        return pixels
    colours, alpha = (pixels[..., :-1], pixels[..., -1]) if image.mode in ("RGBA", "LA", "PA") else (pixels, None)
    if alpha is not None and alpha.min() < alpha.max():
        if (colours == colours[0, 0]).all():
            return alpha
        if ((colours != 0).any(-1) != (alpha != 0)).mean() > 0.001:
            raise DataError("has colours and transparency that say different things: keep the one that is the mask")
    flat = colours.astype(np.int16)
    spread = (flat.max(-1) - flat.min(-1)).max()
    if spread == 0 or image.format in LOSSY and spread <= 24:
        return colours[..., 0] if spread == 0 else np.round(flat.mean(-1)).astype(np.uint8)
    return colours


def _from_colours(colours: np.ndarray, lossy: bool) -> np.ndarray:
    if lossy:
        raise DataError("is in colours that JPEG has mixed: store it as PNG")
    if (colours == VOC_VOID).all(-1).any():
        raise DataError("holds the colour of VOC's border, which is void there: store class ids, with void=255")
    present = np.unique(colours.reshape(-1, 3), axis=0)
    if len(present) > MOST_COLOURS:
        raise DataError(f"holds more than {MOST_COLOURS} colours, as a photograph does: is it a mask?")
    kinds = [tuple(map(int, colour)) for colour in present if (colour != VOID).any()]
    if len(kinds) > 1 and (0, 0, 0) not in kinds:
        raise DataError(
            f"holds the colours {', '.join(map(str, kinds[:3]))}{', ...' if len(kinds) > 3 else ''} and no black for "
            "background: all of it would be object. Store class ids, 0 for background"
        )
    background, void = (colours == 0).all(-1), (colours == VOID).all(-1)
    return np.where(background, 0, np.where(void, 255, 1)).astype(np.uint8)


def _by_rule(labels: np.ndarray) -> np.ndarray:
    present = np.unique(labels)
    kinds = present[(present != 0) & (present != VOID)]
    if len(kinds) > 1:
        if 0 not in present and not (present.min() > VOID and _block(labels == 255)):
            raise DataError(
                f"holds {_shown(labels)} and no 0 for background: if it is a trimap say which is what, such as "
                "mask_values=[1], void=[3]"
            )
        if 255 in present and min(labels.shape) > 2:
            flat, between = _flat(labels), kinds[kinds != 255]
            smooth = between.min() < VOID < between.max()  # an edge has values from both of its sides
            if not smooth or ((flat != 0) & (flat != VOID) & (flat != 255)).any():
                raise DataError(
                    f"holds {_shown(labels)}: beside class ids 255 is void, beside 0 it is the object. Say void=255, or "
                    "mask_values= what is object"
                )
            return _cut(labels, void=(labels == VOID) if _block(labels == VOID) else None)
    return np.where(labels == 0, 0, np.where(labels == VOID, 255, 1)).astype(np.uint8)


def _lossy(labels: np.ndarray) -> np.ndarray:
    """A mask of 0, 128 and 255 that a lossy format has smeared."""
    if 0 < labels.max() < 192:
        raise DataError(
            f"is stored with losses, as JPEG does, and its values reach only {labels.max()}: store it as PNG"
        )
    middle = (labels >= 112) & (labels <= 144)
    return _cut(labels, void=(labels >= 64) & (labels < 192) if _block(middle) else None)


def _cut(labels: np.ndarray, void: np.ndarray | None) -> np.ndarray:
    found = (labels >= 128).astype(np.uint8)
    return found if void is None else np.where(void, 255, found).astype(np.uint8)


def _windows(pixels: np.ndarray) -> np.ndarray:
    """(H - 2, W - 2, 9): the pixels of each 3 x 3 block."""
    if min(pixels.shape) < 3:
        return pixels.reshape(-1, 1, 1)[:0]
    return np.lib.stride_tricks.sliding_window_view(pixels, (3, 3)).reshape(*(n - 2 for n in pixels.shape), 9)


def _block(where: np.ndarray) -> bool:
    """Whether a whole 3 x 3 block is true: an area, and no edge."""
    return bool(_windows(where).all(-1).any())


def _flat(labels: np.ndarray) -> np.ndarray:
    """The value of each 3 x 3 block that has one value alone."""
    blocks = _windows(labels)
    return blocks[(blocks == blocks[..., :1]).all(-1)][..., 0]


def _shown(labels: np.ndarray) -> str:
    values = np.unique(labels).tolist()
    return "the values " + ", ".join(map(str, values[:6])) + (f", ... {values[-1]}" if len(values) > 6 else "")
