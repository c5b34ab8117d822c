"""Holes filled, edges softened, parts moved: against loops and by what each promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attention_refine.drawing.compositing import FILLS, extent, fill_in, grown, moved, softened


def images(count: int = 2, size: tuple[int, int] = (13, 10)) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(3))


def hole(top: int, bottom: int, left: int, right: int, size: tuple[int, int] = (13, 10)) -> Tensor:
    made = torch.zeros(2, 1, *size)
    made[:, :, top:bottom, left:right] = 1
    return made


@pytest.mark.parametrize("fill", FILLS)
def test_outside_the_hole_every_pixel_stays_to_the_bit(fill):
    gone = hole(3, 9, 1, 6)
    found = fill_in(images(), gone, fill)
    assert torch.equal(found * (1 - gone), images() * (1 - gone))
    assert torch.equal(found, images()) == (fill == "none")


@pytest.mark.parametrize("fill", ["smooth", "mirror"])
def test_a_hole_in_one_colour_is_filled_with_it(fill):
    plain = torch.tensor([0.3, -1.0, 2.0])[None, :, None, None].expand(2, 3, 13, 10).contiguous()
    broken = torch.where(hole(3, 9, 2, 9) > 0, 99.0, plain)
    torch.testing.assert_close(fill_in(broken, hole(3, 9, 2, 9), fill), plain)


def test_a_smooth_filling_lies_between_what_surrounds_it():
    ramp = torch.linspace(0, 1, 10).expand(2, 3, 13, 10).contiguous()
    found = fill_in(ramp, hole(4, 9, 3, 7))[:, :, 4:9, 3:7]
    assert found.min() > ramp[0, 0, 0, 2] and found.max() < ramp[0, 0, 0, 7]
    assert (found.mean((0, 1, 2)).diff() > 0).all()  # and runs the way they do


def test_a_mirror_filling_is_the_other_side():
    gone = hole(3, 9, 0, 4)
    found = fill_in(images(), gone, "mirror")
    assert torch.equal(found[:, :, 3:9, :4], images().flip(-1)[:, :, 3:9, :4])
    middle = hole(3, 9, 2, 8)  # hole on both sides
    torch.testing.assert_close(fill_in(images(), middle, "mirror"), fill_in(images(), middle))


def test_nothing_left_to_fill_from_is_zero_and_finite():
    assert torch.equal(fill_in(images(), torch.ones(2, 1, 13, 10)), torch.zeros(2, 3, 13, 10))


def test_an_unknown_filling_is_refused():
    with pytest.raises(ValueError, match="fill='telea' is not one of 'smooth', 'mirror', 'none'"):
        fill_in(images(), hole(3, 9, 1, 6), "telea")


@pytest.mark.parametrize("pixels", [1, 2, 3, 5])
def test_a_soft_edge_falls_off_over_so_many_pixels(pixels):
    edge = torch.zeros(1, 1, 40, 40)
    edge[..., 20:] = 1
    row = softened(edge, pixels)[0, 0, 20]
    assert (row[: 20 - pixels] == 0).all() and (row[20 + pixels :] > 1 - 1e-6).all()
    inside = row[20 - pixels : 20 + pixels]
    assert (inside > 0).all() and (inside < 1).all() and (inside.diff() > 0).all()
    torch.testing.assert_close(row[19] + row[20], torch.tensor(1.0))  # 0.5 between the two
    assert torch.equal(softened(edge, 0), edge)


def test_grown_reaches_so_many_pixels_further():
    found = grown(hole(4, 6, 3, 5), 2)
    assert torch.equal(found, hole(2, 8, 1, 7)) and torch.equal(grown(found, 0), found)


def test_moved_is_a_shift_written_out():
    source, by = images(), torch.tensor([[2, -3], [-4, 1]])
    for outside in ("border", "zeros"):
        found = moved(source, by, outside)
        for n in range(2):
            down, right = by[n].tolist()
            for y in range(13):
                for x in range(10):
                    from_y, from_x = y - down, x - right
                    inside = 0 <= from_y < 13 and 0 <= from_x < 10
                    wanted = source[n, :, min(max(from_y, 0), 12), min(max(from_x, 0), 9)]
                    assert torch.equal(found[n, :, y, x], wanted if inside or outside == "border" else wanted * 0)


def test_extent_is_the_smallest_box():
    assert extent(hole(3, 9, 1, 6)).tolist() == [[3, 9, 1, 6]] * 2
    assert extent(hole(0, 0, 0, 0)).tolist() == [[13, 0, 10, 0]] * 2
