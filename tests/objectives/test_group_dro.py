"""Group DRO against the paper's algorithm written out, its weights between steps, and two processes against one."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from cases import BY_NAME, CLASSES
from processes import TESTS, in_two_processes

import attention_refine as ar

LABELS = torch.tensor([1, 4, 0, 2, 1])
GROUPS = torch.tensor([0, 2, 0, 1, 2])


def wrap(head: str | None = None, **options) -> ar.RefinedModel:
    model = BY_NAME["resnet18"].wrap(head and ar.AttentionBranch(fade_in_steps=0, map_init="normal"))
    model.add_objective(ar.GroupDRO(**options))
    return model


def images(count: int = 5) -> torch.Tensor:
    return BY_NAME["resnet18"].images(count)


def still(model: ar.RefinedModel) -> ar.RefinedModel:
    """Training mode for the objective alone, so that an image's loss does not depend on the others."""
    model.eval()
    model.training = model.objectives["group_dro"].training = True
    return model


@pytest.mark.parametrize("head", [None, "abn"])
@pytest.mark.parametrize("several", [False, True])
def test_the_loss_is_algorithm_1_written_out(head, several):
    model = still(wrap(head, step_size=0.5, groups=4))
    labels = F.one_hot(LABELS, CLASSES).float() if several else LABELS
    q = {0: 1 / 3, 1: 1 / 3, 2: 1 / 3}
    for step in range(3):
        output = model(images() * (1 + 0.2 * step), labels=labels, group=GROUPS, smoothing=0.1)
        each = []
        for n in range(5):
            loss = 0.0
            for logits in (output.logits, *output.aux_logits.values()):
                if several:
                    y, z = labels[n] * 0.9 + 0.05, logits[n].double()
                    loss = loss - (y * z.sigmoid().log() + (1 - y) * (-z).sigmoid().log()).mean()
                else:
                    p = logits[n].double().log_softmax(0)
                    loss = loss - 0.9 * p[LABELS[n]] - 0.1 * p.mean()
            each.append(loss)
        group = {g: sum(each[n] for n in range(5) if GROUPS[n] == g) / int((g == GROUPS).sum()) for g in q}
        q = {g: q[g] * float(torch.exp(0.5 * group[g].detach())) for g in q}
        q = {g: value / sum(q.values()) for g, value in q.items()}
        expected = sum(q[g] * group[g] for g in q)
        torch.testing.assert_close(output.losses["group_dro"].double(), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(output.loss.double(), expected, rtol=1e-5, atol=1e-6)  # in the place of the task's
        found = model.objectives["group_dro"].weights
        torch.testing.assert_close(found[:3], torch.tensor(list(q.values())).double(), rtol=1e-5, atol=1e-6)
        assert found[3] == 0
        weights = [p for p in model.parameters() if p.ndim > 1]
        mine = torch.autograd.grad(output.loss, weights, retain_graph=True, allow_unused=True)
        theirs = torch.autograd.grad(expected, weights, allow_unused=True)
        for one, other in zip(mine, theirs):
            if other is not None:
                assert (one - other).abs().max() <= 1e-4 * other.abs().max() + 1e-7  # float32, in another order
        torch.testing.assert_close(output.measures["group_dro_worst"], max(group.values()).detach().float())


def test_without_a_step_size_every_group_counts_alike():
    output = still(wrap(step_size=0.0))(images(), labels=LABELS, group=GROUPS)
    each = F.cross_entropy(output.logits, LABELS, reduction="none")
    expected = torch.stack([each[g == GROUPS].mean() for g in range(3)]).mean()
    torch.testing.assert_close(output.loss, expected)


def test_a_group_gets_its_weight_when_it_comes():
    model = still(wrap(step_size=1.0))
    objective = model.objectives["group_dro"]
    assert objective.weights.sum() == 0
    first = model(images(2), labels=LABELS[:2], group=torch.tensor([5, 5])).losses["task"]
    assert objective.weights[5] == 1 and objective.weights.sum() == 1
    each = F.cross_entropy(model(images(), labels=LABELS, group=GROUPS).logits, LABELS, reduction="none")
    gains = [each[g == GROUPS].mean() for g in range(3)]
    expected = torch.stack([*gains, first]).double().softmax(0)  # of 0, 1, 2 and 5: each lost once
    torch.testing.assert_close(objective.weights[[0, 1, 2, 5]], expected.detach(), rtol=1e-5, atol=1e-7)
    assert (objective.weights > 0).tolist()[:6] == [True, True, True, False, False, True]
    torch.testing.assert_close(objective.weights.sum(), torch.tensor(1.0).double())


def test_long_runs_keep_finite_weights():
    model = still(wrap(step_size=100.0))
    for _ in range(20):
        output = model(images() * 5, labels=LABELS, group=GROUPS)
    assert output.loss.isfinite() and model.objectives["group_dro"].log_weights.isfinite().all()
    assert model.objectives["group_dro"].weights.max() == 1


def test_evaluation_moves_nothing_and_needs_no_groups():
    model = wrap()
    state = copy.deepcopy(model.state_dict())
    model.eval()(images(), labels=LABELS, group=GROUPS)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    output = model(images(), labels=LABELS)
    torch.testing.assert_close(output.losses["group_dro"], output.losses["task"])
    holes = model(images(), labels=LABELS, group=torch.tensor([0, -1, 0, 1, 1]))
    torch.testing.assert_close(holes.losses["group_dro"], holes.losses["task"])


def test_the_weights_are_saved_and_do_nothing_at_inference(tmp_path):
    model = wrap(step_size=0.5, groups=8)
    still(model)(images(), labels=LABELS, group=GROUPS)
    model.eval().save_pretrained(tmp_path)
    loaded = ar.load(tmp_path)
    assert torch.equal(loaded.objectives["group_dro"].weights, model.objectives["group_dro"].weights)
    assert torch.equal(loaded(images()).logits, model(images()).logits)
    one, other = (still(m)(images(), labels=LABELS, group=GROUPS).loss for m in (model, loaded))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    "columns, said",
    [
        ({}, "the batch has no column 'group'"),
        (
            {"group": torch.tensor([0, 1, -1, 0, 0]), "index": torch.arange(7, 12)},
            "image 9 has no group: fill the column",
        ),
        ({"group": torch.tensor([0, 1, 0, 70, 0])}, "image 3 has group 70, and there is room for 64: set groups=71"),
    ],
)
def test_what_has_no_group_is_refused_with_its_row(columns, said):
    with pytest.raises(ValueError, match=said):
        wrap().train()(images(), labels=LABELS, **columns)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(step_size=-1), "step_size must be 0 or more, got -1"),
        (dict(groups=0), "groups must be at least 1, got 0"),
        (dict(weight=0.0), "weight must be above 0, for nothing else learns the task"),
        (dict(adjustment=1.0), "GroupDRO has no option 'adjustment'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        ar.GroupDRO(**options)


def test_mixed_precision_trains():
    model = wrap("abn").train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images(), labels=LABELS, group=GROUPS)
    output.loss.backward()
    assert output.loss.dtype == torch.float32 and output.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_two_processes_equal_one(tmp_path):
    in_two_processes(TESTS / "objectives" / "group_dro_runs.py", tmp_path)
    found = torch.load(tmp_path / "two.pt", weights_only=True)
    from group_dro_runs import steps

    expected = steps(slice(None))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
