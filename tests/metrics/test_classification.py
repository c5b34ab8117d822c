"""Classification measures against scikit-learn and hand-written VOC average precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention_refine import metrics

sk = pytest.importorskip("sklearn.metrics")


@pytest.fixture
def single():
    return torch.randn(40, 7), torch.randint(7, (40,))


@pytest.fixture
def multi():
    labels = (torch.rand(40, 5) > 0.6).float()
    return torch.randn(40, 5) + labels, labels


def test_accuracy(single):
    logits, labels = single
    assert metrics.accuracy(logits, labels).item() == pytest.approx(sk.accuracy_score(labels, logits.argmax(1)))
    top5 = sk.top_k_accuracy_score(labels, logits.numpy(), k=5, labels=range(7))
    assert metrics.top5_accuracy(logits, labels).item() == pytest.approx(top5)
    assert metrics.correct(logits, labels).shape == (40,)
    assert metrics.accuracy(logits, labels, top_k=99) == 1


def test_f1(single, multi):
    for average in ("macro", "micro"):
        expected = sk.f1_score(single[1], single[0].argmax(1), average=average)
        assert metrics.f1(*single, average).item() == pytest.approx(expected, abs=1e-6)
        expected = sk.f1_score(multi[1], multi[0].sigmoid() > 0.5, average=average)
        assert metrics.f1(*multi, average).item() == pytest.approx(expected, abs=1e-6)
    each = sk.f1_score(single[1], single[0].argmax(1), average=None)
    np.testing.assert_allclose(metrics.f1(*single, "none").numpy(), each, atol=1e-6)


def test_f1_of_absent_classes(single, multi):
    logits, labels = single[0][:, :6], single[1] % 4
    logits[:, 5] = -9  # neither a label nor a prediction
    expected = sk.f1_score(labels, logits.argmax(1), average="macro")
    assert metrics.f1(logits, labels).item() == pytest.approx(expected, abs=1e-6)
    multi[0][:, 2], multi[1][:, 2] = -9, 0
    expected = sk.f1_score(multi[1], multi[0] > 0, average="macro", zero_division=0)
    assert metrics.f1(*multi).item() == pytest.approx(expected, abs=1e-6)


def test_average_precision(multi):
    logits, labels = multi
    for average in ("macro", "weighted", "micro"):
        expected = sk.average_precision_score(labels, logits, average=average)
        assert metrics.average_precision(logits, labels, average).item() == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(
        metrics.average_precision(logits, labels, "none").numpy(),
        sk.average_precision_score(labels, logits, average=None),
        atol=1e-6,
    )


def test_average_precision_keeps_order_of_large_logits(multi):
    logits, labels = multi
    torch.testing.assert_close(
        metrics.average_precision(logits * 5 + 15, labels), metrics.average_precision(logits, labels)
    )


def test_absent_class(multi):
    logits, labels = multi
    labels[:, 3] = 0
    each = metrics.average_precision(logits, labels, "none")
    assert each.isnan().tolist() == [False, False, False, True, False]
    assert metrics.average_precision(logits, labels).item() == pytest.approx(each.nanmean().item())
    assert metrics.voc_average_precision(logits, labels).isnan().tolist() == each.isnan().tolist()
    assert metrics.average_precision(logits, torch.zeros_like(labels)).isnan()


def voc_loop(scores, labels, points):
    thresholds = sorted(set(scores), reverse=True)
    curve = []
    for t in thresholds:
        shown = [y for s, y in zip(scores, labels) if s >= t and y in (0, 1)]
        hits = sum(y for y in shown if y == 1)
        curve.append((hits / sum(y == 1 for y in labels), hits / max(len(shown), 1)))
    if points:
        asked = np.linspace(0, 1, points)
        return np.mean([max([p for r, p in curve if r >= a - 1e-9], default=0) for a in asked])
    area, last = 0.0, 0.0
    for i, (recall, _) in enumerate(curve):
        area += (recall - last) * max(p for _, p in curve[i:])
        last = recall
    return area


@pytest.mark.parametrize("points", [None, 11])
def test_voc_average_precision(multi, points):
    logits, labels = multi
    logits[:, 1] = logits[:, 1].round()  # ties
    labels[:6, 2] = 255  # difficult
    ours = metrics.voc_average_precision(logits, labels, points)
    for c in range(5):
        expected = voc_loop(logits[:, c].tolist(), labels[:, c].tolist(), points)
        assert ours[c].item() == pytest.approx(expected, abs=1e-6)


def test_voc_by_hand():
    scores, labels = torch.tensor([[4.0], [3.0], [2.0], [1.0]]), torch.tensor([[1], [0], [1], [0]])
    assert metrics.voc_average_precision(scores, labels).item() == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert metrics.voc_average_precision(scores, labels, 11).item() == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_multi_label_accuracies(multi):
    logits, labels = multi
    first = labels.gather(1, logits.argmax(1, keepdim=True))
    assert metrics.accuracy(logits, labels).item() == pytest.approx(first.mean().item())
    expected = ((logits > 0) == (labels > 0)).float().mean(0)
    torch.testing.assert_close(metrics.attribute_accuracy(logits, labels), expected)


def test_class_means():
    values, labels = torch.tensor([1.0, 0.0, torch.nan, 1.0, torch.nan]), torch.tensor([0, 0, 0, 2, 3])
    means = metrics.class_means(values, labels, 4)
    assert means[[0, 2]].tolist() == [0.5, 1.0] and means[[1, 3]].isnan().all()
    torch.testing.assert_close(metrics.class_means(values, torch.eye(4)[labels], 4), means, equal_nan=True)
    with pytest.raises(ValueError, match="classes"):
        metrics.class_means(values, torch.eye(4)[labels], 5)


def test_all_scores(single, multi):
    assert set(metrics.classification_scores(*single)) == {"accuracy", "top5_accuracy", "f1_macro", "f1_micro"}
    assert set(metrics.classification_scores(*multi)) == {
        "accuracy", "f1_macro", "f1_micro", "map_macro", "map_weighted", "map_voc", "attribute_accuracy",
    }  # fmt: skip


def test_bad_input(single):
    logits, labels = single
    for call in (metrics.accuracy, metrics.f1, metrics.average_precision, metrics.voc_average_precision):
        with pytest.raises(ValueError, match="logits"):
            call(logits, labels[:3])
        with pytest.raises(ValueError, match="logits"):
            call(logits, labels.float())
    with pytest.raises(ValueError, match="average"):
        metrics.f1(logits, labels, "weighted")
    with pytest.raises(ValueError, match="average"):
        metrics.average_precision(logits, labels, "samples")
    with pytest.raises(ValueError, match="top_k"):
        metrics.accuracy(logits, labels, top_k=0)
    with pytest.raises(ValueError, match="points"):
        metrics.voc_average_precision(logits, labels, 1)
    with pytest.raises(ValueError, match="multi-hot"):
        metrics.attribute_accuracy(logits, labels)
