"""Equality with captum on four families of convolutional networks, 1e-5 of the largest value."""

from __future__ import annotations

import pytest
import timm
import torch

from attention_refine import maps

captum = pytest.importorskip("captum.attr")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")

NETWORKS = {"resnet18": "layer4", "resnet50": "layer4", "vgg11": "features.15", "convnext_atto": "stages.3"}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request, lively):
    torch.manual_seed(0)
    options = {"mlp_ratio": 1 / 64} if request.param == "vgg11" else {}  # else its two largest layers take the time
    net = lively(timm.create_model(request.param, num_classes=10, **options)).eval()
    return net, NETWORKS[request.param], torch.randn(2, 3, 64, 64), torch.tensor([3, 7])


def close(found, expected, tolerance=1e-5):
    expected = expected.detach()
    assert found.shape == expected.shape
    assert float(expected.abs().amax()) > 0
    assert float((found - expected).abs().amax() / expected.abs().amax()) <= tolerance


def test_grad_cam(case):
    net, site, pixels, target = case
    expected = captum.LayerGradCam(net, net.get_submodule(site)).attribute(pixels, target)
    close(maps.grad_cam(net, pixels, target, site), expected)
    close(maps.grad_cam(net, pixels, target, site, create_graph=True).detach(), expected)


def test_gradient(case):
    net, _, pixels, target = case
    expected = captum.Saliency(net).attribute(pixels.clone(), target)
    close(maps.gradient(net, pixels, target), expected.sum(1, keepdim=True))
    close(maps.gradient(net, pixels, target, reduce="max"), expected.amax(1, keepdim=True))


def test_guided_backprop(case):
    net, site, pixels, target = case
    # captum guides nn.ReLU alone: on ConvNeXt, all GELU, it gives the plain gradient
    rule = "guided" if any(isinstance(m, torch.nn.ReLU) for m in net.modules()) else "plain"
    expected = captum.GuidedBackprop(net).attribute(pixels.clone(), target)
    close(maps.guided_backprop(net, pixels, target, rule=rule, reduce="sum"), expected.sum(1, keepdim=True))
    cams, guided = maps.grad_cam_and_guided_backprop(net, pixels, target, site, rule=rule)
    close(guided, expected.abs().sum(1, keepdim=True))
    close(cams, captum.LayerGradCam(net, net.get_submodule(site)).attribute(pixels, target))


def test_integrated_gradients(case):
    net, _, pixels, target = case
    start = 0.3 * torch.randn(2, 3, 64, 64)
    for rule, method in (("midpoint", "riemann_middle"), ("gauss", "gausslegendre")):
        explained = captum.IntegratedGradients(net)
        expected = explained.attribute(pixels, start, target, n_steps=3, method=method, internal_batch_size=2)
        found = maps.integrated_gradients(net, pixels, target, baseline=start, steps=3, rule=rule)
        close(found, expected.sum(1, keepdim=True).float())


def test_occlusion_where_windows_tile(cnn):
    pixels = torch.randn(2, 3, 32, 32)
    expected = captum.Occlusion(cnn).attribute(pixels, (3, 8, 8), (3, 4, 4), target=2)
    close(maps.occlusion(cnn, pixels, 2, window=8, stride=4), expected[:, :1].float())
