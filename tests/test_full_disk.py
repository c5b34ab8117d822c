"""A full disk ends in a sentence; nothing half-written stays, and what was there is as it was."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from judged import QUIET, made_model
from PIL import Image
from safetensors.torch import save_file
from training_runs import assert_same, last_weights
from training_runs import train as tiny_run

import attention_refine as ar
from attention_refine import shapes
from attention_refine.cli import main
from attention_refine.core.files import DiskFull, atomic_files, room_for, save_array
from attention_refine.evaluation import evaluate
from attention_refine.export import export_onnx
from attention_refine.training import TrainingConfig, finetune
from attention_refine.training.checkpoints import damage, list_checkpoints

resource = pytest.importorskip("resource")


@contextmanager
def files_of_at_most(size: int):
    """Every file that grows beyond ends in the system's own error, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def data():
    return shapes.make("train", 12, size=64)


def there(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def config(folder, **options):
    return TrainingConfig(output_dir=str(folder), batch_size=6, learning_rate=1e-3, progress=False, **options)


# --- a run


def test_a_run_that_has_no_room_for_its_model_is_refused_before_it_trains(data, tmp_path):
    model = made_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with files_of_at_most(1 << 20), pytest.raises(DiskFull, match=rf"{tmp_path} was not written, .*: a file is larger"):
        finetune(model, data, config(tmp_path, epochs=1))
    assert there(tmp_path) == set()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_run_whose_disk_fills_up_keeps_its_checkpoints_and_goes_on(data, tmp_path):
    """The model has room and its checkpoint, with the optimiser's state twice as large, has none."""
    finetune(made_model(), data, config(tmp_path / "whole", epochs=2))
    finetune(made_model(), data, config(tmp_path / "parts", epochs=2))
    shutil.rmtree(max((tmp_path / "parts" / "checkpoints").glob("step-*")))
    before = contents(tmp_path / "parts" / "checkpoints")
    weights = (tmp_path / "whole" / "last" / "model.safetensors").stat().st_size
    said = r"step-00000004 was not written, and .* is as it was: .* MiB are free in .*; resume=True then goes on from"
    with files_of_at_most(weights + 4096), pytest.raises(DiskFull, match=said):
        finetune(made_model(), data, config(tmp_path / "parts", epochs=2, resume=True))
    assert contents(tmp_path / "parts" / "checkpoints") == before
    assert not any(map(damage, list_checkpoints(tmp_path / "parts" / "checkpoints")))
    finetune(made_model(), data, config(tmp_path / "parts", epochs=2, resume=True))
    assert there(tmp_path / "parts") == there(tmp_path / "whole")
    ours, theirs = (ar.load(tmp_path / name / "last").state_dict() for name in ("parts", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 2 MiB in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"this user may not mount a file system: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("behind", [False, True])
def test_a_disk_that_fills_up_anywhere_in_a_run(small_disk, tmp_path, behind):
    """With room for a part of what the run writes, drawn anew each time: it stops, all is whole, and it goes on."""
    options = {"epochs": 2, "save_every_steps": 2, "ema_decay": 0.9, "keep_last": 2, "background_checkpoints": behind}
    tiny_run(tmp_path / "whole", **options)
    needed = sum(4096 * -(-path.stat().st_size // 4096) for path in (tmp_path / "whole").rglob("*") if path.is_file())
    rng, stopped = random.Random(0), 0
    for n in range(12):
        folder = small_disk / str(n)
        folder.mkdir()
        full = small_disk / "full"
        full.write_bytes(bytes(shutil.disk_usage(small_disk).free - rng.randrange(needed)))
        try:
            tiny_run(folder, **options)
        except DiskFull as error:
            stopped += 1
            assert re.match(
                rf"{folder}.* was not written, and what was there before is as it was: the disk is full", str(error)
            )
            assert not [name for name in there(folder) if name.endswith(".tmp") or ".json." in name]
            assert not any(map(damage, list_checkpoints(folder / "checkpoints")))
        full.unlink()
        tiny_run(folder, resume=True, **options)
        assert_same(last_weights(folder), last_weights(tmp_path / "whole"))
        assert there(folder) == there(tmp_path / "whole")
        shutil.rmtree(folder)
    assert stopped > 6


# --- what else is written


def test_a_saved_model_stays_as_it_was(tmp_path):
    made_model(seed=1).save_pretrained(tmp_path)
    before = contents(tmp_path)
    with files_of_at_most(1 << 20), pytest.raises(DiskFull, match="was not written"):
        made_model(seed=2).save_pretrained(tmp_path)
    assert contents(tmp_path) == before


def test_an_evaluation_writes_both_of_its_files_or_neither(data, tmp_path):
    first = evaluate(made_model(seed=1), data, output=tmp_path, **QUIET)
    before = {name: (tmp_path / name).read_bytes() for name in ("evaluation.json", "samples.csv")}
    least = min(map(len, before.values()))
    with files_of_at_most(least + 1), pytest.raises(DiskFull, match=r"evaluation\.json was not written"):
        evaluate(made_model(seed=2), data, **QUIET).write(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert there(tmp_path) == {*before, "parts", "parts/settings.json", "parts/0000-0000.jsonl"}
    with files_of_at_most(3000), pytest.raises(DiskFull, match=r"parts/0000-0000\.jsonl was not written"):
        evaluate(made_model(seed=1), data, output=tmp_path, **QUIET)
    assert evaluate(made_model(seed=1), data, output=tmp_path, resume=True, **QUIET) == first


def test_edits_and_a_cache_of_maps(data, tmp_path):
    shapes.write(tmp_path / "data", ("train",), 4, size=64)
    before = contents(tmp_path / "data")
    with files_of_at_most(1000), pytest.raises(DiskFull):
        ar.data.save_edits(tmp_path / "data", 0, np.random.default_rng(0).random((64, 64)))
    assert contents(tmp_path / "data") == before
    few = data.map(lambda row, i: {"mask": row["mask"] if i < 3 else None, "bbox": None}, with_indices=True)
    with files_of_at_most(700), pytest.raises(DiskFull, match=r"maps-00000000\.npy was not written"):
        ar.propagate(made_model("abn"), few, cache=tmp_path / "cache", progress=False)
    assert there(tmp_path / "cache") == {"maps.json"}


def test_the_commands_say_it_in_a_sentence(tmp_path, capsys):
    made_model().save_pretrained(tmp_path / "model")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    with files_of_at_most(2000):
        code = main(["explain", str(tmp_path / "model"), str(tmp_path / "a.png"), "--output", str(tmp_path / "out")])
    said = capsys.readouterr().err.splitlines()[-1]
    assert code == 1 and said.startswith(f"attention-refine: {tmp_path / 'out' / 'a.png'} was not written")
    assert there(tmp_path / "out") == set()


def test_an_exported_model_leaves_no_part_of_a_file(tmp_path):
    pytest.importorskip("onnxscript")
    with files_of_at_most(1 << 20), pytest.raises(DiskFull, match=r"model\.onnx was not written"):
        export_onnx(made_model(), tmp_path / "model.onnx")
    assert there(tmp_path) == set()


# --- the sentence


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_kind_of_no_room_is_told_by_number_or_by_the_writers_words(number, tmp_path):
    for error in (OSError(number, os.strerror(number)), RuntimeError(f"I/O error: x (os error {number})")):
        with (
            pytest.raises(DiskFull, match=r"MiB are free in .*\. Make room, or write to another disk$"),
            room_for(tmp_path / "a" / "b.json"),
        ):
            raise error
    for error in (OSError(errno.EACCES, "Permission denied"), ValueError("12 of os errors")):
        with pytest.raises(type(error), match=str(error.args[-1])), room_for(tmp_path):
            raise error


def test_what_the_writers_say_is_understood(tmp_path):
    """safetensors and NumPy have their own errors, without the system's number."""
    with files_of_at_most(4096):
        for write in (
            lambda path: save_file({"a": torch.zeros(10_000)}, path),
            lambda path: np.zeros(10_000).tofile(path),
            lambda path: save_array(path, np.zeros(520)),  # np.save says nothing of the last 32 bytes
            lambda path: Path(path).write_text(json.dumps(list(range(9000)))),
        ):
            with pytest.raises(DiskFull), atomic_files(tmp_path / "a") as (path,):
                write(path)
            assert there(tmp_path) == set()


def test_the_embedded_dataset_is_written_whole_or_not_at_all(tmp_path):
    with (
        files_of_at_most(2000),
        pytest.raises(DiskFull, match=rf"{tmp_path}/shapes/train was not written, .*a file is larger"),
    ):
        shapes.write(tmp_path / "shapes", ("train",), 4, size=64)
    assert not (tmp_path / "shapes" / "train").exists()
    assert len(list((shapes.write(tmp_path / "shapes", ("train",), 4, size=64) / "train").glob("*.png"))) == 4
