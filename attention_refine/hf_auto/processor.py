"""A model's own preprocessing as a transformers image processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature

from .config import RefinedConfig


class RefinedImageProcessor(BaseImageProcessor):
    """The model's own preprocessing as a transformers image processor."""

    model_input_names = ["pixel_values"]

    def __init__(self, **values: Any):
        super().__init__()
        for name, value in values.items():
            if name not in ("image_processor_type", "processor_class"):
                setattr(self, name, value)

    def preprocess(self, images: Any, return_tensors: str | None = None, **options: Any) -> BatchFeature:
        """``{"pixel_values": (B, 3, H, W)}`` from an image or a list of them: PIL images, arrays, tensors or paths."""
        from ..data import Transform, read_image

        names = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
        transform = Transform({name: getattr(self, name) for name in names if hasattr(self, name)})
        given = images if isinstance(images, (list, tuple)) else [images]
        pixels = [transform(read_image(_as_pil(image), "the image"))["pixel_values"] for image in given]
        return BatchFeature({"pixel_values": torch.stack(pixels)}, tensor_type=return_tensors)

    __call__ = preprocess


def _as_pil(image: Any) -> Any:
    if isinstance(image, (str, Path)) or not hasattr(image, "shape"):
        return image
    from transformers.image_transforms import to_pil_image

    return to_pil_image(image)


def register() -> None:
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    try:
        both: dict[str, type] = {"pil": RefinedImageProcessor, "torchvision": RefinedImageProcessor}
        AutoImageProcessor.register(RefinedConfig, image_processor_classes=both, exist_ok=True)
    except TypeError:  # transformers 4
        AutoImageProcessor.register(RefinedConfig, slow_image_processor_class=RefinedImageProcessor, exist_ok=True)
