"""An augmentation of a person's own: what it returns, held against what it was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from attention_refine.data.labels import DataError

Sample = dict[str, Any]


def name_of(augment: Callable) -> str:
    """How a person knows it."""
    return getattr(augment, "__qualname__", None) or type(augment).__qualname__


def augmented(augment: Callable[[Sample], Sample], sample: Sample) -> Sample:
    """``augment(sample)``, with the same entries, of the same types.

    What lost torchvision's type on the way, as any arithmetic does, has it again: without, a mask would be enlarged as a
    picture is.

    Raises:
        DataError: no dict, an entry lost, pixels that are normalised already, a mask of other numbers, a mask or boxes of
            another size than the image.
    """
    said = f"the augmentation {name_of(augment)}"
    given = dict(sample)
    found = augment(sample)
    if not isinstance(found, Mapping):
        what = "None" if found is None else f"a {type(found).__name__}"
        raise DataError(f"{said} returns {what}; it is given a dict with {', '.join(given)}, and must return it")
    lost = [name for name in given if found.get(name) is None]
    if lost:
        raise DataError(
            f"{said} returns no {', '.join(lost)}; all of {', '.join(given)} must come back, moved together, as "
            "torchvision.transforms.v2 does it"
        )
    made = {name: found[name] for name in given}
    size = _checked_image(said, made["image"], given["image"])
    for name, before in given.items():
        if name != "image":
            made[name] = _checked(said, name, made[name], before, size)
    return made


def _checked_image(said: str, image: Any, before: Any) -> tuple[int, int]:
    """(height, width) of the image, or what is wrong with it."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    if not isinstance(image, Tensor):
        raise DataError(
            f"{said} returns {type(image).__name__} as image; it must be a PIL image or a tensor (3, H, W), which "
            "torchvision.transforms.v2.functional.to_image makes"
        )
    leading = 1 if isinstance(before, Image.Image) else before.ndim - 2
    if image.ndim != leading + 2 or image.shape[-3] not in (1, 3) or leading == 2 and len(image) != len(before):
        wanted = "(3, H, W)" if leading == 1 else f"({len(before)}, 3, H, W)"
        raise DataError(f"{said} returns an image of shape {tuple(image.shape)}; it must be {wanted}")
    if image.dtype == torch.uint8:
        return image.shape[-2], image.shape[-1]
    if not image.is_floating_point():
        kind = str(image.dtype).removeprefix("torch.")
        raise DataError(f"{said} returns an image of {kind}; it must be uint8, or floats in [0, 1]")
    low, high = (value.item() for value in image.aminmax())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # so is NaN
        why = "divide by 255" if low >= 0 and high > 2 else "leave Normalize out, as it is done here, once"
        raise DataError(f"{said} returns pixels from {low:.3g} to {high:.3g}; floats must be in [0, 1]: {why}")
    return image.shape[-2], image.shape[-1]


_ROUNDING = 0.1  # bicubic resizing reaches beyond its pixels


def _checked(said: str, name: str, value: Any, before: Tensor, size: tuple[int, int]) -> Tensor:
    if not isinstance(value, Tensor):
        raise DataError(f"{said} returns {type(value).__name__} as {name}; it was given a tensor")
    if isinstance(before, tv_tensors.BoundingBoxes):
        if not isinstance(value, tv_tensors.BoundingBoxes):
            value = tv_tensors.BoundingBoxes(value, format=before.format, canvas_size=size)
        if tuple(value.canvas_size) != size:
            raise DataError(
                f"{said} returns {name} of a picture of {_of(value.canvas_size)} for an image of {_of(size)}"
            )
        return F.convert_bounding_box_format(value, new_format=before.format)
    if tuple(value.shape[-2:]) != size:
        raise DataError(
            f"{said} returns {name} of {_of(value.shape[-2:])} for an image of {_of(size)}: move both together"
        )
    if value.is_floating_point() != before.is_floating_point():
        kinds = (str(each.dtype).removeprefix("torch.") for each in (value, before))
        raise DataError("{} returns {} of {}; it was {}, and must stay so".format(said, name, *kinds))
    return tv_tensors.wrap(value.as_subclass(Tensor).to(before.dtype), like=before)


def _of(size: Any) -> str:
    return f"{size[1]} x {size[0]}"
