"""``attention-refine push | pull | inspect``: a saved model, a run's folder and a config, to the stand-in and back."""

from __future__ import annotations

import pytest
import yaml
from test_pushing import files

import attention_refine as ar
from attention_refine import shapes
from attention_refine.cli import main

NAME = "user/model"
TINY = ["--model.backbone", "test_resnet", "--model.head", "abn", "--training.max_steps", "2",
        "--training.batch_size", "8", "--training.progress", "false", "--evaluation.perturbation_images", "0",
        "--evaluation.measures", "[accuracy]"]  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(model, evaluation, tmp_path_factory):
    """What a run leaves behind."""
    from attention_refine.recipe import Recipe

    folder = tmp_path_factory.mktemp("runs") / "cats"
    model.save_pretrained(folder / "best")
    evaluation.to_json(folder / "evaluation.json")
    recipe = Recipe.from_dict(
        {"data": {"source": "/home/somebody/cats"}, "training": {"epochs": 3, "output_dir": str(folder)}}
    )
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    return folder


def test_push_a_run_pull_it_and_look_at_it(hub, run_folder, model, images, same, tmp_path, capsys):
    assert main(["push", str(run_folder), "--to", "user/{name}", "--licence", "mit", "--message", "from a run"]) == 0
    assert (
        f"{hub.url}/user/cats/commit/" in capsys.readouterr().out
        and hub.repos["user/cats"].at("main").title == "from a run"
    )
    readme = files(hub, "user/cats")["README.md"].decode()
    assert "license: mit" in readme and "Accuracy" in readme and "epochs: 3" in readme and "source: cats" in readme
    assert "/home/somebody" not in readme and str(run_folder) not in readme
    assert main(["pull", "user/cats", str(tmp_path / "copy")]) == 0
    same(ar.load(tmp_path / "copy"), model, images)
    capsys.readouterr()
    assert main(["inspect", "user/cats", "--revision", "main"]) == 0
    assert "head" in capsys.readouterr().out


def test_push_a_saved_model_privately_without_training_layers(hub, run_folder):
    assert main(["push", str(run_folder / "best"), "--to", NAME, "--private", "--without-training-layers"]) == 0
    assert hub.repos[NAME].private and "model.safetensors" in files(hub)
    assert "Accuracy" in files(hub)["README.md"].decode()  # the run's evaluation, beside best/


def test_push_a_config_trains_judges_and_pushes(hub, tmp_path):
    out, source = tmp_path / "run", shapes.write(tmp_path / "tiny", splits=("train", "test"), n=24, size=64)
    own = ["--data.source", str(source), "--data.validation", "0.2", "--training.output_dir", str(out)]
    assert main(["push", "abn_shapes", "--to", NAME, *TINY, *own]) == 0
    readme = files(hub)["README.md"].decode()
    data = yaml.safe_load(readme.split("---\n")[1])
    assert data["model-index"][0]["results"][0]["metrics"][0]["type"] == "accuracy"
    assert "attention-refine finetune abn_shapes --model.backbone test_resnet" in readme and str(tmp_path) not in readme
    assert "maps.png" in files(hub) and (out / "report.html").is_file()
    assert ar.load(NAME).labels == ar.load(out / "last" if not (out / "best").is_dir() else out / "best").labels


def test_several_at_once_go_on_after_one_that_fails(hub, run_folder, tmp_path, capsys):
    assert main(["push", str(run_folder), str(tmp_path), "--to", "user/one"]) == 1
    assert "write user/{name}" in capsys.readouterr().err and not hub.repos
    assert main(["push", str(tmp_path), str(run_folder), "--to", "user/{name}"]) == 1
    said = capsys.readouterr()
    assert "1 of 2 were not pushed" in said.err and "holds no saved model" in said.err and "user/cats" in said.out
    assert list(hub.repos) == ["user/cats"]


def test_a_refusal_is_one_sentence(hub, run_folder, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", str(run_folder), "--to", NAME]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("attention-refine: ") and "hf auth login" in said
    assert main(["pull", "user/nothing", str(run_folder / "new")]) == 1
    assert not (run_folder / "new").exists()
