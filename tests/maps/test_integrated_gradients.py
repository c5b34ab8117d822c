"""Integrated gradients: completeness, nodes added until it holds, baselines."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from attention_refine import maps
from attention_refine.maps.baselines import baseline_like, blur


def test_a_quadratic_by_hand():
    """f = sum w x^2 + v x: the path integral is (x - x') (w (x + x') + v), exactly, at one midpoint."""
    w, v = torch.randn(3, 6, 6), torch.randn(3, 6, 6)

    class Quadratic(nn.Module):
        def forward(self, x):
            score = (w * x.square() + v * x).flatten(1).sum(1)
            return torch.stack([score, -2 * score], dim=1)

    x, start = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6)
    expected = ((x - start) * (w * (x + start) + v)).sum(1)
    found = maps.integrated_gradients(Quadratic(), x, torch.tensor([[0, 1], [0, 1]]), baseline=start, steps=1)
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[:, 1], -2 * expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("baseline", ["zero", "blur", "noise", "given"])
def test_completeness_on_a_smooth_network(smooth, baseline):
    pixels = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    start = torch.randn(3, 1, 1, dtype=torch.float64) if baseline == "given" else baseline
    gap = smooth(pixels)[:, 1] - smooth(baseline_like(pixels, start))[:, 1]
    found = maps.integrated_gradients(smooth, pixels, 1, baseline=start, steps=50)
    assert torch.allclose(found.sum((1, 2, 3)), gap, rtol=1e-2)
    found = maps.integrated_gradients(smooth, pixels, 1, baseline=start, steps=8, rule="gauss")
    assert torch.allclose(found.sum((1, 2, 3)), gap, rtol=1e-3)


def test_nested_nodes_equal_a_loop_and_take_no_gradient_twice(smooth):
    """Of 3, 7 and 15 nodes in float64, one image and one node at a time."""
    pixels = 10 * torch.randn(2, 3, 8, 8, dtype=torch.float64)
    classes = torch.tensor([[0, 2], [3, 1]])
    forwarded = []
    hook = smooth.register_forward_pre_hook(lambda _, given: forwarded.append(given[0].detach().clone()))
    found = maps.integrated_gradients_to_error(smooth, pixels, classes, tolerance=1e-9, steps=3, max_steps=15)
    hook.remove()
    assert (found.nodes == 15).all()
    images = torch.cat(forwarded)
    assert len(images) == 2 + 2 + 2 * 15  # the images, the baselines, the nodes
    places = (1 - (torch.arange(1, 16, dtype=torch.float64) * torch.pi / 16).cos()) / 2
    path = torch.cat([pixels[i : i + 1] * places.view(-1, 1, 1, 1) for i in range(2)])
    gaps = torch.cdist(images[4:].flatten(1), path.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    assert sorted(int(row.argmin()) for row in gaps) == list(range(30))
    assert gaps.amin(1).max() < 1e-12
    attempts = []
    for count in (3, 7, 15):
        loop = torch.zeros(2, 2, 8, 8, dtype=torch.float64)
        for image in range(2):
            every = [k * math.pi / (count + 1) for k in range(1, count + 1)]
            for angle in every:
                place, weight = (1 - math.cos(angle)) / 2, math.sin(angle) / sum(map(math.sin, every))
                for t in range(2):
                    x = (place * pixels[image : image + 1]).requires_grad_()
                    (gradient,) = torch.autograd.grad(smooth(x)[0, classes[image, t]], x)
                    loop[image, t] += weight * (pixels[image] * gradient[0]).sum(0)
        attempts.append(loop)
    off = torch.stack([(loop.sum((2, 3)) - found.gap).abs().amax(1) for loop in attempts])
    best = torch.stack([attempts[int(off[:, image].argmin())][image] for image in range(2)])
    torch.testing.assert_close(found.maps, best.to(found.maps), rtol=1e-5, atol=1e-8)


def test_any_number_of_nodes_is_exact_where_the_gradient_is_linear_along_the_path():
    class Quadratic(nn.Module):
        def forward(self, x):
            return torch.stack([(x.square() + x).flatten(1).sum(1), x.flatten(1).sum(1)], dim=1)

    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    for count in (1, 2, 7):
        found = maps.integrated_gradients_to_error(Quadratic(), x, 0, steps=count, tolerance=1e-9)
        assert (found.nodes == count).all()
        torch.testing.assert_close(found.maps[:, 0], (x.square() + x).sum(1), check_dtype=False)


def test_nodes_are_added_until_the_error_is_met(smooth):
    pixels = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    pixels[1] *= 0.01  # almost linear: few nodes do
    pixels[2] *= 30  # far from it: many are needed
    result = maps.integrated_gradients_to_error(smooth, pixels, 1, tolerance=1e-4, steps=2, max_steps=400)
    gap = (smooth(pixels) - smooth(torch.zeros_like(pixels)))[:, 1:2].detach()
    torch.testing.assert_close(result.gap, gap)
    torch.testing.assert_close(result.error, (result.maps.sum((2, 3)) - gap).abs())
    assert (result.error <= 1e-4 * gap.abs()).all()
    assert result.nodes[1] == 2 < result.nodes[2]
    for i in range(3):  # each image stops by itself
        alone = maps.integrated_gradients_to_error(smooth, pixels[i : i + 1], 1, tolerance=1e-4, steps=2, max_steps=400)
        assert alone.nodes == result.nodes[i]
        torch.testing.assert_close(alone.maps[0], result.maps[i])


def test_an_error_that_is_not_met_is_reported(cnn):
    pixels = 5 * torch.randn(2, 3, 32, 32)
    strict = maps.integrated_gradients_to_error(cnn, pixels, tolerance=1e-9, steps=2, max_steps=22)
    assert (strict.nodes == 11).all()  # 2, 3 and 6 more; 23 would be too many
    assert (strict.error > 1e-9 * strict.gap.abs()).any()
    loose = maps.integrated_gradients_to_error(cnn, pixels, tolerance=1e9, steps=2)
    assert (loose.nodes == 2).all() and (strict.error.amax(1) <= loose.error.amax(1)).all()
    by_pixel = maps.integrated_gradients_to_error(cnn, pixels, tolerance=1e9, steps=2, chunk_size=1)
    torch.testing.assert_close(by_pixel.maps, loose.maps, rtol=1e-4, atol=1e-6)


def test_baselines():
    pixels = torch.randn(2, 3, 32, 32)
    assert not baseline_like(pixels, "zero").any()
    noise = baseline_like(pixels, "noise", seed=3)
    assert torch.equal(noise[0], noise[1]) and torch.equal(noise, baseline_like(pixels, "noise", seed=3))
    assert not torch.equal(noise, baseline_like(pixels, "noise", seed=4))
    smoothed = baseline_like(pixels, "blur")
    assert smoothed.shape == pixels.shape and smoothed.std() < 0.5 * pixels.std()
    constant = torch.full((1, 3, 20, 30), 2.5)
    torch.testing.assert_close(blur(constant, 2.0), constant)
    impulse = torch.zeros(1, 1, 31, 31)
    impulse[..., 15, 15] = 1
    spread = blur(impulse, 2.0)[0, 0]
    torch.testing.assert_close(spread.sum(), torch.tensor(1.0))
    assert float(spread[15, 17] / spread[15, 15]) == pytest.approx(2.718281828 ** (-0.5), rel=1e-4)
    with pytest.raises(ValueError, match="zero, blur, noise"):
        baseline_like(pixels, "black")
    with pytest.raises(ValueError, match="does not broadcast"):
        baseline_like(pixels, torch.zeros(5, 3, 32, 32))


def test_bad_options(cnn):
    pixels = torch.randn(1, 3, 32, 32)
    for options in ({"steps": 0}, {"rule": "simpson"}):
        with pytest.raises(ValueError):
            maps.integrated_gradients(cnn, pixels, **options)
    for options in ({"tolerance": 0}, {"max_steps": 4}, {"steps": 0}):
        with pytest.raises(ValueError):
            maps.integrated_gradients_to_error(cnn, pixels, **options)
