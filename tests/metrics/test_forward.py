"""The chunks of the forwards: every job once, in order, and a probe that costs little."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attention_refine.metrics import _forward


class Timed(nn.Module):
    """Notes the size of every chunk; a clock that it moves says how long an image takes at that size.

    The first chunk of a size takes ``slow_start`` times as long, as it does where kernels are chosen for a new shape.
    """

    def __init__(self, seconds: dict[int, float], slow_start: float):
        super().__init__()
        self.seconds, self.slow_start, self.sizes, self.clock = seconds, slow_start, [], 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = len(x) not in self.sizes
        self.sizes.append(len(x))
        self.clock += len(x) * self.seconds.get(len(x), 1.0) * (self.slow_start if first else 1)
        return x


def chunks(
    monkeypatch,
    jobs: int,
    seconds: dict[int, float],
    batch_size: int | None = None,
    slow_start: float = 1.0,
    threads: int = 1,
) -> list[int]:
    net = Timed(seconds, slow_start)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    clocks = ("process_time", "perf_counter")
    right, wrong = clocks if threads == 1 else clocks[::-1]
    monkeypatch.setattr(_forward.time, right, lambda: net.clock)
    monkeypatch.setattr(_forward.time, wrong, lambda: 0.0)
    images = torch.arange(jobs, dtype=torch.float32)[:, None]
    options = (jobs, torch.device("cpu"), batch_size)
    found = _forward.forward_in_chunks(net, lambda i: images[i], lambda logits, _: logits, *options)
    assert torch.equal(found, images)
    return net.sizes


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(
    "seconds, expected",
    [
        ({8: 1.0, 16: 1.2}, [8, 8, 16, *[8] * 46]),  # worse: one trial, never a second
        ({8: 1.0, 16: 0.97, 32: 0.1}, [8, 8, 16, *[8] * 46]),  # not worth it
        ({8: 1.0, 16: 0.8, 32: 0.9}, [8, 8, 16, 16, 32, *[16] * 20]),
        ({8: 1.0, 16: 0.8, 32: 0.6}, [8, 8, 16, 16, *[32] * 11]),
    ],
)
def test_the_chunk_grows_while_that_pays(monkeypatch, threads, seconds, expected):
    assert chunks(monkeypatch, 400, seconds, threads=threads) == expected


def test_a_slow_first_chunk_does_not_favour_a_larger_one(monkeypatch):
    """Every size slow at first: the first of 8 images takes longer an image than the trial of 16 that follows it."""
    assert chunks(monkeypatch, 400, {8: 1.0, 16: 0.95}, slow_start=1.5) == [8, 8, 16, *[8] * 46]


def test_few_jobs_are_not_probed_and_a_given_size_is_kept(monkeypatch):
    assert chunks(monkeypatch, 100, {16: 0.1}) == [*[8] * 12, 4]
    assert chunks(monkeypatch, 400, {16: 0.1}, batch_size=150) == [150, 150, 100]
