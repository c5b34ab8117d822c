"""watch: the epochs of a run that goes on, waits, ends, or begins anew."""

from __future__ import annotations

import json
import threading

from training_runs import train

from attention_refine.cli import main
from attention_refine.commands import watch

ONE = {"epoch": 1, "step": 12, "learning_rate": 0.0001, "train/loss": 1.23456}
TWO = {"epoch": 2, "step": 24, "learning_rate": 5e-5, "train/loss": 0.5, "eval/accuracy": 0.875}


def write(folder, *entries):
    (folder / ".new").write_text(json.dumps(entries))
    (folder / ".new").replace(folder / "history.json")


def end(folder):
    (folder / "last").mkdir(exist_ok=True)
    (folder / "last" / "model.safetensors").write_bytes(b"")


def test_once_prints_what_there_is(tmp_path, capsys):
    write(tmp_path, ONE, TWO)
    assert main(["watch", str(tmp_path), "--once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == list(ONE) and lines[1].split() == ["1", "12", "0.0001", "1.235"]
    assert lines[2].split() == list(TWO) and lines[3].split() == ["2", "24", "5e-05", "0.5", "0.875"]
    assert len(lines[2]) == len(lines[3])


def test_once_refuses_a_folder_without_a_run(tmp_path, capsys):
    assert main(["watch", str(tmp_path), "--once"]) == 1
    assert "has no history.json" in capsys.readouterr().err


def test_waits_for_a_run_and_follows_it_to_its_end(tmp_path, capsys, monkeypatch):
    happens = iter(
        [lambda: write(tmp_path, ONE), lambda: None, lambda: write(tmp_path, ONE, TWO), lambda: end(tmp_path)]
    )
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: next(happens)())
    assert main(["watch", str(tmp_path)]) == 0
    assert [each.split()[0] for each in capsys.readouterr().out.splitlines()] == ["epoch", "1", "epoch", "2"]


def test_a_run_that_begins_anew_is_said(tmp_path, capsys, monkeypatch):
    write(tmp_path, ONE, TWO)
    happens = iter([lambda: write(tmp_path, ONE), lambda: end(tmp_path)])
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: next(happens)())
    main(["watch", str(tmp_path)])
    assert "the run began anew" in capsys.readouterr().out


def test_a_real_run_is_followed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(watch, "EVERY", 0.01)
    thread = threading.Thread(target=train, args=(tmp_path,))
    thread.start()
    assert main(["watch", str(tmp_path)]) == 0
    thread.join()
    out = capsys.readouterr().out
    assert [each.split()[0] for each in out.splitlines()] == ["epoch", "1", "2", "3"]
    assert "eval/accuracy" in out
