"""Three small backbones cut by hand, so that an oracle need not trust the library's own cut."""

from __future__ import annotations

import math

import torch
from torch import nn


def halves(name: str, net: nn.Module, headless: bool = False):
    """``F`` of one image as (C, h, w), and perception of such a feature (and its image), from timm's own modules.

    The cut is where a head's map acts; ``headless`` where Grad-CAM reads, which differs for the ResNet.
    """
    if name == "resnet18":

        def stem(x):
            return net.layer3(net.layer2(net.layer1(net.maxpool(net.act1(net.bn1(net.conv1(x)))))))

        if headless:
            return lambda x: net.layer4(stem(x))[0], lambda f, x: net.fc(net.global_pool(f[None]))
        return lambda x: stem(x)[0], lambda f, x: net.fc(net.global_pool(net.layer4(f[None])))
    if name == "swin":

        def extract(x):
            return net.norm(net.layers(net.patch_embed(x)))[0].permute(2, 0, 1)

        return extract, lambda f, x: net.head(f.permute(1, 2, 0)[None])

    def tokens(x):
        x = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(x))))
        for block in net.blocks[:5]:
            x = block(x)
        return x

    def extract(x):
        raw = tokens(x)[:, net.num_prefix_tokens :]
        return raw[0].T.unflatten(1, (math.isqrt(raw.shape[1]),) * 2)

    def perceive(f, x):
        raw = torch.cat([tokens(x)[:, : net.num_prefix_tokens], f.flatten(1).T[None]], 1)
        return net.forward_head(net.norm(net.blocks[5](raw)))

    return extract, perceive
