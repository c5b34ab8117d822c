"""How sure a number is: bootstrap intervals, paired tests of two models on the same images, correction for several.

Values are ``(n,)``, one an image; NaN marks an image the measure does not count. Everything random is drawn from
``seed``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

METHODS = ("bootstrap", "wilcoxon", "permutation")
CHUNK = 4_000_000  # resampled indices held at once


@dataclass(frozen=True)
class Interval:
    """``value`` and its interval ``low``..``high`` at ``level``, over ``count`` samples; ``excluded`` were NaN."""

    value: float
    low: float
    high: float
    level: float
    count: int
    excluded: int


@dataclass(frozen=True)
class PairedTest:
    """Mean of ``a - b`` over the images both count, its interval, and the two-sided ``p_value`` of ``method``."""

    difference: float
    low: float
    high: float
    p_value: float
    method: str
    count: int
    excluded: int


def _check(level: float, n_resamples: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")


def _resamples(n: int, n_resamples: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    step = max(1, CHUNK // max(n, 1))
    for start in range(0, n_resamples, step):
        yield torch.randint(n, (min(step, n_resamples - start), n), generator=generator)


def _percentiles(draws: Tensor, level: float) -> tuple[float, float]:
    ordered = draws.sort().values
    places = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64) * (len(ordered) - 1)
    below = places.floor().long()
    above = (below + 1).clamp_max(len(ordered) - 1)
    low, high = torch.lerp(ordered[below], ordered[above], places - below).tolist()
    return low, high


def bootstrap(values: Tensor, n_resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean of the values that are not NaN.

    ATCON's is ``n_resamples=1000, level=0.9`` (10,000 for its paired IoU). With no value left, all is NaN and ``count``
    0.
    """
    _check(level, n_resamples)
    values = values.detach().cpu().double().flatten()
    kept = values[~values.isnan()]
    excluded = len(values) - len(kept)
    if len(kept) == 0:
        return Interval(torch.nan, torch.nan, torch.nan, level, 0, excluded)
    means = torch.cat([kept[index].mean(1) for index in _resamples(len(kept), n_resamples, seed)])
    low, high = _percentiles(means, level)
    return Interval(kept.mean().item(), low, high, level, len(kept), excluded)


@dataclass(frozen=True)
class Band:
    """A mean curve ``value`` (p,) and its point-by-point interval ``low``..``high`` at ``level``, over ``count``."""

    value: Tensor
    low: Tensor
    high: Tensor
    level: float
    count: int


def bootstrap_band(curves: Tensor, n_resamples: int = 1000, level: float = 0.95, seed: int = 0) -> Band:
    """:func:`bootstrap` of every point of ``curves`` (n, p), each draw taking whole curves.

    The interval holds for each point by itself, not for the curve as a whole.

    Raises:
        ValueError: not ``(n, p)`` with n of at least 1, or NaN.
    """
    _check(level, n_resamples)
    curves = curves.detach().cpu().double()
    if curves.ndim != 2 or len(curves) == 0 or bool(curves.isnan().any()):
        raise ValueError(f"a band needs curves (n, points) without NaN, n at least 1, got {tuple(curves.shape)}")
    means = []
    for index in _resamples(len(curves), n_resamples, seed):
        times = torch.zeros(index.shape, dtype=torch.float64).scatter_add_(1, index, torch.ones_like(index).double())
        means.append(times @ curves / len(curves))
    ends = torch.tensor([_percentiles(point, level) for point in torch.cat(means).unbind(1)], dtype=torch.float64)
    return Band(curves.mean(0), ends[:, 0], ends[:, 1], level, len(curves))


