"""The triplet loss: a float64 loop over anchors, laws, the embedding it reads, batches that hold pairs, then bad input."""

from __future__ import annotations

import math

import pytest
import torch
from cases import BY_NAME, CASES
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import attention_refine as ar
from attention_refine.objectives.triplet import batch_hard
from attention_refine.training import TrainingError
from attention_refine.training.batches import BatchOrder

CASE = BY_NAME["resnet18"]


def by_hand(vectors, labels, margin) -> float:
    """Equation 5, an anchor at a time."""
    losses = []
    for a, (vector, label) in enumerate(zip(vectors, labels)):
        far = [math.dist(vector, v) for i, (v, c) in enumerate(zip(vectors, labels)) if c == label and i != a]
        near = [math.dist(vector, v) for v, c in zip(vectors, labels) if c != label]
        if far and near:
            gap = max(far) - min(near)
            losses.append(math.log1p(math.exp(gap)) if margin == "soft" else max(0.0, margin + gap))
    return sum(losses) / len(losses) if losses else 0.0


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    margin=st.sampled_from([0.0, 0.3, 2.0, "soft"]),
    seed=st.integers(0, 99),
)
def test_equals_a_loop(labels, margin, seed):
    vectors = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    loss, measures = batch_hard(vectors, torch.tensor(labels), margin)
    assert loss.item() == pytest.approx(by_hand(vectors.tolist(), labels, margin), abs=1e-9)
    pairs = [labels.count(label) > 1 and len(set(labels)) > 1 for label in labels]
    assert measures["triplet_anchors"].item() == pytest.approx(sum(pairs) / len(pairs))


def test_numbers_by_hand():
    """On a line: 0 and 1 of one class, 3 of another: gaps 1 - 3, 1 - 2; the third has no partner."""
    vectors, labels = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 0, 1])
    loss, measures = batch_hard(vectors, labels, 1.5)
    assert loss.item() == pytest.approx((0.0 + 0.5) / 2)
    assert measures["triplet_anchors"].item() == pytest.approx(2 / 3) and measures["triplet_violated"] == 0
    # At length 1 (nothing stays nothing) they stand at 0, 1, 1: gaps 1 - 1, 1 - 0.
    assert batch_hard(vectors * 7, labels, 0.3, cosine=True)[0].item() == pytest.approx((0.3 + 1.3) / 2)


def test_gradient_is_that_of_differences():
    vectors = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    for margin in (5.0, "soft"):
        assert torch.autograd.gradcheck(lambda x, m=margin: batch_hard(x, labels, m)[0], vectors)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]], ids=["one class", "no pairs"])
def test_nothing_to_compare_is_no_loss(labels):
    vectors = torch.randn(3, 4, requires_grad=True)
    loss, _ = batch_hard(vectors, torch.tensor(labels))
    loss.backward()
    assert loss == 0 and vectors.grad.eq(0).all()


def test_copies_of_an_image_have_a_finite_gradient():
    vectors = torch.ones(4, 3, requires_grad=True)
    loss, _ = batch_hard(vectors, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(0.3) and vectors.grad.isfinite().all()


@given(order=st.permutations(range(6)), shift=st.floats(-3, 3))
def test_neither_order_nor_place_counts(order, shift):
    vectors, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 2, 2])
    wanted = batch_hard(vectors, labels)[0]
    torch.testing.assert_close(batch_hard(vectors[list(order)] + shift, labels[list(order)])[0], wanted)


# in a model ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [None, "abn", "brnpa"])
@pytest.mark.parametrize(
    "name", [case.name for case in CASES if case.name in ("resnet18", "convnext", "vit-avg", "hf-swin")]
)
def test_it_reads_what_embed_gives_in_the_pass_that_is_made_anyway(name, head):
    case = BY_NAME[name]
    model = case.wrap(head, objectives=[ar.Triplet(margin=1.0)])
    pixels, labels = case.images(6), torch.tensor([0, 0, 1, 1, 2, 2])
    plain, passes = case.wrap(head), []
    for each in (plain, model):
        each(pixels, labels=labels)
        first = next(module for module in each.backbone.net.modules() if isinstance(module, nn.Conv2d))
        handle = first.register_forward_pre_hook(lambda *_, each=each: passes.append(id(each)))
        output = each(pixels, labels=labels)
        handle.remove()
    assert passes.count(id(model)) == passes.count(id(plain)) > 0, "no pass more than without it"
    torch.testing.assert_close(output.losses["triplet"], batch_hard(model.embed(pixels), labels, 1.0)[0])
    assert output.embedding is None
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_it_pulls_the_classes_apart(tmp_path):
    model = CASE.wrap(None, objectives=[ar.Triplet(margin="soft")])
    images, labels = CASE.images(8), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    first = None
    for _ in range(12):
        output = model.train()(images, labels=labels)
        first = output.losses["triplet"].item() if first is None else first
        optimizer.zero_grad()
        output.losses["triplet"].backward()
        optimizer.step()
    assert output.losses["triplet"].item() < 0.5 * first
    assert output.measures["triplet_violated"] <= 0.25
    assert model.eval()(images).loss is None, "without labels there is nothing to compare"


