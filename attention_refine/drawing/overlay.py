"""Maps drawn on images: a map in colour over its photograph, and the outline of a mask."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

# Perceptually uniform: equal steps of the map look equally large, in grey print too.
COLORMAPS = ("inferno", "magma", "plasma", "viridis", "cividis")
VOID = 255
SHADE = 0.4  # of its brightness is left to what lies outside a map


def overlay(
    image: Any,
    map: Any,
    alpha: float = 0.5,
    colormap: str = "inferno",
    scale: str = "minmax",
    box: Sequence[float] | None = None,
) -> Image.Image:
    """The map in colour over the image, an RGB picture of the image's size.

    A map of a crop, which is what a model sees of a photograph, belongs on the crop: ``box`` says where that lies, and
    :meth:`RefinedModel.show <attention_refine.RefinedModel.show>` does all of it. A map whose sides are in another
    proportion than the image's is drawn over all of it with a warning.

    Args:
        image: a PIL image, an array ``(H, W, 3)`` uint8, or a tensor ``(3, H, W)`` in [0, 1] (see :func:`denormalize`).
        map: ``(h, w)`` or ``(1, h, w)`` of any size and range; resized bilinearly.
        alpha: share of the colour, 0 to 1; the rest is the image.
        colormap: one of :data:`COLORMAPS`.
        scale: ``"minmax"``: lowest value dark, highest bright, each map by itself (a constant map is dark all over);
            ``"unit"``: 0 dark, 1 bright, values outside clipped, so that pictures can be compared with each other.
        box: ``(left, top, right, bottom)`` in the image's pixels, the part that the map is of; outside it the image is
            shaded. None for all of it.

    Raises:
        ValueError: another colour map or scale, alpha outside [0, 1], a map that is no single finite map, a box outside
            the image.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    picture = as_image(image)
    if box is None:
        _warn_if_stretched(map, picture)
    left, top, right, bottom = _whole_pixels(box, picture)
    coloured = colours(scaled(map, (bottom - top, right - left), scale), colormap)
    pixels = np.asarray(picture, dtype=np.float64)
    mixed = SHADE * pixels
    mixed[top:bottom, left:right] = (1 - alpha) * pixels[top:bottom, left:right] + alpha * 255 * coloured
    return Image.fromarray((mixed + 0.5).astype(np.uint8))


def _whole_pixels(box: Sequence[float] | None, picture: Image.Image) -> tuple[int, int, int, int]:
    if box is None:
        return 0, 0, picture.width, picture.height
    left, top, right, bottom = map(round, box)
    if box[0] < box[2] and box[1] < box[3]:  # a part of less than a pixel is drawn on one
        left, top = min(left, picture.width - 1), min(top, picture.height - 1)
        right, bottom = max(right, left + 1), max(bottom, top + 1)
    if not (0 <= left < right <= picture.width and 0 <= top < bottom <= picture.height):
        raise ValueError(
            f"box {tuple(box)} is no part of an image {picture.width} wide and {picture.height} high; it is (left, top, "
            "right, bottom) in pixels"
        )
    return left, top, right, bottom


def _warn_if_stretched(map: Any, picture: Image.Image) -> None:
    """Say so where the map's sides are in another proportion than the image's, by more than one of its cells."""
    shape = tuple(np.shape(map))[-2:]
    if len(shape) < 2:
        return
    height, width = shape
    if (
        min(abs(width - height * picture.width / picture.height), abs(height - width * picture.height / picture.width))
        > 1
    ):
        warnings.warn(
            f"a map of {width}x{height} is stretched over an image of {picture.width}x{picture.height}: it is of a crop, "
            "most likely; say which part with box=(left, top, right, bottom), or let model.show(photo) draw it",
            stacklevel=3,
        )


