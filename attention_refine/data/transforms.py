"""From an image or a clip, its mask and its boxes to tensors, all moved together; the frames of a clip by one draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from attention_refine.data.augmenting import augmented
from attention_refine.data.images import to_rgb

AUGMENTATIONS = ("default", "jitter", "none")
LONGEST = 8  # how many crops long a resized side may be: of more, the rest is cut off first
NEAR = 64  # pixels


class ObjectMask(tv_tensors.Mask):
    """A mask that takes the pixel under each new pixel's centre, as images do.

    Torchvision's own masks round down, half a pixel off; it lets a new type register kernels of its own.
    """


@F.register_kernel(F.resize, ObjectMask)
def _resize_mask(mask: ObjectMask, size: Any, **options: Any) -> ObjectMask:
    resized = F.resize_image(mask.as_subclass(Tensor), size, interpolation=v2.InterpolationMode.NEAREST_EXACT)
    return tv_tensors.wrap(resized, like=mask)


@F.register_kernel(F.resized_crop, ObjectMask)
def _resized_crop_mask(
    mask: ObjectMask, top: int, left: int, height: int, width: int, size: Any, **options: Any
) -> ObjectMask:
    return F.resize(F.crop(mask, top, left, height, width), size)


class FloatMap(tv_tensors.Mask):
    """A map with values between 0 and 1: moved as a mask is, resized smoothly, and no colour to a colour jitter."""


@F.register_kernel(F.resize, FloatMap)
def _resize_map(map: FloatMap, size: Any, **options: Any) -> FloatMap:
    resized = F.resize_image(map.as_subclass(Tensor), size, antialias=True)
    return tv_tensors.wrap(resized, like=map)


@F.register_kernel(F.resized_crop, FloatMap)
def _resized_crop_map(
    map: FloatMap, top: int, left: int, height: int, width: int, size: Any, **options: Any
) -> FloatMap:
    return F.resize(F.crop(map, top, left, height, width), size)


class Transform:
    """From an image, its mask and its boxes to the tensors a model takes, all moved together.

    Evaluation follows timm's protocol: the shorter side is resized to ``input_size / crop_pct``, then the centre is
    cropped. Training crops at random and flips. Randomness comes from torch's CPU generator alone.

    Args:
        preprocessing: ``input_size`` [3, H, W] (of clips [3, T, H, W]), ``mean``, ``std`` (each of three, of pixels in [0, 1]),
            ``interpolation`` (``bilinear``, ``bicubic``, ...) and ``crop_pct``; also ``crop_mode`` ``center`` (default)
            or ``squash``.
        train: augment, or not.
        augment: in training, ``"default"`` (random resized crop, horizontal flip), ``"jitter"`` (also brightness,
            contrast and saturation by up to 0.3), ``"none"``, or a callable from ``{"image": PIL image, "mask":
            tv_tensors.Mask, "boxes": tv_tensors.BoundingBoxes, "edited_map": tv_tensors.Mask}``, of which those there
            are, to the same (any ``torchvision.transforms.v2`` transform); what it gives at another size is then
            resized and cropped as in evaluation. An image may come back as a tensor, uint8 or of floats in [0, 1].
        scale: area of the random crop, as a share of the image.

    Raises:
        ValueError: a preprocessing entry is missing or out of range, or an unknown augmentation.
    """

    def __init__(
        self,
        preprocessing: dict,
        train: bool = False,
        augment: str | Callable[[dict], dict] = "default",
        scale: tuple[float, float] = (0.35, 1.0),
    ):
        self.preprocessing = _checked(preprocessing)
        self.size = tuple(preprocessing["input_size"][-2:])
        self.mean = torch.tensor(preprocessing["mean"], dtype=torch.float32).view(3, 1, 1)
        self.std = torch.tensor(preprocessing["std"], dtype=torch.float32).view(3, 1, 1)
        self.interpolation = v2.InterpolationMode(preprocessing["interpolation"])
        if isinstance(augment, type):
            raise ValueError(f"augment is the class {augment.__name__}; pass an object of it, {augment.__name__}(...)")
        if not callable(augment) and augment not in AUGMENTATIONS:
            several = "; a list of transforms is torchvision.transforms.v2.Compose([...])"
            raise ValueError(
                f"augment {augment!r} is not one of {', '.join(AUGMENTATIONS)} or a callable"
                + (several if isinstance(augment, (list, tuple)) else "")
            )
        self.augment = None
        if train and callable(augment):
            self.augment = augment
        elif train and augment != "none":
            steps = [v2.RandomResizedCrop(self.size, scale, interpolation=self.interpolation, antialias=True)]
            steps += [v2.ColorJitter(0.3, 0.3, 0.3)] if augment == "jitter" else []
            self.augment = v2.Compose([*steps, v2.RandomHorizontalFlip()])

    def __call__(
        self,
        image: Image.Image | Tensor,
        mask: np.ndarray | Tensor | None = None,
        boxes: Any = None,
        edited_map: Any = None,
        cue: Any = None,
        cue_mask: np.ndarray | Tensor | None = None,
    ) -> dict[str, Tensor]:
        """
        Args:
            image: from :func:`read_image` (another PIL image is made RGB, but not turned upright); or the frames of a
                clip, (T, 3, H, W) uint8, whose masks are (T, H, W), and which has no boxes and no map.
            mask: (H, W) uint8 of the image's size: 0 background, 1 object, 255 void.
            boxes: (n, 4) [x, y, width, height] in the image's pixels.
            edited_map: (h, w) float in [0, 1], at any resolution, over the whole image.
            cue: (n, 4) [x, y, width, height] of what should not be looked at.
            cue_mask: the same as a mask, taken in place of ``cue``; its void counts as no cue.

        Returns:
            ``pixel_values`` (3, H, W) float32; ``mask`` (1, H, W) uint8 if there is a mask or boxes (those then filled
            in); ``boxes`` (n, 4) float32 left, top, right, bottom, clipped, without those of which the crop left less than
            a pixel a side; ``edited_map`` (1, H, W) float32 in [0, 1] and ``cue`` (1, H, W) uint8, 1 on it, if there is one. Of a
            clip ``pixel_values`` (3, T, H, W), ``mask`` and ``cue`` (1, T, H, W).
        """
        clip = isinstance(image, Tensor)
        if isinstance(image, Tensor):
            sample: dict[str, Any] = {"image": tv_tensors.Video(image)}
        else:
            sample = {"image": image if image.mode == "RGB" else to_rgb(image)}
        if mask is not None:
            sample["mask"] = ObjectMask(torch.as_tensor(mask)[None])
        if boxes is not None and not isinstance(image, Tensor):
            sample["boxes"] = _corners(boxes, image)
        if cue is not None and not isinstance(image, Tensor):
            sample["cue"] = _corners(cue, image)
        if cue_mask is not None:
            sample["cue_mask"] = ObjectMask(torch.as_tensor(cue_mask)[None])
        if edited_map is not None and not isinstance(image, Tensor):
            whole = F.resize_image(torch.as_tensor(edited_map)[None], [image.height, image.width], antialias=True)
            sample["edited_map"] = FloatMap(whole)
        if self.augment is not None:
            sample = augmented(self.augment, sample)
        if self.augment is None or tuple(F.get_size(sample["image"])) != self.size:
            sample = self._centred(sample)
        pixels = sample["image"] if clip else F.to_image(sample["image"])
        pixels = F.to_dtype(pixels.as_subclass(Tensor), torch.float32, scale=True)
        pixels = (pixels - self.mean) / self.std
        item = {"pixel_values": pixels.movedim(0, 1).contiguous() if clip else pixels}
        if "boxes" in sample:
            item["boxes"] = _inside_image(sample["boxes"].as_subclass(Tensor), self.size)
            item["mask"] = _filled(item["boxes"], self.size)
        if "mask" in sample:
            item["mask"] = sample["mask"].as_subclass(Tensor).contiguous()
        if "cue_mask" in sample:
            item["cue"] = (sample["cue_mask"].as_subclass(Tensor) == 1).to(torch.uint8)
        elif "cue" in sample:
            item["cue"] = _filled(_inside_image(sample["cue"].as_subclass(Tensor), self.size), self.size)
        if "edited_map" in sample:
            item["edited_map"] = sample["edited_map"].as_subclass(Tensor).clamp(0, 1).contiguous()
        return item

    def seen(self, width: int, height: int) -> tuple[float, float, float, float]:
        """``(left, top, right, bottom)``: the part of an image that evaluation keeps, in the image's own pixels."""
        resized = self.resized([height, width])
        sides = []
        for side, whole, kept in zip((height, width), resized, self.size):
            begin, cell = round((whole - kept) / 2), side / whole  # as torchvision's center_crop rounds
            sides.append((begin * cell, (begin + kept) * cell))
        (top, bottom), (left, right) = sides
        return left, top, right, bottom

    def _centred(self, sample: dict) -> dict:
        sample = self._bounded(sample)
        size = self.resized(F.get_size(sample["image"]))
        options = {"interpolation": self.interpolation, "antialias": True}
        return {k: F.center_crop(F.resize(v, size, **options), list(self.size)) for k, v in sample.items()}

    def _bounded(self, sample: dict) -> dict:
        """Of a picture that is far longer than wide, the middle that the centre crop will come from, and more.

        Enlarged whole, 20000 x 2 pixels would take gigabytes. Others are left as they are, to the bit.
        """
        given = F.get_size(sample["image"])
        resized, window = self.resized(given), list(given)
        for at in (0, 1):
            if resized[at] > LONGEST * self.size[at]:
                least = math.ceil(LONGEST * self.size[at] * given[at] / resized[at])
                least += (given[at] - least) % 2  # the middle stays the middle
                # Of the next few, the one whose rounded size is enlarged most nearly as the whole would be.
                sides = range(least, min(given[at], least + NEAR) + 1, 2)
                window[at] = min(sides, key=lambda side: self._off(given, at, side), default=given[at])
        return sample if window == given else {k: F.center_crop(v, window) for k, v in sample.items()}

    def _off(self, given: list[int], at: int, side: int) -> tuple[int, float]:
        """How otherwise than the whole a picture cut to ``side`` pixels along ``at`` is enlarged and then cut."""
        cut = [side if axis == at else length for axis, length in enumerate(given)]
        own, whole = self.resized(cut)[at], self.resized(given)[at]
        return (own - whole) % 4, abs(own / side - whole / given[at])  # halves of a pixel round to even; the scale

    def resized(self, size: list[int]) -> list[int]:
        """(height, width) that an image is resized to before the centre crop: timm's rounding."""
        target = [math.floor(side / self.preprocessing["crop_pct"]) for side in self.size]
        if self.preprocessing.get("crop_mode", "center") == "squash":
            return target
        if target[0] == target[1]:
            short = min(size)
            return [target[0] if side == short else int(target[0] * side / short) for side in size]
        ratio = min(side / wanted for side, wanted in zip(size, target))
        return [round(side / ratio) for side in size]


