"""Maps as losses: derivatives of every map against finite differences, in float64."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from attention_refine import maps
from attention_refine.backbones import Site
from attention_refine.layouts import Layout

GRADIENT_MAPS = {
    "grad_cam": {"site": "stage"},
    "grad_cam_plus_plus": {"site": "stage"},
    "layer_cam": {"site": "stage"},
    "eigen_cam": {"site": "stage"},
    "score_cam": {"site": "stage"},
    "guided_backprop": {"reduce": "sum"},
    "guided_grad_cam": {"site": "stage"},
    "gradient": {},
    "input_x_gradient": {},
    "smooth_grad": {"samples": 2},
    "integrated_gradients": {"steps": 3, "baseline": "blur"},
    "rise": {"masks": 4},
    "occlusion": {"window": 4, "stride": 4},
}


@pytest.mark.parametrize("method", GRADIENT_MAPS)
def test_derivative_with_respect_to_the_pixels(smooth, method):
    target = {} if method == "eigen_cam" else {"target": lambda logits: logits[:, 1] + 0.5 * logits[:, 2].square()}
    pixels = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def compute(pixels):
        return getattr(maps, method)(smooth, pixels, create_graph=True, **target, **GRADIENT_MAPS[method])

    assert torch.autograd.gradcheck(compute, pixels, fast_mode=True)


def directional(net, compute, step=1e-6):
    """The map's change along a random direction of the parameters: by autograd, and by central differences."""
    parameters = [p for p in net.parameters()]
    directions = [torch.randn_like(p) for p in parameters]
    weights = torch.randn_like(compute())
    found = torch.autograd.grad((weights * compute()).sum(), parameters, allow_unused=True)
    analytic = sum(float((g * d).sum()) for g, d in zip(found, directions) if g is not None)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, directions):
                p.add_(d, alpha=sign * step)
        values.append(float((weights * compute()).sum().detach()))
        with torch.no_grad():
            for p, d in zip(parameters, directions):
                p.add_(d, alpha=-sign * step)
    return analytic, (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("method", GRADIENT_MAPS)
def test_derivative_with_respect_to_the_parameters(smooth, method):
    pixels = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    options = {**GRADIENT_MAPS[method], **({} if method == "eigen_cam" else {"target": [[0, 1], [2, 3]]})}
    analytic, numeric = directional(smooth, lambda: getattr(maps, method)(smooth, pixels, create_graph=True, **options))
    assert abs(analytic) > 0
    assert analytic == pytest.approx(numeric, rel=1e-5)


@pytest.mark.parametrize("rule", ["guided", "strict", "clamp", "plain"])
def test_guided_rules_have_true_second_derivatives(smooth, rule):
    """The map bends gradients; its own derivative must not be bent: it would if the rule outlived the context."""
    pixels = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    analytic, numeric = directional(
        smooth, lambda: maps.guided_backprop(smooth, pixels, [0, 1], create_graph=True, rule=rule, reduce="sum")
    )
    assert analytic == pytest.approx(numeric, rel=1e-5)


class Attention(nn.Module):
    """A class-token transformer of one block on fused attention, with a hardsigmoid gate."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.mix = nn.Identity()
        self.qkv = nn.Linear(8, 24)
        self.gate = nn.Linear(8, 8)
        self.gating = nn.Hardsigmoid()
        self.head = nn.Linear(8, 3)

    def forward(self, pixel_values):
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2)
        tokens = self.mix(torch.cat([self.token.expand(len(tokens), -1, -1), F.gelu(tokens)], 1))
        q, k, v = (t.unflatten(2, (2, 4)).transpose(1, 2) for t in self.qkv(tokens).chunk(3, 2))
        tokens = tokens + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(tokens[:, 0] * self.gating(self.gate(tokens[:, 0])))


SITE = {"site": Site("mix", Layout("NLC", 1))}
ATTENTION_MAPS = {
    "grad_cam": SITE,
    "layer_cam": SITE,
    "guided_backprop": {"reduce": "sum"},
    "guided_grad_cam": SITE,
    "gradient": {},
    "integrated_gradients": {"steps": 2},
    "attention_rollout": {},
    "gradient_rollout": {},
    "class_attention": {},
}


@pytest.mark.parametrize("method", ATTENTION_MAPS)
def test_fused_attention_and_hardsigmoid(method):
    torch.manual_seed(0)
    net = Attention().double()
    pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    options = ATTENTION_MAPS[method]
    analytic, numeric = directional(net, lambda: getattr(maps, method)(net, pixels, create_graph=True, **options))
    assert abs(analytic) > 0
    assert analytic == pytest.approx(numeric, rel=1e-5)


def test_without_the_context_neither_has_a_second_derivative():
    """What the context is for; if torch learns them, it can go."""
    x = torch.randn(1, 1, 4, 4, requires_grad=True)
    for call in (lambda: F.hardsigmoid(x), lambda: F.scaled_dot_product_attention(x, x, x)):
        (gradient,) = torch.autograd.grad(call().square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="not implemented"):
            torch.autograd.grad(gradient.sum(), x)
        with maps.twice_differentiable():
            value = call()
        torch.testing.assert_close(value, call())
        (gradient,) = torch.autograd.grad(value.square().sum(), x, create_graph=True)
        assert torch.autograd.grad(gradient.sum(), x)[0].isfinite().all()


def test_the_context_restores_the_kernels_and_in_place_gates_write_in_place():
    flags = torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()
    with pytest.raises(RuntimeError, match="stop"), maps.twice_differentiable():
        assert not torch.backends.cuda.flash_sdp_enabled()
        gate = torch.linspace(-4, 4, 9)
        expected = F.hardsigmoid(gate.clone())
        assert F.hardsigmoid(gate, inplace=True) is gate
        torch.testing.assert_close(gate, expected)
        raise RuntimeError("stop")
    assert flags == (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled())


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_real_networks_train_on_a_map(name):
    options = {"img_size": 32, "depth": 2} if name.startswith("vit") else {}
    net = timm.create_model(name, num_classes=5, **options).train()
    pixels = torch.randn(2, 3, 32 if options else 64, 32 if options else 64)
    cams, guided = maps.grad_cam_and_guided_backprop(net, pixels, create_graph=True)
    (cams.square().sum() + guided.square().sum()).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    assert sum(p.grad is not None and bool(p.grad.any()) for p in net.parameters()) > 5
    assert pixels.grad is None


@pytest.mark.parametrize("method", ["grad_cam", "guided_backprop", "integrated_gradients", "guided_grad_cam"])
def test_the_graph_reaches_pixels_that_depend_on_parameters(smooth, method):
    """A masked image whose mask is a function of parameters, as consistency training has it."""
    gain = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    pixels = torch.randn(2, 3, 8, 8, dtype=torch.float64)

    def total(gain):
        options = GRADIENT_MAPS[method]
        return getattr(maps, method)(smooth, pixels * gain, 1, create_graph=True, **options).square().sum()

    assert torch.autograd.gradcheck(total, gain)
