"""Best IoU and MaxBoxAcc against a loop that draws every box, and on maps whose answer is known."""

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
def test_box_overlaps_equal_a_flood_fill(largest_only):
    maps = torch.rand(3, 1, 10, 13)
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
