"""Last-layer retraining: the fit against its optimum and scikit-learn, its drawings, and what it mends and leaves alone."""

from __future__ import annotations

import copy

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import BY_NAME

import attention_refine as ar
from attention_refine import shapes
from attention_refine.mending import retraining
from attention_refine.mending.retraining import PENALTIES, logistic_regression, retrain_classifier

SIDE = 64
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def base() -> ar.RefinedModel:
    return wrapped("resnet18")


def wrapped(name: str, head=None, **options) -> ar.RefinedModel:
    torch.manual_seed(2)
    size = {"input_size": [3, SIDE, SIDE], "crop_pct": 1.0}
    return ar.wrap(BY_NAME[name].make(), head, labels=list(shapes.CLASSES), preprocessing=size, **options).eval()


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    """Sixty images in twelve groups, one class each, of which every second is three times as large."""
    made = shapes.make("train", 60, size=SIDE)
    labels = list(made["label"])
    names = [f"{shapes.CLASSES[label]}, {'rare' if n % 4 == 0 else 'usual'}" for n, label in enumerate(labels)]
    index = sorted(set(names))
    made = made.select_columns(["image", "label"])
    return made.add_column("group", [index.index(n) for n in names], feature=datasets.ClassLabel(names=index))


def data(n: int = 80, size: int = 6, classes: int = 3):
    torch.manual_seed(1)
    vectors = torch.randn(n, size, dtype=torch.float64)
    labels = (vectors @ torch.randn(size, classes, dtype=torch.float64) + torch.randn(n, classes)).argmax(1)
    return vectors, labels


@pytest.mark.parametrize("l2", PENALTIES)
def test_the_fit_is_the_minimum(l2):
    vectors, labels = data()
    weight, bias = (each.requires_grad_() for each in logistic_regression(vectors, labels, 3, l2))
    loss = F.cross_entropy(vectors @ weight.T + bias, labels) + l2 / 2 * weight.square().sum()
    gradients = torch.autograd.grad(loss, (weight, bias))  # convex: a zero gradient is the minimum
    assert max(float(each.abs().max()) for each in gradients) < 1e-6


@pytest.mark.parametrize("bias", [True, False])
def test_the_fit_is_scikit_learn_s(bias):
    linear = pytest.importorskip("sklearn.linear_model")
    vectors, labels = data()
    found = logistic_regression(vectors, labels, 3, 0.01, bias=bias)
    model = linear.LogisticRegression(C=1 / (0.01 * len(labels)), fit_intercept=bias, tol=1e-10, max_iter=10000)
    model.fit(vectors.numpy(), labels.numpy())
    np.testing.assert_allclose(found[0].numpy(), model.coef_, atol=1e-4)
    if bias:
        np.testing.assert_allclose(found[1] - found[1].mean(), model.intercept_ - model.intercept_.mean(), atol=1e-4)
    else:
        assert not found[1].any()


@pytest.mark.parametrize("name", ["resnet18", "vit-token", "convnext"])
def test_the_classifier_is_the_standardised_fit_on_the_embeddings(name, rows):
    model = wrapped(name)
    retrain_classifier(model, rows, balance=None, l2=0.05, **QUIET)
    items = ar.data.prepare(rows, model.preprocessing)
    batch = ar.data.collate([items[row] for row in range(60)])
    with torch.no_grad():
        vectors = model.embed(batch["pixel_values"]).double()
        logits = model(batch["pixel_values"]).logits
    middle, spread = vectors.mean(0), vectors.std(0, unbiased=False)
    weight, bias = logistic_regression((vectors - middle) / spread, batch["labels"], 6, 0.05)
    expected = ((vectors - middle) / spread) @ weight.T + bias
    torch.testing.assert_close(logits.double(), expected, rtol=1e-3, atol=1e-3)


def test_the_rest_of_the_network_stays_as_it_is(base, rows):
    model = copy.deepcopy(base)
    found = retrain_classifier(model, rows, l2=0.1, **QUIET)
    before = base.state_dict()
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert changed == ["backbone.net.fc.weight", "backbone.net.fc.bias"]
    assert not model.training and found.images == 60 and found.scores == {}
    again = copy.deepcopy(base)
    retrain_classifier(again, rows, l2=0.1, **QUIET)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))


def test_every_group_is_drawn_equally_often(base, rows, monkeypatch):
    drawn = []
    real = retraining.logistic_regression

    def watched(vectors, labels, classes, l2, **options):
        drawn.append(labels)
        return real(vectors, labels, classes, l2, **options)

    monkeypatch.setattr(retraining, "logistic_regression", watched)
    found = retrain_classifier(copy.deepcopy(base), rows, l2=0.1, drawings=4, **QUIET)
    groups = list(rows["group"])
    sizes = [groups.count(group) for group in set(groups)]
    assert found.per_group == min(sizes) < max(sizes)
    assert len(drawn) == 4 and all(len(labels) == min(sizes) * len(sizes) for labels in drawn)
    drawn.clear()
    found = retrain_classifier(copy.deepcopy(base), rows, balance="class", l2=0.1, **QUIET)
    smallest = min(list(rows["label"]).count(c) for c in range(6))
    assert all(labels.bincount().tolist() == [smallest] * 6 for labels in drawn) and found.per_group == smallest
    drawn.clear()
    assert retrain_classifier(copy.deepcopy(base), rows, balance=None, l2=0.1, **QUIET).per_group is None
    assert len(drawn) == 1 and len(drawn[0]) == 60


