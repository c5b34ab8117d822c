"""What stands out: the leading component against an SVD, which end is object, and which cells are sure."""

from __future__ import annotations

import pytest
import torch

from attention_refine.mending.salience import BACKGROUND, IN_A_BOX, OBJECT, outlined, standing_out


def features(count: int = 3, seed: int = 0, low: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Features that lean on one direction on a square, or everywhere else; and the squares ``(B, 1, 8, 8)``."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(6, generator=generator)
    squares = torch.zeros(count, 1, 8, 8)
    for square in squares:
        top, left = torch.randint(1, 4, (2,), generator=generator).tolist()
        square[:, top : top + 3, left : left + 3] = 1
    strength = 1 - squares if low else squares
    noise = 0.05 * torch.randn(count, 6, 8, 8, generator=generator)
    return strength * direction[None, :, None, None] + noise, squares


def test_it_is_the_first_right_singular_vector_stretched():
    feature, _ = features()
    found = standing_out(feature)
    for one, map in zip(feature.double(), found):
        vector = torch.linalg.svd(one.flatten(1)).Vh[0].abs()
        wanted = (vector - vector.min()) / (vector.max() - vector.min())
        torch.testing.assert_close(map.flatten().double(), wanted, atol=1e-5, rtol=1e-4)
    alone = torch.cat([standing_out(one[None]) for one in feature])
    torch.testing.assert_close(found, alone)


@pytest.mark.parametrize("low", [False, True])
def test_in_a_box_the_object_is_found_whichever_end_of_the_scale_it_is(low):
    feature, squares = features(low=low)
    box = torch.zeros_like(squares)
    for square, region in zip(squares, box):  # a box a cell too large on two sides
        rows, columns = square[0].any(1).nonzero(), square[0].any(0).nonzero()
        region[:, rows.min() : rows.max() + 2, columns.min() : columns.max() + 2] = 1
    target, known = outlined(feature, box, torch.ones_like(box))
    sure = known.bool()
    assert torch.equal(target[sure], squares[sure]) and sure[box < 0.5].all()
    assert target.sum() > 0.7 * squares.sum(), "of the square most cells are sure"
    assert not target[box < 0.5].any()


@pytest.mark.parametrize("low", [False, True])
def test_where_nothing_is_known_the_middle_says_which_end_is_object(low):
    feature, squares = features(low=low)
    target, known = outlined(feature, torch.ones_like(squares), torch.ones_like(squares))
    sure = known.bool()
    assert torch.equal(target[sure], squares[sure]) and sure.float().mean() > 0.8
    shown = standing_out(feature)
    shown = 1 - shown if low else shown
    assert torch.equal(sure, (shown >= OBJECT) | (shown <= BACKGROUND))


def test_on_a_coarse_grid_boxes_stay_and_nothing_known_is_refused():
    feature, squares = features()
    known = torch.ones_like(squares)
    known[:, :, 0] = 0
    target, counts = outlined(feature[:, :, :5, :5], squares, known)
    assert torch.equal(target, squares) and torch.equal(counts, known)
    with pytest.raises(
        ValueError, match="deepest grid has 5x5 cells at this image size, too few for anything to stand"
    ):
        outlined(feature[:, :, :5, :5], torch.ones_like(squares), known)


def test_void_teaches_nothing_and_a_finer_region_is_as_good():
    feature, squares = features()
    region = squares.repeat_interleave(2, 2).repeat_interleave(2, 3)
    known = torch.ones_like(region)
    known[:, :, :4] = 0
    target, counts = outlined(feature, region, known)
    assert target.shape == region.shape and not counts[:, :, :4].any()
    assert ((target == 1) <= (region == 1)).all() and 0 < IN_A_BOX < 1


def test_half_precision_and_a_feature_of_zeros():
    feature, squares = features()
    half = outlined(feature.half(), squares, torch.ones_like(squares))
    full = outlined(feature, squares, torch.ones_like(squares))
    assert (half[0] != full[0]).float().mean() < 0.02
    for each in outlined(torch.zeros_like(feature), squares, torch.ones_like(squares)):
        assert torch.isfinite(each).all()
