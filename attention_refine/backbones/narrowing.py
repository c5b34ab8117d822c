"""torchvision's video ResNets with fewer channels, for machines that the full width is too much for: ``"r3d_18@16"``.

The number is that of the first layer's channels, 64 as published; every other layer has as many times fewer. There are no
published weights of them.
"""

from __future__ import annotations

import torch
from torch import nn

PUBLISHED = 64
NAMES = ("r3d_18", "mc3_18", "r2plus1d_18")


def width_of(net: nn.Module) -> int | None:
    """Channels of the first layer of a video ResNet; None for other networks."""
    from torchvision.models.video import VideoResNet

    return net.fc.in_features // 8 if isinstance(net, VideoResNet) else None


def build_narrow(name: str, num_classes: int, width: int) -> nn.Module:
    """The video ResNet of that name, made of torchvision's own parts, with ``width`` channels in its first layer.

    Raises:
        ValueError: another network, or a width out of range.
    """
    from torchvision.models.video import resnet

    if name not in NAMES:
        raise ValueError(f"{name!r} has no width to set: only {', '.join(NAMES)} have one")
    if type(width) is not int or not 4 <= width <= PUBLISHED:
        raise ValueError(f"width {width!r} of {name} must be a whole number from 4 to {PUBLISHED}")
    stem, first, others = {
        "r3d_18": (resnet.BasicStem, resnet.Conv3DSimple, resnet.Conv3DSimple),
        "mc3_18": (resnet.BasicStem, resnet.Conv3DSimple, resnet.Conv3DNoTemporal),
        "r2plus1d_18": (resnet.R2Plus1dStem, resnet.Conv2Plus1D, resnet.Conv2Plus1D),
    }[name]
    net = resnet.VideoResNet.__new__(resnet.VideoResNet)  # its own way to be made has the widths written down
    nn.Module.__init__(net)
    net.stem = _narrow(stem(), width)
    net.inplanes = width
    for number, kind in enumerate((first, others, others, others)):
        stride = 1 if number == 0 else 2
        layer = net._make_layer(resnet.BasicBlock, kind, width * 2**number, 2, stride)
        setattr(net, f"layer{number + 1}", layer)
    net.avgpool = nn.AdaptiveAvgPool3d((1, 1, 1))
    net.fc = nn.Linear(8 * width, num_classes)
    for module in net.modules():  # drawn as torchvision draws them
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(net.fc.weight, 0, 0.01)
    nn.init.zeros_(net.fc.bias)
    return net


def _narrow(stem: nn.Module, width: int) -> nn.Module:
    """The stem with ``width`` channels, and as many fewer in between."""

    def fewer(channels: int) -> int:
        return channels if channels == 3 else max(1, channels * width // PUBLISHED)

    for module in stem.modules():
        if isinstance(module, nn.Conv3d):
            module.in_channels, module.out_channels = fewer(module.in_channels), fewer(module.out_channels)
            module.weight = nn.Parameter(torch.empty(module.out_channels, module.in_channels, *module.kernel_size))
        elif isinstance(module, nn.BatchNorm3d):
            nn.BatchNorm3d.__init__(module, fewer(module.num_features))
    return stem