def test_the_penalty_is_chosen_on_what_was_held_out(base, rows):
    for balance in ("group", "class", None):
        found = retrain_classifier(copy.deepcopy(base), rows, balance=balance, drawings=2, **QUIET)
        assert list(found.scores) == list(PENALTIES) and all(0 <= score <= 1 for score in found.scores.values())
        best = max(found.scores.values())
        assert found.l2 == next(penalty for penalty in PENALTIES if found.scores[penalty] == best)


def test_it_mends_a_classifier_that_leans_on_a_shortcut(monkeypatch):
    """Features with the class and a cue that goes with it 95 times in 100, more strongly."""
    generator = torch.Generator().manual_seed(3)

    def drawn(n: int, holds: float):
        labels = torch.randint(0, 2, (n,), generator=generator)
        cue = torch.where(torch.rand(n, generator=generator) < holds, labels, 1 - labels)
        vectors = torch.randn(n, 8, generator=generator)
        vectors[:, 0] = 1.5 * (2 * labels - 1) + vectors[:, 0]
        vectors[:, 1] = 3.0 * (2 * cue - 1) + 0.3 * vectors[:, 1]
        return vectors, labels, (2 * labels + cue).tolist()

    class Rows(torch.utils.data.Dataset):
        pass

    model = ar.wrap(BY_NAME["resnet18"].build(), None, num_labels=2, preprocessing={"input_size": [3, 64, 64]})
    layer = model.backbone.net.fc = torch.nn.Linear(8, 2)
    train, lying = drawn(800, 0.95), drawn(800, 0.0)
    dataset = Rows()
    dataset.groups = train[2]
    monkeypatch.setattr(retraining, "embed_dataset", lambda *args, **options: train[:2])

    def accuracy() -> float:
        with torch.no_grad():
            return float((layer(lying[0]).argmax(1) == lying[1]).float().mean())

    retrain_classifier(model, dataset, balance=None, l2=0.01, **QUIET)
    leaning = accuracy()
    found = retrain_classifier(model, dataset, balance="group", **QUIET)
    assert leaning < 0.6 and accuracy() > 0.85 and max(found.scores.values()) > 0.7


def test_with_a_head_its_map_goes_on_acting(rows):
    model = wrapped("resnet18", ar.AttentionBranch(fade_in_steps=0, map_init="normal"))
    retrain_classifier(model, rows, balance="class", l2=0.01, **QUIET)
    items = ar.data.prepare(rows, model.preprocessing)
    batch = ar.data.collate([items[row] for row in range(60)])
    with torch.no_grad():
        right = (model(batch["pixel_values"]).logits.argmax(1) == batch["labels"]).float().mean()
        other = model(batch["pixel_values"], maps=torch.zeros(60, 1, 4, 4)).logits
    assert right > 0.6 and not torch.equal(other, model(batch["pixel_values"]).logits)


def test_what_cannot_be_is_refused_in_a_sentence(base, rows):
    plain = rows.remove_columns("group")
    holes = plain.add_column("group", [None, *list(rows["group"])[1:]], feature=rows.features["group"])
    several = plain.remove_columns("label").add_column(
        "labels", [[n % 6] for n in range(60)], feature=datasets.List(rows.features["label"])
    )
    for dataset, options, said in (
        (plain, {}, "balance='group' needs the group of each image, and the dataset has no column 'group'"),
        (holes, {}, "image 0 has no group: fill the column 'group'"),
        (several, {"balance": None}, "several labels an image"),
        (rows.to_iterable_dataset(), {}, "a stream cannot be drawn from"),
        (plain.select([0, 1]), {"balance": "class"}, "a group has one image"),
        (rows, {"balance": "cue"}, "balance='cue' is not one of 'group', 'class', None"),
        (rows, {"l2": 0}, "l2 must be above 0, or 'auto', got 0"),
        (rows, {"drawings": 0}, "drawings must be at least 1, got 0"),
        (rows, {"holdout": 1.0}, "holdout must be between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=said):
            retrain_classifier(copy.deepcopy(base), dataset, **options, **QUIET)
    for name, head, said in (
        ("resnet18", "brnpa", "the head 'brnpa' classifies its own parts"),
        ("deit-distilled", None, "has several classifiers"),
    ):
        with pytest.raises(ValueError, match=said):
            retrain_classifier(wrapped(name, head), rows, **QUIET)
