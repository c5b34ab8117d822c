"""LeGrad against the paper's equations in float64, layer by layer, and what it refuses."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
import transformers
from torch import nn

import attention_refine as ar
from attention_refine import maps


def by_hand(net, block, tail, pixels, target):
    """Equations 5 to 10 for one image: blocks' attention as its dropout sees it; the tail is norm, pooling, classifier."""
    total = 0.0
    for each in block:
        seen = {}
        handles = [
            module.register_forward_hook(
                partial(lambda seen, name, module, args, output: seen.update({name: output}), seen, name)
            )
            for name, module in (("weights", each.attn.attn_drop), ("tokens", each))
        ]
        net(pixels)
        for handle in handles:
            handle.remove()
        score = tail(seen["tokens"])[0, target]
        (gradient,) = torch.autograd.grad(score, seen["weights"])  # (1, heads, queries, keys)
        heads, queries = gradient.shape[1:3]
        positive = gradient[0].clamp(min=0)
        total = total + sum(positive[h, q] for h in range(heads) for q in range(queries)) / (heads * queries)
    return total / len(block)


def test_it_is_the_papers(vit):
    pixels, classes = torch.randn(2, 3, 64, 64), [[1, 4], [0, 2]]
    found = maps.legrad(vit, pixels, classes)
    net = vit.double()
    for block in net.blocks:
        block.attn.fused_attn = False
    for image in range(2):
        for at, target in enumerate(classes[image]):
            expected = by_hand(
                net, net.blocks, lambda z: net.forward_head(net.norm(z)), pixels[image : image + 1].double(), target
            )
            expected = expected[1:].reshape(4, 4)
            assert float((found[image, at] - expected).abs().max() / expected.max()) < 1e-5


def test_a_mean_of_patches_is_a_pooling_as_well(lively):
    torch.manual_seed(0)
    net = timm.create_model("test_vit", num_classes=5, img_size=64, class_token=False, global_pool="avg")
    net = lively(net).eval()
    pixels = torch.randn(1, 3, 64, 64)
    found = maps.legrad(net, pixels, 3)
    net = net.double()
    for block in net.blocks:
        block.attn.fused_attn = False
    expected = by_hand(net, net.blocks, lambda z: net.forward_head(net.norm(z)), pixels.double(), 3).reshape(4, 4)
    assert float((found[0, 0] - expected).abs().max() / expected.max()) < 1e-5


def test_the_graph_reaches_the_weights_and_nothing_is_left_behind(vit):
    pixels = torch.randn(2, 3, 64, 64)
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in vit.modules()]
    found = maps.legrad(vit, pixels, 0, create_graph=True)
    (gradient,) = torch.autograd.grad(found.sum(), vit.blocks[0].attn.qkv.weight)
    assert gradient.abs().max() > 0
    assert torch.allclose(found, maps.legrad(vit, pixels, 0))
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in vit.modules()]
    assert all("forward" not in vars(module) for module in vit.modules())


@pytest.mark.parametrize("kind", ["ViT", "CLIP", "Siglip"])
def test_transformers_networks_and_wrapped_ones(kind):
    tokens = dict(
        image_size=64, patch_size=16, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64
    )
    config = getattr(transformers, f"{kind}Config")
    torch.manual_seed(0)
    net = getattr(transformers, f"{kind}ForImageClassification")(
        config(num_labels=4, **tokens) if kind == "ViT" else config(num_labels=4, vision_config=tokens)
    ).eval()
    pixels = torch.randn(2, 3, 64, 64)
    found = maps.legrad(net, pixels, [2, 1])
    assert found.shape == (2, 1, 4, 4) and found.min() >= 0 and found.std() > 0
    wrapped = ar.wrap(net, preprocessing={"input_size": [3, 64, 64]})
    assert torch.allclose(maps.legrad(wrapped, pixels, [2, 1]), found)


def test_what_it_refuses(swin, cnn, vit):
    with pytest.raises(ValueError, match="stays within windows"):
        maps.legrad(swin, torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match="no attention over all tokens"):
        maps.legrad(cnn, torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match="reads no site"):
        maps.legrad(vit, torch.randn(1, 3, 64, 64), site="blocks.0")
    with pytest.raises(ValueError, match="no row of blocks with one attention"):
        maps.legrad(OneBlock(), torch.randn(1, 3, 8, 8))


class OneBlock(nn.Module):
    """Attention, and no row of blocks."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, 2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.classifier = nn.Linear(8, 3)

    def forward(self, pixels):
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        return self.classifier(self.attention(tokens, tokens, tokens)[0].mean(1))
