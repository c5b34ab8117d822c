"""Integrated gradients: completeness, nodes added until it holds, baselines."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attention_refine import maps
from attention_refine.maps._baselines import baseline_like, blur


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


def test_adaptive_nodes_equal_a_loop_and_take_no_gradient_twice(smooth):
    """One image and one node at a time in float64: a node in the middle of the piece whose sum is off most."""
    pixels = 10 * torch.randn(2, 3, 8, 8, dtype=torch.float64)
    classes = torch.tensor([[0, 2], [3, 1]])
    forwarded = []
    hook = smooth.register_forward_pre_hook(lambda _, given: forwarded.append(given[0].detach().clone()))
    found = maps.integrated_gradients_to_error(smooth, pixels, classes, tolerance=1e-12, steps=3, max_steps=9)
    hook.remove()
    assert (found.nodes == 9).all()
    images = torch.cat(forwarded)
    assert len(images) == 2 * 9  # the forwards of the gradients are the only ones
    for image in range(2):
        x = pixels[image : image + 1]

        def at(place, x=x, image=image):
            point = (place * x).requires_grad_()
            scores = smooth(point)[0, classes[image]]
            slopes = [torch.autograd.grad(s, point, retain_graph=True)[0] for s in scores]
            return scores.detach(), torch.stack([g[0] * x[0] for g in slopes])

        known = {place: at(place) for place in (0.0, 0.5, 1.0)}
        gap = (known[1.0][0] - known[0.0][0]).abs()
        attempts = []
        while True:
            places = sorted(known)
            pieces = []
            for a, b in zip(places, places[1:]):
                attributed = (b - a) / 2 * (known[a][1] + known[b][1])
                pieces.append((attributed, attributed.flatten(1).sum(1) - (known[b][0] - known[a][0]), (a + b) / 2))
            error = sum(off for _, off, _ in pieces).abs()
            attempts.append((error.max(), error, sum(off.abs() for _, off, _ in pieces), sum(p for p, _, _ in pieces)))
            if len(known) == 9:
                break
            middle = max(pieces, key=lambda piece: (piece[1].abs() / gap).max())[2]
            known[middle] = at(middle)
        _, error, local, attributed = min(attempts, key=lambda attempt: attempt[0])
        torch.testing.assert_close(found.maps[image], attributed.sum(1), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.error[image], error, rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(found.local_error[image], local, rtol=1e-6, atol=1e-12)
        for place in known:
            gaps = (images - place * x).flatten(1).norm(dim=1)
            assert int((gaps < 1e-9).sum()) == (2 if place == 0 else 1)  # the baseline is both images'


def test_any_number_of_nodes_is_exact_where_the_gradient_is_linear_along_the_path():
    class Quadratic(nn.Module):
        def forward(self, x):
            return torch.stack([(x.square() + x).flatten(1).sum(1), x.flatten(1).sum(1)], dim=1)

    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    for count in (2, 3, 7):
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
    assert (result.error <= result.local_error * (1 + 1e-9)).all()
    assert result.nodes[1] == 2 < result.nodes[2]
    for chunk_size in (None, 2, 1):  # each image stops by itself
        again = maps.integrated_gradients_to_error(
            smooth, pixels.flip(0), 1, tolerance=1e-4, steps=2, max_steps=400, chunk_size=chunk_size
        )
        assert torch.equal(again.nodes.flip(0), result.nodes)
        torch.testing.assert_close(again.maps.flip(0), result.maps)


def test_the_map_settles_on_the_integral_as_nodes_are_added(smooth):
    pixels = 5 * torch.randn(2, 3, 8, 8, dtype=torch.float64)
    exact = maps.integrated_gradients(smooth, pixels, 1, steps=100, rule="gauss")
    off, local = [], []
    for count in (5, 20, 80):
        found = maps.integrated_gradients_to_error(smooth, pixels, 1, tolerance=1e-15, max_steps=count)
        off.append(float((found.maps - exact).norm() / exact.norm()))
        local.append(float(found.local_error.sum()))
    assert off[0] > 4 * off[1] > 16 * off[2] and local[0] > 4 * local[1] > 16 * local[2]


def test_an_error_that_is_not_met_is_reported(cnn):
    pixels = 5 * torch.randn(2, 3, 32, 32)
    strict = maps.integrated_gradients_to_error(cnn, pixels, tolerance=1e-9, steps=2, max_steps=11)
    assert (strict.nodes == 11).all()
    assert (strict.error > 1e-9 * strict.gap.abs()).any()
    loose = maps.integrated_gradients_to_error(cnn, pixels, tolerance=1e9, steps=2)
    assert (loose.nodes == 2).all() and (strict.error.amax(1) <= loose.error.amax(1)).all()
    predicted = cnn(pixels).argmax(1)
    by_image = maps.integrated_gradients_to_error(cnn, pixels, predicted, tolerance=1e9, steps=2, chunk_size=1)
    torch.testing.assert_close(by_image.maps, loose.maps, rtol=1e-4, atol=1e-6)
    by_score = maps.integrated_gradients_to_error(cnn, pixels, lambda logits: logits[:, :2], steps=3, max_steps=5)
    assert by_score.maps.shape == (2, 2, 32, 32) and by_score.error.shape == (2, 2)


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
    for options in ({"tolerance": 0}, {"max_steps": 4}, {"steps": 1}):
        with pytest.raises(ValueError):
            maps.integrated_gradients_to_error(cnn, pixels, **options)
