"""Sparsity, entropy, diversity, and the agreement of two maps, against loops, scipy and torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_refine import metrics

SHAPES = {f.__name__: f for f in (metrics.mean_activation, metrics.sparsity, metrics.entropy, metrics.diversity)}
PAIRS = {f.__name__: f for f in (metrics.pearson, metrics.rank_correlation, metrics.cross_correlation, metrics.ssim)}


def test_sparsity_equals_a_loop():
    maps, norm = torch.rand(3, 4, 5, 6), torch.rand(3, 1, 5, 6)
    mean, inverse = metrics.mean_activation(maps, norm), metrics.sparsity(maps, norm)
    for sample in range(3):
        total = 0.0
        for k in range(4):
            values = maps[sample, k].double() * (norm[sample, 0] / norm[sample, 0].max())
            total += sum(v.item() / values.max().item() for v in values.flatten())
        assert mean[sample].item() == pytest.approx(total / 4 / 30, abs=1e-6)
        assert inverse[sample].item() == pytest.approx(4 * 30 / total, rel=1e-5)


def test_sparsity_known_answers():
    pixel = torch.zeros(1, 1, 7, 9)
    pixel[0, 0, 3, 2] = 0.2
    assert metrics.sparsity(pixel).item() == pytest.approx(63)
    for uniform in (0.3, 0.0, -1.0):
        assert metrics.sparsity(torch.full((1, 2, 7, 9), uniform)).item() == 1
        assert metrics.entropy(torch.full((1, 2, 7, 9), uniform)).item() == pytest.approx(1)
    assert metrics.entropy(pixel).item() == 0
    halves = torch.zeros(1, 1, 4, 4)
    halves[..., :2, :] = 5
    assert metrics.entropy(halves).item() == pytest.approx(math.log(8) / math.log(16))
    assert metrics.mean_activation(halves).item() == 0.5


def test_entropy_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    maps = torch.rand(3, 2, 6, 5)
    expected = [
        np.mean([stats.entropy(m.flatten().double().numpy()) for m in maps[s]]) / math.log(30) for s in range(3)
    ]
    np.testing.assert_allclose(metrics.entropy(maps).numpy(), expected, atol=1e-6)


def test_diversity():
    maps = torch.rand(2, 3, 4, 4)
    for sample in range(2):
        a, b, c = (m.flatten().double().numpy() for m in maps[sample])
        cosine = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in ((a, b), (a, c), (b, c))]
        assert metrics.diversity(maps)[sample].item() == pytest.approx(1 - np.mean(cosine), abs=1e-6)
    assert metrics.diversity(maps[:, :1]).tolist() == [0, 0]
    assert metrics.diversity(maps[:, :1].expand(-1, 3, -1, -1)).tolist() == pytest.approx([0, 0], abs=1e-6)
    apart = torch.eye(4).view(1, 4, 2, 2)
    assert metrics.diversity(apart).item() == 1


@pytest.mark.parametrize("name", SHAPES)
def test_shape_laws(name):
    measure, maps = SHAPES[name], torch.rand(4, 3, 5, 4)
    together = measure(maps)
    torch.testing.assert_close(measure(8 * maps), together)
    torch.testing.assert_close(measure(maps[[2]])[0], together[2])
    torch.testing.assert_close(measure(maps.flip(0)), together.flip(0))
    maps[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"samples \[1\]"):
        measure(maps)


def test_agreement_equals_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = torch.rand(4, 1, 6, 7), torch.rand(4, 1, 6, 7)
    b[1] = (b[1] * 3).round()  # ties
    b[2] = 1 - a[2]
    for sample in range(4):
        x, y = a[sample].flatten().double().numpy(), b[sample].flatten().double().numpy()
        assert metrics.pearson(a, b)[sample].item() == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-6)
        assert metrics.rank_correlation(a, b)[sample].item() == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-6)
        u, v = ((z - z.mean()) / z.std() for z in (x, y))
        expected = np.mean(1 / (1 + np.exp(-u)) / (1 + np.exp(-v)))
        assert metrics.cross_correlation(a, b)[sample].item() == pytest.approx(expected, abs=1e-6)


def test_ssim_equals_torchmetrics_and_a_loop():
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = torch.rand(3, 1, 24, 20, dtype=torch.float64), torch.rand(3, 1, 24, 20, dtype=torch.float64)
    b[1] = a[1] ** 2
    ours = metrics.ssim(a, b)
    low = lambda m: m.amin((2, 3), keepdim=True)  # noqa: E731
    a, b = ((m - low(m)) / (m.amax((2, 3), keepdim=True) - low(m)) for m in (a, b))
    # torchmetrics also averages over a border padded by reflection; the whole windows inside are the same.
    _, image = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none", return_full_image=True)
    torch.testing.assert_close(ours.double(), image[..., 5:-5, 5:-5].mean((1, 2, 3)), atol=1e-5, rtol=1e-5)
    weights = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    for sample in range(3):
        x, y, total = a[sample, 0].numpy(), b[sample, 0].numpy(), []
        for r in range(14):
            for c in range(10):
                p, q = x[r : r + 11, c : c + 11], y[r : r + 11, c : c + 11]
                mp, mq = (weights * p).sum(), (weights * q).sum()
                vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
                cov = (weights * (p - mp) * (q - mq)).sum()
                total.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
        assert ours[sample].item() == pytest.approx(np.mean(total), abs=1e-5)


@pytest.mark.parametrize("name", PAIRS)
def test_agreement_laws(name):
    measure = PAIRS[name]
    a, b = torch.rand(4, 1, 12, 13), torch.rand(4, 1, 12, 13)
    together = measure(a, b)
    assert together.dtype == torch.float32 and together.shape == (4,)
    torch.testing.assert_close(measure(b, a), together)
    torch.testing.assert_close(measure(a[[1]], b[[1]])[0], together[1])
    torch.testing.assert_close(measure(4 * a - 1, 2 * b + 3), together, atol=1e-5, rtol=1e-4)
    if name == "rank_correlation":
        torch.testing.assert_close(measure(a.exp(), b**3), together)
    if name != "cross_correlation":
        torch.testing.assert_close(measure(a, a), torch.ones(4))
    constant = torch.full((4, 1, 12, 13), 0.1)
    expected = {"cross_correlation": None, "ssim": None}.get(name, torch.zeros(4))
    assert measure(a, constant).isfinite().all()
    if expected is not None:
        assert torch.equal(measure(a, constant), expected)
    small = torch.rand(4, 1, 3, 3)
    resized = torch.nn.functional.interpolate(small.double(), size=(12, 13), mode="bilinear").float()
    torch.testing.assert_close(measure(a, small), measure(a, resized))
    torch.testing.assert_close(measure(small, a), measure(resized, a))
    with pytest.raises(ValueError, match=r"samples \[0"):
        measure(a, b * torch.nan)
    with pytest.raises(ValueError, match="3 maps against 4|4 maps against 3"):
        measure(a, b[:3])


def test_extreme_values_and_no_samples():
    a, b = torch.rand(2, 1, 12, 12) - 0.5, torch.rand(2, 1, 12, 12) - 0.5
    for measure in PAIRS.values():
        torch.testing.assert_close(measure(a * 2.0**127, b * 2.0**-100), measure(a, b), atol=1e-6, rtol=1e-5)
        assert measure(a[:0], b[:0]).shape == (0,)
    for measure in SHAPES.values():
        torch.testing.assert_close(measure(a * 2.0**127), measure(a), atol=1e-6, rtol=1e-5)
        assert measure(a[:0]).shape == (0,)


def test_agreement_of_constants():
    flat = torch.zeros(1, 1, 5, 5)
    assert metrics.cross_correlation(flat, flat + 3).item() == 0.25
    assert metrics.ssim(flat, flat + 3).item() == pytest.approx(1)
    together = metrics.compare(flat, torch.rand(1, 1, 5, 5))
    assert together._fields == tuple(PAIRS) and together.pearson.item() == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 13), st.integers(1, 13))
def test_any_shape(batch, k, h, w):
    maps = torch.randn(batch, k, h, w)
    for measure in SHAPES.values():
        assert measure(maps).isfinite().all() and measure(maps).shape == (batch,)
    for measure in PAIRS.values():
        values = measure(maps[:, :1], torch.randn(batch, 1, w, h))
        assert values.isfinite().all() and (values.abs() <= 1 + 1e-6).all()
