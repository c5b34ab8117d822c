"""Data meets a model by the names of its classes, and what a report draws is what was judged."""

from __future__ import annotations

import warnings

import datasets
import numpy as np
import pytest
import torch
from judged import close, made_model
from PIL import Image

from attention_refine import shapes
from attention_refine.data import DataError, load_dataset, match_classes, prepare
from attention_refine.data.class_matching import class_places
from attention_refine.evaluation import evaluate, retrieval
from attention_refine.report.gallery import galleries
from attention_refine.report.strips import _spread

PLAIN = {"measures": ["accuracy", "iou"], "progress": False}


def renamed(data, names):
    """The same images and classes, numbered as in ``names``."""
    own = data.features["label"].names
    labels = [names.index(own[label]) for label in data["label"]]
    feature = datasets.ClassLabel(names=list(names))
    return data.remove_columns("label").add_column("label", labels, feature=feature)


@pytest.fixture(scope="module")
def data():
    return shapes.make("test", 12, size=64)


@pytest.fixture(scope="module")
def plain(data):
    return evaluate(made_model(), data, **PLAIN)


def test_the_order_of_the_classes_does_not_matter(data, plain):
    model, turned = made_model(), renamed(data, list(shapes.CLASSES[::-1]))
    prepared = prepare(turned, model.preprocessing)
    stream = prepare(turned.to_iterable_dataset(), model.preprocessing)
    assert prepared.labels != [sample["label"] for sample in plain.samples]
    for given in (turned, prepared, turned.to_iterable_dataset(), stream):
        found = evaluate(model, given, **PLAIN)
        close(found, plain)
        assert found.settings["classes"] == list(shapes.CLASSES)
    assert prepared.class_names == list(shapes.CLASSES[::-1]), "what was given is left as it is"


def test_fewer_classes_than_the_model_has(data, plain):
    names = [shapes.CLASSES[4], shapes.CLASSES[1]]
    rows = [row for row, label in enumerate(data["label"]) if shapes.CLASSES[label] in names]
    few = renamed(data.select(rows), names)
    model = made_model()
    for given in (few, prepare(few, model.preprocessing)):
        found = evaluate(model, given, **PLAIN)
        assert [s["label"] for s in found.samples] == [plain.samples[row]["label"] for row in rows]
        assert [s["prediction"] for s in found.samples] == [plain.samples[row]["prediction"] for row in rows]
    matched = match_classes(prepare(few, model.preprocessing), model.labels)
    assert matched.labels == [int(matched[i]["labels"]) for i in range(len(matched))]
    assert set(matched.labels) == {1, 4} and matched.class_names == list(shapes.CLASSES)


def test_what_has_no_match_is_refused_with_both_lists(data):
    other = made_model(labels=["striped disc", "lion", "tiger", "bear", "wolf", "fox"])
    sentence = "5 of the dataset's 6 classes are not among those of the model: the dataset has striped disc, .*; the model: .*lion"
    for given in (data, prepare(data, other.preprocessing)):
        with pytest.raises(DataError, match=sentence):
            evaluate(other, given, **PLAIN)
    numbered = made_model(labels=[str(i) for i in range(10)])
    with pytest.raises(
        DataError, match=r"not among those of the model: .*woven ring; the model: 0, 1, .*\(10 in all\)"
    ):
        evaluate(numbered, data, **PLAIN)


def test_numbers_stand_for_as_many_names(data, plain):
    numbers = data.cast_column("label", datasets.ClassLabel(names=[str(i) for i in range(6)]))
    found = evaluate(made_model(), numbers, **PLAIN)
    close(found, plain)
    assert found.settings["classes"] == list(shapes.CLASSES)


def test_names_written_in_another_way_are_the_same_or_the_difference_is_said():
    assert class_places(["cafe\u0301 ", "new  york"], ["new york", "caf\xe9"]) == [1, 0]
    for own in (["Cat", "dog"], ["c-a_t", "dog"]):
        with pytest.raises(
            DataError, match=r"of the model \(they differ in case, spaces or hyphens alone\): the dataset"
        ):
            class_places(own, ["cat", "dog"])
    with pytest.raises(DataError, match=r"among those of the model: the dataset has cow, dog; the model: cat, dog\."):
        class_places(["cow", "dog"], ["cat", "dog"])


def test_numbers_in_another_order_are_names(data):
    """As torchvision's ImageFolder sorts them: 0, 1, 10, 11, 2, ..."""
    names = [str(i) for i in range(12)]
    own = sorted(names)
    assert own != names and class_places(own, names) == [int(name) for name in own]
    assert class_places(names, own) == [own.index(name) for name in names]
    assert class_places(["cat", "dog"], ["0", "1"]) == class_places(["0", "1"], ["cat", "dog"]) == [0, 1]
    assert class_places(["1", "0"], ["0", "1", "2"]) == [1, 0]


def test_items_that_name_classes_but_cannot_be_renumbered_are_refused():
    class Items(list):
        class_names = ["b", "a"]

    items = Items([{"pixel_values": torch.zeros(3, 64, 64), "labels": torch.tensor(0)}])
    with pytest.raises(
        DataError, match="the dataset's classes stand in another order: the dataset has b, a; the model: a, b"
    ):
        match_classes(items, ["a", "b"])
    assert match_classes(items, ["b", "a"]) is items and match_classes(items[:], ["x"]) is not items


