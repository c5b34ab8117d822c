"""Guided activations: every spelling is caught, every rule is the stated formula, and the network never notices."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attention_refine import maps

X = torch.tensor([-3.5, -2.0, -0.9, -0.3, 0.2, 0.7, 1.4, 2.5, 3.5, 7.0], dtype=torch.float64)
G = torch.tensor([0.5, -1.0, 2.0, -0.3, 1.5, -2.0, 0.8, -0.6, 1.1, 0.9], dtype=torch.float64)


def normal(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def cumulative(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def mish_derivative(x):
    softplus = math.log1p(math.exp(x))
    return math.tanh(softplus) + x * (1 - math.tanh(softplus) ** 2) * sigmoid(x)


DERIVATIVES = {
    "relu": (F.relu, lambda x: float(x > 0)),
    "relu6": (F.relu6, lambda x: float(0 < x < 6)),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.1), lambda x: 1.0 if x > 0 else 0.1),
    "gelu": (F.gelu, lambda x: cumulative(x) + x * normal(x)),
    "silu": (F.silu, lambda x: sigmoid(x) * (1 + x * (1 - sigmoid(x)))),
    "hardswish": (F.hardswish, lambda x: 0.0 if x < -3 else 1.0 if x > 3 else x / 3 + 0.5),
    "mish": (F.mish, mish_derivative),
    "elu": (F.elu, lambda x: 1.0 if x > 0 else math.exp(x)),
}
RULES = {
    "guided": lambda g, d: max(g, 0) * d,
    "strict": lambda g, d: max(g, 0) * max(d, 0),
    "clamp": lambda g, d: max(g * d, 0),
    "plain": lambda g, d: g * d,
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", DERIVATIVES)
def test_rules_by_hand(name, rule):
    activation, derivative = DERIVATIVES[name]
    x = X.clone().requires_grad_()
    with maps.guided_activations(rule) as guide:
        y = activation(x)
        (found,) = torch.autograd.grad((G * y).sum(), x)
    by_rule = [RULES[rule](g, derivative(v)) for g, v in zip(G.tolist(), X.tolist())]
    expected = torch.tensor(by_rule, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert guide.count == 1
    torch.testing.assert_close(y, activation(X), rtol=0, atol=0)


SPELLINGS = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "F.relu keyword": lambda x: F.relu(input=x),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "Tensor.relu": lambda x: x.relu(),
    "Tensor.relu_": lambda x: x.relu_(),
    "return value unused": lambda x: (F.relu_(x), x)[1],
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_relu(spelling, rule):
    x = X.clone().requires_grad_()
    with maps.guided_activations(rule) as guide:
        before = x * 1.0
        y = SPELLINGS[spelling](before)
        assert (y is before) == ("in place" in spelling or "_" in spelling or "unused" in spelling)
        (found,) = torch.autograd.grad((G * y).sum(), x)
    expected = torch.tensor([RULES[rule](g, float(v > 0)) for g, v in zip(G.tolist(), X.tolist())], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(y, X.relu(), rtol=0, atol=0)
    assert guide.count == 1


@pytest.mark.parametrize(
    "module",
    [nn.ReLU6(), nn.ReLU6(True), nn.Hardtanh(), nn.LeakyReLU(0.2, True), nn.ELU(inplace=True), nn.SELU(True)]
    + [nn.CELU(inplace=True), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.SiLU(True), nn.Hardswish(), nn.Hardswish(True)]
    + [nn.Mish(), nn.Mish(True), nn.PReLU(dtype=torch.float64), nn.Softplus()],
    ids=repr,
)
@pytest.mark.parametrize("rule", RULES)
def test_modules_are_caught_and_their_values_unchanged(module, rule):
    x = X.clone().requires_grad_()
    expected = module(x * 1.0)
    (derivative,) = torch.autograd.grad(expected.sum(), x)
    with maps.guided_activations(rule) as guide:
        y = module(x * 1.0)
        (found,) = torch.autograd.grad((G * y).sum(), x)
    assert guide.count == 1
    assert torch.equal(y, expected)
    by_rule = [RULES[rule](g, d) for g, d in zip(G.tolist(), derivative.tolist())]
    torch.testing.assert_close(found, torch.tensor(by_rule, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "act", ["relu", "relu6", "leaky_relu", "gelu", "gelu_tanh", "silu", "swish", "hard_swish", "mish", "elu"]
)
def test_timms_activations_are_caught(act):
    from timm.layers import create_act_layer

    x = X.clone().requires_grad_()
    with maps.guided_activations() as guide:
        create_act_layer(act)(x * 1.0)
    assert guide.count == 1


def test_gates_are_not_activations():
    x = X.clone().requires_grad_()
    with maps.guided_activations() as guide, maps.twice_differentiable():
        F.hardsigmoid(x) + torch.sigmoid(x) + torch.tanh(x) + x.softmax(0)
    assert guide.count == 0


def test_only_this_use_of_a_value_is_clamped():
    """The shortcut beside an activation keeps its own gradient."""
    x = X.clone().requires_grad_()
    with maps.guided_activations("clamp"):
        y = x * 1.0
        (found,) = torch.autograd.grad((G * (y + F.gelu(y))).sum(), x)
    gelu = torch.autograd.functional.jacobian(lambda v: F.gelu(v).sum(), X)
    torch.testing.assert_close(found, G + (G * gelu).clamp(min=0))


def test_pausing_and_leaving_give_true_gradients():
    x = X.clone().requires_grad_()
    with maps.guided_activations() as guide:
        loss = (G * F.gelu(x)).sum()
        (guided,) = torch.autograd.grad(loss, x, retain_graph=True)
        with guide.paused():
            (paused,) = torch.autograd.grad(loss, x, retain_graph=True)
    (after,) = torch.autograd.grad(loss, x)
    (plain,) = torch.autograd.grad((G * F.gelu(x)).sum(), x)
    assert torch.equal(paused, plain) and torch.equal(after, plain) and not torch.equal(guided, plain)


@pytest.mark.parametrize("rule", RULES)
def test_small_network_by_hand(rule):
    """Two layers of GELU, written out; the shortcut makes the order of hooks matter."""
    torch.manual_seed(3)
    first, second = nn.Conv2d(3, 4, 1).double(), nn.Conv2d(4, 4, 1).double()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.act = first, second, nn.GELU()

        def forward(self, x):
            a = self.act(self.first(x))
            return (a + self.act(self.second(a))).sum((2, 3))

    def ruled(g, pre):
        d = 0.5 * (1 + torch.erf(pre / math.sqrt(2))) + pre * torch.exp(-pre * pre / 2) / math.sqrt(2 * math.pi)
        product = g * d
        positive = g.clamp(min=0)
        by_rule = {"guided": positive * d, "strict": positive * d.clamp(min=0), "clamp": product.clamp(min=0)}
        return by_rule.get(rule, product)

    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    pre1 = first(x)
    pre2 = second(F.gelu(pre1))
    top = torch.zeros(2, 4, 5, 5, dtype=torch.float64)
    top[:, 2] = -1.0  # a negative score, so that the rules differ at the top already
    g2 = ruled(top, pre2)
    g1 = ruled(top + torch.einsum("oi,bohw->bihw", second.weight[:, :, 0, 0], g2), pre1)
    expected = torch.einsum("oi,bohw->bihw", first.weight[:, :, 0, 0], g1)
    found = maps.guided_backprop(Net(), x, lambda logits: -logits[:, 2], rule=rule, reduce="sum")
    torch.testing.assert_close(found[:, 0], expected.sum(1).detach(), rtol=1e-9, atol=1e-12)


def test_a_network_without_activations_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    pixels = torch.randn(1, 3, 8, 8)
    with pytest.raises(ValueError, match="no activation of Sequential was guided"):
        maps.guided_backprop(net, pixels)
    with pytest.raises(ValueError, match="no activation of Sequential was guided"):
        maps.guided_grad_cam(net, pixels, site="0")
    assert torch.equal(maps.guided_backprop(net, pixels, rule="plain"), maps.gradient(net, pixels))
    with pytest.raises(ValueError, match="guided, strict, clamp, plain"):
        maps.guided_backprop(net, pixels, rule="deconvnet")


def test_one_pass_gives_both_maps(vit, cnn):
    """Grad-CAM is the true one although an activation lies above the site, and it costs one forward."""
    forwards = []
    for net, size in ((vit, 64), (cnn, 32)):
        pixels, classes = torch.randn(2, 3, size, size), torch.tensor([[0, 3], [1, 2]])
        forwards.clear()
        expected = maps.grad_cam(net, pixels, classes), maps.guided_backprop(net, pixels, classes)
        handle = net.register_forward_pre_hook(lambda *_: forwards.append(1))
        cams, guided = maps.grad_cam_and_guided_backprop(net, pixels, classes)
        handle.remove()
        assert len(forwards) == 1
        torch.testing.assert_close(cams, expected[0], rtol=1e-4, atol=1e-5 * float(expected[0].abs().amax()))
        torch.testing.assert_close(guided, expected[1], rtol=1e-4, atol=1e-5 * float(expected[1].abs().amax()))
        product = maps.resize(cams.relu(), (size, size)) * guided
        torch.testing.assert_close(maps.guided_grad_cam(net, pixels, classes), product, rtol=1e-4, atol=1e-10)
