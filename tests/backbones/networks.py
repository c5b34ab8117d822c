"""Networks small enough to run a dozen times in a second, one of each kind a site finder must cope with."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import timm
import torch
from torch import Tensor, nn

from attention_refine.backbones import Site, find_site

TINY_VIT = dict(img_size=64, depth=4, embed_dim=48, num_heads=3)


def hugging_face(name: str, **config) -> nn.Module:
    """``vit`` to a freshly initialised ``ViTForImageClassification`` of five classes."""
    import transformers
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as classes

    classifier = classes[name] if isinstance(classes[name], str) else classes[name][0]
    return getattr(transformers, classifier)(AutoConfig.for_model(name, num_labels=5, **config))


HF_VIT = dict(
    image_size=64, patch_size=16, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64
)

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: timm.create_model("resnet18", num_classes=5, layers=(1, 1, 1, 1)), 64),
    "resnet50d": (lambda: timm.create_model("resnet50d", num_classes=5, layers=(1, 1, 1, 1)), 64),
    "test_resnet": (lambda: timm.create_model("test_resnet", num_classes=5), 64),
    "mobilenetv2": (lambda: timm.create_model("mobilenetv2_035", num_classes=5), 64),
    "efficientnet": (lambda: timm.create_model("test_efficientnet", num_classes=5), 64),
    "convnext": (lambda: timm.create_model("test_convnext", num_classes=5), 64),
    "swin": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224",
            num_classes=5,
            img_size=56,
            depths=(1, 1, 2),
            num_heads=(2, 4, 8),
            embed_dim=16,
        ),
        56,
    ),
    "vit_token": (lambda: timm.create_model("deit_tiny_patch16_224", num_classes=5, **TINY_VIT), 64),
    "vit_avg": (lambda: timm.create_model("vit_tiny_patch16_224", num_classes=5, global_pool="avg", **TINY_VIT), 64),
    "hf_resnet": (
        lambda: hugging_face(
            "resnet", embedding_size=8, hidden_sizes=[8, 16, 32], depths=[1, 1, 1], layer_type="basic"
        ),
        64,
    ),
    "hf_vit": (lambda: hugging_face("vit", **HF_VIT), 64),
    "hf_swin": (
        lambda: hugging_face(
            "swin", image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1], num_heads=[1, 2, 4], window_size=4
        ),
        64,
    ),
    "hf_convnext": (
        lambda: hugging_face("convnext", image_size=64, hidden_sizes=[8, 16, 32, 32], depths=[1, 1, 1, 1]),
        64,
    ),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The network in evaluation mode, and a batch of two images for it."""
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    return make().eval(), torch.randn(2, 3, size, size)


@cache
def site_of(name: str) -> Site:
    return find_site(*build(name))


def fingerprint(net: nn.Module) -> dict:
    """Everything a probe or a cut might leave behind on a network, and the random generator."""
    seen: dict = {"rng": torch.get_rng_state()}
    for name, module in net.named_modules():
        hooks = [key for key in module.__dict__ if key.endswith("hooks") or key.endswith("hooks_with_kwargs")]
        seen[name] = (
            module.training,
            "forward" in module.__dict__,
            {key: len(module.__dict__[key]) for key in hooks},
            sorted(module.__dict__),
        )
    for name, parameter in net.named_parameters():
        seen[f"parameter {name}"] = (id(parameter), parameter.requires_grad, parameter.grad, parameter.detach().clone())
    for name, buffer in net.named_buffers():
        seen[f"buffer {name}"] = (id(buffer), buffer.clone())
    return seen


def same(a, b) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a == b
