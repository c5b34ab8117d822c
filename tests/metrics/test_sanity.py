"""Randomisation tests: a map that ignores the model is found out, one that uses it is not; controls."""

from __future__ import annotations

import copy

import pytest
import torch

from attention_refine import metrics


def edges(net, pixel_values):
    """Depends on the image alone."""
    return pixel_values.abs().sum(1, keepdim=True)


def gradient(net, pixel_values):
    """Depends on the model."""
    x = pixel_values.detach().clone().requires_grad_()
    (grad,) = torch.autograd.grad(net.eval()(x)[:, 0].sum(), x)
    return grad.sum(1, keepdim=True)


@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_parameter_randomisation(net, images, mode):
    before = copy.deepcopy(net.state_dict())
    same = metrics.parameter_randomisation(net, edges, images, mode=mode)
    assert same.layers == ("head", "features.1", "features.0") and same.similarity.shape == (4, 3)
    torch.testing.assert_close(same.similarity, torch.ones(4, 3))
    changed = metrics.parameter_randomisation(net, gradient, images, mode=mode)
    assert changed.similarity[:, -1].abs().mean() < 0.9
    again = metrics.parameter_randomisation(net, gradient, images, mode=mode)
    assert torch.equal(changed.similarity, again.similarity)
    assert not torch.equal(
        changed.similarity, metrics.parameter_randomisation(net, gradient, images, mode=mode, seed=1).similarity
    )
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_parameter_randomisation_groups(net, images):
    merged = metrics.parameter_randomisation(net, gradient, images, layers=2)
    assert merged.similarity.shape == (4, 2) and sum(len(g.split("+")) for g in merged.layers) == 3
    named = metrics.parameter_randomisation(net, gradient, images, layers=[["head"]], similarity="pearson")
    assert named.layers == ("head",)
    for bad, what in (({"mode": "all"}, "mode"), ({"similarity": "cosine"}, "similarity"), ({"layers": 0}, "layers")):
        with pytest.raises(ValueError, match=what):
            metrics.parameter_randomisation(net, gradient, images, **bad)


def test_randomise_keeps_moments():
    layer = torch.nn.Linear(300, 200)
    with torch.no_grad():
        layer.weight.mul_(3).add_(1)
        layer.bias.zero_()
    old = layer.weight.clone()
    metrics.randomise(layer, torch.Generator().manual_seed(0))
    assert layer.weight.mean().item() == pytest.approx(old.mean().item(), abs=0.01)
    assert layer.weight.std().item() == pytest.approx(old.std().item(), rel=0.02)
    assert abs(torch.corrcoef(torch.stack([old.flatten(), layer.weight.flatten()]))[0, 1]) < 0.02
    assert 0 < layer.bias.std() < 0.05 and layer.weight.requires_grad


def test_labels(net, images):
    other = copy.deepcopy(net)
    metrics.randomise(other.head, torch.Generator().manual_seed(3))
    torch.testing.assert_close(metrics.label_randomisation(net, net, gradient, images), torch.ones(4))
    assert metrics.label_randomisation(net, other, gradient, images).mean() < 0.9
    labels = torch.arange(50) % 5
    shuffled = metrics.shuffle_labels(labels)
    assert torch.equal(shuffled.sort().values, labels.sort().values) and not torch.equal(shuffled, labels)
    assert torch.equal(shuffled, metrics.shuffle_labels(labels))


def test_target_randomisation(net, images):
    def explain(net, pixel_values, target):
        x = pixel_values.clone().requires_grad_()
        (grad,) = torch.autograd.grad(net.eval()(x).gather(1, target[:, None]).sum(), x)
        seen.append(target)
        return grad.sum(1, keepdim=True)

    seen: list = []
    target = torch.tensor([0, 5, 2, 3])
    values = metrics.target_randomisation(explain, net, images, target, num_classes=6)
    assert values.shape == (4,) and (values < 0.999).all()
    assert (seen[0] == target).all() and (seen[1] != target).all() and seen[1].max() < 6
    deaf = metrics.target_randomisation(lambda n, x, t: edges(n, x), net, images, target, num_classes=6)
    torch.testing.assert_close(deaf, torch.ones(4))
    with pytest.raises(ValueError, match="classes"):
        metrics.target_randomisation(explain, net, images, target, num_classes=1)


def test_controls():
    maps = metrics.random_maps(torch.tensor([4, 9, 2]), (5, 6))
    assert maps.shape == (3, 1, 5, 6) and maps.min() >= 0 and maps.max() < 1
    assert torch.equal(metrics.random_maps(torch.tensor([9]), (5, 6))[0], maps[1])
    assert not torch.equal(metrics.random_maps(torch.tensor([9]), (5, 6), seed=1)[0], maps[1])
    assert metrics.random_maps(torch.empty(0, dtype=torch.long)).shape == (0, 1, 7, 7)
    centre = metrics.centre_maps(2, (9, 15))
    assert centre.shape == (2, 1, 9, 15) and centre[0].argmax() == 4 * 15 + 7 and centre.max() <= 1
    torch.testing.assert_close(centre, centre.flip(2).flip(3))
    with pytest.raises(ValueError, match="spread"):
        metrics.centre_maps(1, spread=0)
