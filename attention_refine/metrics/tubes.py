"""Insertion and deletion of a clip by tubes: a place is taken out, or put back, in all frames at once.

Voxel by voxel a network may be robbed of a moment or of a place; by tubes of a place alone, and what is left is a film as
whole in time as the first. Tubes go in descending order of the map's mean over its frames; of pictures a tube is a pixel,
and the measures are :func:`~attention_refine.metrics.insertion` and :func:`~attention_refine.metrics.deletion`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ._registry import STEPPED, register_measure
from .perturbation import PerturbationResult, deletion, insertion


class OnPiles(nn.Module):
    """A network of clips that is given their frames as channels, ``(B, C * T, H, W)``."""

    def __init__(self, net: nn.Module, frames: int):
        super().__init__()
        self.net, self.frames = net, frames
        self.training = net.training

    def forward(self, piles: Tensor) -> Any:
        return self.net(piles.unflatten(1, (-1, self.frames)))


def on_piles(
    net: nn.Module, clips: Tensor, maps: Tensor, baseline: str | Tensor
) -> tuple[nn.Module, Tensor, Tensor, str | Tensor]:
    """A network, clips and maps for measures that alter pictures: a pixel of which is a tube; and the same fill."""
    if clips.ndim != 5:
        return net, clips, maps, baseline
    if maps.ndim != 5:
        raise ValueError(f"maps of clips must have shape (B, 1, t, h, w), got {tuple(maps.shape)}")
    if isinstance(baseline, Tensor):
        if baseline.ndim != 5:
            raise ValueError(
                f"a baseline of shape {tuple(baseline.shape)} is none of clips {tuple(clips.shape)}: give a colour as "
                "(1, C, 1, 1, 1) or clips as (B, C, T, H, W)"
            )
        baseline = baseline.expand(-1, -1, clips.shape[2], -1, -1).flatten(1, 2)
    return OnPiles(net, clips.shape[2]), clips.flatten(1, 2), maps.mean(2), baseline


@register_measure(title="Deletion by tubes", better=False, needs="forwards", reads="auc", curve="", takes=STEPPED)
def tube_deletion(
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: int | Tensor | None = None,
    n_steps: int = 50,
    baseline: str | Tensor = "zero",
    kernel: str = "rise",
    score: str = "softmax",
    batch_size: int | None = None,
    progress: bool = False,
) -> PerturbationResult:
    """Deletion of a clip ``(B, C, T, H, W)``, of map ``(B, 1, t, h, w)``, place by place in all frames. Lower is better."""
    net, pixel_values, maps, baseline = on_piles(net, pixel_values, maps, baseline)
    return deletion(net, pixel_values, maps, target, n_steps, baseline, kernel, score, batch_size, progress)


@register_measure(title="Insertion by tubes", better=True, needs="forwards", reads="auc", curve="", takes=STEPPED)
def tube_insertion(
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: int | Tensor | None = None,
    n_steps: int = 50,
    baseline: str | Tensor = "blur",
    kernel: str = "rise",
    score: str = "softmax",
    batch_size: int | None = None,
    progress: bool = False,
) -> PerturbationResult:
    """Insertion into a clip ``(B, C, T, H, W)`` of blurred frames, place by place in all of them. Higher is better."""
    net, pixel_values, maps, baseline = on_piles(net, pixel_values, maps, baseline)
    return insertion(net, pixel_values, maps, target, n_steps, baseline, kernel, score, batch_size, progress)


BY_TUBES = (tube_deletion, tube_insertion)  # the measures that take a clip whole
