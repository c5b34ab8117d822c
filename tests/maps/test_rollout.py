"""Rollouts against a float64 loop over weights recorded another way, on timm, transformers and torch's attention."""

from __future__ import annotations

import pytest
import timm
import torch
import transformers
from torch import nn

from attention_refine import maps


def close(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    expected = expected.detach()
    assert float((found - expected).abs().amax() / expected.abs().amax()) <= tolerance


def recorded(vit, pixels):
    """The attention of every block of a timm ViT, unfused, seen by its dropout, in float64."""
    net = vit.double()
    seen = []
    handles = []
    for block in net.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_hook(lambda module, args, output: seen.append(output)))
    logits = net(pixels.double())
    for handle in handles:
        handle.remove()
    return seen, logits


def rollout_by_loop(layers, fuse, discard=0.0):
    maps_of = []
    for b in range(layers[0].shape[0]):
        product = torch.eye(layers[0].shape[-1], dtype=torch.float64)
        for layer in layers:
            matrix = fuse(layer[b].detach())
            if discard:
                values = sorted(matrix.flatten().tolist())
                limit = values[int(discard * len(values))]  # distinct floats: the smallest go, this one stays
                kept = torch.where(matrix >= limit, matrix, torch.zeros_like(matrix))
                kept[:, 0] = matrix[:, 0]
                matrix = kept
            matrix = 0.5 * matrix + 0.5 * torch.eye(len(matrix), dtype=torch.float64)
            product = (matrix / matrix.sum(1, keepdim=True)) @ product
        maps_of.append(product)
    return torch.stack(maps_of)


FUSIONS = {"mean": lambda a: a.mean(0), "max": lambda a: a.max(0).values, "min": lambda a: a.min(0).values}


@pytest.mark.parametrize("heads", FUSIONS)
@pytest.mark.parametrize("discard", [0.0, 0.5])
def test_attention_rollout(vit, heads, discard):
    pixels = torch.randn(2, 3, 64, 64)
    found = maps.attention_rollout(vit, pixels, heads=heads, discard=discard)
    layers, _ = recorded(vit, pixels)
    expected = rollout_by_loop(layers, FUSIONS[heads], discard)[:, 0, 1:].reshape(2, 1, 4, 4)
    close(found, expected.float())


def test_gradient_rollout(vit):
    pixels, classes = torch.randn(2, 3, 64, 64), [[1, 4], [0, 2]]
    found = maps.gradient_rollout(vit, pixels, classes)
    for b in range(2):
        for t in range(2):
            layers, logits = recorded(vit, pixels[b : b + 1])
            gradients = torch.autograd.grad(logits[0, classes[b][t]], layers)
            relevance = torch.eye(17, dtype=torch.float64)
            for layer, gradient in zip(layers, gradients):
                heads = [(gradient[0, h] * layer[0, h]).clamp(min=0) for h in range(layer.shape[1])]
                relevance = relevance + (sum(heads) / len(heads)) @ relevance
            close(found[b, t], relevance[0, 1:].reshape(4, 4).float())


def test_class_attention(vit):
    pixels = torch.randn(2, 3, 64, 64)
    for layer in (0, -1):
        found = maps.class_attention(vit, pixels, layer=layer)
        layers, _ = recorded(vit, pixels)
        close(found, layers[layer][:, :, 0, 1:].reshape(2, -1, 4, 4).float())
        vit.float()
    with pytest.raises(ValueError, match="attention layers; use"):
        maps.class_attention(vit, pixels, layer=99)


def test_fused_and_unfused_attention_agree(vit):
    pixels = torch.randn(2, 3, 64, 64)
    assert all(block.attn.fused_attn for block in vit.blocks)
    fused = [getattr(maps, name)(vit, pixels) for name in ("attention_rollout", "gradient_rollout", "class_attention")]
    for block in vit.blocks:
        block.attn.fused_attn = False
    for name, expected in zip(("attention_rollout", "gradient_rollout", "class_attention"), fused):
        close(getattr(maps, name)(vit, pixels), expected)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_transformers_networks(implementation):
    sizes = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=64)
    config = transformers.ViTConfig(**sizes, patch_size=16, initializer_range=0.5, num_labels=3)
    net = transformers.ViTForImageClassification(config).eval()
    net.set_attn_implementation("eager")
    pixels = torch.randn(2, 3, 64, 64)
    layers = net(pixels, output_attentions=True).attentions
    expected = rollout_by_loop([layer.double() for layer in layers], FUSIONS["mean"])
    expected = expected[:, 0, 1:].reshape(2, 1, 4, 4).float()
    net.set_attn_implementation(implementation)
    close(maps.attention_rollout(net, pixels), expected)
    close(maps.class_attention(net, pixels), layers[-1][:, :, 0, 1:].reshape(2, 2, 4, 4).detach())
    assert maps.gradient_rollout(net, pixels).amax() > 0


def test_torchs_own_multi_head_attention():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 8, 8)
            self.token = nn.Parameter(torch.randn(1, 1, 8))
            self.layers = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=first) for first in (True, False))
            self.head = nn.Linear(8, 3)

        def forward(self, pixel_values, weights=None):
            tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)
            for layer in self.layers:
                given = tokens if layer.batch_first else tokens.transpose(0, 1)
                out, seen = layer(given, given, given, need_weights=weights is not None, average_attn_weights=False)
                tokens = tokens + (out if layer.batch_first else out.transpose(0, 1))
                if weights is not None:
                    weights.append(seen)
            return self.head(tokens[:, 0])

    net, pixels, layers = Net().eval(), torch.randn(2, 3, 32, 32), []
    net(pixels, layers)
    expected = rollout_by_loop([layer.double() for layer in layers], FUSIONS["mean"])
    expected = expected[:, 0, 1:].reshape(2, 1, 4, 4).float()
    close(maps.attention_rollout(net, pixels), expected)
    close(maps.class_attention(net, pixels), layers[-1][:, :, 0, 1:].reshape(2, 2, 4, 4).detach())
    assert maps.gradient_rollout(net, pixels).amax() > 0
    with maps.AttentionWeights(2, lambda weights: None):
        close(net(pixels).detach(), net(pixels).detach())