def test_a_recipe_goes_on_from_a_saved_model_with_classes_in_another_order(data, tmp_path):
    """Of which a repair of a saved model is one: train and validation are matched by name, as evaluate does."""
    from attention_refine.recipe import Recipe, build_model, prepare_evaluation, prepare_training

    made_model().save_pretrained(tmp_path)
    recipe = Recipe.from_dict({"model": {"checkpoint": str(tmp_path)}, "training": {"progress": False}}, where="a test")
    for names in (list(shapes.CLASSES), list(shapes.CLASSES[::-1]), [str(i) for i in range(6)]):
        turned = (
            data.cast_column("label", datasets.ClassLabel(names=names)) if names[0] == "0" else renamed(data, names)
        )
        model = build_model(recipe.model, names)
        assert model.labels == list(shapes.CLASSES)
        for prepared in (prepare_training(recipe, model, turned), prepare_evaluation(recipe, model, turned)):
            assert prepared.labels == data["label"]
    with pytest.raises(DataError, match="1 of the dataset's 2 classes are not among those of the checkpoint '.*lion"):
        build_model(recipe.model, [shapes.CLASSES[2], "lion"])


def test_a_gallery_of_other_order_finds_its_own_class(data):
    from attention_refine import BRNPA

    model = made_model(BRNPA(parts=2))
    turned = renamed(data, list(shapes.CLASSES[::-1]))
    same, other = (retrieval(model, data, gallery, progress=False) for gallery in (data, turned))
    assert torch.equal(same.first_match, other.first_match) and (same.first_match > 0).all()
    with pytest.raises(DataError, match="not among those of the queries"):
        retrieval(
            model, data, data.cast_column("label", datasets.ClassLabel(names=list("abcdef") + ["g"])), progress=False
        )


@pytest.fixture
def broken(tmp_path):
    """Twelve images, each of one grey, the fourth and the first of them unreadable."""
    shapes.write(tmp_path, splits=["test"], n=12, size=64)
    files = sorted((tmp_path / "test").rglob("*.png"))
    files = [file for file in files if "mask" not in str(file)]
    for number, file in enumerate(files):
        Image.new("RGB", (64, 64), (20 * number,) * 3).save(file)
    for at in (0, 3):
        files[at].write_bytes(b"no image")
    return load_dataset(tmp_path, "test")


@pytest.mark.parametrize("raw", [True, False])
def test_what_is_drawn_is_what_was_judged(broken, raw):
    model = made_model()
    judged = prepare(broken, model.preprocessing, on_error="skip", progress=False)
    evaluation = evaluate(model, judged, **PLAIN)
    assert len(evaluation.samples) == 10
    shown = galleries({"a": model}, broken if raw else judged, {"a": evaluation}, count=10)
    rows = shown["Images spread over the dataset"]
    assert [row.file.split(",")[0] for row in rows] == [f"row {sample['index']}" for sample in evaluation.samples]
    for row, sample in zip(rows, evaluation.samples):
        grey = np.asarray(row.picture)[:, :, 0]
        assert abs(np.median(grey) - 20 * sample["index"]) <= 1, "the picture is the judged image"
        assert row.cells[0].prediction == shapes.CLASSES[sample["prediction"]]


def test_pictures_of_another_dataset_are_not_drawn_beside_the_values(data, plain):
    models, evaluations = {"plain": made_model()}, {"plain": plain}
    turned = data.select(range(len(data) - 1, -1, -1))
    with pytest.raises(
        ValueError, match="not the one that the evaluations are of: row 0 has another label than was judged"
    ):
        galleries(models, turned, evaluations)
    with pytest.raises(ValueError, match="are of: it has 5 images, and row 6 was judged"):
        galleries(models, data.select(range(5)), evaluations)


def test_pictures_pass_over_what_cannot_be_read(broken, plain):
    model = made_model()
    items = prepare(broken, model.preprocessing)
    assert len(_spread(items, 12)) == 12 and len(_spread(items, 3)) == 3


def test_a_report_is_written_whatever_happens_to_its_pictures(data, plain, tmp_path, monkeypatch):
    from attention_refine import recipe

    def fails(*_):
        raise OSError("the disk is gone")

    fails.__name__ = "galleries"
    monkeypatch.setitem(recipe.report.__globals__, "galleries", fails)
    done = recipe.Run(made_model(), [], tmp_path, tmp_path / "report.html", plain, data)
    with pytest.warns(UserWarning, match="no pictures of galleries: the disk is gone"):
        page = recipe.report({"plain": done}, tmp_path / "report.html", "Title")
    assert "Accuracy" in page.read_text()


def test_no_temporary_file_is_left_behind(tmp_path, plain, monkeypatch):
    import os

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="the disk is full"):
        plain.to_json(tmp_path / "evaluation.json")
    assert list(tmp_path.iterdir()) == []


def test_explain_leaves_no_empty_picture(tmp_path, monkeypatch):
    from attention_refine.cli import main

    model = made_model("abn")
    model.save_pretrained(tmp_path / "model")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    out = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["explain", str(tmp_path / "model"), str(tmp_path / "a.png"), "--output", str(out)]) == 1
    assert list(out.iterdir()) == []
