"""A search: killed and resumed, its best and Pareto sets by hand, pruning, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import sys
from types import SimpleNamespace

import pytest
import yaml
from training_runs import assert_same, last_weights

from attention_refine import shapes
from attention_refine.cli import main
from attention_refine.recipe import Recipe, Search, SearchOptions, load_splits, search, trained
from attention_refine.recipe.search import put
from attention_refine.training import TrainingError, make_accelerator

optuna = pytest.importorskip("optuna")

RATE = {"training.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    shapes.write(folder, ("train", "test"), 12, size=32)
    return folder


@pytest.fixture
def values(data, tmp_path):
    return {
        "model": {"backbone": "test_resnet", "pretrained": False, "image_size": 32, "head": "abn"},
        "data": {"source": str(data), "validation": "test", "test_split": None, "augment": "none"},
        "training": {"output_dir": str(tmp_path / "run"), "epochs": 2, "batch_size": 6, "progress": False,
                     "monitor_images": 0},
    }  # fmt: skip


def with_curves(monkeypatch, curves):
    """In the place of training: epochs with the metrics that ``curves(recipe)`` gives, and on_epoch after each."""
    seen = []

    def fake(recipe, splits, accelerator, on_epoch):
        seen.append(recipe)
        history = []
        for epoch, metrics in enumerate(curves(recipe), start=1):
            entry = {"epoch": epoch, "step": epoch, **{f"eval/{name}": value for name, value in metrics.items()}}
            history.append(entry)
            on_epoch(entry)
        return None, SimpleNamespace(history=history, best_step=None, steps=len(history))

    monkeypatch.setattr(search, "trained", fake)
    return seen


# --- laws ------------------------------------------------------------------------------------------------------------


def test_a_trial_that_was_killed_goes_on_where_it_stood(values, tmp_path, monkeypatch):
    options = SearchOptions(space=RATE, trials=2)
    report = Search._report

    def killed(self, trial, entry):
        report(self, trial, entry)
        if entry["epoch"] == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Search, "_report", killed)
        Search(values, options).run()
    values["training"]["resume"] = True
    again = Search(values, options)
    again.run()
    first, second, third = again.study.trials
    assert first.state.name == "FAIL" and {second.state.name, third.state.name} == {"COMPLETE"}
    assert first.params == second.params != third.params
    folder = tmp_path / "run" / "trials" / "trial-0000"
    assert second.user_attrs["folder"] == "trial-0000" and not (folder / "checkpoints").exists()
    recipe = again.recipe_of(second.params, tmp_path / "whole")
    trained(recipe, load_splits(recipe.data), make_accelerator(recipe.training))
    assert_same(last_weights(folder), last_weights(tmp_path / "whole"))
    Search(values, options).run()
    assert len(again.study.trials) == 3, "nothing is left to do"


def test_more_trials_draw_others(values, monkeypatch):
    seen = with_curves(monkeypatch, lambda recipe: [{"accuracy": 0.5}])
    Search(values, SearchOptions(space=RATE, trials=3)).run()
    values["training"]["resume"] = True
    Search(values, SearchOptions(space=RATE, trials=6)).run()
    assert len({recipe.training.learning_rate for recipe in seen}) == 6


# --- numbers by hand -------------------------------------------------------------------------------------------------


def test_the_best_is_written_as_a_recipe(values, tmp_path, monkeypatch):
    seen = with_curves(monkeypatch, lambda recipe: [{"accuracy": -abs(recipe.training.learning_rate - 0.01)}])
    options = SearchOptions(space=RATE | {"model.objectives": {"choices": [[], ["mining"]]}}, trials=8, prune=False)
    found = Search(values, options)
    found.run()
    (file,) = found.save()
    best = min(seen, key=lambda recipe: abs(recipe.training.learning_rate - 0.01))
    written = Recipe.load(file)
    assert file.name == "best.yaml" and written.training.learning_rate == best.training.learning_rate
    assert written.model.objectives == best.model.objectives and not written.training.resume
    assert written.training.output_dir.endswith("run/best")
    rows = list(csv.DictReader((tmp_path / "run" / "trials.csv").open()))
    assert [float(row["training.learning_rate"]) for row in rows] == [each.training.learning_rate for each in seen]
    assert {row["state"] for row in rows} == {"complete"}


def test_of_two_metrics_the_pareto_set_is_kept(values, monkeypatch):
    def curves(recipe):
        rate = recipe.training.learning_rate
        return [{"accuracy": round(rate * 1e4) % 7, "loss": round(rate * 1e5) % 5}]

    with_curves(monkeypatch, curves)
    found = Search(values, SearchOptions(space=RATE, trials=14, metrics=["accuracy", "loss"]))
    found.run()
    points = [trial.values for trial in found.study.trials]
    by_hand = {
        number for number, (accuracy, loss) in enumerate(points)
        if not any(a >= accuracy and b <= loss and (a, b) != (accuracy, loss) for a, b in points)
    }  # fmt: skip
    assert {trial.number for trial in found.best()} == by_hand and len(by_hand) < 14
    assert {file.stem for file in found.save()} == {f"best-{number:04d}" for number in by_hand}


def test_a_run_behind_the_median_ends_early(values, tmp_path, monkeypatch):
    quality = iter([5, 6, 7, 8, 9, 1, 10])
    seen = []

    def curves(recipe):
        one = next(quality)
        for epoch in range(3):
            seen.append(one)
            yield {"accuracy": one * (epoch + 1)}

    with_curves(monkeypatch, curves)
    found = Search(values, SearchOptions(space=RATE, trials=7))
    found.run()
    assert [trial.state.name for trial in found.study.trials] == ["COMPLETE"] * 5 + ["PRUNED", "COMPLETE"]
    assert seen.count(1) == 1 and seen.count(10) == 3


def test_a_trial_that_fails_is_named_and_the_search_goes_on(values, monkeypatch, capsys):
    count = iter(range(9))

    def curves(recipe):
        if next(count) == 0:
            raise TrainingError("the loss is nan")
        return [{"accuracy": 0.5}]

    with_curves(monkeypatch, curves)
    Search(values, SearchOptions(space=RATE, trials=2)).run()
    assert "trial 0: the loss is nan; training.learning_rate" in capsys.readouterr().out


# --- paths and bad input ---------------------------------------------------------------------------------------------


def test_a_path_reaches_into_heads_and_objectives():
    values = {"model": {"head": "abn", "objectives": ["mining", {"name": "consistency", "weight": 2.0}]}}
    put(values, "model.head.branch", "light")
    put(values, "model.objectives.mining.weight", 0.1)
    put(values, "model.objectives.consistency.weight", 0.2)
    put(values, "training.epochs", 3)
    assert values == {
        "model": {
            "head": {"name": "abn", "branch": "light"},
            "objectives": [{"name": "mining", "weight": 0.1}, {"name": "consistency", "weight": 0.2}],
        },
        "training": {"epochs": 3},
    }
    with pytest.raises(ValueError, match="'darc' is none of mining, consistency"):
        put(values, "model.objectives.darc.weight", 1.0)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            {"training.lr": {"low": 1, "high": 2}},
            "'training.lr' is no option of a recipe: did you mean 'learning_rate'",
        ),
        ({"train.epochs": {"low": 1, "high": 2}}, "sections are model, data, training, evaluation"),
        ({"training.epochs": {"low": 2, "high": 1}}, "numbers that rise"),
        ({"training.learning_rate": {"low": 0, "high": 1, "log": True}}, "from above 0 with log"),
        ({"training.optimizer": {"choices": []}}, "neither {choices"),
        ({"training.optimizer": "sgd"}, "neither {choices"),
        ({}, "space is empty"),
    ],
)
def test_a_space_that_is_none_is_refused(space, said):
    with pytest.raises(ValueError, match=said):
        SearchOptions(space=space)


def test_another_search_in_the_folder_is_refused(values, monkeypatch):
    with_curves(monkeypatch, lambda recipe: [{"accuracy": 0.5}])
    Search(values, SearchOptions(space=RATE, trials=1)).run()
    with pytest.raises(ValueError, match="holds an earlier search: --training.resume true goes on"):
        Search(values, SearchOptions(space=RATE, trials=1))
    values["training"]["resume"] = True
    with pytest.raises(ValueError, match="a search with another metrics"):
        Search(values, SearchOptions(space=RATE, metrics=["loss"]))
    values["training"] |= {"resume": False, "overwrite": True}
    again = Search(values, SearchOptions(space=RATE, metrics=["loss"]))
    assert again.study.trials == []
    with pytest.raises(TrainingError, match="'loss' is not measured on the validation images: accuracy are"):
        again.run()


def test_the_command(values, tmp_path, capsys, monkeypatch):
    values["search"] = {"space": RATE, "metrics": ["accuracy", "mask_correlation"], "trials": 9}
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(values))
    assert main(["search", str(file), "--trials", "2", "--training.epochs", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("trial 0: accuracy ") >= 1 and "best, none better than another in all:" in said
    assert list((tmp_path / "run").glob("best-*.yaml")) and "trials.csv" in said
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "optuna", None)
        assert main(["search", str(file)]) == 1
    assert "a search is made by optuna: pip install attention-refine[search]" in capsys.readouterr().err
    del values["search"]
    file.write_text(yaml.safe_dump(values))
    assert main(["search", str(file)]) == 1
    assert "has no section search" in capsys.readouterr().err
