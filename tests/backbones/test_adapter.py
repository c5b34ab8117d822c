"""A backbone cut in two: exact, no dearer than the part that runs, and nothing left on the network."""

from __future__ import annotations

import pytest
import torch
from networks import build, fingerprint, same, site_of
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from attention_refine.backbones.adapter import Backbone
from attention_refine.backbones.sites import Site
from attention_refine.layouts import Layout

KINDS = ("test_resnet", "convnext", "swin", "vit_token", "vit_avg", "hf_resnet", "hf_vit", "hf_swin")


def cut(name: str) -> tuple[Backbone, torch.Tensor]:
    net, pixels = build(name)
    return Backbone(net, None, site_of(name)), pixels


@pytest.fixture(params=KINDS)
def backbone(request):
    return cut(request.param)


def test_resume_after_features_is_the_network_bit_for_bit(backbone):
    backbone, pixels = backbone
    with torch.no_grad():
        logits = backbone(pixels)
        feature = backbone.features(pixels)
        assert torch.equal(backbone.resume(feature), logits)
        assert torch.equal(backbone.resume(feature), logits)  # a feature can be used again


def test_a_batch_is_its_images_one_by_one(backbone):
    backbone, pixels = backbone
    with torch.no_grad():
        together = backbone.resume(backbone.features(pixels))
        apart = torch.cat([backbone.resume(backbone.features(one)) for one in pixels.split(1)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_nothing_is_left_on_the_network(backbone):
    backbone, pixels = backbone
    backbone.net.train()
    next(backbone.net.parameters()).requires_grad_(False)
    backbone.net.eval()
    next(iter(backbone.net.children())).train()
    backbone.net(pixels)  # first calls may install capture machinery and buffers of their own
    next(iter(backbone.net.children())).eval()
    gain = None
    if backbone.site.mechanism == "attention":
        gain = torch.rand(2, 1, *backbone.features(pixels).grid.shape[2:]) + 1
    before = fingerprint(backbone.net)
    feature = backbone.features(pixels)
    backbone.resume(feature, gain=gain)
    assert same(before, fingerprint(backbone.net))


def test_nothing_is_left_when_the_network_raises(backbone):
    backbone, pixels = backbone
    feature = backbone.features(pixels)
    before = fingerprint(backbone.net)
    with pytest.raises(Exception):  # noqa: B017  whatever the network says to five channels
        backbone.features(torch.zeros(2, 5, *pixels.shape[2:]))
    with pytest.raises(Exception):  # noqa: B017
        backbone.resume(feature.with_grid(feature.grid[:, :3]))
    assert same(before, fingerprint(backbone.net))
    with torch.no_grad():
        assert torch.equal(backbone.resume(backbone.features(pixels)), backbone(pixels))


class Counter(TorchDispatchMode):
    """Multiply-adds of everything that runs inside, by PyTorch's own formulas."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        self.total += formula(*args, **(kwargs or {}), out_val=output) if formula else 0
        return output


def multiply_adds(run) -> int:
    with Counter() as counter, torch.no_grad():
        run()
    return counter.total


def test_both_halves_together_cost_one_forward(backbone):
    backbone, pixels = backbone
    feature = backbone.features(pixels)
    whole = multiply_adds(lambda: backbone(pixels))
    before = multiply_adds(lambda: backbone.features(pixels))
    after = multiply_adds(lambda: backbone.resume(feature))
    assert before + after == whole and before > 0 and 0 < after < whole


def test_gradients_reach_what_precedes_the_site_and_what_follows(backbone):
    backbone, pixels = backbone
    for parameter in backbone.net.parameters():
        parameter.grad = None
    backbone(pixels).square().sum().backward()
    whole = {name: parameter.grad for name, parameter in backbone.net.named_parameters()}
    backbone.net.zero_grad(set_to_none=True)
    backbone.resume(backbone.features(pixels)).square().sum().backward()
    for name, parameter in backbone.net.named_parameters():
        assert (parameter.grad is None) == (whole[name] is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-6)


def test_no_earlier_value_is_kept_in_memory():
    backbone, pixels = cut("test_resnet")
    feature = backbone.features(pixels)
    kept = [value for calls in feature.earlier.values() for call in calls for value in [call]]
    assert kept and not any(isinstance(value, torch.Tensor) for value in kept)


class Shared(nn.Module):
    """The same convolution before and after the site."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.site = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(self.conv(self.site(self.conv(x)).relu()).mean((2, 3)))


def test_a_module_used_before_and_after_the_site_answers_once_and_then_runs():
    net = Shared()
    backbone = Backbone(net, None, Site("site", Layout("NCHW")))
    pixels = torch.randn(2, 3, 8, 8)
    assert torch.equal(backbone.resume(backbone.features(pixels)), net(pixels))


def test_a_forward_somebody_else_replaced_is_given_back():
    backbone, pixels = cut("test_resnet")
    run = backbone.net.conv1.forward
    backbone.net.conv1.forward = lambda x: run(x)
    own = backbone.net.conv1.forward
    backbone.resume(backbone.features(pixels))
    assert backbone.net.conv1.forward is own


def test_without_a_site_the_way_to_get_one_is_said():
    net, pixels = build("test_resnet")
    with pytest.raises(RuntimeError, match="wrap it with a head"):
        Backbone(net, None).features(pixels)


def test_a_site_the_forward_never_calls_is_named():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return self.used(x).mean((2, 3))

    with pytest.raises(RuntimeError, match="never called 'idle'"):
        Backbone(Idle(), None, Site("idle", Layout("NCHW"))).features(torch.zeros(1, 3, 4, 4))
