"""Small wrapped models for the objectives' tests, made once: copy before changing one."""

from __future__ import annotations

import functools

import torch
from cases import BY_NAME
from torch import nn

import attention_refine as ar

MAPS = {"abn": "shared", "per_class": "per_class"}


@functools.cache
def base(name: str, head: str | None) -> ar.RefinedModel:
    """In evaluation mode; the branch's statistics and weights have no special value. ``head``: one of MAPS, or none."""
    model = BY_NAME[name].wrap(head and ar.AttentionBranch(fade_in_steps=0, map_init="normal", maps=MAPS[head]))
    generator = torch.Generator().manual_seed(2)
    for module in model.head.modules() if model.head is not None else ():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.5, 0.5, generator=generator)
    return model


def images(name: str = "resnet18", count: int = 3) -> torch.Tensor:
    return BY_NAME[name].images(count)