def _checked(preprocessing: dict) -> dict:
    wanted = ("input_size", "mean", "std", "interpolation", "crop_pct")
    missing = [key for key in wanted if key not in preprocessing]
    if missing:
        raise ValueError(f"preprocessing lacks {', '.join(missing)}: it needs {', '.join(wanted)}")
    for key in ("mean", "std"):
        if len(preprocessing[key]) != 3:
            raise ValueError(f"preprocessing {key} must have 3 entries (RGB), got {preprocessing[key]!r}")
    if len(preprocessing["input_size"]) not in (3, 4):
        size = preprocessing["input_size"]
        raise ValueError(f"preprocessing input_size must be [3, H, W], or [3, T, H, W] of clips, got {size!r}")
    if preprocessing["input_size"][0] != 3:
        raise ValueError(f"preprocessing input_size must begin with 3 channels, got {preprocessing['input_size']!r}")
    if not 0 < preprocessing["crop_pct"] <= 1:
        raise ValueError(f"preprocessing crop_pct must be in (0, 1], got {preprocessing['crop_pct']!r}")
    modes = [mode.value for mode in v2.InterpolationMode]
    for key, accepted in (("interpolation", modes), ("crop_mode", ["center", "squash"])):
        if preprocessing.get(key, accepted[0]) not in accepted:
            raise ValueError(f"preprocessing {key} {preprocessing[key]!r} is not one of {', '.join(accepted)}")
    return dict(preprocessing)


def _corners(boxes: Any, image: Image.Image) -> tv_tensors.BoundingBoxes:
    corners = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4).clone()
    corners[:, 2:] += corners[:, :2]
    return tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(image.height, image.width))


def _inside_image(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes cut at the image's sides; of those that are cut, what is left of less than a pixel is dropped."""
    boxes = boxes.float()
    limit = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32)
    inside = torch.minimum(boxes.clamp_min(0), limit)
    sides, whole = inside[:, 2:] - inside[:, :2], (inside == boxes).all(1)
    return inside[(sides >= 1).all(1) | whole & (sides > 0).all(1)]


def _filled(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(1, H, W) uint8: 1 on the pixels whose centre lies in a box, and on the one that a smaller box lies in."""
    inside = []
    for low, high, side in zip(boxes[:, :2].T, boxes[:, 2:].T, size[::-1]):
        low, high, at = low[:, None], high[:, None], torch.arange(side)
        small = (high - low < 1) & (at == ((low + high) / 2).floor())
        inside.append((at + 0.5 >= low) & (at + 0.5 < high) | small)
    columns, rows = inside
    return (rows[:, :, None] & columns[:, None, :]).any(0, keepdim=True).to(torch.uint8)
