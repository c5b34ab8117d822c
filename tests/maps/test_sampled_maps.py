"""Maps from noisy, masked and occluded copies, against loops; normalise, resize and threshold."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attention_refine import maps
from attention_refine.maps.rise import random_masks


def test_smooth_grad_of_a_linear_network_is_its_gradient():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 4))
    pixels = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(maps.smooth_grad(net, pixels, 1, samples=3), maps.gradient(net, pixels, 1))
    squared = maps.smooth_grad(net, pixels, 1, samples=3, squared=True)
    torch.testing.assert_close(squared[0, 0], net[1].weight[1].detach().view(3, 4, 4).square().sum(0))


def test_smooth_grad_by_a_loop(cnn):
    pixels = torch.randn(2, 3, 32, 32)
    found = maps.smooth_grad(cnn, pixels, 2, samples=4, spread=0.2, seed=5, reduce="sum")
    generator = torch.Generator().manual_seed(5)
    expected = torch.zeros(2, 1, 32, 32)
    for _ in range(4):
        pattern = torch.randn(3, 32, 32, generator=generator)
        for b in range(2):
            noisy = pixels[b : b + 1] + 0.2 * (pixels[b].max() - pixels[b].min()) * pattern
            expected[b] += maps.gradient(cnn, noisy, 2, reduce="sum")[0] / 4
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    first, again, other = (maps.smooth_grad(cnn, pixels, 2, samples=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_rise_by_a_loop(cnn):
    pixels = torch.randn(2, 3, 32, 32)
    found = maps.rise(cnn, pixels, [1, 3], masks=5, cells=4, keep=0.4, seed=2)
    masks = torch.cat(list(random_masks(5, 2, (32, 32), 4, 0.4, 2, torch.device("cpu"))))
    with torch.no_grad():
        for b, target in enumerate((1, 3)):
            scores = [cnn(pixels[b : b + 1] * mask).softmax(1)[0, target] for mask in masks]
            expected = sum(s * mask for s, mask in zip(scores, masks)) / (5 * 0.4)
            torch.testing.assert_close(found[b, 0], expected, rtol=1e-4, atol=1e-6)


def test_rise_masks_keep_their_share_and_find_what_the_network_reads():
    masks = torch.cat(list(random_masks(500, 64, (28, 28), 7, 0.3, 0, torch.device("cpu"))))
    assert masks.shape == (500, 28, 28) and masks.min() >= 0 and masks.max() <= 1
    assert float(masks.mean()) == pytest.approx(0.3, abs=0.02)

    class Corner(nn.Module):
        def forward(self, x):
            seen = x[:, :, 4:8, 20:24].mean((1, 2, 3))
            return torch.stack([seen, -seen], 1)

    found = maps.rise(Corner(), torch.ones(1, 3, 28, 28), 0, masks=500, probability="none")
    row, column = divmod(int(found.argmax()), 28)
    assert 3 <= row < 9 and 19 <= column < 25


def test_occlusion_by_a_loop(cnn):
    """Windows that do not tile: the last of a row ends at the border, and overlaps are averaged."""
    pixels = torch.randn(2, 3, 30, 32)
    found = maps.occlusion(cnn, pixels, 1, window=(12, 10), stride=(7, 9), baseline="blur")
    from attention_refine.maps._baselines import baseline_like

    hidden, total, counts = baseline_like(pixels, "blur"), torch.zeros(2, 30, 32), torch.zeros(30, 32)
    with torch.no_grad():
        for top in (0, 7, 14, 18):
            for left in (0, 9, 18, 22):
                copy = pixels.clone()
                copy[:, :, top : top + 12, left : left + 10] = hidden[:, :, top : top + 12, left : left + 10]
                total[:, top : top + 12, left : left + 10] += (cnn(pixels) - cnn(copy))[:, 1, None, None]
                counts[top : top + 12, left : left + 10] += 1
    torch.testing.assert_close(found[:, 0], total / counts, rtol=1e-4, atol=1e-6)


def test_progress_is_opt_in(cnn, capsys):
    pixels = torch.randn(1, 3, 32, 32)
    maps.rise(cnn, pixels, masks=2)
    assert not capsys.readouterr().err
    maps.rise(cnn, pixels, masks=2, progress=True)
    assert "rise" in capsys.readouterr().err


def test_bad_options(cnn):
    pixels = torch.randn(1, 3, 32, 32)
    for call in (
        lambda: maps.smooth_grad(cnn, pixels, samples=0),
        lambda: maps.rise(cnn, pixels, masks=0),
        lambda: maps.rise(cnn, pixels, keep=0.0),
        lambda: maps.occlusion(cnn, pixels, window=8, stride=9),
        lambda: maps.occlusion(cnn, pixels, window=(8, 8, 8)),
    ):
        with pytest.raises(ValueError):
            call()


def test_normalize():
    raw = torch.randn(2, 3, 5, 7) * 4 + 1
    scaled = maps.normalize(raw)
    assert torch.equal(scaled.amin((2, 3)), torch.zeros(2, 3))
    torch.testing.assert_close(scaled.amax((2, 3)), torch.ones(2, 3))
    torch.testing.assert_close(maps.normalize(3 * raw - 2), scaled)
    signed = maps.normalize(raw, "max")
    torch.testing.assert_close(signed.abs().amax((2, 3)), torch.ones(2, 3))
    assert torch.equal(signed > 0, raw > 0)
    standard = maps.normalize(raw, "std")
    torch.testing.assert_close(standard.mean((2, 3)), torch.zeros(2, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(standard.std((2, 3), unbiased=False), torch.ones(2, 3))
    with pytest.raises(ValueError, match="'minmax', 'max' or 'std'"):
        maps.normalize(raw, "softmax")


@pytest.mark.parametrize("method", ["minmax", "max", "std"])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_maps_are_finite_with_finite_gradients(method, value):
    raw = torch.full((1, 1, 4, 4), value, requires_grad=True)
    scaled = maps.normalize(raw, method)
    if not (method == "max" and value):
        assert not scaled.any()
    (gradient,) = torch.autograd.grad((scaled * torch.randn(4, 4)).sum(), raw)
    assert gradient.isfinite().all()


def test_resize_and_threshold():
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    wide = maps.resize(ramp, (4, 8))
    torch.testing.assert_close(wide[0, 0, 0], torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]))
    assert maps.resize(ramp, (4, 4)) is ramp
    assert maps.resize(torch.rand(1, 2, 2, 4, 4), (4, 8, 8)).shape == (1, 2, 4, 8, 8)
    with pytest.raises(ValueError, match="give 2 numbers"):
        maps.resize(ramp, (2, 2, 2))
    assert maps.threshold(ramp, 2.0).sum() == 8
    assert maps.threshold(ramp, 0.4, "max").sum() == 8  # at or above 1.2
    assert maps.threshold(ramp, 0.75, "quantile").sum() == 4
    with pytest.raises(ValueError, match="'value', 'max' or 'quantile'"):
        maps.threshold(ramp, 1.0, "std")
