"""Images that stand for the absence of evidence: where a path of integration starts, what an occlusion shows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BASELINES = ("zero", "blur", "noise")


def baseline_like(pixels: Tensor, baseline: str | Tensor, seed: int = 0) -> Tensor:
    """The baseline of each image, in its shape.

    Args:
        pixels: images ``(B, C, H, W)`` or clips, normalised.
        baseline: ``"zero"``, the data set's mean colour; ``"blur"``, the image under a Gaussian of a sixteenth of its
            shorter side; ``"noise"``, standard normal, the same for every image; or a tensor that broadcasts to
            ``pixels``.
        seed: of the noise, which has a generator of its own.

    Raises:
        ValueError: another name, or a tensor that does not broadcast.
    """
    if isinstance(baseline, Tensor):
        try:
            return baseline.to(pixels).expand_as(pixels)
        except RuntimeError as error:
            shapes = f"{tuple(baseline.shape)} does not broadcast to the pixels {tuple(pixels.shape)}"
            raise ValueError(f"baseline of shape {shapes}; give (C, 1, 1), one image, or one an image") from error
    if baseline == "zero":
        return torch.zeros_like(pixels)
    if baseline == "blur":
        return blur(pixels, sigma=min(pixels.shape[-2:]) / 16)
    if baseline == "noise":
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(pixels.shape[1:], generator=generator).to(pixels).expand_as(pixels)
    raise ValueError(f"baseline {baseline!r} is not a tensor or one of {', '.join(BASELINES)}")


def blur(pixels: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur over the last two axes, borders reflected; the kernel ends at three sigma."""
    radius = max(1, min(round(3 * sigma), min(pixels.shape[-2:]) - 1))
    offsets = torch.arange(-radius, radius + 1, dtype=pixels.dtype, device=pixels.device)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = kernel / kernel.sum()
    planes = pixels.reshape(-1, 1, *pixels.shape[-2:])
    planes = F.pad(planes, (radius,) * 4, mode="reflect")
    planes = F.conv2d(F.conv2d(planes, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return planes.reshape(pixels.shape)
