"""Intervals and tests against scipy, exact enumeration and their coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from attention_refine import metrics

stats = pytest.importorskip("scipy.stats")


def test_bootstrap_agrees_with_theory_and_scipy():
    values = torch.randn(400) * 2 + 1
    ours = metrics.bootstrap(values, n_resamples=4000)
    half = 1.96 * values.std().item() / 20
    assert ours.value == pytest.approx(values.mean().item(), abs=1e-6)
    assert ours.low == pytest.approx(ours.value - half, abs=0.1 * half)
    assert ours.high == pytest.approx(ours.value + half, abs=0.1 * half)
    theirs = stats.bootstrap(
        (values.numpy(),), np.mean, n_resamples=4000, method="percentile", rng=0
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.1 * half) and ours.high == pytest.approx(
        theirs.high, abs=0.1 * half
    )


def test_bootstrap_is_seeded_narrower_at_lower_level_and_counts_nan():
    values = torch.cat([torch.rand(50), torch.full((7,), torch.nan)])
    a, b = metrics.bootstrap(values), metrics.bootstrap(values)
    assert a == b != metrics.bootstrap(values, seed=1)
    assert (a.count, a.excluded) == (50, 7)
    narrow = metrics.bootstrap(values, level=0.5)
    assert a.low < narrow.low < narrow.high < a.high
    same = metrics.bootstrap(torch.full((9,), 0.25))
    assert same.low == same.high == same.value == 0.25
    none = metrics.bootstrap(torch.full((3,), torch.nan))
    assert none.count == 0 and none.excluded == 3 and np.isnan(none.value)
    for bad in ({"level": 1.0}, {"n_resamples": 0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            metrics.bootstrap(values, **bad)


def test_bootstrap_covers():
    truth = sum(
        (lambda i: i.low <= 0 <= i.high)(metrics.bootstrap(torch.randn(60), n_resamples=300, level=0.9, seed=s))
        for s in range(200)
    )
    assert 165 <= truth <= 195  # 0.9 of 200, four deviations either way


def test_a_band_is_the_interval_of_every_point():
    curves = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).cumsum(1)
    band = metrics.bootstrap_band(curves, 500, level=0.9, seed=3)
    for point in range(4):
        alone = metrics.bootstrap(curves[:, point], 500, level=0.9, seed=3)
        assert float(band.value[point]) == pytest.approx(alone.value)
        assert float(band.low[point]) == pytest.approx(alone.low)
        assert float(band.high[point]) == pytest.approx(alone.high)
    assert (band.level, band.count) == (0.9, 30)
    one = metrics.bootstrap_band(curves[:1])
    torch.testing.assert_close(one.low, one.high)
    for bad in (curves[0], curves[:0], curves.clone().fill_(torch.nan)):
        with pytest.raises(ValueError, match="a band needs curves"):
            metrics.bootstrap_band(bad)


def test_bootstrap_of_a_statistic():
    logits, labels = torch.randn(60, 4), torch.randint(4, (60,))
    whole = metrics.bootstrap_statistic(metrics.f1, logits, labels, n_resamples=200)
    assert whole.value == pytest.approx(metrics.f1(logits, labels).item()) and whole.low < whole.value < whole.high
    mean = metrics.bootstrap_statistic(torch.mean, labels.float(), n_resamples=500)
    direct = metrics.bootstrap(labels.float(), n_resamples=500)
    assert (mean.low, mean.high) == pytest.approx((direct.low, direct.high), abs=1e-6)
    with pytest.raises(ValueError, match="length"):
        metrics.bootstrap_statistic(metrics.f1, logits, labels[:5])


def test_permutation_is_exact():
    a, b = torch.randn(9), torch.randn(9) + 0.5
    difference = (a - b).double().numpy()
    flips = [abs(np.dot(s, difference)) >= abs(difference.sum()) - 1e-12 for s in itertools.product((-1, 1), repeat=9)]
    ours = metrics.paired_test(a, b, "permutation", n_resamples=40_000)
    assert ours.p_value == pytest.approx(np.mean(flips), abs=0.015)
    assert ours.difference == pytest.approx(difference.mean())


def test_wilcoxon_is_scipys():
    a, b = torch.randn(30), torch.randn(30)
    ours = metrics.paired_test(a, b, "wilcoxon")
    assert ours.p_value == pytest.approx(stats.wilcoxon(a.double() - b.double()).pvalue)


@pytest.mark.parametrize("method", ["bootstrap", "permutation", "wilcoxon"])
def test_paired_tests(method):
    base = torch.randn(80)
    better = base + 0.3 + 0.2 * torch.randn(80)
    result = metrics.paired_test(better, base, method, n_resamples=2000)
    assert result.p_value < 0.01 and 0 < result.low < result.difference < result.high
    reverse = metrics.paired_test(base, better, method, n_resamples=2000)
    assert reverse.difference == pytest.approx(-result.difference) and reverse.p_value < 0.01
    same = metrics.paired_test(base, base, method)
    assert same.p_value == 1 and same.difference == 0
    base[3] = torch.nan
    better[5] = torch.nan
    assert metrics.paired_test(better, base, method).excluded == 2
    nothing = metrics.paired_test(base[3:4], better[3:4], method)
    assert nothing.p_value == 1 and nothing.count == 0
    with pytest.raises(ValueError, match="same images"):
        metrics.paired_test(base, better[:5], method)
    with pytest.raises(ValueError, match="method"):
        metrics.paired_test(base, better, "sign")


@pytest.mark.parametrize("method", ["bootstrap", "permutation", "wilcoxon"])
def test_no_difference_is_seldom_significant(method):
    generator = torch.Generator().manual_seed(5)
    pairs = [torch.randn(2, 40, generator=generator) for _ in range(100)]
    found = sum(
        metrics.paired_test(a, b, method, n_resamples=300, seed=i).p_value < 0.05 for i, (a, b) in enumerate(pairs)
    )
    assert found <= 14


def test_welch():
    a, b = torch.randn(30), torch.randn(20) * 3 + 1
    expected = stats.ttest_ind(a.double(), b.double(), equal_var=False).pvalue
    assert metrics.welch_test(torch.cat([a, torch.tensor([torch.nan])]), b) == pytest.approx(expected)


def test_holm():
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert metrics.holm([]) == []
    p = torch.rand(8).tolist()
    order = np.argsort(p)
    running, expected = 0.0, [0.0] * 8
    for rank, i in enumerate(order):
        running = max(running, min(1, (8 - rank) * p[i]))
        expected[i] = running
    assert metrics.holm(p) == pytest.approx(expected)
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.holm([0.2, 1.2])
