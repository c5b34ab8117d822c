"""Which axis of an input is which: images ``(B, 3, H, W)``, clips ``(B, 3, T, H, W)`` or ``(B, T, 3, H, W)``."""

from __future__ import annotations

from torch import Tensor


def channel_axis(pixel_values: Tensor) -> int:
    """1, or 2 for clips whose frames come before their channels (the order of the transformers library).

    Raises:
        ValueError: not an image or clip batch.
    """
    if pixel_values.ndim not in (4, 5):
        raise ValueError(
            f"pixel_values of shape {tuple(pixel_values.shape)} is neither images (B, C, H, W) "
            "nor clips (B, C, T, H, W)"
        )
    frames_first = pixel_values.ndim == 5 and pixel_values.shape[2] in (1, 3) and pixel_values.shape[1] not in (1, 3)
    return 2 if frames_first else 1


def image_size(pixel_values: Tensor) -> tuple[int, ...]:
    """``(H, W)`` of images, ``(T, H, W)`` of clips."""
    return tuple(pixel_values.movedim(channel_axis(pixel_values), 1).shape[2:])


def reduce_channels(attribution: Tensor, channel_axis: int, reduce: str) -> Tensor:
    """An attribution of pixel values as ``(B, *size)``: one number a pixel.

    Args:
        attribution: in the shape of the pixels.
        reduce: ``"sum"`` keeps the sign (and the completeness of integrated gradients), ``"abs"`` sums magnitudes,
            ``"max"`` takes the largest magnitude (Simonyan et al. 2014, section 3.1).

    Raises:
        ValueError: another ``reduce``.
    """
    if reduce == "sum":
        return attribution.sum(channel_axis)
    if reduce == "abs":
        return attribution.abs().sum(channel_axis)
    if reduce == "max":
        return attribution.abs().amax(channel_axis)
    raise ValueError(f"reduce {reduce!r} is not 'sum', 'abs' or 'max'")
