"""Accuracy by group against numbers worked out by hand, holes, and two processes against one."""

from __future__ import annotations

import math

import pytest
import torch

from attention_refine import metrics

# Three groups: right 3 of 4, 1 of 2, 0 of 1; the last image's group is not known.
RIGHT = torch.tensor([1, 1, 1, 0, 1, 0, 0, 1])
GROUPS = torch.tensor([0, 0, 0, 0, 1, 1, 2, -1])
LABELS = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
LOGITS = torch.nn.functional.one_hot(torch.where(RIGHT == 1, LABELS, 1 - LABELS), 2).float()


def test_hand_computed():
    assert metrics.group_accuracy(LOGITS, LABELS, GROUPS).tolist() == [0.75, 0.5, 0.0]
    assert float(metrics.worst_group_accuracy(LOGITS, LABELS, GROUPS)) == 0.0
    assert float(metrics.group_gap(LOGITS, LABELS, GROUPS)) == 0.75
    first = GROUPS < 2
    assert float(metrics.worst_group_accuracy(LOGITS[first], LABELS[first], GROUPS[first])) == 0.5
    assert float(metrics.group_gap(LOGITS[first], LABELS[first], GROUPS[first])) == 0.25
    # Several labels an image: the first class is among them, or not.
    several = torch.nn.functional.one_hot(LABELS, 2)
    assert metrics.group_accuracy(LOGITS, several, GROUPS).tolist() == [0.75, 0.5, 0.0]


def test_any_value_by_group_leaves_out_what_is_not_known():
    values = torch.tensor([0.2, 0.4, math.nan, 0.9])
    found = metrics.group_figures(values, torch.tensor([1, 1, 1, -1]), num_groups=3)
    assert found.means.isnan().tolist() == [True, False, True] and float(found.means[1]) == pytest.approx(0.3)
    assert float(found.worst) == pytest.approx(0.3) and float(found.gap) == 0
    nothing = metrics.group_figures(values, torch.full((4,), -1))
    assert len(nothing.means) == 0 and nothing.worst.isnan() and nothing.gap.isnan()


def test_one_group_is_plain_accuracy():
    one = torch.zeros(8, dtype=torch.long)
    assert torch.equal(metrics.worst_group_accuracy(LOGITS, LABELS, one), metrics.accuracy(LOGITS, LABELS))
    assert float(metrics.group_gap(LOGITS, LABELS, one)) == 0


def test_batches_give_what_the_whole_gives():
    metric = metrics.GroupAccuracy()
    for rows in torch.arange(8).split(3):
        metric.update(LOGITS[rows], LABELS[rows], GROUPS[rows])
    found = metric.compute()
    assert found["group_accuracy"].tolist() == [0.75, 0.5, 0.0]
    assert float(found["worst_group_accuracy"]) == 0 and float(found["group_gap"]) == 0.75
    empty = metrics.GroupAccuracy()
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert empty.compute()["worst_group_accuracy"].isnan()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"values must be \(B,\) and groups \(B,\) int64"):
        metrics.group_figures(RIGHT.float(), GROUPS[:3])
    with pytest.raises(ValueError, match="groups must be 0 to 1, or -1 where unknown, got -1 to 2"):
        metrics.group_figures(RIGHT.float(), GROUPS, num_groups=2)
    with pytest.raises(ValueError, match="got -7 to 0"):
        metrics.group_accuracy(LOGITS[:2], LABELS[:2], torch.tensor([0, -7]))
