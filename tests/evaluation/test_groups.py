"""Groups of images in evaluations, comparisons, reports and cards: by hand, in batches, with holes."""

from __future__ import annotations

import csv
import math

import datasets
import pytest
import torch
from judged import QUIET, close, made_model

from attention_refine import Evaluation, metrics, shapes
from attention_refine.data import DataError, prepare
from attention_refine.evaluation import compare, evaluate

PLACES = ["water", "field", "water", None, "field", "room", "room", "water", "", "field", "room", "water"]


@pytest.fixture(scope="module")
def data():
    rows = shapes.make("test", 12, size=64)
    return rows.add_column("place", PLACES).add_column("group", [f"g{i % 3}" for i in range(12)])


@pytest.fixture(scope="module")
def found(data):
    return evaluate(made_model(), data, groups=["place", "group"], batch_size=5, **QUIET)


def by_hand(evaluation: Evaluation, places) -> dict[str, float]:
    of: dict[str, list[float]] = {}
    for sample, place in zip(evaluation.samples, places):
        if place:
            of.setdefault(place, []).append(float(sample["correct"]))
    return {place: sum(values) / len(values) for place, values in of.items()}


def test_accuracy_by_group_is_that_of_its_images(found):
    expected = by_hand(found, PLACES)
    cells = found.summary["groups"]["place"]
    assert {name: cell["value"] for name, cell in cells["accuracy"].items()} == pytest.approx(expected)
    assert list(cells["accuracy"]) == ["field", "room", "water"] and cells["unknown"] == 2
    assert [cell["count"] for cell in cells["accuracy"].values()] == [3, 3, 4]
    worst, best = min(expected.values()), max(expected.values())
    assert expected[cells["worst_group"]] == worst and expected[cells["best_group"]] == best
    headline = found.summary["classification"]
    assert headline["worst_group_accuracy"]["value"] == pytest.approx(worst)
    assert headline["group_gap"]["value"] == pytest.approx(best - worst)
    assert (headline["group_gap"]["count"], headline["group_gap"]["excluded"]) == (10, 2)
    for cell in (*cells["accuracy"].values(), headline["worst_group_accuracy"], headline["group_gap"]):
        assert cell["low"] <= cell["value"] <= cell["high"]
    assert "accuracy by group" in str(found) and "place: water" in str(found)


