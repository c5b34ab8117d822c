"""DAUC, IAUC, DC, IC and the confidence measures against loops, scipy and pytorch-grad-cam."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attention_refine import metrics


def cell_curve(net, image, map_, target, fill, insert):
    """One image, one cell at a time."""
    net = copy.deepcopy(net).double().eval()
    image, fill = image.double(), fill.double().expand_as(image)
    h, w = map_.shape
    tall, wide = image.shape[1] // h, image.shape[2] // w
    shown = (fill if insert else image).clone()
    source = image if insert else fill
    points = []
    with torch.no_grad():
        points.append(net(shown[None]).softmax(1)[0, target].item())
        for cell in np.argsort(-map_.flatten().numpy(), kind="stable"):
            r, c = (cell // w) * tall, (cell % w) * wide
            shown[:, r : r + tall, c : c + wide] = source[:, r : r + tall, c : c + wide]
            points.append(net(shown[None]).softmax(1)[0, target].item())
    return points


@pytest.mark.parametrize("insert", [False, True])
def test_cellwise_equals_a_loop(net, images, maps, insert):
    stats = pytest.importorskip("scipy.stats")
    result = (metrics.iauc if insert else metrics.dauc)(net, images, maps)
    late = (metrics.iauc if insert else metrics.dauc)(net, images, maps, include_clean=False)
    box = 2 * (round(20 / 3.7) // 2) + 1
    for sample in range(4):
        fill = F.avg_pool2d(images[sample], box, 1, box // 2) if insert else torch.zeros(1)
        expected = cell_curve(net, images[sample], maps[sample, 0], int(result.target[sample]), fill, insert)
        torch.testing.assert_close(result.curve[sample].double(), torch.tensor(expected).double(), atol=1e-6, rtol=1e-5)
        assert result.auc[sample].item() == pytest.approx(np.trapezoid(expected) / 35, abs=1e-6)
        assert late.auc[sample].item() == pytest.approx(np.trapezoid(expected[1:]) / 34, abs=1e-6)
        change = np.diff(expected) if insert else -np.diff(expected)
        values = np.sort(maps[sample].flatten().double().numpy())[::-1]
        assert result.correlation[sample].item() == pytest.approx(stats.pearsonr(change, values).statistic, abs=1e-4)
    assert late.curve.shape == (4, 35) and result.curve.shape == (4, 36)


def test_cellwise_steps_and_constants(net, images, maps):
    few = metrics.dauc(net, images, maps, max_steps=5)
    assert few.curve.shape == (4, 6) and few.fractions.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    full = metrics.dauc(net, images, maps)
    torch.testing.assert_close(few.curve, full.curve[:, ::7], atol=1e-6, rtol=1e-5)
    assert torch.equal(metrics.dauc(net, images, torch.full((4, 1, 5, 7), 0.3)).correlation, torch.zeros(4))
    uneven = metrics.dauc(net, images, torch.rand(4, 1, 6, 9))  # cells of unequal blocks
    assert uneven.curve.shape == (4, 55) and uneven.curve.isfinite().all()
    with pytest.raises(ValueError, match="finer"):
        metrics.dauc(net, images, torch.rand(4, 1, 40, 40))
    with pytest.raises(ValueError, match="max_steps"):
        metrics.dauc(net, images, maps, max_steps=0)


def test_confidence_equals_a_loop(net, images, maps):
    result = metrics.confidence(net, images, maps)
    quiet = copy.deepcopy(net).double().eval()
    for sample in range(4):
        view = maps[[sample]].double()
        view = F.interpolate((view - view.min()) / (view.max() - view.min()), size=(20, 28), mode="bilinear")
        with torch.no_grad():
            clean, masked, complement = (
                quiet(images[[sample]].double() * keep).softmax(1)[0, result.target[sample]].item()
                for keep in (1.0, view, 1 - view)
            )
        assert result.average_drop[sample].item() == pytest.approx(max(clean - masked, 0) / clean, abs=1e-5)
        assert result.increase[sample].item() == float(masked > clean)
        assert result.average_drop_deletion[sample].item() == pytest.approx((clean - complement) / clean, abs=1e-5)
    torch.testing.assert_close(metrics.average_drop(net, images, maps), result.average_drop)
    torch.testing.assert_close(metrics.increase_in_confidence(net, images, maps), result.increase)
    net.forwarded = 0
    metrics.confidence(net, images, maps, batch_size=2)
    assert net.forwarded == 12


def test_confidence_laws(net, images, maps):
    result = metrics.confidence(net, images, maps)
    torch.testing.assert_close(metrics.confidence(net, images, 4 * maps - 1).masked_score, result.masked_score)
    alone = metrics.confidence(net, images[1:2], maps[1:2])
    torch.testing.assert_close(alone.average_drop[0], result.average_drop[1], atol=1e-6, rtol=1e-5)
    shown = metrics.confidence(net, images, torch.full((4, 1, 3, 3), 7.0))  # a constant map shows nothing
    zero = copy.deepcopy(net).eval()(torch.zeros_like(images)).softmax(1).gather(1, shown.target[:, None])[:, 0]
    torch.testing.assert_close(shown.masked_score, zero)
    torch.testing.assert_close(shown.complement_score, shown.score)
    with pytest.raises(ValueError, match="logit"):
        metrics.confidence(net, images, maps, score="logit")


def test_confidence_equals_pytorch_grad_cam(net, images):
    peer = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    targets_of = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    net.eval()
    maps = metrics.random_maps(torch.arange(4), (20, 28))
    maps = (maps - maps.amin((2, 3), keepdim=True)) / (
        maps.amax((2, 3), keepdim=True) - maps.amin((2, 3), keepdim=True)
    )
    ours = metrics.confidence(net, images, maps)
    targets = [targets_of.ClassifierOutputSoftmaxTarget(int(t)) for t in ours.target]
    theirs = peer.CamMultImageConfidenceChange()(images, maps[:, 0].numpy(), targets, net)  # masked - clean
    np.testing.assert_allclose((ours.masked_score - ours.score).numpy(), theirs, atol=1e-6)
    rises = peer.IncreaseInConfidence()(images, maps[:, 0].numpy(), targets, net)
    np.testing.assert_array_equal(ours.increase.numpy(), rises)