# batches that hold pairs ---------------------------------------------------------------------------------------------


@given(
    classes=st.lists(st.integers(0, 4), min_size=8, max_size=40),
    together=st.sampled_from([2, 3, 4]),
    processes=st.sampled_from([1, 2]),
)
def test_images_of_a_class_follow_each_other(classes, together, processes):
    order = BatchOrder(len(classes), together, processes, seed=3, classes=classes, together=together)
    rows = order.shuffled(1)
    assert sorted(rows) == list(range(len(classes))), "every image once"
    whole = sum(classes.count(each) // together for each in set(classes))
    for at in range(whole):
        assert len({classes[row] for row in rows[at * together : (at + 1) * together]}) == 1
    assert rows == order.shuffled(1) and (len(set(map(tuple, map(order.shuffled, range(9))))) > 1)
    full = order.batches(1, 0)[: whole // processes]
    assert all(len({classes[row] for row in batch}) == 1 for batch in full), "a batch of one group"


class Pictures(torch.utils.data.Dataset):
    def __init__(self, labels=(0, 1, 2) * 6):
        self.labels = list(labels)
        self.seen = []

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, row):
        self.seen.append(row)
        return {"pixel_values": torch.randn(3, 32, 32), "labels": torch.tensor(self.labels[row])}


def run(tmp_path, data, **options):
    config = ar.TrainingConfig(output_dir=str(tmp_path), epochs=1, progress=False, **{"batch_size": 6, **options})
    model = ar.wrap(nn_net(), objectives=["triplet"], preprocessing={"input_size": [3, 32, 32]})
    return ar.finetune(model, data, config, collate=torch.utils.data.default_collate)


def nn_net() -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3)


def test_every_image_of_such_a_batch_is_an_anchor(tmp_path):
    result = run(tmp_path, Pictures(), images_of_a_class=2)
    assert result.history[0]["train/triplet_anchors"] == 1


def test_prepared_data_says_its_classes_without_reading_images():
    shapes = ar.data.load_dataset("shapes", "validation")
    prepared = ar.data.prepare(shapes, CASE.wrap(None).preprocessing)
    assert prepared.labels[:5] == [int(prepared[row]["labels"]) for row in range(5)]
    assert len(prepared.labels) == len(prepared)


# bad input -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_grouped_is_refused(tmp_path):
    with pytest.raises(ValueError, match="images_of_a_class=4 does not divide batch_size=6"):
        run(tmp_path, Pictures(), images_of_a_class=4)

    class Silent(Pictures):
        def __init__(self):
            super().__init__()
            self.known, self.labels = self.labels, None

        def __len__(self):
            return len(self.known)

    with pytest.raises(TrainingError, match="needs a dataset that says its classes"):
        run(tmp_path, Silent(), images_of_a_class=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"margin": -1}, "margin must be 0 or more"),
        ({"margin": "hard"}, "margin.*soft"),
        ({"distance": "manhattan"}, "distance.*euclidean"),
        ({"weight": -1}, "weight must be 0 or more"),
        ({"mining": "all"}, "mining"),
    ],
)
def test_bad_options_are_refused(options, said):
    with pytest.raises((ValueError, TypeError), match=said):
        ar.Triplet(**options)


def test_several_labels_an_image_are_refused():
    model = CASE.wrap(None, objectives=["triplet"])
    with pytest.raises(ValueError, match="one class"):
        model(CASE.images(3), labels=torch.eye(3, model.num_labels))


def test_a_network_without_an_embedding_is_refused():
    model = BY_NAME["resnet18"].wrap(ar.AttentionBranch(maps="per_class"), objectives=["triplet"])
    with pytest.raises(ValueError, match="a map for each class"):
        model(CASE.images(4), labels=torch.tensor([0, 0, 1, 1]))
