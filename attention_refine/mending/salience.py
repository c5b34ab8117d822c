r"""What stands out in an image, from nobody's annotation: the leading component of a frozen network's deepest features.

The features of all locations of an image, :math:`F \in \mathbb{R}^{C \times N}`, have a first right singular vector; the
locations that share in it are those of what the network sees in the image (Eigen-CAM, Muhammad and Yeasin 2020). For
pretrained convolutional networks that is the object, for class-token transformers everything but the object: which end of
the scale is the object is one decision for a network, by where the objects are known or likely to be.

A :mod:`~attention_refine.mending.segmenter` learns from it where a box only says that the object is somewhere inside, or
nobody says anything: from the cells that are surely object and those that are surely not. The levels were chosen on the
true masks of training photographs (docs/propagate.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..maps import normalize, resize
from ..maps.eigen_cam import principal_map

IN_A_BOX = 0.8  # of the largest value in the box: object from there on; below, anything
OBJECT, BACKGROUND = 0.7, 0.4  # of the image's range, where nothing is known
WHOLE = 0.95  # a region that covers so much of the image says nothing
FEWEST = 36  # cells of a grid on which something can stand out


def standing_out(feature: Tensor) -> Tensor:
    """``(B, 1, h, w)`` in [0, 1]: how much each location of ``(B, C, h, w)`` shares in the image's leading component."""
    found = principal_map(feature.float().flatten(2)).abs()
    return normalize(found.unflatten(2, feature.shape[2:]), "minmax")


def outlined(feature: Tensor, region: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Which cells of rough regions are surely object, and which cells count.

    In a region the cells that stand out most are object, the cells outside are none, and the rest of the region does not
    count. Where the region is the whole image, what stands out is object and what stands out least is none. On a grid of
    fewer than ``FEWEST`` cells nothing stands out: then regions stay as they are.

    Args:
        feature: ``(B, C, h', w')``, of the network's deepest grid.
        region: ``(B, 1, h, w)`` in [0, 1]: where the object is, somewhere; 1 everywhere for an image of which nothing
            is known.
        known: ``(B, 1, h, w)``, above 0 where the region counts.

    Returns:
        target and known, both ``(B, 1, h, w)`` of 0 and 1.

    Raises:
        ValueError: a grid of too few cells, and no region that says anything.
    """
    inside = (region >= 0.5).float()
    whole = inside.mean((1, 2, 3), keepdim=True) >= WHOLE
    height, width = feature.shape[2:]
    if height * width < FEWEST:
        if whole.all():
            raise ValueError(
                f"the network's deepest grid has {height}x{width} cells at this image size, too few for anything to stand out: "
                "give larger images (image_size=224, for example), or annotate a few"
            )
        return region, (known > 0).float()
    shown = resize(standing_out(feature), tuple(region.shape[2:]))
    likely = torch.where(whole, _middle(inside), inside)
    if (_mean(shown, likely) < _mean(shown, 1 - likely)).item():
        shown = 1 - shown
    of_region = shown * inside
    of_region = of_region / of_region.amax((2, 3), keepdim=True).clamp_min(1e-6)
    target = torch.where(whole, shown >= OBJECT, of_region >= IN_A_BOX)
    counts = torch.where(whole, target | (shown <= BACKGROUND), target | (inside < 0.5)) & (known > 0)
    return target.float(), counts.float()


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(1)


def _middle(like: Tensor) -> Tensor:
    """1 in the middle half of both sides, where photographs have their object more often than at the rim."""
    middle = torch.zeros_like(like)
    height, width = like.shape[2:]
    middle[:, :, height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
    return middle
