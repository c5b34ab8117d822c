"""A teacher and its student in one recipe."""

from __future__ import annotations

import json

import pytest
import yaml

from attention_refine.recipe import Recipe, load_splits, run

MODEL = {
    "backbone": "test_resnet",
    "pretrained": False,
    "head": {"name": "brnpa", "parts": 2, "fade_in_steps": 0},
    "objectives": [{"name": "distillation", "temperature": 2.0, "interpolation": 1.0, "map_weight": 0.1}],
    "image_size": 64,
    "resolution": 4,
    "teacher": {"resolution": 2},
}


def recipe(folder, **model) -> Recipe:
    return Recipe.from_dict(
        {
            "model": {**MODEL, **model},
            "data": {"source": "shapes", "validation": "validation", "test_split": None},
            "training": {"output_dir": str(folder), "max_steps": 2, "batch_size": 8, "progress": False},
        }
    )


@pytest.fixture(scope="module")
def splits():
    return {name: split.select(range(16)) for name, split in load_splits(recipe("unused").data).items()}


def test_the_teacher_is_trained_first_and_the_student_learns_from_it(tmp_path, splits):
    done = run(recipe(tmp_path), splits)
    entry = done.history[-1]
    assert {"train/distillation", "train/distillation_maps", "train/task"} <= set(entry)
    teacher = json.loads((tmp_path / "teacher" / "best" / "config.json").read_text())
    student = json.loads((done.model_path / "config.json").read_text())
    assert teacher["backbone"]["resolution"]["factor"] == 2 and student["backbone"]["resolution"]["factor"] == 4
    assert teacher["objectives"] == [] and teacher["head"]["options"]["parts"] == 2
    (objective,) = student["objectives"]
    assert objective["options"]["teacher"] == str(tmp_path / "teacher" / "best")
    written = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert written["model"]["teacher"] == {"resolution": 2}  # the whole recipe, to be run again


@pytest.mark.parametrize("objectives", [[], ["mining"], [{"name": "distillation", "teacher": "runs/other"}]])
def test_a_teacher_nobody_learns_from_is_refused(tmp_path, splits, objectives):
    with pytest.raises(ValueError, match="no objective would learn from it: add {name: distillation}"):
        run(recipe(tmp_path, objectives=objectives), splits)
    assert not (tmp_path / "teacher").exists()


def test_keys_of_a_teacher_are_checked(tmp_path, splits):
    with pytest.raises(ValueError, match="unknown option 'resolutoin': did you mean 'resolution'"):
        run(recipe(tmp_path, teacher={"resolutoin": 2}), splits)
