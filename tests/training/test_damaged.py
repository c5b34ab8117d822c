"""What a broken disk leaves: files cut at any byte are noticed, an older checkpoint is taken, or a sentence says why not."""

from __future__ import annotations

import os
import shutil
import warnings

import pytest
from training_runs import TinyImages, train

from attention_refine.training import TrainingError
from attention_refine.training.checkpoints import list_checkpoints, newest_intact, weights_damage


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(folder, epochs=2, batch_size=8, ema_decay=0.9)
    return folder


def test_a_checkpoint_cut_at_every_tenth_byte_of_every_file_is_passed_over(run, tmp_path):
    checkpoints = shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    older, newest = list_checkpoints(checkpoints)
    files = sorted(newest.iterdir())
    assert {file.suffix for file in files} == {".safetensors", ".json"} and len(files) == 6
    for file in files:
        whole = file.read_bytes()
        for size in range(0, len(whole), 10):
            file.write_bytes(whole[:size])
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                assert newest_intact(checkpoints) == older, (file.name, size)
            said = str(caught[0].message)
            assert str(file) in said and said.endswith(f"resuming from the earlier checkpoint {older}")
        file.write_bytes(whole)
    assert newest_intact(checkpoints) == newest
    shutil.rmtree(older)
    os.truncate(newest / "state.json", 10)
    with pytest.raises(TrainingError, match=r"no checkpoint in .* is intact \(.*state\.json has 10 bytes in place of"):
        newest_intact(checkpoints)


def test_a_best_model_cut_at_every_tenth_byte_is_noticed(run, tmp_path):
    best = shutil.copytree(run / "best", tmp_path / "best") / "model.safetensors"
    whole = best.read_bytes()
    for size in range(0, len(whole), 10):
        best.write_bytes(whole[:size])
        assert weights_damage(best).startswith(f"{best} cannot be read"), size
    best.write_bytes(whole)
    assert weights_damage(best) is None


@pytest.mark.parametrize(
    ("size", "moved", "said"),
    [
        (21, 0, r"with images=22 and this run has images=21, which would change its outcome: resume with images=22"),
        (
            22,
            1,
            r"was made on other training data, .*: images of .* have another name, size or label\. Put the data back",
        ),
    ],
)
def test_a_dataset_that_changed_between_stop_and_resume(size, moved, said, run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    made = TinyImages.__init__

    def changed(self, *arguments, **options):
        made(self, *arguments, **options)
        self.labels = (self.labels + moved) % 3

    monkeypatch.setattr(TinyImages, "__init__", changed)
    with pytest.raises(TrainingError, match=said):
        train(tmp_path / "run", epochs=2, batch_size=8, ema_decay=0.9, size=size, resume=True)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
