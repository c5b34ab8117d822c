"""Several processes of one command line: they share the work, on a CPU without any variable set, or are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from accelerate import Accelerator
from processes import torchrun
from training_runs import largest_difference, last_weights, train

from attention_refine import recipe, shapes
from attention_refine.cli import main
from attention_refine.evaluation import Evaluation
from attention_refine.training import TrainingError

COMMAND = "torchrun --nproc_per_node 2 -m attention_refine.cli finetune CONFIG"


def test_the_documented_command_gives_what_one_process_gives(tmp_path):
    docs = Path(__file__).parents[2] / "docs" / "training.md"
    assert COMMAND in docs.read_text(encoding="utf-8")
    shapes.write(tmp_path / "data", ("train", "test"), 12, size=64)
    values = {
        "model": {"backbone": "test_vit", "pretrained": False, "image_size": 64},  # no batch statistics
        "data": {"source": str(tmp_path / "data"), "validation": "test", "augment": "none"},
        "training": {"output_dir": str(tmp_path / "two"), "epochs": 2, "batch_size": 3, "optimizer": "sgd"},
        "evaluation": {"measures": ["accuracy", "iou"], "perturbation_images": 0},
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(values))
    words = COMMAND.replace("CONFIG", str(tmp_path / "two.yaml")).split()[3:]
    said = torchrun(*words, ACCELERATE_USE_CPU=None, CUDA_VISIBLE_DEVICES="")
    assert said.count("report: ") == 1 and said.count("best: epoch") > 0

    values["training"] |= {"output_dir": str(tmp_path / "one"), "batch_size": 6, "progress": False}
    done = recipe.run(recipe.Recipe.from_dict(values))
    assert largest_difference(last_weights(tmp_path / "two"), last_weights(tmp_path / "one")) < 1e-4
    history = json.loads((tmp_path / "two" / "history.json").read_text())
    for ours, theirs in zip(history, done.history, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    found = Evaluation.from_json(tmp_path / "two" / "evaluation.json")
    assert [s["index"] for s in found.samples] == list(range(12))
    assert [s["model/iou"] for s in found.samples] == pytest.approx(
        [s["model/iou"] for s in done.evaluation.samples], abs=1e-3
    )
    files = {path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*")}
    assert {path.relative_to(tmp_path / "two").as_posix() for path in (tmp_path / "two").rglob("*")} == files | {
        "parts/0001-0000.jsonl"
    }


def test_an_accelerator_that_knows_of_one_process_of_two_is_refused(tmp_path, monkeypatch):
    alone = Accelerator(cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(TrainingError, match=r"2 processes were started, .* Make it with Accelerator\(cpu=True\)"):
        train(tmp_path, accelerator=alone)


def test_other_commands_in_several_processes_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["evaluate", str(tmp_path)]) == 1
    assert "evaluate runs in one process, and torchrun or accelerate launch started 2" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(["check", str(tmp_path / "none")]) == 1
    assert "is not a folder that exists" in capsys.readouterr().err
