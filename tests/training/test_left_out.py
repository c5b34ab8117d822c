"""Steps whose loss or gradient is not finite: left out as if they had not been, as many as are allowed."""

from __future__ import annotations

import functools

import pytest
import torch
from training_runs import TinyModel, assert_same, last_weights, train

from attention_refine.training import TrainingError

STEADY = {"schedule": "constant", "evaluated": False, "dropout": 0.0, "optimizer": "sgd"}


@pytest.fixture
def broken_at(monkeypatch):
    """Have the training forwards of these numbers, from 1, end in an infinite loss, or in a gradient without end."""
    forward = TinyModel.forward

    def break_(*counts: int, gradient: bool = False):
        seen = [0]

        @functools.wraps(forward)
        def counted(self, pixel_values, *args, **kwargs):
            if not self.training:
                return forward(self, pixel_values, *args, **kwargs)
            seen[0] += 1
            if seen[0] not in counts:
                return forward(self, pixel_values, *args, **kwargs)
            if not gradient:
                return forward(self, pixel_values * float("inf"), *args, **kwargs)  # statistics are NaN afterwards
            output = forward(self, pixel_values, *args, **kwargs)
            zero = self.head.weight.sum() * 0
            output.loss = output.loss + torch.sqrt(zero)  # 0, with a slope of 0 * inf
            return output

        monkeypatch.setattr(TinyModel, "forward", counted)

    return break_


@pytest.mark.parametrize("gradient", [False, True])
def test_a_step_left_out_leaves_everything_as_it_was(tmp_path, broken_at, gradient):
    broken_at(6, gradient=gradient)  # the last of six
    model, done = train(tmp_path / "six", max_steps=6, skip_steps=1, **STEADY)
    assert (done.steps, done.left_out_steps) == (6, 1)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    broken_at()
    train(tmp_path / "five", max_steps=5, skip_steps=1, **STEADY)
    assert_same(last_weights(tmp_path / "six"), last_weights(tmp_path / "five"))


def test_the_history_is_of_the_steps_that_counted(tmp_path, broken_at):
    broken_at(2, 4)
    _, done = train(tmp_path, epochs=1, skip_steps=2, **STEADY)
    assert done.left_out_steps == 2 and 0 < done.history[0]["train/loss"] < 10


def test_one_more_than_allowed_stops_the_run(tmp_path, broken_at):
    broken_at(2, 4, 5)
    with pytest.raises(TrainingError, match=r"stopped at step 5 .*(nan|inf)"):
        train(tmp_path, skip_steps=2, **STEADY)


def test_none_is_allowed_unless_asked_for(tmp_path, broken_at):
    broken_at(3)
    with pytest.raises(TrainingError, match="stopped at step 3"):
        train(tmp_path, **STEADY)


def test_allowing_them_changes_nothing_where_there_are_none(tmp_path):
    train(tmp_path / "with", skip_steps=3)
    train(tmp_path / "without")
    assert_same(last_weights(tmp_path / "with"), last_weights(tmp_path / "without"))


def test_the_count_goes_on_after_a_resume(tmp_path, broken_at):
    broken_at(2, 8)
    with pytest.raises(TrainingError, match="stopped at step 8"):
        train(tmp_path, skip_steps=1, save_every_steps=1, **STEADY)
    broken_at(1)
    with pytest.raises(TrainingError, match="stopped at step 8"):
        train(tmp_path, skip_steps=1, save_every_steps=1, resume=True, **STEADY)
