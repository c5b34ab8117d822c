"""Random views of the images of a batch, for objectives that compare two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ViewsConfig:
    """How a view differs from its image; the options of an objective that draws views begin with these.

    Args:
        smallest_crop: the smallest share of the image that a view shows; 1 does not crop.
        flip: probability of a horizontal flip.
        jitter: strength s of the colour jitter: brightness, contrast and saturation by up to 0.8 s, hue by up to 0.2 s,
            with probability 0.8; 0.5 for CIFAR-10 in the paper.
        grey: probability of a view without colour.
        blur: probability of a Gaussian blur, by a kernel of a tenth of the image; 0 for CIFAR-10 in the paper.
    """

    smallest_crop: float = 0.08
    flip: float = 0.5
    jitter: float = 1.0
    grey: float = 0.2
    blur: float = 0.5

    def check_views(self, owner: str) -> None:
        """Refuse strengths and probabilities out of range."""
        if not 0 < self.smallest_crop <= 1:
            raise ValueError(f"{owner}: smallest_crop must be above 0 and at most 1, got {self.smallest_crop}")
        if not 0 <= self.jitter <= 1.25:
            raise ValueError(f"{owner}: jitter must be between 0 and 1.25, got {self.jitter}")
        for name in ("flip", "grey", "blur"):
            chance = getattr(self, name)
            if not 0 <= chance <= 1:
                raise ValueError(f"{owner}: {name} is a probability and must be between 0 and 1, got {chance}")


class Views:
    """A random view of each image or clip: crop, flip, colour jitter, grey, blur (SimCLR, appendix A).

    Every image has its own draws, from torch's CPU generator; all frames of a clip share one set.

    Args:
        config: how they differ from the image.
        preprocessing: with the ``mean`` and ``std`` that the pixels are normalised by.
    """

    def __init__(self, config: ViewsConfig, preprocessing: dict[str, Any]):
        self.config = config
        self.mean, self.std = (torch.tensor(preprocessing[name])[:, None, None] for name in ("mean", "std"))

    @torch.no_grad()
    def __call__(self, pixel_values: Tensor) -> Tensor:
        """``(B, C, H, W)`` or ``(B, C, T, H, W)``, normalised, to the same."""
        mean, std = self.mean.to(pixel_values), self.std.to(pixel_values)
        change = self._transform(pixel_values.shape[-2:])

        def view(image: Tensor) -> Tensor:
            frames = image.movedim(0, -3)  # (C, T, H, W) to (T, C, H, W): a transform takes leading axes as one image
            return ((change((frames * std + mean).clamp(0, 1)) - mean) / std).movedim(-3, 0)

        return torch.stack([view(image) for image in pixel_values])

    def _transform(self, size: torch.Size) -> Any:
        from torchvision.transforms import v2  # takes a second to import, and a loaded model never needs it

        s = self.config.jitter
        kernel = max(3, min(size) // 10 // 2 * 2 + 1)
        crop = v2.RandomResizedCrop(tuple(size), (self.config.smallest_crop, 1.0), antialias=True)
        return v2.Compose([
            crop if self.config.smallest_crop < 1 else v2.Identity(),
            v2.RandomHorizontalFlip(self.config.flip),
            v2.RandomApply([v2.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)], 0.8),
            v2.RandomGrayscale(self.config.grey),
            v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], self.config.blur),
        ])  # fmt: skip
