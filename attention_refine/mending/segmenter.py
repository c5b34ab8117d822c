r"""Object or not, cell by cell, from a few annotated images: a small classifier on a frozen network's features.

A pretrained network already computes what tells an animal from a meadow; a few masks are enough to read it off. At each
level :math:`l` of the network (:mod:`attention_refine.backbones.pyramid`) the feature, scaled to unit length at every
location and standardised by channel, goes through a 1x1 convolution :math:`W_l`; the results meet on the finest grid,

.. math:: p = \sigma\big( K * \mathrm{drop}(\mathrm{relu}( b + \textstyle\sum_l \mathrm{up}(W_l \hat{f}_l) )) \big)

with a 3x3 convolution :math:`K` to one channel, trained by binary cross-entropy. It is a hypercolumn classifier
(Hariharan et al., CVPR 2015) whose convolutions run before the enlargement, which gives the same numbers for a fraction
of the memory. No gradient reaches the network, so fitting takes seconds.

Of an image whose annotation only says about where the object is, or nothing, it learns the cells that stand out in the
network's deepest features (:mod:`~attention_refine.mending.salience`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.contexts import quiet
from ..backbones.pyramid import Level, find_levels, read_levels
from .salience import outlined


@dataclass(frozen=True)
class SegmenterConfig:
    """How a :class:`Segmenter` is made and fitted.

    Args:
        hidden: channels between the two convolutions.
        dropout: share of these channels that is left out at a step.
        steps: of fitting.
        batch_size: annotated images a step.
        learning_rate: of AdamW at the start; it falls to 0 along a cosine.
        weight_decay: of AdamW.
        max_images: annotated images that are fitted on at most, the first ones; their features are kept in memory.
    """

    hidden: int = 64
    dropout: float = 0.2
    steps: int = 60
    batch_size: int = 15
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    max_images: int = 200

    def __post_init__(self) -> None:
        for name in ("hidden", "steps", "batch_size", "learning_rate", "max_images"):
            if getattr(self, name) <= 0:
                raise ValueError(f"Segmenter: {name} must be above 0, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"Segmenter: dropout must be at least 0 and below 1, got {self.dropout}")
        if self.weight_decay < 0:
            raise ValueError(f"Segmenter: weight_decay must be 0 or more, got {self.weight_decay}")


class Segmenter(nn.Module):
    """How likely each cell of an image is object. Made by :func:`fit_segmenter`; the network is not part of it."""

    def __init__(self, levels: list[Level], channels: list[int], config: SegmenterConfig):
        super().__init__()
        self.levels = levels
        self.mix = nn.ModuleList(nn.Conv2d(each, config.hidden, 1, bias=i == 0) for i, each in enumerate(channels))
        self.decide = nn.Sequential(nn.ReLU(), nn.Dropout2d(config.dropout), nn.Conv2d(config.hidden, 1, 3, padding=1))
        for i, each in enumerate(channels):
            self.register_buffer(f"mean_{i}", torch.zeros(1, each, 1, 1))
            self.register_buffer(f"std_{i}", torch.ones(1, each, 1, 1))

    def logits(self, features: list[Tensor]) -> Tensor:
        """``(B, 1, h, w)`` on the finest grid, from the features at the levels."""
        size = max((each.shape[2:] for each in features), key=lambda grid: grid[0] * grid[1])
        total = torch.zeros((), device=features[0].device)
        for i, (feature, mix) in enumerate(zip(features, self.mix, strict=True)):
            mean, std = getattr(self, f"mean_{i}"), getattr(self, f"std_{i}")
            mixed = mix((F.normalize(feature.float(), dim=1) - mean) / std)
            total = total + F.interpolate(mixed, size, mode="bilinear", align_corners=False)
        return self.decide(total)

    @torch.no_grad()
    def predict(self, net: nn.Module, pixel_values: Tensor) -> Tensor:
        """``(B, 1, h, w)`` in [0, 1] on the finest grid, for images ``(B, 3, H, W)``; in evaluation mode."""
        with quiet(net), quiet(self):
            return self.logits(read_levels(net, self.levels, pixel_values)).sigmoid()


def fit_segmenter(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]],
    config: SegmenterConfig | None = None,
    *,
    seed: int = 0,
) -> Segmenter:
    """Fit a segmenter to annotated images; the same seed and images give the same one on a CPU.

    Args:
        net: the network whose features are read, unchanged; it is run in evaluation mode.
        batches: of ``(pixel_values (B, 3, H, W), target (B, 1, H, W) in [0, 1], known (B, 1, H, W), 1 where the target
            counts, rough (B,) bool, where the target only holds the object somewhere)``, read once.
        config: the options; defaults where None.
        seed: of the start, the order of the images and the dropout.

    Raises:
        ValueError: no annotated image.
    """
    config = config or SegmenterConfig()
    features, targets, knowns, roughs, levels = [], [], [], [], list[Level]()
    for pixel_values, target, known, rough in batches:
        if not levels:
            levels = find_levels(net, pixel_values[:1])
        with quiet(net):
            found = read_levels(net, levels, pixel_values)
        height, width = max((each.shape[2:] for each in found), key=math.prod)
        share = F.adaptive_avg_pool2d(known.float(), (height, width))
        targets.append(F.adaptive_avg_pool2d(target.float() * known, (height, width)) / share.clamp_min(1e-6))
        knowns.append((share > 0.5).float())
        roughs.append(rough.to(share.device))
        features.append([each.half() if each.device.type == "cpu" else each for each in found])
        if sum(map(len, targets)) >= config.max_images:
            break
    if not targets:
        raise ValueError("no annotated image: a segmenter needs a few masks, boxes or edited maps to learn from")
    columns = [torch.cat(each)[: config.max_images] for each in zip(*features, strict=True)]
    target, known, rough = (torch.cat(each)[: config.max_images] for each in (targets, knowns, roughs))
    if rough.any():
        target[rough], known[rough] = outlined(columns[-1][rough], target[rough], known[rough])
    device = target.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        torch.manual_seed(seed)
        segmenter = Segmenter(levels, [each.shape[1] for each in columns], config).to(device)
        for i, each in enumerate(columns):
            unit = F.normalize(each.float(), dim=1)
            getattr(segmenter, f"mean_{i}").copy_(unit.mean((0, 2, 3), keepdim=True))
            getattr(segmenter, f"std_{i}").copy_(unit.std((0, 2, 3), keepdim=True).clamp_min(1e-6))
        optimizer = torch.optim.AdamW(segmenter.parameters(), config.learning_rate, weight_decay=config.weight_decay)
        for step in range(config.steps):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
            rows = torch.randperm(len(target))[: config.batch_size].to(device)
            logits = segmenter.logits([each[rows] for each in columns])
            parts = F.binary_cross_entropy_with_logits(logits, target[rows], reduction="none")
            loss = (parts * known[rows]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return segmenter.eval()
