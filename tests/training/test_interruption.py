"""SIGTERM and SIGUSR1: the step ends, a checkpoint is left, the exit status says so, and resuming goes on to the bit."""

from __future__ import annotations

import functools
import os
import signal
import threading

import pytest
from training_runs import TinyModel, assert_same, last_weights, train

from attention_refine.training.interruption import RESUME_ME, Interrupted


@pytest.fixture
def asked_at(monkeypatch):
    """Have the process sent a signal as the model's forward begins for the ``count``-th time."""
    forward = TinyModel.forward

    def ask(count: int, name: str = "SIGTERM", training: bool = True):
        seen = [0]

        @functools.wraps(forward)
        def counted(self, *args, **kwargs):
            seen[0] += self.training is training
            if seen[0] == count and self.training is training:
                os.kill(os.getpid(), getattr(signal, name))
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(TinyModel, "forward", counted)

    return ask


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return train(folder)[1], last_weights(folder)


@pytest.mark.parametrize(
    ("count", "name", "training", "stands_at"),
    [
        (1, "SIGTERM", True, 1),
        (8, "SIGUSR1", True, 8),
        (6, "SIGTERM", True, 6),  # the last step of an epoch, of six
        (1, "SIGTERM", False, 6),  # in an evaluation
        (4, "SIGUSR1", False, 12),  # of three batches: the second epoch's
    ],
)
def test_stops_after_the_step_and_goes_on_to_the_bit(
    tmp_path, asked_at, uninterrupted, capsys, count, name, training, stands_at
):
    asked_at(count, name, training)
    before = [signal.getsignal(getattr(signal, each)) for each in ("SIGTERM", "SIGUSR1")]
    with pytest.raises(SystemExit) as left:
        train(tmp_path)
    assert left.value.code == RESUME_ME == 75
    assert f"{name}: stopped after step {stands_at}, " in capsys.readouterr().err
    assert (tmp_path / "checkpoints" / f"step-{stands_at:08d}").is_dir() and not (tmp_path / "last").exists()
    assert [signal.getsignal(getattr(signal, each)) for each in ("SIGTERM", "SIGUSR1")] == before
    done, weights = uninterrupted
    resumed = train(tmp_path, resume=True)[1]
    assert_same(last_weights(tmp_path), weights)
    assert resumed.history == done.history


def test_a_signal_in_the_last_step_lets_the_run_end(tmp_path, asked_at, uninterrupted):
    done, weights = uninterrupted
    asked_at(done.steps)
    assert train(tmp_path)[1].history == done.history
    assert_same(last_weights(tmp_path), weights)


def test_it_can_be_caught_and_says_what_happened(tmp_path, asked_at):
    asked_at(2)
    with pytest.raises(Interrupted, match=r"SIGTERM: stopped after step 2, .*checkpoints holds all of it; resume=True"):
        train(tmp_path)


def test_in_another_thread_signals_are_left_to_their_owner(tmp_path):
    before, found = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: found.append(train(tmp_path, epochs=1)[1].steps))
    thread.start()
    thread.join()
    assert found == [6] and signal.getsignal(signal.SIGTERM) is before
