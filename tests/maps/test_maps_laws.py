"""What holds for every map: the batch does not matter, the network is left alone, the caller's mode does not matter."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from attention_refine import maps

PIXEL_METHODS = {
    "gradient": {},
    "input_x_gradient": {},
    "smooth_grad": {"samples": 3},
    "guided_backprop": {},
    "integrated_gradients": {"steps": 3, "baseline": "noise"},
    "rise": {"masks": 6},
    "occlusion": {"window": 16},
}
SITE_METHODS = {
    "grad_cam": {},
    "grad_cam_plus_plus": {},
    "layer_cam": {},
    "score_cam": {"top_channels": 4},
    "guided_grad_cam": {},
}
CLASS_METHODS = {**PIXEL_METHODS, **SITE_METHODS}
METHODS = {**CLASS_METHODS, "eigen_cam": {}}
ATTENTION_METHODS = ("attention_rollout", "gradient_rollout", "class_attention", "legrad")
CHUNKED = ("smooth_grad", "integrated_gradients", "rise", "occlusion", "score_cam")


def close(found, expected, tolerance=1e-5):
    scale = expected.abs().amax().clamp_min(1e-30)
    assert found.shape == expected.shape
    assert float((found - expected).abs().amax() / scale) <= tolerance


def images(n=3, size=32):
    return torch.randn(n, 3, size, size)


@pytest.mark.parametrize("method", METHODS)
def test_batched_equals_one_by_one_in_any_order(cnn, method):
    pixels, explain = images(), getattr(maps, method)
    together = explain(cnn, pixels, **METHODS[method])
    close(together, torch.cat([explain(cnn, image[None], **METHODS[method]) for image in pixels]))
    order = torch.tensor([2, 0, 1])
    close(together[order], explain(cnn, pixels[order], **METHODS[method]))


@pytest.mark.parametrize("method", [*METHODS, *ATTENTION_METHODS])
def test_batched_equals_one_by_one_on_tokens(vit, method):
    pixels, explain, options = images(2, 64), getattr(maps, method), METHODS.get(method, {})
    together = explain(vit, pixels, **options)
    close(together, torch.cat([explain(vit, image[None], **options) for image in pixels]))
    assert together.abs().amax() > 0


@pytest.mark.parametrize("method", CLASS_METHODS)
def test_several_targets_equal_one_at_a_time(cnn, method):
    pixels, explain, options = images(2), getattr(maps, method), CLASS_METHODS[method]
    classes = torch.tensor([[0, 3, 1], [4, 4, 2]])
    together = explain(cnn, pixels, classes, **options)
    apart = [explain(cnn, pixels, classes[:, t], **options) for t in range(3)]
    close(together, torch.cat(apart, dim=1))
    assert not together.requires_grad


@pytest.mark.parametrize("method", CLASS_METHODS)
def test_forms_of_a_target_agree(cnn, method):
    pixels, explain, options = images(2), getattr(maps, method), CLASS_METHODS[method]
    predicted = cnn(pixels).argmax(1)
    default = explain(cnn, pixels, **options)
    close(explain(cnn, pixels, predicted, **options), default)
    close(explain(cnn, pixels, predicted.tolist(), **options), default)
    third = explain(cnn, pixels, 3, **options)
    close(explain(cnn, pixels, lambda logits: logits[:, 3], **options), third)
    close(explain(cnn, pixels, [[3], [3]], **options), third)


@pytest.mark.parametrize("method", CHUNKED)
@pytest.mark.parametrize("chunk_size", [1, 2, 7])
def test_chunks_only_bound_the_memory(cnn, method, chunk_size):
    pixels, explain, options = images(3), getattr(maps, method), METHODS[method]
    whole = explain(cnn, pixels, **options)
    sizes = []
    cnn.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    close(explain(cnn, pixels, chunk_size=chunk_size, **options), whole)
    if method == "score_cam":
        sizes = sizes[1:]  # the feature is read from the batch itself
    assert max(sizes) <= chunk_size


def snapshot(net):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = [([len(getattr(m, kind)) for kind in kinds], set(m.__dict__)) for m in net.modules()]
    return {
        "training": [m.training for m in net.modules()],
        "requires_grad": [p.requires_grad for p in net.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        "state": {name: value.clone() for name, value in net.state_dict().items()},
        "inplace": [getattr(m, "inplace", None) for m in net.modules()],
        "hooks": hooks,
        "random": torch.get_rng_state(),
    }


def assert_same(before, after):
    for key in ("training", "requires_grad", "inplace", "hooks"):
        assert before[key] == after[key], key
    for old, new in zip(before["grad"], after["grad"]):
        assert (old is None) == (new is None) and (old is None or torch.equal(old, new))
    assert all(torch.equal(value, after["state"][name]) for name, value in before["state"].items())
    assert torch.equal(before["random"], after["random"])


def unsettle(net):
    """A network in the middle of training: mixed modes, some parameters frozen, some gradients there."""
    net.train()
    first, *_, last = [m for m in net.modules() if not list(m.children())]
    first.eval()
    for parameter in last.parameters():
        parameter.requires_grad_(False)
    for parameter in list(net.parameters())[:3]:
        parameter.grad = torch.ones_like(parameter)
    return net


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("method", [*METHODS, *ATTENTION_METHODS])
def test_the_network_is_left_as_it_was(cnn, vit, method, create_graph):
    net, size = (vit, 64) if method in ATTENTION_METHODS else (cnn, 32)
    pixels = images(2, size)
    unsettle(net)
    before = snapshot(net)
    getattr(maps, method)(net, pixels, create_graph=create_graph, **METHODS.get(method, {}))
    assert_same(before, snapshot(net))
    assert pixels.grad is None and not pixels.requires_grad


@pytest.mark.parametrize("method", CLASS_METHODS)
def test_the_network_is_left_as_it_was_when_the_call_raises(cnn, method):
    unsettle(cnn)
    pixels = images(2)
    before = snapshot(cnn)

    def target(logits):
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        getattr(maps, method)(cnn, pixels, target, **CLASS_METHODS[method])
    assert_same(before, snapshot(cnn))
    assert torch.overrides._get_current_function_mode() is None


@pytest.mark.parametrize("method", [*METHODS, *ATTENTION_METHODS])
def test_the_network_is_left_as_it_was_when_a_module_raises(cnn, vit, method):
    net, size = (vit, 64) if method in ATTENTION_METHODS else (cnn, 32)
    unsettle(net)
    pixels = images(2, size)

    def fail(module, args):
        raise RuntimeError("broken module")

    handle = [m for m in net.modules() if not list(m.children())][-1].register_forward_pre_hook(fail)
    before = snapshot(net)
    with pytest.raises(RuntimeError, match="broken module"):
        getattr(maps, method)(net, pixels, **METHODS.get(method, {}))
    assert_same(before, snapshot(net))
    handle.remove()


@pytest.mark.parametrize("method", [*METHODS, *ATTENTION_METHODS])
def test_the_callers_mode_does_not_matter(cnn, vit, method):
    net, size = (vit, 64) if method in ATTENTION_METHODS else (cnn, 32)
    pixels, explain, options = images(2, size), getattr(maps, method), METHODS.get(method, {})
    expected = explain(net, pixels, **options)
    with torch.no_grad():
        close(explain(net, pixels, **options), expected)
    with torch.inference_mode():
        close(explain(net, pixels.clone(), **options), expected)
    with torch.autocast("cpu", torch.bfloat16):
        found = explain(net, pixels, **options)
        assert torch.is_autocast_enabled("cpu")
    assert found.dtype == torch.float32
    close(found, expected)
    frozen = copy.deepcopy(net).requires_grad_(False).train()
    close(explain(frozen, pixels, **options), expected)
    assert not expected.requires_grad


@pytest.mark.parametrize("method", ["grad_cam", "guided_backprop", "integrated_gradients"])
def test_half_precision_networks_give_float32_maps(cnn, method):
    assert getattr(maps, method)(cnn.bfloat16(), images(2), **METHODS[method]).dtype == torch.float32


def test_outputs_with_logits_and_wrappers_are_the_network_itself(cnn):
    class Output(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, pixel_values):
            return {"logits": self.net(pixel_values)}

    pixels = images(2)
    expected = maps.grad_cam(cnn, pixels, site="stage")
    close(maps.grad_cam(Output(cnn), pixels, site="net.stage"), expected)
    close(maps.grad_cam(Output(cnn), pixels, site="stage"), expected)  # the end of a name, where it is unique
    close(maps.grad_cam(torch.compile(cnn, backend="eager"), pixels, site="stage"), expected)


WRONG_TARGETS = [5, [0], [0, 1, 2], [[0, 9], [1, 2]], torch.tensor([0.0, 1.0]), "cat", torch.zeros(2, 2, 2).long()]


@pytest.mark.parametrize("target", WRONG_TARGETS, ids=repr)
@pytest.mark.parametrize("method", ["grad_cam", "guided_backprop", "integrated_gradients"])
def test_targets_that_do_not_fit_are_refused(cnn, method, target):
    with pytest.raises(ValueError, match="target"):
        getattr(maps, method)(cnn, images(2), target, **METHODS[method])


def test_arguments_a_method_cannot_use_are_refused(cnn):
    with pytest.raises(ValueError, match="reads no site"):
        maps.gradient(cnn, images(1), site="stage")
    with pytest.raises(ValueError, match="same for every class"):
        maps.eigen_cam(cnn, images(1), 3)
    with pytest.raises(ValueError, match="neither images"):
        maps.gradient(cnn, torch.randn(3, 32, 32))
    with pytest.raises(ValueError, match="'sum', 'abs' or 'max'"):
        maps.gradient(cnn, images(1), reduce="mean")
    with pytest.raises(ValueError, match="softmax"):
        maps.rise(cnn, images(1), masks=2, probability="max")
    with pytest.raises(ValueError, match="returned"):
        maps.gradient(cnn, images(2), lambda logits: logits.sum())
