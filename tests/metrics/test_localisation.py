"""Localisation measures against loops in float64 and scikit-learn, on known maps, and under the laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from attention_refine import metrics

MEASURES = {
    "iou": metrics.iou,
    "iou_median": lambda *a, **k: metrics.iou(*a, normalise="median", **k),
    "soft_iou": metrics.soft_iou,
    "energy_inside": metrics.energy_inside,
    "mask_correlation": metrics.mask_correlation,
    "pointing_game": lambda *a, **k: metrics.pointing_game(*a, tolerance=2, **k),
    "map_auroc": metrics.map_auroc,
    "map_average_precision": metrics.map_average_precision,
    "best_iou": lambda *a, **k: metrics.best_iou(*a, **k).iou,
    "attribution_mass": metrics.attribution_mass,
    "attribution_detail": metrics.attribution_detail,
}


@pytest.fixture
def masks():
    masks = torch.zeros(5, 1, 18, 24, dtype=torch.uint8)
    masks[0, :, 4:10, 5:14] = 1
    masks[1, :, 0:3, 0:3] = 1
    masks[1, :, 12:, 15:] = 1  # two objects
    masks[2, :, 9, 11] = 1  # one pixel
    masks[3] = (torch.rand(1, 18, 24) > 0.5).to(torch.uint8)
    masks[4, :, 6:12, 6:18] = 1
    masks[4, :, 5, 5:19] = 255  # void rim
    masks[0, :, :2, :2] = 255
    return masks


@pytest.fixture
def full_maps():
    maps = torch.rand(5, 1, 18, 24)
    maps[3] = maps[3].mul(4).round() / 4  # ties
    return maps


def loops(map_, mask, name):
    """One sample, pixel by pixel, in float64."""
    pixels = [(float(map_[r, c]), int(mask[r, c]), r, c) for r in range(map_.shape[0]) for c in range(map_.shape[1])]
    low, high = min(p[0] for p in pixels), max(p[0] for p in pixels)
    valid = [(v, m, (v - low) / (high - low), r, c) for v, m, r, c in pixels if m != 255]
    objects = [p for p in valid if p[1] == 1]
    if name == "iou":
        both = sum(1 for p in objects if p[2] > 0.5)
        return both / (len(objects) + sum(1 for p in valid if p[1] == 0 and p[2] > 0.5))
    if name == "soft_iou":
        return sum(min(p[2], p[1]) for p in valid) / sum(max(p[2], p[1]) for p in valid)
    if name in ("energy_inside", "attribution_mass"):
        return sum(max(p[0], 0) for p in objects) / sum(max(p[0], 0) for p in valid)
    if name == "mask_correlation":
        return np.corrcoef([p[0] for p in valid], [p[1] for p in valid])[0, 1]
    if name == "pointing_game":
        _, _, row, column = max(pixels, key=lambda p: (p[0], -p[2], -p[3]))
        return float(any(math.hypot(p[3] - row, p[4] - column) <= 2 for p in objects))
    if name == "map_auroc":
        others = [p for p in valid if p[1] == 0]
        return sum((a[0] > b[0]) + 0.5 * (a[0] == b[0]) for a in objects for b in others) / len(objects) / len(others)
    if name == "map_average_precision":
        total = 0.0
        for p in objects:
            total += sum(1 for q in objects if q[0] >= p[0]) / sum(1 for q in valid if q[0] >= p[0])
        return total / len(objects)
    if name == "best_iou":

        def at(t):
            both = sum(1 for p in objects if np.float32(p[2]) >= t)
            return both / (len(objects) + sum(1 for p in valid if p[1] == 0 and np.float32(p[2]) >= t))

        return max(at(t) for t in np.linspace(0, 1, 101).astype(np.float32))
    if name == "attribution_detail":
        grid = np.abs(np.asarray(map_, dtype=np.float64))
        padded = np.pad(grid, 1, mode="edge")
        curvature = [
            abs(padded[r, c + 1] + padded[r + 2, c + 1] + padded[r + 1, c] + padded[r + 1, c + 2] - 4 * grid[r, c])
            for _, _, _, r, c in objects
        ]
        return np.mean(curvature) / np.mean([abs(p[0]) for p in valid])
    if name == "iou_median":
        values = np.array([(p[0] - low) / (high - low) for p in pixels])
        values = values + 0.5 - np.median(values)
        values = np.clip(values, 0, values.mean() + 2 * values.std())
        marked = values / values.max() > 0.5
        both = sum(1 for p, on in zip(pixels, marked) if on and p[1] == 1)
        extra = sum(1 for p, on in zip(pixels, marked) if on and p[1] == 0)
        return both / (len(objects) + extra)
    raise KeyError(name)


@pytest.mark.parametrize("name", MEASURES)
def test_equals_a_loop(name, full_maps, masks):
    values = MEASURES[name](full_maps, masks)
    assert values.dtype == torch.float32 and values.shape == (5,)
    for sample in range(5):
        expected = loops(full_maps[sample, 0], masks[sample, 0], name)
        assert values[sample].item() == pytest.approx(expected, abs=2e-6), sample


@pytest.mark.parametrize("name", MEASURES)
def test_batch_composition_and_order(name, full_maps, masks):
    together = MEASURES[name](full_maps, masks)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(MEASURES[name](full_maps[order], masks[order]), together[order], atol=1e-6, rtol=0)
    for sample in range(5):
        alone = MEASURES[name](full_maps[[sample]], masks[[sample]])
        torch.testing.assert_close(alone[0], together[sample], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", MEASURES)
def test_maps_are_resized_bilinearly(name, masks):
    maps = torch.rand(5, 1, 6, 8)
    mode = {"mode": "nearest"} if name == "iou_median" else {"mode": "bilinear", "align_corners": False}
    resized = torch.nn.functional.interpolate(maps.double(), size=(18, 24), **mode).float()
    torch.testing.assert_close(MEASURES[name](maps, masks), MEASURES[name](resized, masks))


@pytest.mark.parametrize("name", MEASURES)
def test_rescaling(name, full_maps, masks):
    plain = MEASURES[name](full_maps, masks)
    scaled = [4 * full_maps]
    if name not in ("energy_inside", "attribution_mass", "attribution_detail"):
        scaled.append(4 * full_maps - 3)
    if name in ("pointing_game", "map_auroc", "map_average_precision"):
        scaled += [full_maps.exp(), full_maps**3]
    for maps in scaled:
        torch.testing.assert_close(MEASURES[name](maps, masks), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MEASURES)
def test_without_usable_truth_and_bad_maps(name, full_maps, masks):
    masks[0], masks[1], masks[2], masks[4] = 0, 1, 255, 0
    masks[4, :, 0, 0] = 255
    values = MEASURES[name](full_maps, masks)
    assert values.isnan().tolist() == [True, True, True, False, True]
    assert metrics.usable(masks).tolist() == [False, False, False, True, False]
    full_maps[3, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"samples \[3\]"):
        MEASURES[name](full_maps, masks)


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("value", [0.0, 0.1, -1.0, 1e-30])
def test_constant_maps(name, value, masks):
    values = MEASURES[name](torch.full((5, 1, 7, 7), value), masks)
    valid, inside = (masks != 255).flatten(1).sum(1), (masks == 1).flatten(1).sum(1)
    corner = torch.tensor([0.0, 1, 0, 1, 0])
    expected = {
        "iou": torch.zeros(5),
        "soft_iou": torch.zeros(5),
        "mask_correlation": torch.zeros(5),
        "attribution_detail": torch.zeros(5),
        "map_auroc": torch.full((5,), 0.5),
        "pointing_game": corner,
    }.get(name, inside / valid)
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=0)


def test_known_maps(masks):
    masks = masks[[0, 1, 4]]
    perfect = (masks == 1).float()
    inverted = 1 - perfect
    for name in ("iou", "soft_iou", "energy_inside", "pointing_game", "map_auroc", "map_average_precision", "best_iou"):
        torch.testing.assert_close(MEASURES[name](perfect, masks), torch.ones(3))
    torch.testing.assert_close(metrics.mask_correlation(perfect, masks), torch.ones(3))
    torch.testing.assert_close(metrics.mask_correlation(inverted, masks), -torch.ones(3))
    for name in ("iou", "soft_iou", "energy_inside", "map_auroc"):
        torch.testing.assert_close(MEASURES[name](inverted, masks), torch.zeros(3))
    pixel = torch.zeros(3, 1, 18, 24)
    pixel[:, :, 7, 8] = 1  # on the object of samples 0 and 2
    assert metrics.pointing_game(pixel, masks, tolerance=0).tolist() == [1, 0, 1]
    assert metrics.energy_inside(pixel, masks).tolist() == [1, 0, 1]
    torch.testing.assert_close(metrics.iou(pixel, masks), torch.tensor([1 / 54, 0, 1 / 72]))


def test_median_form_marks_most_of_a_random_map():
    maps = torch.randn(64, 1, 8, 8)  # ATCON's grid
    share = (metrics.median_form(maps, (64, 64)) > 0.5).float().mean((1, 2, 3))
    assert 0.55 < share.mean() < 0.7
    skewed = (metrics.median_form(maps.exp() ** 2, (64, 64)) > 0.5).float().mean((1, 2, 3))
    assert skewed.mean() > 0.7


def test_scikit_learn(full_maps, masks):
    sk = pytest.importorskip("sklearn.metrics")
    auroc, ap = metrics.map_auroc(full_maps, masks), metrics.map_average_precision(full_maps, masks)
    for sample in range(5):
        kept = masks[sample].flatten() != 255
        values, labels = full_maps[sample].flatten()[kept].numpy(), (masks[sample].flatten()[kept] == 1).numpy()
        assert auroc[sample].item() == pytest.approx(sk.roc_auc_score(labels, values), abs=1e-6)
        assert ap[sample].item() == pytest.approx(sk.average_precision_score(labels, values), abs=1e-6)


def test_pointing_tolerance_and_centre():
    masks = torch.zeros(1, 1, 100, 100, dtype=torch.uint8)
    masks[..., 50:60, 50:60] = 1
    maps = torch.zeros(1, 1, 100, 100)
    maps[..., 50, 35] = 1  # exactly 15 pixels away
    assert metrics.pointing_game(maps, masks).item() == 1
    assert metrics.pointing_game(maps, masks, tolerance=14.9).item() == 0
    assert metrics.pointing_centre(masks, tolerance=1).item() == 1  # the middle, 49.5 49.5, is 0.7 from the object
    masks = masks.roll(30, dims=3)
    assert metrics.pointing_centre(masks).item() == 0
    both = metrics.pointing_with_centre(maps, masks, tolerance=15)
    assert both.hit.item() == 0 and both.centre.item() == 0
    with pytest.raises(ValueError, match="tolerance"):
        metrics.pointing_game(maps, masks, tolerance=-1)


def test_boxes_are_their_union(full_maps):
    boxes = [
        torch.tensor([[5.0, 4.0, 14.0, 10.0]]),
        torch.tensor([[0.0, 0.0, 3.0, 3.0], [15.0, 12.0, 24.0, 18.0]]),
        torch.empty(0, 4),
        torch.tensor([[0.0, 0.0, 24.0, 18.0]]),
        torch.tensor([[1.4, 1.6, 3.5, 3.4]]),
    ]
    masks = metrics.boxes_to_mask(boxes, (18, 24))
    assert masks.sum((1, 2, 3)).tolist() == [54, 9 + 54, 0, 18 * 24, 2]
    assert masks[4, 0, 2, 1] == 1 and masks[4, 0, 2, 2] == 1  # centres 1.5 and 2.5 of columns, 2.5 of the row
    for measure in MEASURES.values():
        values = measure(full_maps, boxes, image_size=(18, 24))
        torch.testing.assert_close(values, measure(full_maps, masks), equal_nan=True)
        assert values.isnan().tolist() == [False, False, True, True, False]
    with pytest.raises(ValueError, match="image_size"):
        metrics.iou(full_maps, boxes)
    with pytest.raises(ValueError, match=r"\(n, 4\)"):
        metrics.boxes_to_mask([torch.zeros(4)], (3, 3))


@pytest.mark.parametrize("name", MEASURES)
def test_extreme_values_and_no_samples(name, full_maps, masks):
    plain = MEASURES[name](full_maps - 0.5, masks)
    for scale in (2.0**127, 2.0**-100):
        torch.testing.assert_close(MEASURES[name]((full_maps - 0.5) * scale, masks), plain, atol=1e-6, rtol=1e-5)
    assert MEASURES[name](full_maps[:0], masks[:0]).shape == (0,)


def test_bad_truth(full_maps, masks):
    with pytest.raises(ValueError, match="4 ground truths for 5 maps"):
        metrics.iou(full_maps, masks[:4])
    with pytest.raises(ValueError, match="255"):
        metrics.iou(full_maps, masks * 7)
    with pytest.raises(ValueError, match="normalise"):
        metrics.iou(full_maps, masks, normalise="batch")
    with pytest.raises(ValueError, match="threshold"):
        metrics.iou(full_maps, masks, threshold=1.0)
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\)"):
        metrics.iou(full_maps, masks[:, 0])
    assert torch.equal(metrics.iou(full_maps, masks == 1)[[1, 2, 3]], metrics.iou(full_maps, masks)[[1, 2, 3]])


def test_true_positives():
    logits = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert metrics.true_positives(logits, torch.tensor([1, 1, 1])).tolist() == [True, False, True]
    assert metrics.true_positives(logits, torch.tensor([[1.0, 1], [0, 1], [1, 0]])).tolist() == [True, False, False]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.randoms())
def test_any_shape(batch, h, w, height, width, random):
    maps = torch.randn(batch, 1, h, w)
    masks = torch.tensor(random.choices([0, 1, 255], k=batch * height * width), dtype=torch.uint8)
    masks = masks.view(batch, 1, height, width)
    some = [(masks == value).flatten(1).any(1) for value in (0, 1, 255)]
    assume(some[1].any() or not (some[0] & some[2]).any())  # 0 and 255 alone are refused: a test above
    usable = metrics.usable(masks)
    for name, measure in MEASURES.items():
        values = measure(maps, masks)
        assert torch.equal(values.isfinite(), usable), name
        if name not in ("mask_correlation", "attribution_detail"):
            assert ((values[usable] >= 0) & (values[usable] <= 1 + 1e-6)).all(), name
