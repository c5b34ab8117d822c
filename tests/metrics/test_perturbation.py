"""Insertion, deletion and their kin against loops over single images in float64, and the laws they must obey."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from attention_refine import metrics


def loop_curve(net, image, map_, target, fill, counts, keep_top):
    """One image, one forward a point, in float64."""
    net = copy.deepcopy(net).double().eval()
    image, fill = image.double(), fill.double().expand_as(image)
    resized = F.interpolate(map_[None].double(), size=image.shape[-2:], mode="bilinear", align_corners=False)
    order = np.argsort(-resized.float().flatten().numpy(), kind="stable")
    points = []
    for count in counts:
        top = torch.zeros(image[0].numel(), dtype=torch.bool)
        top[order[:count].copy()] = True
        top = top.view(image.shape[-2:])
        kept = top if keep_top else ~top
        shown = torch.where(kept, image, fill)
        with torch.no_grad():
            points.append(net(shown[None]).softmax(1)[0, target].item())
    return points


def loop_area(points, fractions):
    return sum((b - a) * (p + q) / 2 for a, b, p, q in zip(fractions, fractions[1:], points, points[1:]))


@pytest.mark.parametrize("n_steps", [1, 7, 10, 560])
def test_deletion_equals_a_loop(net, images, maps, n_steps):
    if n_steps == 560:
        images, maps = images[:1], maps[:1]
    result = metrics.deletion(net, images, maps, n_steps=n_steps)
    counts = [round(j * 560 / n_steps) for j in range(n_steps + 1)]
    fractions = [c / 560 for c in counts]
    assert result.curve.shape == (len(images), n_steps + 1)
    for sample in range(len(images)):
        target = int(result.target[sample])
        expected = loop_curve(net, images[sample], maps[sample], target, torch.zeros(1), counts, keep_top=False)
        torch.testing.assert_close(result.curve[sample].double(), torch.tensor(expected).double(), atol=1e-6, rtol=1e-5)
        assert result.auc[sample].item() == pytest.approx(loop_area(expected, fractions), abs=1e-6)


def test_insertion_equals_a_loop_over_a_blur(net, images, maps):
    result = metrics.insertion(net, images, maps, target=2, n_steps=8)
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    kernel = torch.from_numpy(pytest.importorskip("scipy.ndimage").gaussian_filter(delta, 5))
    counts = [j * 70 for j in range(9)]
    for sample in range(4):
        blurred = F.conv2d(images[sample][:, None].double(), kernel[None, None], padding=5)[:, 0]
        expected = loop_curve(net, images[sample], maps[sample], 2, blurred, counts, keep_top=True)
        torch.testing.assert_close(result.curve[sample].double(), torch.tensor(expected).double(), atol=1e-6, rtol=1e-5)


def test_rise_area_formula(net, images, maps):
    result = metrics.deletion(net, images, maps, n_steps=10)
    n = result.curve.shape[1]
    rise = (result.curve.sum(1) - result.curve[:, 0] / 2 - result.curve[:, -1] / 2) / (n - 1)
    torch.testing.assert_close(result.auc, rise)


def test_both_at_once_equal_the_two_and_cost_only_shared_ends(net, images, maps):
    together = metrics.insertion_and_deletion(net, images, maps, n_steps=10)
    alone = metrics.insertion(net, images, maps, n_steps=10), metrics.deletion(net, images, maps, n_steps=10)
    for both, one in zip(together, alone):
        torch.testing.assert_close(both.curve, one.curve, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(both.auc, one.auc, atol=1e-6, rtol=1e-5)
    net.forwarded = 0
    metrics.insertion_and_deletion(net, images, maps, n_steps=10)
    assert net.forwarded == 4 + 4 + 1 + 2 * 4 * 9  # clean, blurred, one zero image for all, and what lies between
    net.forwarded = 0
    metrics.insertion_and_deletion(net, images, maps, n_steps=10, insertion_baseline="zero")
    assert net.forwarded == 4 + 1 + 2 * 4 * 9


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_chunk_size_and_batch_do_not_matter(net, images, maps, batch_size):
    probed = metrics.insertion_and_deletion(net, images, maps, n_steps=6)
    chunked = metrics.insertion_and_deletion(net, images, maps, n_steps=6, batch_size=batch_size)
    for a, b in zip(probed, chunked):
        torch.testing.assert_close(a.curve, b.curve, atol=1e-6, rtol=1e-5)
    order = torch.tensor([2, 0, 3, 1])
    for sample, row in enumerate(order.tolist()):
        single = metrics.insertion_and_deletion(net, images[[row]], maps[[row]], n_steps=6)
        shuffled = metrics.insertion_and_deletion(net, images[order], maps[order], n_steps=6)
        for a, b, c in zip(probed, single, shuffled):
            torch.testing.assert_close(a.curve[row], b.curve[0], atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(a.curve[row], c.curve[sample], atol=1e-6, rtol=1e-5)


def test_invariant_to_rescaling(net, images, maps):
    full = torch.rand(4, 1, 20, 28)
    plain = metrics.deletion(net, images, full, n_steps=6, batch_size=8)
    for scaled in (full**3, full.exp(), 4 * full - 2):
        assert torch.equal(plain.curve, metrics.deletion(net, images, scaled, n_steps=6, batch_size=8).curve)
    small = metrics.deletion(net, images, maps, n_steps=6, batch_size=8)
    assert torch.equal(small.curve, metrics.deletion(net, images, maps * 0.25, n_steps=6, batch_size=8).curve)


def test_constant_map_goes_in_row_major_order(net, images):
    for value in (0.0, 0.1, 1 / 3):  # 0.1 and 1/3: interpolating must not break the ties
        result = metrics.deletion(net, images, torch.full((4, 1, 7, 7), value), n_steps=5)
        for sample in range(4):
            expected = loop_curve(
                net, images[sample], torch.zeros(1, 20, 28), int(result.target[sample]), torch.zeros(1),
                [112 * j for j in range(6)], keep_top=False,
            )  # fmt: skip
            torch.testing.assert_close(
                result.curve[sample].double(), torch.tensor(expected).double(), atol=1e-6, rtol=1e-5
            )


class Quadrant(nn.Module):
    """Sees the sum of the top left quarter only, so the right map is known."""

    def forward(self, x):
        seen = x[:, :, : x.shape[2] // 2, : x.shape[3] // 2].mean((1, 2, 3))
        return torch.stack([4 * seen, torch.zeros_like(seen)], dim=1)


def test_known_answers():
    images, right = torch.ones(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    right[..., :8, :8] = 1
    inverted, pixel = 1 - right, torch.zeros(1, 1, 16, 16)
    pixel[..., 3, 3] = 1
    scores = {
        name: metrics.insertion_and_deletion(Quadrant(), images, m, n_steps=16, insertion_baseline="zero")
        for name, m in {"right": right, "inverted": inverted, "pixel": pixel}.items()
    }
    assert scores["right"].deletion.auc < scores["pixel"].deletion.auc < scores["inverted"].deletion.auc
    assert scores["right"].insertion.auc > scores["pixel"].insertion.auc > scores["inverted"].insertion.auc
    high, low = torch.tensor(4.0).sigmoid().item(), 0.5
    curve = scores["right"].deletion.curve[0]
    assert curve[0].item() == pytest.approx(high) and curve[4:].allclose(torch.tensor(low))
    curve = scores["inverted"].deletion.curve[0]
    assert curve[:13].allclose(torch.tensor(high)) and curve[-1].item() == pytest.approx(low)


def test_constant_score_scores_itself(images, maps):
    class Deaf(nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, 1.0]]).expand(len(x), 2)

    result = metrics.insertion_and_deletion(Deaf(), images, maps, n_steps=7)
    share = torch.tensor([0.0, 1.0]).softmax(0)[1]
    for one in result:
        torch.testing.assert_close(one.auc, share.expand(4))
        assert torch.equal(one.target, torch.ones(4, dtype=torch.long))


def test_scores_and_targets(net, images, maps):
    clean = copy.deepcopy(net).eval()(images)
    result = metrics.deletion(net, images, maps, n_steps=2)
    assert torch.equal(result.target, clean.argmax(1))
    labels = torch.tensor([5, 0, 2, 2])
    for score, values in {"logit": clean, "sigmoid": clean.sigmoid(), "softmax": clean.softmax(1)}.items():
        curve = metrics.deletion(net, images, maps, target=labels, n_steps=2, score=score).curve
        torch.testing.assert_close(curve[:, 0], values.gather(1, labels[:, None])[:, 0])


def test_model_is_left_as_it_was(net, images, maps):
    net.train()
    net.features[3].eval()
    before = copy.deepcopy(net.state_dict())
    images.requires_grad_()
    result = metrics.deletion(net, images, maps, n_steps=3)
    assert net.training and net.features[1].training and not net.features[3].training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not result.curve.requires_grad and images.grad is None

    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    broken = nn.Sequential(net, Broken())
    with pytest.raises(RuntimeError, match="no"):
        metrics.deletion(broken, images, maps, n_steps=3)
    assert broken.training and net.training and not net.features[3].training


def test_output_objects_and_autocast(net, images, maps):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            from types import SimpleNamespace

            return SimpleNamespace(logits=self.net(x))

    plain = metrics.deletion(net, images, maps, n_steps=3, batch_size=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wrapped = metrics.deletion(Wrapped(), images, maps, n_steps=3, batch_size=4)
    assert torch.equal(plain.curve, wrapped.curve)


def test_baselines(images):
    kernel = metrics.blur_kernel("rise")
    square = kernel[:, None] * kernel
    assert square.sum().item() == pytest.approx(1)
    assert (square.max() / square.min()).item() == pytest.approx(1.14, abs=0.005)
    gaussian = metrics.blur_kernel("gaussian")
    assert ((gaussian[:, None] * gaussian).max() / gaussian.min() ** 2).item() == pytest.approx(2.72, abs=0.005)
    ndimage = pytest.importorskip("scipy.ndimage")
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    np.testing.assert_allclose(square.numpy(), ndimage.gaussian_filter(delta, 5), atol=1e-15)
    torch.testing.assert_close(metrics.fill_image(images, "mean"), images.mean((2, 3), keepdim=True))
    box = metrics.blur(images, "box", 5)
    torch.testing.assert_close(box, F.avg_pool2d(images, 5, 1, 2, count_include_pad=True), atol=1e-6, rtol=1e-5)
    colour = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    assert torch.equal(metrics.fill_image(images, colour), colour)
    for bad in ("black", torch.zeros(2, 5)):
        with pytest.raises(ValueError, match="baseline"):
            metrics.fill_image(images, bad)
    with pytest.raises(ValueError, match="kernel"):
        metrics.fill_image(images, "blur", kernel="flat")
    with pytest.raises(ValueError, match="odd"):
        metrics.blur_kernel("rise", 10)


def test_pixel_flipping(net, images, maps):
    most = metrics.pixel_flipping(net, images, maps, n_steps=4, baseline="zero")
    same = metrics.deletion(net, images, maps, n_steps=4, score="logit")
    torch.testing.assert_close(most.curve, same.curve)
    torch.testing.assert_close(most.aopc, (same.curve[:, :1] - same.curve).mean(1))
    full = torch.rand(4, 1, 20, 28)
    least = metrics.pixel_flipping(net, images, full, n_steps=4, order="least")
    torch.testing.assert_close(least.curve, metrics.pixel_flipping(net, images, -full, n_steps=4).curve)
    random = metrics.pixel_flipping(net, images, maps, n_steps=4, order="random")
    alone = metrics.pixel_flipping(net, images[2:3], maps[2:3], n_steps=4, order="random")
    torch.testing.assert_close(random.curve[2], alone.curve[0], atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="order"):
        metrics.pixel_flipping(net, images, maps, order="up")


def test_rationale_equals_a_loop(net, images, maps):
    result = metrics.rationale(net, images, maps)
    for sample in range(4):
        target = int(result.target[sample])
        counts = [max(1, round(q * 560)) for q in (0.01, 0.05, 0.1, 0.2, 0.5)]
        clean = loop_curve(net, images[sample], maps[sample], target, torch.zeros(1), [0], keep_top=False)[0]
        gone = loop_curve(net, images[sample], maps[sample], target, torch.zeros(1), counts, keep_top=False)
        kept = loop_curve(net, images[sample], maps[sample], target, torch.zeros(1), counts, keep_top=True)
        assert result.comprehensiveness[sample].item() == pytest.approx(clean - sum(gone) / 5, abs=1e-6)
        assert result.sufficiency[sample].item() == pytest.approx(clean - sum(kept) / 5, abs=1e-6)
    torch.testing.assert_close(metrics.comprehensiveness(net, images, maps), result.comprehensiveness)
    torch.testing.assert_close(metrics.sufficiency(net, images, maps), result.sufficiency)
    with pytest.raises(ValueError, match="bins"):
        metrics.rationale(net, images, maps, bins=(0.1, 1.0))


def test_mining_insertion(net, images, maps):
    labels = torch.tensor([0, 1, 2, 3])
    result = metrics.insertion_mining(net, images, maps, labels)
    assert result.curve.shape == (4, 11) and result.counted.all()
    quiet = copy.deepcopy(net).eval()
    for sample in range(4):
        counts = [56 * j for j in range(11)]
        expected = loop_curve(
            net, images[sample], maps[sample], int(labels[sample]), torch.zeros(1), counts, keep_top=True
        )
        torch.testing.assert_close(result.curve[sample].double(), torch.tensor(expected).double(), atol=1e-6, rtol=1e-5)
        assert result.accuracy_curve[sample, -1] == float(quiet(images[[sample]]).argmax() == labels[sample])
    reference = torch.eye(6)[[0, 2, 2, 0]]  # right on samples 0 and 2
    some = metrics.insertion_mining(net, images, maps, labels, reference_logits=reference)
    assert some.counted.tolist() == [False, True, False, True]
    assert some.auc.isnan().tolist() == some.accuracy_auc.isnan().tolist() == [True, False, True, False]
    torch.testing.assert_close(some.auc[[1, 3]], result.auc[[1, 3]])


def test_bad_input(net, images, maps):
    broken = maps.clone()
    broken[2, 0, 1, 1] = torch.nan
    for call in (metrics.deletion, metrics.insertion, metrics.insertion_and_deletion, metrics.confidence, metrics.dauc):
        with pytest.raises(ValueError, match=r"samples \[2\]"):
            call(net, images, broken)
        with pytest.raises(ValueError, match="K = 3"):
            call(net, images, maps.expand(-1, 3, -1, -1))
        with pytest.raises(ValueError, match="3 maps for 4 images"):
            call(net, images, maps[:3])
        with pytest.raises(ValueError, match="score"):
            call(net, images, maps, score="probability")
        with pytest.raises(ValueError, match="target"):
            call(net, images, maps, target=6)
        with pytest.raises(ValueError, match="batch_size"):
            call(net, images, maps, batch_size=-1)
    for n_steps in (0, 561):
        with pytest.raises(ValueError, match="n_steps"):
            metrics.deletion(net, images, maps, n_steps=n_steps)
    with pytest.raises(TypeError, match="tensor"):
        metrics.deletion(net, images, maps.numpy())


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(4, 12), st.integers(4, 12), st.integers(1, 16)
)
def test_any_shape(batch, h, w, height, width, n_steps):
    images, maps = torch.randn(batch, 3, height, width), torch.randn(batch, 1, h, w)
    result = metrics.insertion_and_deletion(Quadrant(), images, maps, n_steps=n_steps)
    for one in result:
        assert one.auc.shape == (batch,) and one.curve.shape == (batch, n_steps + 1)
        assert one.curve.isfinite().all() and one.fractions[0] == 0 and one.fractions[-1] == 1
    torch.testing.assert_close(result.insertion.curve[:, -1], result.deletion.curve[:, 0])


def test_equals_torchcam(net, images, maps):
    """torchcam's curves and drops, from an extractor that hands out our maps."""
    from contextlib import nullcontext
    from functools import partial

    peer = pytest.importorskip("torchcam.metrics")
    if not hasattr(peer, "DeletionInsertionMetric"):
        pytest.skip("this torchcam has no insertion and deletion")

    class Extractor:
        model = net.eval()

        def __call__(self, *args, **kwargs):
            return [shown[:, 0]]

        def fuse_cams(self, cams):
            return cams[0]

        def _hooks_off(self):
            return nullcontext()

    # Maps at image size: smaller ones are interpolated in float32 there and in float64 here, and ties may part.
    shown = torch.rand(4, 1, 20, 28)
    theirs = peer.DeletionInsertionMetric(Extractor(), partial(torch.softmax, dim=-1), steps=10)
    theirs.update(images)
    ours = metrics.insertion_and_deletion(net, images, shown, n_steps=10, insertion_baseline="zero")
    assert theirs.summary()["insertion_auc"] == pytest.approx(ours.insertion.auc.mean().item(), abs=1e-6)
    assert theirs.summary()["deletion_auc"] == pytest.approx(ours.deletion.auc.mean().item(), abs=1e-6)

    shown = (shown - shown.amin((2, 3), keepdim=True)) / (shown - shown.amin((2, 3), keepdim=True)).amax(
        (2, 3), keepdim=True
    )
    theirs = peer.ClassificationMetric(Extractor(), partial(torch.softmax, dim=-1))
    theirs.update(images)
    drop = metrics.confidence(net, images, shown)
    assert theirs.summary()["avg_drop"] == pytest.approx(drop.average_drop.mean().item(), abs=1e-6)
    assert theirs.summary()["conf_increase"] == pytest.approx(drop.increase.mean().item())
