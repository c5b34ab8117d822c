"""Layouts: every feature comes to ``(B, C, *grid)`` and goes back unchanged, whatever its format, prefix and shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attention_refine.layouts import FORMATS, MAX_PREFIX, Layout, from_grid, grid_of, to_grid, token_grid

side = st.integers(1, 9)
small = st.integers(1, 4)


def raw_feature(layout: Layout, batch: int, channels: int, grid: tuple[int, ...]) -> torch.Tensor:
    """A feature of that layout, every entry different."""
    shape = {
        "NCHW": (batch, channels, *grid),
        "NCTHW": (batch, channels, *grid),
        "NHWC": (batch, *grid, channels),
        "NTHWC": (batch, *grid, channels),
        "NLC": (batch, layout.prefix + torch.Size(grid).numel(), channels),
    }[layout.format]
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape)


@given(
    st.sampled_from(["NCHW", "NHWC", "NLC"]), st.integers(0, MAX_PREFIX), small, small, side, side, st.integers(1, 16)
)
def test_image_features_make_the_round_trip(format, prefix, batch, channels, h, w, stride):
    layout = Layout(format, prefix if format == "NLC" else 0)
    raw = raw_feature(layout, batch, channels, (h, w))
    size = (h * stride, w * stride)
    assert grid_of(raw, layout, size) == (h, w)
    grid = to_grid(raw, layout, size)
    assert grid.shape == (batch, channels, h, w)
    assert torch.equal(from_grid(grid, raw, layout), raw)


@given(st.sampled_from(["NCTHW", "NTHWC"]), small, small, small, side, side)
def test_clip_features_make_the_round_trip(format, batch, channels, t, h, w):
    layout = Layout(format)
    assert layout.grid_rank == 3
    raw = raw_feature(layout, batch, channels, (t, h, w))
    grid = to_grid(raw, layout, (2 * t, 8 * h, 8 * w))
    assert grid.shape == (batch, channels, t, h, w)
    assert torch.equal(from_grid(grid, raw, layout), raw)


@given(
    st.integers(0, 2),
    small,
    small,
    st.integers(1, 8),
    st.sampled_from([1, 2]),
    st.integers(2, 9),
    st.sampled_from([8, 16]),
)
def test_clip_tokens_make_the_round_trip_on_some_exact_tiling(prefix, batch, channels, t, tubelet, side, patch):
    # Tokens alone do not say how time was cut where several cuts tile the clip; the answer must tile it exactly.
    layout = Layout("NLC", prefix, grid_rank=3)
    raw = raw_feature(layout, batch, channels, (t, side, side))
    size = (t * tubelet, side * patch, side * patch)
    frames, h, w = grid_of(raw, layout, size)
    assert frames * h * w == t * side * side and size[0] % frames == 0 and h == w
    assert torch.equal(from_grid(to_grid(raw, layout, size), raw, layout), raw)


def test_clip_tokens_of_a_video_transformer():
    raw = torch.zeros(1, 8 * 14 * 14, 6)  # VideoMAE: 16 frames in tubelets of 2, 224 px in patches of 16
    assert grid_of(raw, Layout("NLC", 0, grid_rank=3), (16, 224, 224)) == (8, 14, 14)


def test_clip_tokens_may_run_over_frames_last():
    grid = torch.arange(2 * 3 * 3.0).view(1, 1, 2, 3, 3)  # two frames of 3 by 3
    tokens = torch.cat([torch.tensor([-1.0]), grid[0, 0].movedim(0, -1).flatten()])[None, :, None]
    layout = Layout("NLC", 1, grid_rank=3, frames_last=True)
    assert tokens[0, 1:3, 0].tolist() == [0, 9]  # TimeSformer's: one location in both frames, then the next
    assert torch.equal(to_grid(tokens, layout, (2, 48, 48)), grid)
    assert torch.equal(from_grid(grid, tokens, layout), tokens)
    with pytest.raises(ValueError, match="only token features"):
        Layout("NLC", frames_last=True)


def test_tokens_are_read_row_by_row_after_the_prefix():
    raw = torch.tensor([[100.0], [0], [1], [2], [3], [4], [5]])[None]
    grid = to_grid(raw, Layout("NLC", 1), (32, 48))
    assert torch.equal(grid, torch.tensor([[[[0.0, 1, 2], [3, 4, 5]]]]))


def test_channels_last_keeps_rows_and_columns_apart():
    raw = torch.randn(2, 3, 5, 7)
    assert torch.equal(to_grid(raw, Layout("NHWC"), (3, 5))[1, 6], raw[1, :, :, 6])


def test_a_rewritten_grid_leaves_the_prefix_tokens_alone():
    layout = Layout("NLC", 2)
    raw = torch.randn(1, 2 + 9, 4)
    back = from_grid(torch.zeros(1, 4, 3, 3), raw, layout)
    assert torch.equal(back[:, :2], raw[:, :2]) and not back[:, 2:].any()


def test_gradients_flow_to_the_grid_tokens_only():
    raw = torch.randn(1, 1 + 4, 3, requires_grad=True)
    to_grid(raw, Layout("NLC", 1), (8, 8)).sum().backward()
    assert torch.equal(raw.grad[:, 1:], torch.ones(1, 4, 3)) and not raw.grad[:, :1].any()


@given(side, side, st.integers(1, 32))
def test_a_grid_is_found_from_its_token_count(h, w, stride):
    assert token_grid(h * w, (h * stride, w * stride)) == (h, w)


@given(st.integers(2, 400), st.integers(16, 512), st.integers(16, 512))
def test_a_token_grid_has_the_images_aspect_ratio_or_is_refused(tokens, height, width):
    try:
        h, w = token_grid(tokens, (height, width))
    except ValueError as error:
        assert str(tokens) in str(error) and f"{height}x{width}" in str(error)
    else:
        assert h * w == tokens and abs(w - h * width / height) < 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("NCWH",), ("NCWH", *FORMATS)),
        (("NCHW", 1), ("NLC", "NCHW")),
        (("NLC", -1), ("-1", str(MAX_PREFIX))),
        (("NLC", MAX_PREFIX + 1), (str(MAX_PREFIX + 1),)),
    ],
)
def test_an_impossible_layout_is_refused_by_name(arguments, words):
    with pytest.raises(ValueError) as refusal:
        Layout(*arguments)
    assert all(word in str(refusal.value) for word in words)


def test_tokens_that_do_not_tile_the_image_are_refused():
    with pytest.raises(ValueError, match="7 tokens do not tile a 64x64 image"):
        to_grid(torch.zeros(1, 7, 2), Layout("NLC"), (64, 64))
    with pytest.raises(ValueError, match="do not tile a clip"):
        to_grid(torch.zeros(1, 7, 2), Layout("NLC", grid_rank=3), (4, 64, 64))
