"""What DARC is made of: the rectangles it hides and the decoders that predict them."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attention_refine.objectives.darc.decoder import fused, make_decoder
from attention_refine.objectives.darc.rectangles import (
    Occlusion,
    drawn,
    drawn_from_pixels,
    inside,
    rectangles,
    side_range,
)

SIZE = (24, 32)


def count_inside(boxes, size):
    """By hand: pixel by pixel."""
    out = torch.zeros(len(boxes), 1, *size, dtype=torch.bool)
    for b, each in enumerate(boxes.tolist()):
        for left, top, right, bottom in each:
            for y in range(top, bottom):
                for x in range(left, right):
                    out[b, 0, y, x] = True
    return out


@pytest.mark.parametrize("sampling", ["random", "strong", "weak"])
def test_rectangles_lie_inside_and_have_the_sides_asked_for(sampling):
    boxes = rectangles(drawn(200, 3), SIZE, (3, 7), (5, 9), maps=torch.rand(200, 1, 6, 8), sampling=sampling)
    left, top, right, bottom = boxes.unbind(-1)
    assert int(left.min()) >= 0 and int(top.min()) >= 0 and int(right.max()) <= 32 and int(bottom.max()) <= 24
    assert set((bottom - top).flatten().tolist()) == set(range(3, 8))
    assert set((right - left).flatten().tolist()) == set(range(5, 10))
    assert torch.equal(inside(boxes, SIZE, boxes.device), count_inside(boxes, SIZE))


def test_every_size_and_place_is_equally_likely():
    boxes = rectangles(drawn(20000, 1), SIZE, (4, 5), (4, 4))[:, 0]
    tall = boxes[:, 3] - boxes[:, 1] == 5
    assert abs(tall.float().mean() - 0.5) < 0.02
    tops = boxes[tall, 1].bincount(minlength=20).float() / tall.sum()
    assert len(tops) == 20 and (tops - 1 / 20).abs().max() < 0.01


def test_the_ends_of_the_numbers_stay_inside():
    for value in (0.0, 1 - 2**-53):
        numbers = torch.full((1, 1, 4), value, dtype=torch.float64)
        for sampling in ("random", "strong", "weak"):
            boxes = rectangles(numbers, SIZE, (3, 7), (5, 9), maps=torch.rand(1, 1, 6, 8), sampling=sampling)
            left, top, right, bottom = boxes[0, 0].tolist()
            assert 0 <= left < right <= 32 and 0 <= top < bottom <= 24


def test_strong_and_weak_follow_the_map():
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 1, 2] = 1.0
    numbers = drawn(500, 1)
    strong = inside(rectangles(numbers, (32, 32), (4, 4), (4, 4), maps.expand(500, 1, 4, 4), "strong"), (32, 32), "cpu")
    assert strong[:, 0, 8:16, 16:24].flatten(1).float().sum(1).min() > 0  # every rectangle touches the one bright cell
    weak = inside(rectangles(numbers, (32, 32), (4, 4), (4, 4), 1 - maps.expand(500, 1, 4, 4), "weak"), (32, 32), "cpu")
    assert torch.equal(weak, strong)
    maps = torch.tensor([[0.2, 0.8], [0.0, 0.0]]).expand(4000, 1, 2, 2)
    boxes = rectangles(drawn(4000, 1), (8, 16), (2, 2), (2, 2), maps, "strong")
    right = (boxes[:, 0, 0] + 1 >= 8).float().mean()
    assert abs(float(right) - 0.8) < 0.03  # in proportion to the map


def test_a_constant_map_is_as_good_as_none():
    boxes = rectangles(drawn(4000, 1), (80, 80), (2, 2), (2, 2), torch.full((4000, 1, 2, 2), 0.4), "strong")
    left = (boxes[:, 0, 0] + 1 < 40).float().mean()
    assert abs(float(left) - 0.5) < 0.04


def test_numbers_from_pixels_depend_on_the_image_and_the_turn_alone():
    pixels = torch.randn(3, 3, 8, 8)
    state = torch.get_rng_state()
    numbers = drawn_from_pixels(pixels, 2, 5, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn_from_pixels(pixels[1:2], 2, 5, 0), numbers[1:2])
    assert torch.equal(drawn_from_pixels(pixels.double(), 2, 5, 0), numbers)
    assert torch.equal(drawn_from_pixels(pixels.contiguous(memory_format=torch.channels_last), 2, 5, 0), numbers)
    different = [numbers, drawn_from_pixels(pixels, 2, 5, 1), drawn_from_pixels(pixels, 2, 6, 0), numbers.roll(1, 0)]
    assert all(not torch.equal(a, b) for i, a in enumerate(different) for b in different[:i])
    assert numbers.min() >= 0 and numbers.max() < 1


def test_the_global_generator_draws_where_there_is_no_turn():
    occlusion, pixels = Occlusion((0.2, 0.4), 2, (2.0, 2.0)), torch.randn(4, 3, *SIZE)
    torch.manual_seed(3)
    first = occlusion.hide(pixels)
    torch.manual_seed(3)
    assert torch.equal(occlusion.hide(pixels), first) and not torch.equal(occlusion.hide(pixels), first)
    assert torch.equal(occlusion.hide(pixels, turn=(0,)), occlusion.hide(pixels, turn=(0,)))


@pytest.mark.parametrize(
    "side, share, least, expected",
    [(100, (0.1, 0.3), 0, (10, 30)), (100, (0.1, 0.3), 14.5, (15, 30)), (224, (0.1, 0.2), 64, (64, 64))],
)
def test_sides(side, share, least, expected):
    assert side_range(side, share, least) == expected


def test_nothing_and_everything_are_refused():
    with pytest.raises(ValueError, match=r"size=\(0.001, 0.002\) hides nothing of 100 pixels, .* raise size"):
        side_range(100, (0.001, 0.002))
    with pytest.raises(ValueError, match="hides 64 of 64 pixels, and fewer than all are accepted; lower size or"):
        side_range(64, (0.1, 0.3), 64)
    with pytest.raises(ValueError, match="hides 10 of 10 pixels"):
        Occlusion((0.5, 0.99), 1, (0, 0)).sides((10, 10))


# decoders ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["transposed", "shuffle"])
@pytest.mark.parametrize("stride", [1, 2, 8, 14, 16, 32])
def test_decoders_give_images_of_the_size_asked_for(kind, stride):
    decoder = make_decoder(kind, 12, stride, 24)
    feature = torch.randn(2, 12, 2, 3, requires_grad=True)
    image = decoder(feature, (2 * stride, 3 * stride))
    assert image.shape == (2, 3, 2 * stride, 3 * stride)
    image.square().sum().backward()
    assert feature.grad.abs().min() > 0
    together, alone = decoder(feature, (9, 9)), decoder(feature[:1], (9, 9))
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["transposed", "shuffle"])
@pytest.mark.parametrize("channels, stride, plain", [(1024, 16, 4.09e9), (384, 16, 4.61e9), (2048, 32, 4.09e9)])
def test_decoders_are_light(kind, channels, stride, plain):
    """At most a tenth of the multiply-adds of a pass of ResNet-50 and ViT-S, at 224 pixels and the usual sites."""
    decoder = make_decoder(kind, channels, stride, 256).to("meta")
    cells = 224 // stride
    with FlopCounterMode(display=False) as counter:
        decoder(torch.empty(1, channels, cells, cells, device="meta"), (224, 224))
    assert counter.get_total_flops() / 2 < 0.1 * plain


def test_fusing():
    feature, maps = torch.randn(2, 5, 3, 3), torch.rand(2, 1, 3, 3)
    torch.testing.assert_close(fused(feature, maps, "residual"), feature + maps * feature)
    assert torch.equal(fused(feature, 0 * maps, "residual"), feature)
    assert torch.equal(fused(feature, maps, "concat")[:, 5:], maps) and fused(feature, maps, "concat").shape[1] == 6
    assert fused(feature.bfloat16(), maps, "residual").dtype == torch.bfloat16


def test_the_shuffle_decoder_predicts_each_cells_own_block():
    decoder = make_decoder("shuffle", 4, 8, 16)
    feature = torch.randn(1, 4, 2, 2)
    whole = decoder(feature, (16, 16))
    changed = feature.clone()
    changed[0, :, 0, 1] += 1
    moved = (decoder(changed, (16, 16)) != whole).any(1)[0]
    assert moved[:8, 8:].any() and not moved[8:].any() and not moved[:, :8].any()