def scaled(map: Any, size: tuple[int, int], scale: str = "minmax") -> np.ndarray:
    """``(H, W)`` float64 in [0, 1]: the map resized bilinearly and scaled as :func:`overlay` says."""
    values = torch.as_tensor(map).detach().cpu().double()
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2:
        raise ValueError(f"a map to draw must be (h, w) or (1, h, w), got {tuple(values.shape)}: choose one of several")
    if not values.isfinite().all():
        raise ValueError("a map to draw must be finite, this one holds NaN or infinity")
    values = F.interpolate(values[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    if scale == "minmax":
        low, high = values.min(), values.max()
        values = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    elif scale != "unit":
        raise ValueError(f"scale {scale!r} is not one of minmax, unit")
    return values.clamp(0, 1).numpy()


def colours(values: np.ndarray, colormap: str = "inferno") -> np.ndarray:
    """``(..., 3)`` RGB in [0, 1] of values in [0, 1]."""
    import matplotlib

    if colormap not in COLORMAPS:
        raise ValueError(f"colour map {colormap!r} is not one of {', '.join(COLORMAPS)}")
    return matplotlib.colormaps[colormap](values)[..., :3]


def denormalize(pixel_values: Tensor, preprocessing: Mapping[str, Any]) -> Image.Image:
    """The picture in ``(3, H, W)`` or ``(1, 3, H, W)`` pixels normalised by ``preprocessing``, as a PIL image."""
    pixels = pixel_values.detach().cpu().float()
    if pixels.ndim == 4 and len(pixels) == 1:
        pixels = pixels[0]
    if pixels.ndim != 3 or len(pixels) != 3:
        raise ValueError(f"pixel_values must be one image (3, H, W), got {tuple(pixel_values.shape)}")
    mean, std = (torch.tensor(preprocessing[key]).view(3, 1, 1) for key in ("mean", "std"))
    return as_image((pixels * std + mean).clamp(0, 1))


def contour(mask: Any, width: int = 2) -> np.ndarray:
    """``(H, W)`` bool: the pixels of the object that lie within ``width`` of its edge; the image's border is no edge.

    Args:
        mask: ``(H, W)`` or ``(1, H, W)``: 1 (or True) object, 0 background, 255 void, which is drawn as background.
    """
    inside = _object(mask)[None, None].float()
    padded = F.pad(inside, (width,) * 4, mode="replicate")
    eroded = -F.max_pool2d(-padded, 2 * width + 1, stride=1)
    return ((inside > 0) & (eroded < 1))[0, 0].numpy()


def outline(
    image: Any, mask: Any, colour: tuple[int, int, int] = (255, 255, 255), width: int | None = None
) -> Image.Image:
    """The image with the object's edge drawn in ``colour``, and a dark rim outside it that shows on white too.

    Args:
        mask: ``(H, W)`` or ``(1, H, W)`` of the image's size, as for :func:`contour`; None draws nothing.
        width: of the line in pixels; None for a hundredth of the shorter side.
    """
    picture = np.array(as_image(image))
    if mask is None:
        return Image.fromarray(picture)
    inside = _object(mask)
    if tuple(inside.shape) != picture.shape[:2]:
        raise ValueError(
            f"a mask of {tuple(inside.shape)} does not fit an image of {picture.shape[:2]} (height, width)"
        )
    width = width or max(1, round(min(picture.shape[:2]) / 100))
    picture[contour(~inside, width)] = (20, 20, 20)
    picture[contour(inside, width)] = colour
    return Image.fromarray(picture)


def legend(colormap: str = "inferno", width: int = 256, height: int = 12) -> Image.Image:
    """The colour map as a bar, lowest value left."""
    row = colours(np.linspace(0, 1, width), colormap)
    return Image.fromarray((np.broadcast_to(row, (height, width, 3)) * 255 + 0.5).astype(np.uint8))


def as_image(image: Any) -> Image.Image:
    """An RGB PIL image from one, from an array ``(H, W, 3)`` uint8, or from a tensor ``(3, H, W)`` in [0, 1]."""
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if isinstance(image, Tensor):
        if image.ndim != 3 or len(image) != 3 or not image.is_floating_point():
            raise ValueError(f"an image tensor must be (3, H, W) in [0, 1], got {image.dtype} {tuple(image.shape)}")
        return Image.fromarray((image.detach().cpu().clamp(0, 1).permute(1, 2, 0) * 255 + 0.5).byte().numpy())
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"an image array must be (H, W, 3) uint8, got {array.dtype} {array.shape}")
    return Image.fromarray(array)


def _object(mask: Any) -> Tensor:
    values = torch.as_tensor(np.asarray(mask) if not isinstance(mask, Tensor) else mask).cpu()
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2:
        raise ValueError(f"a mask must be (H, W) or (1, H, W), got {tuple(values.shape)}")
    return (values != 0) & (values != VOID) if values.dtype != torch.bool else values
