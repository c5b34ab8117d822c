"""Grad-CAM and its kin: the closed form, where the graph starts, token networks against a float64 loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attention_refine import maps
from attention_refine.backbones import Site
from attention_refine.layouts import Layout


def close(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert float(((found - expected).abs().amax() / expected.abs().amax()).detach()) <= tolerance


@pytest.mark.parametrize("create_graph", [False, True])
def test_pool_and_linear_heads_give_the_classifiers_weights(cnn, create_graph):
    """CAM = (h w) Grad-CAM on such a head, and its sum plus the bias is the logit."""
    pixels, classes = torch.randn(2, 3, 32, 32), torch.arange(5).expand(2, 5)
    found = maps.grad_cam(cnn, pixels, classes, "stage", create_graph)
    feature = cnn.stage(cnn.stem(pixels))
    close(found, torch.einsum("kc,bchw->bkhw", cnn.fc.weight, feature) / 64)
    close(found.sum((2, 3)) + cnn.fc.bias, cnn(pixels))


def test_the_closed_form_is_used_only_where_it_is_exact(cnn):
    """An activation between site and pooling, or a second linear layer, is not a pool-and-linear head."""
    pixels, classes = torch.randn(2, 3, 32, 32), torch.tensor([[0, 1], [2, 3]])
    heads = {
        "activation": [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)],
        "clipped": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Hardtanh(-0.1, 0.1), nn.Linear(12, 5)],
        "two layers": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 12), nn.Linear(12, 5)],
        "max": [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(12, 5)],
    }
    for head in heads.values():
        net = nn.Sequential(cnn.stem, nn.Sequential(cnn.stage[0], cnn.stage[1]), *head).eval()
        found = maps.grad_cam(net, pixels, classes, "1")
        feature = net[1](net[0](pixels)).detach().requires_grad_()
        logits = net[2:](feature)
        for t in range(2):
            (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, t : t + 1]).sum(), feature, retain_graph=True)
            close(found[:, t], (gradient.mean((2, 3), keepdim=True) * feature).sum(1).detach())


def test_the_closed_form_is_not_fooled_by_an_activation_that_changes_nothing(cnn):
    """A second ReLU keeps values and their mean, but stops the gradient where the feature is zero."""
    pixels, classes = torch.randn(2, 3, 32, 32), torch.tensor([[0, 1], [2, 3]])
    net = nn.Sequential(cnn.stem, cnn.stage, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), cnn.fc).eval()
    feature = cnn.stage(cnn.stem(pixels)).detach()
    share = (feature > 0).float().mean((2, 3))  # (B, C)
    expected = torch.einsum("btc,bc,bchw->bthw", cnn.fc.weight[classes], share, feature).detach() / 64
    close(maps.grad_cam(net, pixels, classes, "1"), expected)


def saved_bytes(call):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel() * t.element_size()) or t, lambda t: t
    ):
        call()
    return sum(saved)


def test_nothing_below_the_site_is_kept(cnn):
    pixels = torch.randn(4, 3, 64, 64)
    feature = cnn.stage(cnn.stem(pixels))
    assert saved_bytes(lambda: maps.grad_cam(cnn, pixels, site="stage")) < feature.numel() * 4
    assert saved_bytes(lambda: maps.grad_cam(cnn, pixels, site="stage", create_graph=True)) > 5 * feature.numel() * 4


def test_several_targets_share_one_forward(vit):
    calls = []
    vit.register_forward_pre_hook(lambda *_: calls.append(1))
    pixels = torch.randn(2, 3, 64, 64)
    site = Site("blocks.0", Layout("NLC", 1))
    maps.grad_cam(vit, pixels, torch.arange(5).expand(2, 5), site)
    assert len(calls) == 1


def test_vit_against_a_float64_loop(vit):
    """Grad-CAM at the input of the last block, image by image and patch by patch."""
    pixels, classes = torch.randn(2, 3, 64, 64), [1, 4]
    found = maps.grad_cam(vit, pixels, classes)
    net = vit.double()
    for block in net.blocks:
        block.attn.fused_attn = False
    for image, target, got in zip(pixels.double(), classes, found):
        tokens = net.patch_drop(net._pos_embed(net.patch_embed(image[None])))
        tokens = net.norm_pre(tokens)
        for block in net.blocks[:-1]:
            tokens = block(tokens)
        tokens = tokens.detach().requires_grad_()
        logits = net.head(net.norm(net.blocks[-1](tokens))[:, 0])
        (gradient,) = torch.autograd.grad(logits[0, target], tokens)
        tokens = tokens.detach()
        weights = gradient[0, 1:].mean(0)
        expected = torch.tensor([float((weights * tokens[0, 1 + n]).sum()) for n in range(16)]).view(1, 4, 4)
        close(got, expected.float())


def test_swin_against_a_float64_loop(swin):
    """The last stage is channels-last; its map is read before the final norm or after it, as the finder chooses."""
    pixels, classes = torch.randn(2, 3, 32, 32), [1, 4]
    found = maps.grad_cam(swin, pixels, classes, "layers.1")
    net = swin.double()
    for image, target, got in zip(pixels.double(), classes, found):
        feature = net.layers[1](net.layers[0](net.patch_embed(image[None]))).detach().requires_grad_()  # (1, h, w, C)
        normed = F.layer_norm(feature, feature.shape[-1:], net.norm.weight, net.norm.bias, net.norm.eps)
        logits = normed.mean((1, 2)) @ net.head.fc.weight.T + net.head.fc.bias
        (gradient,) = torch.autograd.grad(logits[0, target], feature)
        weights = gradient[0].mean((0, 1))
        expected = torch.stack([(weights * cell).sum() for cell in feature[0].flatten(0, 1)]).view(
            1, *feature.shape[1:3]
        )
        close(got, expected.detach().float())
    assert maps.grad_cam(swin.float(), pixels, classes).shape == found.shape


def test_a_site_that_cannot_move_the_logits_is_refused(vit):
    """The output of the last block of a class-token network: peers return a silent zero map."""
    with pytest.raises(ValueError, match="cannot move the logits"):
        maps.grad_cam(vit, torch.randn(1, 3, 64, 64), site=f"blocks.{len(vit.blocks) - 1}")


def test_sites_that_do_not_fit_are_refused(cnn):
    pixels = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match="is not a module.*stem, stage"):
        maps.grad_cam(cnn, pixels, site="layer9")
    with pytest.raises(ValueError, match="names several modules"):
        maps.grad_cam(cnn, pixels, site="0")
    with pytest.raises(ValueError, match="no spatial grid"):
        maps.grad_cam(cnn, pixels, site="fc")
    unused = nn.Sequential(cnn)
    unused.add_module("idle", nn.Identity())
    unused.forward = lambda x: cnn(x)
    with pytest.raises(ValueError, match="did not run"):
        maps.grad_cam(unused, pixels, site="idle")


def test_in_place_activations_after_the_site_do_not_change_the_feature(cnn):
    """The site's own output is explained, not what the next activation makes of its memory."""
    pixels = torch.randn(2, 3, 32, 32)
    found = maps.grad_cam(cnn, pixels, 1, site="stage.1")
    before = cnn.stage[1](cnn.stage[0](cnn.stem(pixels))).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(cnn.fc(before.relu().mean((2, 3)))[:, 1].sum(), before)
    close(found[:, 0], (gradient.mean((2, 3), keepdim=True) * before).sum(1).detach())


