"""What stands in a picture where pixels have been taken out: zero, the mean colour, or a blurred copy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BASELINES = ("zero", "mean", "blur")
KERNELS = ("rise", "gaussian", "box")


def blur_kernel(kernel: str = "rise", size: int = 11, sigma: float = 5.0) -> Tensor:
    """``(size,)`` float64 weights, summing to 1, of a separable blur: the 2-D kernel is their outer product.

    Args:
        kernel: ``"rise"``: what RISE's published code uses, a Gaussian (cut at 4 sigma) applied with reflecting borders
            to a single 1 in an array of ``size``; the folded tails make it nearly flat (2-D largest over smallest
            weight 1.14 at the defaults). ``"gaussian"``: the truncated Gaussian that the paper's words describe (2.72).
            ``"box"``: flat, as in BR-NPA's evaluation.
        size: odd number of pixels.
        sigma: in pixels; unused by ``"box"``.

    Raises:
        ValueError: unknown kernel, or a size that is not odd and positive.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel {kernel!r} is not one of {', '.join(KERNELS)}")
    if size < 1 or size % 2 == 0:
        raise ValueError(f"a blur kernel needs an odd number of pixels, got {size}")
    centre = size // 2
    if kernel == "box":
        return torch.full((size,), 1 / size, dtype=torch.float64)
    radius = int(4 * sigma + 0.5) if kernel == "rise" else centre
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = weights / weights.sum()
    if kernel == "gaussian":
        return weights
    # d c b a | a b c d | d c b a: index i + o folds back into the array with period 2 * size.
    index = (torch.arange(size)[:, None] + torch.arange(-radius, radius + 1)) % (2 * size)
    index = torch.where(index < size, index, 2 * size - 1 - index)
    return ((index == centre) * weights).sum(1)


def blur(images: Tensor, kernel: str = "rise", size: int = 11, sigma: float = 5.0) -> Tensor:
    """``images`` (B, C, H, W) convolved with :func:`blur_kernel`, zero-padded (borders darken, as in RISE's code)."""
    weights = blur_kernel(kernel, size, sigma).to(images)
    channels = images.shape[1]
    rows = weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    columns = weights.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    images = F.conv2d(images, rows, padding=(size // 2, 0), groups=channels)
    return F.conv2d(images, columns, padding=(0, size // 2), groups=channels)


def fill_image(images: Tensor, baseline: str | Tensor, kernel: str = "rise") -> Tensor:
    """The picture that shows where pixels are removed, broadcastable to ``images`` (B, C, H, W).

    Args:
        baseline: ``"zero"`` (0 in the normalised space the network sees, the data set's mean colour), ``"mean"`` (each
            image's own mean colour), ``"blur"`` (see ``kernel``), or a tensor broadcastable to ``images``.
        kernel: ``"rise"``, ``"gaussian"`` (both 11 pixels, sigma 5) or ``"box"`` (a side / 3.7, BR-NPA's proportion).

    Raises:
        ValueError: unknown baseline or kernel, or a tensor that does not broadcast to ``images``.
    """
    if isinstance(baseline, Tensor):
        try:
            fits = torch.broadcast_shapes(baseline.shape, images.shape) == images.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"a baseline of shape {tuple(baseline.shape)} does not broadcast to images of shape "
                f"{tuple(images.shape)}: give a colour as (1, C, 1, 1) or pictures as (B, C, H, W)"
            )
        fill = baseline.to(images)
        return fill.view((1,) * (4 - fill.ndim) + fill.shape)
    if kernel not in KERNELS:
        raise ValueError(f"kernel {kernel!r} is not one of {', '.join(KERNELS)}")
    if baseline == "zero":
        return images.new_zeros(1, 1, 1, 1)
    if baseline == "mean":
        return images.mean((2, 3), keepdim=True)
    if baseline == "blur":
        size = round(min(images.shape[-2:]) / 3.7) // 2 * 2 + 1 if kernel == "box" else 11
        return blur(images, kernel, size)
    raise ValueError(f"baseline {baseline!r} is not one of {', '.join(BASELINES)}, nor a tensor")
