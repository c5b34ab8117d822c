"""Checkpoints written while training goes on are those written in between, and as safe."""

from __future__ import annotations

import errno
import functools
import json
import shutil
import signal
import threading

import pytest
import torch
from processes import die, server_of
from safetensors.torch import save_model
from torch import nn
from training_runs import (
    TinyModel,
    asked_to_end,
    assert_same,
    killed_at_disk_call,
    killed_at_forward,
    last_weights,
    train,
)

from attention_refine.core.files import DiskFull
from attention_refine.training import TrainingError, checkpoints
from attention_refine.training.background import Held, Writer
from attention_refine.training.checkpoints import damage, list_checkpoints
from attention_refine.training.interruption import Interrupted

RUN = {"epochs": 2, "save_every_steps": 2, "keep_last": 20, "ema_decay": 0.9}
BEHIND = {**RUN, "background_checkpoints": True}


@pytest.fixture(scope="module")
def server():
    return server_of("training_runs")


@pytest.fixture(scope="module")
def foreground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreground")
    train(folder, **RUN)
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def slow(monkeypatch):
    """Each write of a checkpoint ends once the second step after it has begun, or where that does not come."""
    steps = threading.Condition()
    forward, flush = TinyModel.forward, checkpoints._flush
    begun, threads, overtaken = [], [], []

    @functools.wraps(forward)
    def counted(self, *args, **kwargs):
        if self.training:
            with steps:
                begun.append(1)
                steps.notify()
        return forward(self, *args, **kwargs)

    def late(path):
        if path.name == "state.json":
            threads.append(threading.current_thread())
            step = int(path.parent.name.split("-")[1].split(".")[0])
            with steps:
                overtaken.append(steps.wait_for(lambda: len(begun) >= step + 2, timeout=0.5))
        flush(path)

    monkeypatch.setattr(TinyModel, "forward", counted)
    monkeypatch.setattr(checkpoints, "_flush", late)
    return threads, overtaken


def test_all_files_are_those_of_the_foreground_though_training_goes_on_meanwhile(tmp_path, foreground, slow):
    before = threading.enumerate()
    train(tmp_path, **BEHIND)
    assert contents(tmp_path) == contents(foreground)
    threads, overtaken = slow
    assert len(threads) == 8 and threading.main_thread() not in threads
    assert sum(overtaken) == 5, "all but before an evaluation, and at the end"
    assert threading.enumerate() == before


def test_workers_that_start_while_a_checkpoint_is_written_change_nothing(tmp_path, foreground, slow):
    train(tmp_path, **BEHIND, num_workers=2)
    assert contents(tmp_path) == contents(foreground)


def test_killed_while_writing_it_goes_on_to_the_same_bits(tmp_path, server, foreground):
    """At calls to the disk of one thread or the other, and at steps."""
    for count, function in [*((n, killed_at_disk_call) for n in range(15, 36, 5)), (4, killed_at_forward)]:
        folder = tmp_path / f"{function.__name__}-{count}"
        assert die(server, function, folder, count, BEHIND) == -signal.SIGKILL
        assert [damage(found) for found in list_checkpoints(folder / "checkpoints")][-1:] in ([], [None])
        train(folder, resume=True, **BEHIND)
        assert_same(last_weights(folder), last_weights(foreground))
        assert (folder / "history.json").read_bytes() == (foreground / "history.json").read_bytes()
        shutil.rmtree(folder)


def test_asked_to_end_the_last_checkpoint_is_there(tmp_path, foreground, slow):
    with pytest.raises(Interrupted), asked_to_end(5):
        train(tmp_path, **BEHIND)
    assert not any(each.name == "checkpoint" for each in threading.enumerate())
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    assert newest.name == "step-00000005" and damage(newest) is None
    train(tmp_path, resume=True, **BEHIND)
    assert_same(last_weights(tmp_path), last_weights(foreground))


def test_a_disk_that_fills_up_is_said_at_the_next_step(tmp_path, foreground, monkeypatch):
    save, steps = checkpoints.save_file, []
    forward = TinyModel.forward

    def full(tensors, path):
        if "step-00000004" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path)

    @functools.wraps(forward)
    def counted(self, *args, **kwargs):
        steps.append(1)
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()  # so that which step is the next one does not depend on time
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(checkpoints, "save_file", full)
    monkeypatch.setattr(TinyModel, "forward", counted)
    said = r"step-00000004 was not written, and .* is as it was: the disk is full; .*; resume=True then goes on from"
    with pytest.raises(DiskFull, match=said):
        train(tmp_path, **BEHIND)
    assert len(steps) == 5, "the error is raised before the step after the next forward"
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000002"]
    assert not list((tmp_path / "checkpoints").glob(".*"))
    monkeypatch.setattr(checkpoints, "save_file", save)
    train(tmp_path, resume=True, **BEHIND)
    assert contents(tmp_path) == contents(foreground)


@pytest.mark.parametrize("unwritten", [False, True])
def test_what_else_ends_a_run_waits_for_the_checkpoint_and_is_what_is_said(tmp_path, monkeypatch, caplog, unwritten):
    save, forward, begun, ended = checkpoints.save_file, TinyModel.forward, [], threading.Event()

    def late(*arguments):
        assert ended.wait(5)
        if unwritten:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments)

    @functools.wraps(forward)
    def broken(self, *args, **kwargs):
        begun.append(1)
        if len(begun) > 2:
            ended.set()
            raise TrainingError("an image was eaten")
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(checkpoints, "save_file", late)
    monkeypatch.setattr(TinyModel, "forward", broken)
    with pytest.raises(TrainingError, match="eaten"):
        train(tmp_path, **BEHIND)
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 1 - unwritten
    assert ("the last checkpoint was not written either" in caplog.text) == unwritten
    assert not any(each.name == "checkpoint" for each in threading.enumerate())


# --- the parts


def test_a_writer_writes_one_at_a_time_and_says_its_error_once(caplog):
    done, gate = [], threading.Event()
    writer = Writer()
    writer.start(lambda: (gate.wait(5), done.append(1)))
    writer.check()
    assert done == []
    gate.set()
    writer.start(lambda: done.append(2))
    assert done[0] == 1
    writer.start(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.wait()
    writer.wait()
    with pytest.raises(ZeroDivisionError), writer:
        writer.start(lambda: 1 / 0)
    with pytest.raises(KeyError, match="first"), writer:
        writer.start(lambda: 1 / 0)
        raise KeyError("first")
    assert "not written either: division by zero" in caplog.text


def test_what_is_held_stays_as_it_was_and_shares_what_the_model_shares(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
            self.other.weight = self.one.weight
            self.norm = nn.BatchNorm2d(4)
            self.turned = nn.Parameter(torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last))
            self.register_buffer("empty", torch.zeros(0))

    model = Tied()
    save_model(model, str(tmp_path / "own"))
    held = Held(model)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(1)
    save_model(held, str(tmp_path / "held"))
    assert (tmp_path / "held").read_bytes() == (tmp_path / "own").read_bytes()
    assert json.dumps(list(held.state_dict())) == json.dumps(list(model.state_dict()))