def test_video(cnn):
    """Clips of both orders; weights over the whole clip, or for each frame."""
    net = nn.Sequential()
    net.add_module("stage", nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU()))
    net.add_module("mix", nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0)))
    net.add_module("head", nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)))
    clip = torch.randn(2, 3, 4, 16, 16)
    site = Site("stage", Layout("NCTHW"))
    feature = net.stage(clip).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(net.head(net.mix(feature))[:, 1].sum(), feature)
    found = maps.grad_cam(net, clip, 1, site)
    close(found[:, 0], (gradient.mean((2, 3, 4), keepdim=True) * feature).sum(1).detach())
    per_frame = maps.grad_cam(net, clip, 1, site, temporal_weights="per_frame")
    close(per_frame[:, 0], (gradient.mean((3, 4), keepdim=True) * feature).sum(1).detach())
    assert found.shape == (2, 1, 4, 16, 16) and not torch.allclose(found, per_frame)
    assert maps.guided_grad_cam(net, clip, 1, site).shape == (2, 1, 4, 16, 16)
    assert maps.gradient(net, clip, [[0, 1], [1, 2]]).shape == (2, 2, 4, 16, 16)
    assert maps.occlusion(net, clip, window=(2, 8, 8), stride=(2, 8, 8)).shape == (2, 1, 4, 16, 16)
    assert maps.rise(net, clip, masks=3).shape == (2, 1, 1, 16, 16)

    class FramesFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, pixel_values):
            return self.net(pixel_values.transpose(1, 2))

    frames_first = FramesFirst()
    close(maps.gradient(frames_first, clip.transpose(1, 2), 1), maps.gradient(net, clip, 1))
    close(maps.grad_cam(frames_first, clip.transpose(1, 2), 1, "net.stage"), found)
    with pytest.raises(ValueError, match="needs clips"):
        maps.grad_cam(frames_first, clip.transpose(1, 2), 1)
    with pytest.raises(ValueError, match="temporal_weights"):
        maps.grad_cam(net, clip, temporal_weights="local")