def test_samples_and_files_keep_the_groups(found, tmp_path):
    assert [sample["place"] for sample in found.samples] == [place or None for place in PLACES]
    found.to_csv(tmp_path / "samples.csv")
    with open(tmp_path / "samples.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["place"] for row in rows] == [place or "" for place in PLACES] and rows[4]["group"] == "g1"
    found.to_json(tmp_path / "evaluation.json")
    assert Evaluation.from_json(tmp_path / "evaluation.json") == found


def test_the_column_group_is_taken_by_itself_and_batches_do_not_matter(data):
    one, other = (evaluate(made_model(), data, batch_size=size, **QUIET) for size in (1, 12))
    close(one, other)
    assert list(one.summary["groups"]) == ["group"]
    assert one.summary["groups"] == other.summary["groups"]
    assert "worst_group_accuracy" in one.summary["classification"]
    without = evaluate(made_model(), data, groups=[], **QUIET)
    assert "groups" not in without.summary and "worst_group_accuracy" not in without.summary["classification"]


def test_prepared_data_and_items_have_groups_too(data, found):
    prepared = prepare(data, made_model().preprocessing)
    assert (
        evaluate(made_model(), prepared, groups=["place", "group"], **QUIET).summary["groups"]
        == (found.summary["groups"])
    )
    items = [{**prepared[i], "place": PLACES[i]} for i in range(len(prepared))]
    assert (
        evaluate(made_model(), items, groups="place", **QUIET).summary["groups"]["place"]
        == (found.summary["groups"]["place"])
    )


@pytest.mark.parametrize(
    "values, names",
    [
        ([True, False] * 6, ["False", "True"]),
        ([10, 9, 2] * 4, ["2", "9", "10"]),
        ([1.0, math.nan, 2.0] * 4, ["1", "2"]),
    ],
)
def test_groups_may_be_numbers_or_truths(data, values, names):
    rows = data.remove_columns("group").add_column("kind", values)
    found = evaluate(made_model(), rows, groups="kind", measures=["accuracy"], progress=False)
    assert list(found.summary["groups"]["kind"]["accuracy"]) == names


def test_class_columns_go_by_their_names(data):
    feature = datasets.ClassLabel(names=["wet", "dry"])
    rows = data.add_column("wetness", [0, 1, -1] * 4, feature=feature)
    cells = evaluate(made_model(), rows, groups="wetness", measures=["accuracy"], progress=False).summary["groups"]
    assert list(cells["wetness"]["accuracy"]) == ["dry", "wet"] and cells["wetness"]["unknown"] == 4


def test_streams_carry_their_groups_by_name(data):
    feature = datasets.ClassLabel(names=["g0", "g1", "g2"])
    rows = data.remove_columns("group").add_column("group", [i % 3 for i in range(12)], feature=feature)
    options = {"measures": ["accuracy", "worst_group_accuracy"], "progress": False}
    one, other = (evaluate(made_model(), given, **options) for given in (rows, rows.to_iterable_dataset()))
    assert one.summary["groups"] == other.summary["groups"] and list(one.summary["groups"]["group"]["accuracy"]) == [
        "g0", "g1", "g2"
    ]  # fmt: skip


def test_what_is_no_group_is_refused_in_a_sentence(data):
    model = made_model()
    options = {"measures": ["accuracy"], "progress": False}
    with pytest.raises(DataError, match="no column 'where' to group its images by: it has .*place"):
        evaluate(model, data, groups="where", **options)
    with pytest.raises(DataError, match=r"row 1: weight 0\.5 names no group"):
        evaluate(model, data.add_column("weight", [1.0, 0.5] * 6), groups="weight", **options)
    with pytest.raises(DataError, match="row 0: cue_bbox .* names no group"):
        evaluate(model, data, groups="cue_bbox", **options)
    with pytest.raises(ValueError, match="groups='label' is a column that an evaluation has itself"):
        evaluate(model, data, groups="label", **options)
    with pytest.raises(ValueError, match="'worst_group_accuracy' needs groups, and the dataset has no column 'group'"):
        evaluate(model, data.remove_columns("group"), measures=["worst_group_accuracy"], progress=False)


def test_compare_tells_the_groups_apart(data, found):
    other = evaluate(made_model(seed=4), data, groups=["place", "group"], **QUIET)
    both = compare({"old": found, "new": other}, n_resamples=500)
    expected = by_hand(other, PLACES)["water"] - by_hand(found, PLACES)["water"]
    one = both.of("new", "accuracy", group="place: water")
    assert one.difference == pytest.approx(expected) and one.count == 4 and one.p_value is not None
    worst = both.of("new", "worst_group_accuracy")
    assert worst.difference == pytest.approx(
        min(by_hand(other, PLACES).values()) - min(by_hand(found, PLACES).values())
    )
    assert worst.p_value is None and (worst.count, worst.excluded) == (10, 2) and worst.low <= worst.high
    assert both.of("new", "accuracy").group is None  # that of all images is still found by its name alone
    assert "Accuracy, place: water" in str(both)
    tested = [d for d in both.differences if d.p_value is not None]
    assert [d.p_corrected for d in tested] == metrics.holm([d.p_value for d in tested])
    moved = evaluate(
        made_model(), data.remove_columns("place").add_column("place", PLACES[::-1]), groups="place", **QUIET
    )
    with pytest.raises(ValueError, match="where one has place room, the other has field"):
        compare({"old": found, "new": moved})


def test_report_and_card_show_them(data, found, tmp_path):
    from test_report import Page

    from attention_refine.hub import Card
    from attention_refine.report import write_report

    other = evaluate(made_model(seed=4), data, groups=["place", "group"], **QUIET)
    page = Page(write_report(tmp_path / "report.html", {"old": found, "new": other}).read_text())
    assert "Accuracy by place" in page.text and "Accuracy of the worst group ↑" in page.text
    assert "Gap between best and worst group ↓" in page.text
    kinds = {result.metric_type: result for result in Card(evaluation=found).results("a/b")}
    cell = found.summary["groups"]["place"]["accuracy"]["water"]
    assert kinds["accuracy/place=water"].metric_value == cell["value"]
    assert kinds["worst_group_accuracy"].metric_name == "Accuracy of the worst group"


def test_validation_in_training_measures_the_worst_group():
    from accelerate import Accelerator

    from attention_refine.training.validation import validate

    model = made_model()
    items = [{"pixel_values": torch.randn(3, 64, 64), "labels": torch.tensor(i % 6)} for i in range(8)]
    with torch.no_grad():
        right = torch.cat([model(item["pixel_values"][None]).logits.argmax(1) for item in items]) == torch.arange(8) % 6
    groups = torch.tensor([0, 0, 1, 1, 1, -1, 1, 0])
    batches = [
        {key: torch.stack([item[key] for item in items[at : at + 4]]) for key in items[0]}
        | {"group": groups[at : at + 4]}
        for at in (0, 4)
    ]
    found = validate(batches, model, Accelerator(cpu=True))
    means = [float(right[groups == g].float().mean()) for g in (0, 1)]
    assert found["worst_group_accuracy"] == pytest.approx(min(means))
    assert found["group_gap"] == pytest.approx(max(means) - min(means))
    assert "group_gap" not in validate(
        [{k: v for k, v in b.items() if k != "group"} for b in batches], model, Accelerator(cpu=True)
    )
