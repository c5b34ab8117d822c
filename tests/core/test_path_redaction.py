"""Paths of a person's disk do not leave it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial

import pytest
import yaml
from cases import BY_NAME

import attention_refine as ar
from attention_refine import recipe
from attention_refine.core.path_redaction import marked, without_places
from attention_refine.hub import Card
from attention_refine.hub.card import base_model_of
from attention_refine.hub.config import for_others


@pytest.mark.parametrize(
    "given, told",
    [
        ("/home/ann/clinic/eyes", "eyes"),
        ("~/clinic/eyes", "eyes"),
        ("../clinic/eyes", "eyes"),
        ("./eyes", "eyes"),
        ("clinic/patients/eyes", "eyes"),
        (r"C:\Users\ann\eyes", "eyes"),
        (r"clinic\eyes", "eyes"),
        (r"\\server\clinic\eyes", "eyes"),
        ("file:///home/ann/clinic/eyes", "eyes"),
        (r"FILE:///C:\ann\eyes", "eyes"),
        ("~ann/clinic/eyes", "eyes"),
        ("~", "~"),
        ("user/eyes", "user/eyes"),
        ("shapes:train", "shapes:train"),
        ("resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("", ""),
        (None, None),
        (0.5, 0.5),
    ],
)
def test_a_path_is_told_by_its_last_name(given, told):
    assert without_places(given) == told
    card = Card(dataset=given if isinstance(given, str) else None, config={"data": {"source": given, "more": [given]}})
    assert card.config == {"data": {"source": told, "more": [told]}}
    assert card.dataset == (told if isinstance(given, str) else None)


@pytest.mark.parametrize(
    "given, told",
    [
        ("attention-refine finetune /home/ann/clinic/a.yaml --seed 3", "attention-refine finetune a.yaml --seed 3"),
        ("train --data.source=~/clinic/eyes", "train --data.source=eyes"),
        ("train --data.source '/home/ann/my clinic/eyes' \\\n  --x 1", "train --data.source 'eyes' \\\n  --x 1"),
        (r"train --data.source C:\clinic\eyes", "train --data.source eyes"),
        ("push --to user/name && echo a/b/c", "push --to user/name && echo c"),
        ("finetune --model.objectives '[mining, darc]'", "finetune --model.objectives '[mining, darc]'"),
    ],
)
def test_a_command_tells_paths_by_their_last_name(given, told):
    assert Card(command=given).command == told


@pytest.fixture
def clinic(tmp_path, monkeypatch):
    """A folder that a person works in, and moves away from."""
    (tmp_path / "clinic" / "eyes").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "clinic"


def test_a_relative_path_is_marked_while_it_is_there_and_known_when_it_is_gone(clinic):
    assert marked({"data": ["clinic/eyes", "user/eyes", None, 3]}) == {"data": ["./clinic/eyes", "user/eyes", None, 3]}
    for given in ("./clinic/eyes", str(clinic), "clinic", "resnet50.a1_in1k", "", "clinic/eyes/"):
        assert marked(given) == given
    plan = recipe.Recipe.from_dict(
        {"data": {"source": "clinic/eyes", "unlabeled": "shapes:train"}, "model": {"checkpoint": "clinic/eyes"},
         "training": {"output_dir": "clinic/run", "monitor": "clinic/eyes"}}
    )  # fmt: skip
    (clinic / "run").mkdir()
    (clinic / "run" / "recipe.yaml").write_text(plan.to_yaml())
    read = recipe.Recipe.load(clinic / "run" / "recipe.yaml")
    assert read.training.monitor == "clinic/eyes", "no path, whatever lies there"
    shutil.rmtree(clinic)
    told = yaml.safe_dump(without_places({**read.to_dict(), "training": {"output_dir": read.training.output_dir}}))
    assert "clinic" not in told and "eyes" in told and Card(dataset=read.data.source).dataset == "eyes"


def test_a_model_of_a_local_folder_does_not_tell_where_it_lay(clinic):
    BY_NAME["hf-vit"].make().save_pretrained(clinic / "vit")
    for given in (str(clinic / "vit"), "clinic/vit", clinic / "vit"):
        model = ar.wrap(given, head="abn", preprocessing={"input_size": [3, 64, 64]})
        model.save_pretrained(clinic.parent / "saved")
        assert model.backbone.spec.origin == "vit" and base_model_of(model) is None
        assert "clinic" not in (clinic.parent / "saved" / "config.json").read_text()
        assert "clinic" not in Card().render(model, "user/name", [])
    model.backbone.spec = replace(model.backbone.spec, origin="/home/ann/clinic/vit")  # of an earlier version
    assert "clinic" not in Card().render(model, "user/name", [])


@pytest.mark.parametrize("objective", [ar.Distillation, partial(ar.AttentionConsistency, compare="models")])
def test_a_teachers_folder_is_not_told_though_it_is_gone(clinic, objective):
    for given in ("clinic/eyes", str(clinic / "eyes")):
        (clinic / "eyes").mkdir(exist_ok=True)
        part = objective(teacher=given).to_dict()
        shutil.rmtree(clinic / "eyes")
        assert for_others(part)["options"]["teacher"] == "object"
    assert for_others(objective(teacher="user/eyes").to_dict())["options"]["teacher"] == "user/eyes"


def test_a_relative_path_that_is_there_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "clinic" / "eyes").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert without_places("clinic/eyes") == "eyes" and Card(dataset="clinic/eyes").dataset == "eyes"
