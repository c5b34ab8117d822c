"""Pixel maps of ViT and Swin against float64 loops: one image, one target, one node at a time, GELU rewritten."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from attention_refine import maps

CLASSES = [[1, 4], [0, 2]]


def close(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert float((found - expected).abs().amax() / expected.abs().amax()) <= tolerance


class RuledGELU(nn.Module):
    """GELU from its definition, with a backward pass of its own."""

    def __init__(self, rule):
        super().__init__()
        self.rule = rule

    def forward(self, x):
        rule = self.rule

        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

            @staticmethod
            def backward(ctx, g):
                (x,) = ctx.saved_tensors
                slope = 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
                g = g.clamp(min=0) if rule in ("guided", "strict") else g
                slope = slope.clamp(min=0) if rule == "strict" else slope
                return (g * slope).clamp(min=0) if rule == "clamp" else g * slope

        return Function.apply(x)


def reference(net, rule="plain"):
    """A float64 copy with attention unfused and every GELU module replaced."""
    net = copy.deepcopy(net).double()
    replaced = 0
    for module in list(net.modules()):
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
        for name, child in module.named_children():
            if isinstance(child, nn.GELU):
                setattr(module, name, RuledGELU(rule))
                replaced += 1
    assert replaced >= 2
    return net


def gradient_by_loop(net, image, target):
    image = image[None].clone().requires_grad_()
    return torch.autograd.grad(net(image)[0, target], image)[0][0]


@pytest.fixture(params=["vit", "swin"])
def case(request):
    size = {"vit": 64, "swin": 32}[request.param]
    return request.getfixturevalue(request.param), torch.randn(2, 3, size, size)


def test_gradient(case):
    net, pixels = case
    exact = reference(net)
    found, signed = (maps.gradient(net, pixels, CLASSES, reduce=reduce) for reduce in ("abs", "sum"))
    for b, image in enumerate(pixels.double()):
        for t, target in enumerate(CLASSES[b]):
            expected = gradient_by_loop(exact, image, target)
            close(found[b, t], expected.abs().sum(0).float())
            close(signed[b, t], expected.sum(0).float())


@pytest.mark.parametrize("rule", ["guided", "strict", "clamp", "plain"])
def test_guided_backprop(case, rule):
    net, pixels = case
    exact = reference(net, rule)
    found = maps.guided_backprop(net, pixels, CLASSES, rule=rule, reduce="sum")
    for b, image in enumerate(pixels.double()):
        for t, target in enumerate(CLASSES[b]):
            close(found[b, t], gradient_by_loop(exact, image, target).sum(0).float())


def test_integrated_gradients(case):
    net, pixels = case
    exact, start = reference(net), 0.2 * torch.randn(3, 1, 1)
    found = maps.integrated_gradients(net, pixels, CLASSES, baseline=start, steps=4)
    for b, image in enumerate(pixels.double()):
        for t, target in enumerate(CLASSES[b]):
            total, black = torch.zeros_like(image), start.double().expand_as(image)
            for step in range(4):
                total += gradient_by_loop(exact, black + (step + 0.5) / 4 * (image - black), target) / 4
            close(found[b, t], ((image - black) * total).sum(0).float())
