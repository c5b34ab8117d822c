"""Every backbone the library names, at the smallest size that still has its shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import attention_refine as ar

CLASSES = 5


@dataclass(frozen=True)
class Case:
    """A backbone to test: ``make()`` builds the same network, weights included, every time."""

    name: str
    build: Callable[[], nn.Module]
    size: int

    def make(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            return lively(self.build(), self.images(8))

    def wrap(self, head: str | ar.Head | None = "abn", **options) -> ar.RefinedModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(12)
            preprocessing = {"input_size": [3, self.size, self.size]}
            return ar.wrap(self.make(), head, preprocessing=preprocessing, **options).eval()

    def images(self, count: int = 3) -> Tensor:
        """Noise on large patches of colour, so that locations and images differ after pooling."""
        generator = torch.Generator().manual_seed(5)
        patches = torch.randn(count, 3, 4, 4, generator=generator)
        noise = torch.randn(count, 3, self.size, self.size, generator=generator)
        return nn.functional.interpolate(patches, self.size) + 0.5 * noise


def lively(net: nn.Module, images: Tensor) -> nn.Module:
    """Weights as far from their initial values as trained ones: norms that shift and scale by statistics of signals."""
    for name, parameter in net.named_parameters():
        if name.rsplit(".")[-1] in ("gamma", "lambda_1", "layer_scale_parameter"):  # layer scale starts at 1e-6
            nn.init.uniform_(parameter, 0.3, 0.6)
    for module in net.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)) and module.weight is not None:
            nn.init.uniform_(module.weight, 0.6, 1.4)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(images)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    return net.eval()


def _timm(name: str, **options) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=CLASSES, **options)

    return build


def _huggingface(family: str, **options) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{family}Config")(num_labels=CLASSES, **options)
        return getattr(transformers, f"{family}ForImageClassification")(config)

    return build


_SMALL_RESNET = dict(layers=(1, 2, 1, 2), channels=(8, 16, 24, 32))
_SWIN = dict(embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=2, img_size=64)
_TOKENS = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64)

CASES = [
    Case("resnet18", _timm("resnet18", channels=(16, 32, 64, 128)), 64),
    Case("resnet50", _timm("resnet50", **_SMALL_RESNET), 64),
    Case("resnet50d", _timm("resnet50d", **_SMALL_RESNET), 64),
    Case("resnet50t", _timm("resnet50t", **_SMALL_RESNET), 64),
    Case("mobilenetv2", _timm("mobilenetv2_050"), 64),
    Case("efficientnet", _timm("test_efficientnet"), 64),
    Case("convnext", _timm("test_convnext"), 64),
    Case("swin", _timm("swin_tiny_patch4_window7_224", **_SWIN), 64),
    Case("vit-token", _timm("test_vit", img_size=64), 64),
    Case("vit-avg", _timm("test_vit", img_size=64, global_pool="avg"), 64),
    Case("deit", _timm("deit_tiny_patch16_224", img_size=64, embed_dim=48, depth=4), 64),
    Case("deit-distilled", _timm("deit_tiny_distilled_patch16_224", img_size=64, embed_dim=48, depth=4), 64),
    Case("hf-resnet", _huggingface("ResNet", embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1]), 64),
    Case("hf-vit", _huggingface("ViT", image_size=64, patch_size=8, **_TOKENS), 64),
    Case("hf-swin", _huggingface("Swin", image_size=64, embed_dim=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4],
                                 window_size=2), 64),
    Case("hf-convnext", _huggingface("ConvNext", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], image_size=64), 64),
]  # fmt: skip
BY_NAME = {case.name: case for case in CASES}

# Heads that classify what they pool, and the backbones that each is tested on.
POOLING_HEADS = {
    "brnpa": (ar.BRNPA, {}, ["resnet18", "efficientnet", "convnext", "vit-token", "deit-distilled", "hf-swin"]),
    "brnpa-random": (ar.BRNPA, {"select": "random"}, ["resnet18"]),
    "bilinear": (ar.BilinearPooling, {}, ["resnet18", "convnext", "vit-token"]),
}

# Options without which an objective has no meaning, or no room on an image of 64 pixels.
OBJECTIVE_OPTIONS = {"darc": {"min_cells": 1}, "distillation": {"teacher": "user/teacher"}}
