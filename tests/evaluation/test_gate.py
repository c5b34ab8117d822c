"""The gate: conditions on a comparison, exit code 3, and where a run's results are found."""

from __future__ import annotations

import pytest
from judged import made_model

from attention_refine import shapes
from attention_refine.cli import main
from attention_refine.evaluation import Comparison, Difference, evaluate, gate
from attention_refine.evaluation.finding import LAST, evaluation_files


def difference(measure, value, map=None, group=None, model="new"):
    found = None if value is None else value - 0.02, None if value is None else value + 0.02
    return Difference(model, map, measure, value, *found, None, None, 100, 0, group)


COMPARISON = Comparison("old", [
    difference("accuracy", 0.03), difference("worst_group_accuracy", -0.01), difference("macro_f1", 0.0),
    difference("energy_on_cue", 0.001, "model"), difference("iou", -0.2, "grad_cam"), difference("iou", None, "model"),
    difference("accuracy", -0.3, group="aligned: False"), difference("accuracy", -0.5, model="newer"),
    difference("worst_group_accuracy", 0.2, model="newer"),
])  # fmt: skip


@pytest.mark.parametrize(
    "condition, fails",
    [
        ("worst_group_accuracy falls by 0.01", True),  # reached is failed, whatever the last digit
        ("worst_group_accuracy falls by 0.011", False),
        ("worst_group_accuracy falls", True),
        ("worst_group_accuracy rises", False),
        ("accuracy falls by 0.01", False),
        ("accuracy  rises by 3e-2", True),
        ("macro_f1 falls", False),
        ("macro_f1 falls by 0", False),
        ("energy_on_cue rises", True),
        ("energy_on_cue rises by 0.01", False),
        ("grad_cam/iou falls by 0.1", True),
        ("accuracy where aligned is False falls by 0.25", True),
        ("accuracy where aligned is False rises", False),
    ],
)
def test_conditions(condition, fails):
    found = gate(COMPARISON, [condition], ["new"])
    assert bool(found) == fails
    assert all(condition in sentence and sentence.startswith("new: ") for sentence in found)


def test_a_sentence_says_what_happened():
    (said,) = gate(COMPARISON, ["accuracy falls by 0.1"])
    assert said == (
        "newer: accuracy falls by 0.5 (95 % interval of the change -0.52 to -0.48, 100 images) against old, and "
        "'accuracy falls by 0.1' was to fail"
    )
    assert gate(COMPARISON, []) == []


@pytest.mark.parametrize(
    "condition, words",
    [
        ("accuracy is worse", "cannot be read: write 'MEASURE falls', .*measured in both: accuracy, "),
        ("falls by 1", "cannot be read"),
        ("accuracy falls by a lot", "cannot be read"),
        ("accuracy falls by much", "has 'much' where a number of 0 or more belongs"),
        ("accuracy falls by -0.1", "has '-0.1' where a number"),
        ("accuracy falls by nan", "has 'nan' where a number"),
        ("acuracy falls", "is about 'acuracy', which was not measured in both: write"),
        ("iou falls", "is about 'iou', which was not measured in both: .*grad_cam/iou"),
        ("macro_f1 falls", "was not measured in 'newer'"),
    ],
)
def test_what_cannot_be_read_is_refused(condition, words):
    with pytest.raises(ValueError, match=words):
        gate(COMPARISON, ["accuracy falls", condition])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs' folders: the second has another last model."""
    folder, data = tmp_path_factory.mktemp("runs"), shapes.make("test", 6, size=64)
    for seed, place in ((1, "a"), (2, "b"), (3, f"b/{LAST}")):
        evaluate(made_model(seed=seed), data, measures=["accuracy", "iou"], progress=False, output=folder / place)
    for place in ("a/best", "b/best", "b/last"):
        (folder / place).mkdir()
    return folder


def test_results_are_found_where_a_run_left_them(runs):
    own, last = runs / "b" / "evaluation.json", runs / "b" / LAST / "evaluation.json"
    assert evaluation_files(runs / "a") == {"": runs / "a" / "evaluation.json"} == evaluation_files(runs / "a" / "best")
    assert evaluation_files(runs / "b") == {"best": own, "last": last}
    assert evaluation_files(runs / "b" / "best") == {"": own} and evaluation_files(runs / "b" / "last") == {"": last}
    assert evaluation_files(own) == {"": own}
    with pytest.raises(ValueError, match=r"nothing does not exist: give an evaluation\.json"):
        evaluation_files(runs / "nothing")
    (runs / "empty").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=r"holds evaluations of models: name one, .*a or .*b$"):
        evaluation_files(runs)
    with pytest.raises(ValueError, match=r"empty holds no evaluation\.json: judge its model with attention-refine"):
        evaluation_files(runs / "empty")


def test_the_command_fails_with_3_and_a_sentence(runs, capsys):
    a, b, page = str(runs / "a"), str(runs / "b"), str(runs / "page.html")
    assert main(["compare", a, b, "--output", page]) == 0
    printed = capsys.readouterr().out
    assert "b (best)" in printed and "b (last)" in printed
    change = float(evaluate_difference(runs))
    way, other = ("rises", "falls") if change > 0 else ("falls", "rises")
    assert main(["compare", a, b, "--output", page, "--fail-if", f"iou {other}"]) == 0
    capsys.readouterr()
    assert main(["compare", a, b, "--output", page, "--fail-if", f"iou {way}", "--fail-if", f"iou {other}"]) == 3
    said = capsys.readouterr().err
    assert said.count("attention-refine: b (best): iou") == 1 and "was to fail" in said, "the last one is not judged"
    assert main(["compare", a, b, "--output", page, "--fail-if", "sharpness falls"]) == 1
    assert "was not measured in both: write 'MEASURE falls'" in capsys.readouterr().err


def evaluate_difference(runs):
    from attention_refine import Evaluation

    a, b = (Evaluation.from_json(runs / name / "evaluation.json").values("model/iou").nanmean() for name in "ab")
    return b - a
