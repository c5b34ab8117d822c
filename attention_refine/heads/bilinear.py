r"""Bilinear attention pooling: the baseline with attention parameters that BR-NPA is compared with (there "B-CNN").

A small block and a 1x1 convolution make K + 1 maps from the last feature ``F``, the last of which is for the background
and is thrown away; each of the others pools the feature,

.. math::

    A = ReLU(conv(block(F))), \qquad p_k = \frac{1}{hw} \sum_j A_{kj} F_j, \qquad y = W [p_1 ... p_K] + b

the product of two features summed over locations, as in bilinear CNNs (Lin et al., ICCV 2015, arXiv 1504.07889), whose
signed square root and L2 normalisation ``normalise=True`` adds. The block is a ResNet's basic one, two 3x3 convolutions
of the feature's width, which is most of what this head costs: ``block=False`` leaves it out.

Unlike BR-NPA's the K maps have no order. The map it shows is their mean, as the authors measure it, relative to the
largest value in the image; ``maps="parts"`` shows all K. A person's map takes the place of ``A``, with its own scale.
The prediction goes over from the backbone's: :class:`~attention_refine.heads._pooling.PoolingHead`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.registry import check_choice
from ..maps._conditions import full_precision
from ._base import heads
from ._pooling import Pooled, PoolingConfig, PoolingHead

EPS = 1e-12


@dataclass(frozen=True)
class BilinearPoolingConfig(PoolingConfig):
    """Options of :class:`BilinearPooling`, beside those of every pooling head.

    Args:
        block: whether a ResNet's basic block comes before the 1x1 convolution.
        normalise: signed square root and L2 norm of all that was pooled.
        maps: ``"mean"``, one map, or ``"parts"``, K of them.
    """

    classifier_init: str = "scratch"
    block: bool = True
    normalise: bool = False
    maps: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("BilinearPooling", "maps", self.maps, ("mean", "parts"))


@heads.register("bilinear")
class BilinearPooling(PoolingHead):
    """Bilinear attention pooling and its classifier. Options: :class:`BilinearPoolingConfig`."""

    config_class = BilinearPoolingConfig

    def make_layers(self, channels: int, grid_rank: int) -> None:
        conv = nn.Conv2d if grid_rank == 2 else nn.Conv3d
        self.block = BasicBlock(channels, grid_rank) if self.config.block else nn.Identity()
        self.to_maps = conv(channels, self.config.parts + 1, 1)
        self.num_maps = self.config.parts if self.config.maps == "parts" else 1

    def forward(self, feature: Tensor, maps: Tensor | None = None) -> tuple[Pooled, Tensor, dict[str, Tensor]]:
        """What the maps pool, the maps ``(B, 1 or K, h, w)``, and no auxiliary logits.

        Args:
            feature: ``(B, C, h, w)``, or ``(B, C, t, h, w)`` of a clip.
            maps: in place of the head's own.
        """
        self.check(feature)
        if maps is not None:
            acting = full_precision(maps).expand(-1, self.config.parts, *feature.shape[2:])
            return Pooled(self._pool(feature, acting)), maps, {}
        self.count()
        acting = full_precision(self.to_maps(self.block(feature))[:, :-1].relu())
        shown = acting if self.config.maps == "parts" else acting.mean(1, keepdim=True)
        largest = shown.flatten(1).amax(1).view(-1, *[1] * (shown.ndim - 1))
        return Pooled(self._pool(feature, acting)), shown / largest.clamp_min(EPS), {}

    def _pool(self, feature: Tensor, acting: Tensor) -> Tensor:
        with torch.autocast(feature.device.type, enabled=False):
            flat = full_precision(feature).flatten(2)
            vectors = torch.bmm(acting.to(flat.dtype).flatten(2), flat.transpose(1, 2)) / flat.shape[2]
            return signed_root(vectors) if self.config.normalise else vectors


def signed_root(vectors: Tensor) -> Tensor:
    """``sign(x) sqrt(|x|)`` of ``(B, K, C)``, then each image's numbers divided by their norm."""
    rooted = vectors.sign() * (vectors.abs() + EPS).sqrt()
    return rooted / rooted.flatten(1).norm(dim=1).clamp_min(EPS).view(-1, 1, 1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the way past them."""

    def __init__(self, channels: int, grid_rank: int):
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if grid_rank == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.layers = nn.Sequential(
            conv(channels, channels, 3, padding=1, bias=False), norm(channels), nn.ReLU(),
            conv(channels, channels, 3, padding=1, bias=False), norm(channels),
        )  # fmt: skip

    def forward(self, feature: Tensor) -> Tensor:
        return (feature + self.layers(feature)).relu()