def bootstrap_statistic(
    statistic: Callable[..., Tensor],
    *samples: Tensor,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The same for a figure of the whole set, such as macro F1: ``statistic(*samples)`` on resampled rows.

    Args:
        samples: tensors of equal length, resampled together: ``bootstrap_statistic(f1, logits, labels)``. Draws whose
            statistic is NaN (a class missing from the draw) are left out of the percentiles.
    """
    _check(level, n_resamples)
    n = len(samples[0])
    if n == 0 or any(len(sample) != n for sample in samples):
        raise ValueError(f"samples must have one and the same length of at least 1, got {[len(s) for s in samples]}")
    found = [
        float(statistic(*(sample[row.to(sample.device)] for sample in samples)))
        for index in _resamples(n, n_resamples, seed)
        for row in index
    ]
    draws = torch.tensor(found, dtype=torch.float64)
    draws = draws[~draws.isnan()]
    low, high = _percentiles(draws, level) if len(draws) else (torch.nan, torch.nan)
    return Interval(float(statistic(*samples)), low, high, level, n, 0)


def paired_test(
    a: Tensor,
    b: Tensor,
    method: str = "bootstrap",
    n_resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedTest:
    """Two models on the same images, in the same order: is the mean of ``a - b`` zero?

    Args:
        method: ``"bootstrap"``: the share of resampled means on the far side of 0, doubled; ``"permutation"``: the
            signs of the differences flipped at random; ``"wilcoxon"``: signed ranks (scipy), which asks about the
            median. The interval is the bootstrap's in all three. Resampled p-values count the observation itself,
            ``(k + 1) / (n + 1)``, and so are never 0.

    Images that are NaN in either are left out and counted. With none left, or no difference anywhere, p is 1.

    Raises:
        ValueError: an unknown method, or values of different length.
    """
    _check(level, n_resamples)
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"a paired test needs two (n,) of the same images, got {tuple(a.shape)} and {tuple(b.shape)}")
    difference = a.detach().cpu().double() - b.detach().cpu().double()
    kept = difference[~difference.isnan()]
    count, excluded = len(kept), len(difference) - len(kept)
    if count == 0:
        return PairedTest(torch.nan, torch.nan, torch.nan, 1.0, method, 0, excluded)
    means = torch.cat([kept[index].mean(1) for index in _resamples(count, n_resamples, seed)])
    low, high = _percentiles(means, level)
    if not kept.any():
        p_value = 1.0
    elif method == "wilcoxon":
        from scipy.stats import wilcoxon

        p_value = float(wilcoxon(kept.numpy()).pvalue)
    elif method == "permutation":
        p_value = _sign_flips(kept, n_resamples, seed)
    else:
        tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
        p_value = min(1.0, 2 * (tail + 1) / (n_resamples + 1))
    return PairedTest(kept.mean().item(), low, high, p_value, method, count, excluded)


def _sign_flips(difference: Tensor, n_resamples: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    observed = difference.mean().abs() * (1 - 1e-12)  # the same sum in another order must count as equal
    as_far, step = 0, max(1, CHUNK // len(difference))
    for start in range(0, n_resamples, step):
        signs = torch.randint(2, (min(step, n_resamples - start), len(difference)), generator=generator) * 2 - 1
        as_far += int(((signs * difference).mean(1).abs() >= observed).sum())
    return (as_far + 1) / (n_resamples + 1)


def welch_test(a: Tensor, b: Tensor) -> float:
    """Two-sided p-value of Welch's t-test between two unpaired sets of values, NaN left out; BR-NPA's test."""
    from scipy.stats import ttest_ind

    a, b = (x.detach().cpu().double() for x in (a, b))
    return float(ttest_ind(a[~a.isnan()].numpy(), b[~b.isnan()].numpy(), equal_var=False).pvalue)


def holm(p_values: Sequence[float] | Tensor) -> list[float]:
    """Holm's adjusted p-values, in the order given: compare each with the level wanted for the whole family."""
    p = torch.as_tensor(p_values, dtype=torch.float64)
    if p.ndim != 1 or bool(((p < 0) | (p > 1) | p.isnan()).any()):
        raise ValueError(f"p-values must be a list of numbers between 0 and 1, got {p.tolist()}")
    ordered, order = p.sort()
    factors = torch.arange(len(p), 0, -1, dtype=torch.float64)
    adjusted = (ordered * factors).cummax(0).values.clamp_max(1) if len(p) else ordered
    return torch.empty_like(p).scatter_(0, order, adjusted).tolist()
