"""Best IoU, MaxBoxAcc and PxAP against loops, and on maps whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention_refine import metrics


def flood_boxes(marked):
    """Boxes of 8-connected components by flood fill, with their sizes."""
    marked, found = marked.copy(), []
    while marked.any():
        stack = [tuple(np.argwhere(marked)[0])]
        marked[stack[0]] = False
        cells = []
        while stack:
            r, c = stack.pop()
            cells.append((r, c))
            for dr in (-1, 0, 1):
                for dc in (-1, 0, 1):
                    n = (r + dr, c + dc)
                    if 0 <= n[0] < marked.shape[0] and 0 <= n[1] < marked.shape[1] and marked[n]:
                        marked[n] = False
                        stack.append(n)
        rows, columns = zip(*cells)
        found.append((len(cells), (min(columns), min(rows), max(columns) + 1, max(rows) + 1)))
    return found


def box_iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("largest_only", [False, True])
@pytest.mark.parametrize("grid_of_map", [(10, 13), (5, 7), (3, 4), (1, 2)])  # noise, and smooth with a few peaks or one
def test_box_overlaps_equal_a_flood_fill(largest_only, grid_of_map):
    maps = torch.nn.functional.interpolate(torch.rand(3, 1, *grid_of_map), (10, 13), mode="bilinear")
    boxes = [
        torch.tensor([[2.0, 1.0, 7.0, 6.0]]),
        torch.tensor([[0.0, 0.0, 4.0, 4.0], [6.0, 3.0, 13.0, 9.5]]),
        torch.empty(0, 4),
    ]
    grid = metrics.threshold_grid(21)
    table = metrics.box_overlaps(maps, boxes, (10, 13), grid, largest_only)
    assert table.shape == (3, 21) and table[2].isnan().all()
    for sample in range(2):
        values = maps[sample, 0].numpy()
        values = (values - values.min()) / (values.max() - values.min())
        for column, threshold in enumerate(grid.numpy()):
            found = flood_boxes(values >= threshold)
            if largest_only:
                biggest = max(size for size, _ in found)
                if sum(size == biggest for size, _ in found) > 1:
                    continue  # which of two equal components counts is the labelling's choice
                found = [f for f in found if f[0] == biggest]
            best = max((box_iou(box, truth.tolist()) for _, box in found for truth in boxes[sample]), default=0)
            assert table[sample, column].item() == pytest.approx(best, abs=1e-6)


def test_max_box_accuracy():
    table = torch.tensor([[0.2, 0.6, 0.8], [0.9, 0.6, 0.1], [torch.nan] * 3])
    result = metrics.max_box_accuracy(table, at=(0.5, 0.7))
    assert result.by_overlap.tolist() == [1.0, 0.5] and result.threshold[0] == 1
    assert result.accuracy.item() == pytest.approx(0.75)
    assert metrics.max_box_accuracy(table[2:]).accuracy.isnan()


def test_perfect_map_has_perfect_boxes():
    boxes = [torch.tensor([[3.0, 2.0, 9.0, 7.0]])]
    perfect = metrics.boxes_to_mask(boxes, (10, 12)).float()
    table = metrics.box_overlaps(perfect, boxes, (10, 12))
    assert table[0, 1:].eq(1).all() and table[0, 0].item() == pytest.approx(30 / 120)
    assert metrics.max_box_accuracy(table).accuracy == 1
    constant = metrics.box_overlaps(torch.full((1, 1, 5, 5), 0.3), boxes, (10, 12))
    assert constant[0, 0].item() == pytest.approx(30 / 120) and constant[0, 1:].eq(0).all()


def test_best_iou_curve():
    maps = torch.tensor([[[[0.0, 0.5, 1.0, 1.0]]]])
    masks = torch.tensor([[[[0, 0, 1, 1]]]], dtype=torch.uint8)
    result = metrics.best_iou(maps, masks, thresholds=torch.tensor([0.0, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(result.curve[0], torch.tensor([2 / 4, 2 / 3, 1.0, 1.0]))
    assert result.iou.item() == 1 and result.threshold.item() == 0.75
    with pytest.raises(ValueError, match="increasing"):
        metrics.best_iou(maps, masks, thresholds=torch.tensor([0.5, 0.1]))


def test_pxap_equals_a_loop_over_all_pixels_of_all_images():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(4, 1, 6, 7, generator=generator)
    masks = (torch.rand(4, 1, 12, 14, generator=generator) < 0.4).to(torch.uint8)
    masks[1][torch.rand(1, 12, 14, generator=generator) < 0.2] = 255  # void
    masks[3] = 0  # nothing to find: not counted
    grid = metrics.threshold_grid(11)
    counts = metrics.pixel_counts(maps, masks, thresholds=grid)
    assert counts.shape == (4, 2, 11) and counts[3].isnan().all()
    resized = torch.nn.functional.interpolate(maps, (12, 14), mode="bilinear", align_corners=False).numpy()
    expected, before = 0.0, 0.0
    scaled = [(m - m.min()) / (m.max() - m.min()) for m in resized[:3, 0]]
    total = sum(int((mask == 1).sum()) for mask in masks[:3])
    for threshold in grid.flip(0).tolist():
        hits = marked = 0
        for values, mask in zip(scaled, masks[:3, 0].numpy()):
            for value, kind in zip(values.flatten(), mask.flatten()):
                if kind != 255 and np.float32(value) >= np.float32(threshold):
                    hits, marked = hits + (kind == 1), marked + 1
        expected += hits / max(marked, 1) * (hits / total - before)
        before = hits / total
    assert metrics.pixel_precision(counts).item() == pytest.approx(expected, abs=1e-9)


def test_thresholds_that_do_not_increase_are_refused():
    maps, masks = torch.rand(1, 1, 4, 4), torch.ones(1, 1, 4, 4, dtype=torch.uint8)
    for measure in (metrics.pixel_counts, metrics.best_iou):
        with pytest.raises(ValueError, match="1-D tensor in increasing order"):
            measure(maps, masks, thresholds=torch.tensor([0.5, 0.2]))


def test_pxap_on_maps_whose_answer_is_known():
    masks = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    masks[0, :, :4], masks[1, :, :2] = 1, 1
    assert metrics.pixel_precision(metrics.pixel_counts(masks.float(), masks)) == 1
    flat = metrics.pixel_counts(torch.ones(2, 1, 8, 8), masks)
    assert metrics.pixel_precision(flat).item() == pytest.approx(48 / 128)  # the objects' share of all pixels
    nothing = metrics.pixel_counts(torch.ones(2, 1, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert metrics.pixel_precision(nothing).isnan()