def test_values_are_unchanged_under_masks_and_grouped_queries():
    from torch.nn.functional import scaled_dot_product_attention as attend

    q, k, v = (torch.randn(2, 4, 6, 8, dtype=torch.float64) for _ in range(3))
    boolean = torch.rand(2, 1, 6, 6) > 0.3
    boolean[..., 0] = True
    bias = torch.randn(6, 6, dtype=torch.float64)
    calls = [
        lambda: attend(q, k, v),
        lambda: attend(q, k, v, boolean),
        lambda: attend(query=q, key=k, value=v, attn_mask=bias),
        lambda: attend(q, k, v, is_causal=True),
        lambda: attend(q, k, v, scale=0.3),
        lambda: attend(q, k[:, :2], v[:, :2], enable_gqa=True),
    ]
    for call in calls:
        seen = []
        with maps.AttentionWeights(2, seen.append):
            found = call()
        torch.testing.assert_close(found, call())
        torch.testing.assert_close(seen[0].sum(-1), torch.ones(2, 4, 6, dtype=torch.float64))


def test_average_pooling_reads_the_patches_rows():
    net = timm.create_model("test_vit", num_classes=5, img_size=64, global_pool="avg").eval()
    pixels = torch.randn(2, 3, 64, 64)
    found = maps.attention_rollout(net, pixels)
    close(maps.attention_rollout(net, pixels, row="mean"), found)
    layers, _ = recorded(net, pixels)
    prefix = layers[0].shape[-1] - 16
    expected = rollout_by_loop(layers, FUSIONS["mean"])[:, prefix:, prefix:].mean(1).reshape(2, 1, 4, 4)
    close(found, expected.float())


def test_networks_without_global_attention_are_refused(cnn, swin):
    pixels = torch.randn(2, 3, 32, 32)
    for method in (maps.attention_rollout, maps.gradient_rollout, maps.class_attention):
        with pytest.raises(ValueError, match="no attention over all tokens was seen"):
            method(cnn, pixels)
        with pytest.raises(ValueError, match="within windows"):
            method(swin, pixels)


def test_attention_between_different_tokens_is_refused():
    """A class token that joins in the last layers has a last look, but no rollout."""
    net = timm.create_model("cait_xxs24_224", img_size=32, depth=2, num_classes=3).eval()
    pixels = torch.randn(2, 3, 32, 32)
    for method in (maps.attention_rollout, maps.gradient_rollout):
        with pytest.raises(ValueError, match="1 tokens attend to 5, after a layer of 4"):
            method(net, pixels)
    assert maps.class_attention(net, pixels).shape == (2, 4, 2, 2)


def test_a_pooling_query_reads_the_rolled_tokens():
    """Attention pooling: the query is no token, so its row closes the product and has no residual path."""
    net = timm.create_model("test_vit3", img_size=64, num_classes=3).eval()
    pixels, seen = torch.randn(2, 3, 64, 64), []
    with maps.AttentionWeights(2, seen.append):
        net(pixels)
    *layers, pool = [weights.detach().double() for weights in seen]
    assert pool.shape[-2:] == (1, layers[0].shape[-1])
    rolled = pool.mean(1) @ rollout_by_loop(layers, FUSIONS["mean"])
    prefix = pool.shape[-1] - 16
    close(maps.attention_rollout(net, pixels), rolled[:, 0, prefix:].reshape(2, 1, 4, 4).float())
    assert maps.gradient_rollout(net, pixels).amax() > 0


def test_distillation_tokens_are_left_out():
    net = timm.create_model("deit_tiny_distilled_patch16_224", img_size=64, depth=2, num_classes=3).eval()
    pixels = torch.randn(2, 3, 64, 64)
    layers, _ = recorded(net, pixels)
    expected = rollout_by_loop(layers, FUSIONS["mean"])[:, 0, 2:].reshape(2, 1, 4, 4).float()
    close(maps.attention_rollout(net.float(), pixels, row="class"), expected)


def test_attention_that_does_not_reach_the_logits_is_left_out(vit):
    """SigLIP's classifier computes a pooling head and does not use it."""

    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit, self.pool = vit, nn.MultiheadAttention(vit.embed_dim, 2, batch_first=True)

        def forward(self, pixel_values):
            tokens = self.vit.forward_features(pixel_values)
            self.pool(tokens[:, :1], tokens, tokens)
            return self.vit.forward_head(tokens)

    pixels, net = torch.randn(2, 3, 64, 64), Idle().eval()
    for name in ("attention_rollout", "gradient_rollout", "class_attention"):
        close(getattr(maps, name)(net, pixels), getattr(maps, name)(vit, pixels))


def test_bad_options(vit):
    pixels = torch.randn(1, 3, 64, 64)
    with pytest.raises(ValueError, match="mean, max, min"):
        maps.attention_rollout(vit, pixels, heads="sum")
    with pytest.raises(ValueError, match="discard"):
        maps.attention_rollout(vit, pixels, discard=1.0)
    with pytest.raises(ValueError, match="auto, class, mean"):
        maps.class_attention(vit, pixels, row="first")
    with pytest.raises(ValueError, match="same for every class"):
        maps.attention_rollout(vit, pixels, 1)
    with pytest.raises(ValueError, match="reads no site"):
        maps.gradient_rollout(vit, pixels, site="blocks.0")
