"""The preprocessing of a model of clips as a transformers video processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.image_processing_utils import BatchFeature
from transformers.video_processing_utils import BaseVideoProcessor

from .config import RefinedConfig


class RefinedVideoProcessor(BaseVideoProcessor):
    """The model's own preprocessing as a transformers video processor."""

    model_input_names = ["pixel_values"]

    def __init__(self, **values: Any):
        super().__init__()
        for name, value in values.items():
            if name not in ("image_processor_type", "video_processor_type", "processor_class"):
                setattr(self, name, value)

    def preprocess(self, videos: Any, return_tensors: str | None = None, **options: Any) -> BatchFeature:
        """``{"pixel_values": (B, 3, T, H, W)}`` from a video or a list of them.

        Args:
            videos: paths or bytes, of whose middle the model's own sampling takes the frames; or frames that were chosen
                already, ``(T, H, W, 3)`` of 0 to 255, as an array, a tensor or a list of images.
            options: ``num_frames``, ``do_sample_frames`` and the like are without effect: the checkpoint says them.

        Raises:
            ValueError: frames of another number than the model takes.
        """
        several = isinstance(videos, (list, tuple)) and not _is_image(videos[0])
        pixels = [self._clip(video) for video in (videos if several else [videos])]
        return BatchFeature({"pixel_values": torch.stack(pixels)}, tensor_type=return_tensors)

    __call__ = preprocess  # type: ignore[assignment]  # transformers' own two bases disagree

    def _clip(self, video: Any) -> Tensor:
        from ..data import Transform, read_clip

        names = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "fps", "stride", "short")
        preprocessing = {name: getattr(self, name) for name in names if getattr(self, name, None) is not None}
        if isinstance(video, (str, Path, bytes)):
            frames = read_clip(video, preprocessing).frames
        else:
            frames = torch.as_tensor(np.stack([np.asarray(frame) for frame in video])).permute(0, 3, 1, 2)
        wanted = preprocessing["input_size"][1]
        if len(frames) != wanted:
            raise ValueError(
                f"the model takes clips of {wanted} frames, got {len(frames)}; a path is sampled as it was trained"
            )
        return Transform(preprocessing)(frames)["pixel_values"]


def _is_image(value: Any) -> bool:
    """One frame of a clip, not a clip: an array or a tensor of three axes, or a PIL image."""
    return not isinstance(value, (str, Path, bytes, list, tuple)) and getattr(value, "ndim", 3) == 3


def register() -> None:
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor

    AutoVideoProcessor.register(RefinedConfig, RefinedVideoProcessor, exist_ok=True)
