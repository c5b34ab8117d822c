"""The chunks of the forwards: every job once, in order, and a probe that costs little."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attention_refine.metrics import scoring


class Timed(nn.Module):
    """Notes the size of every chunk; a clock that it moves says how long an image takes at that size."""

    def __init__(self, seconds: dict[int, float]):
        super().__init__()
        self.seconds, self.sizes, self.clock = seconds, [], 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        self.clock += len(x) * self.seconds.get(len(x), 1.0)
        return x


def chunks(monkeypatch, jobs: int, seconds: dict[int, float], batch_size: int | None = None) -> list[int]:
    net = Timed(seconds)
    monkeypatch.setattr(scoring.time, "perf_counter", lambda: net.clock)
    images = torch.arange(jobs, dtype=torch.float32)[:, None]
    options = (jobs, torch.device("cpu"), batch_size)
    found = scoring.forward_in_chunks(net, lambda i: images[i], lambda logits, _: logits, *options)
    assert torch.equal(found, images)
    return net.sizes


@pytest.mark.parametrize(
    "seconds, expected",
    [
        ({8: 1.0, 16: 1.2}, [8, 16, *[8] * 47]),  # worse: one trial, never a second
        ({8: 1.0, 16: 0.97, 32: 0.1}, [8, 16, *[8] * 47]),  # not worth it
        ({8: 1.0, 16: 0.8, 32: 0.9}, [8, 16, 32, *[16] * 21, 8]),
        ({8: 1.0, 16: 0.8, 32: 0.6}, [8, 16, *[32] * 11, 24]),
    ],
)
def test_the_chunk_grows_while_that_pays(monkeypatch, seconds, expected):
    assert chunks(monkeypatch, 400, seconds) == expected


def test_few_jobs_are_not_probed_and_a_given_size_is_kept(monkeypatch):
    assert chunks(monkeypatch, 100, {16: 0.1}) == [*[8] * 12, 4]
    assert chunks(monkeypatch, 400, {16: 0.1}, batch_size=150) == [150, 150, 100]
