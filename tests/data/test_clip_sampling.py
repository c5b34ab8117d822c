"""Which moments a clip has: at the rate asked for, inside of its part of the video, filled up where that is short."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_refine.data import ClipSampling

seconds = st.floats(0.2, 50)
rates = st.floats(5, 60)


def test_a_stride_counts_the_frames_of_the_file():
    sampling = ClipSampling(frames=4, stride=2)
    found = sampling.moments(0.0, 1.0, rate=10)
    assert [int(moment * 10) for moment in found] == [1, 3, 5, 7]  # frames 0 to 9: eight of them, from the middle
    assert [int(m * 10) for m in sampling.moments(0.0, 1.0, 10, at=0.0)] == [0, 2, 4, 6]
    assert [int(m * 10) for m in sampling.moments(0.0, 1.0, 10, at=1.0)] == [2, 4, 6, 8]


def test_a_rate_is_in_seconds_whatever_the_file_has():
    sampling = ClipSampling(frames=4, fps=4)
    for rate in (4, 25, 60):
        assert sampling.moments(2.0, 4.0, rate) == pytest.approx([2.625, 2.875, 3.125, 3.375])


def test_short_videos_hold_their_last_frame_or_begin_again():
    assert [int(m * 10) for m in ClipSampling(5).moments(0, 0.3, 10)] == [0, 1, 2, 2, 2]
    assert [int(m * 10) for m in ClipSampling(5, short="loop").moments(0, 0.3, 10)] == [0, 1, 2, 0, 1]
    assert ClipSampling(5).is_short(0, 0.3, 10) and not ClipSampling(5).is_short(0, 0.5, 10)
    assert [int(m * 10) for m in ClipSampling(3, fps=2).moments(1.0, 1.4, 10)] == [12, 12, 12]


@given(st.integers(1, 20), st.one_of(st.none(), rates), st.integers(1, 5), seconds, seconds, rates, st.floats(0, 1))
def test_moments_lie_in_the_part_and_never_run_back(frames, fps, stride, start, length, rate, at):
    for short in ("hold", "loop"):
        sampling = ClipSampling(frames, fps, 1 if fps else stride, short)
        found = sampling.moments(start, start + length, rate, at)
        assert len(found) == frames
        assert all(start <= moment <= start + length for moment in found)
        if short == "hold":
            assert found == sorted(found)
        if not sampling.is_short(start, start + length, rate) and frames > 1 and sampling.span(rate) <= length:
            step = 1 / fps if fps else stride / rate
            assert found[1] - found[0] == pytest.approx(step)


def test_preprocessing_says_it_and_images_have_none():
    assert ClipSampling.of({"input_size": [3, 8, 64, 64], "fps": 8, "short": "loop"}) == ClipSampling(8, 8, 1, "loop")
    assert ClipSampling.of({"input_size": [3, 8, 64, 64]}) == ClipSampling(8)
    assert ClipSampling.of({"input_size": [3, 64, 64]}) is None


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"frames": 0}, "frames"), ({"frames": 4, "stride": 1.5}, "stride"), ({"frames": 4, "fps": 0}, "fps"),
        ({"frames": 4, "fps": 8, "stride": 2}, "not both"), ({"frames": 4, "short": "stop"}, "hold, loop"),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused(options, word):
    with pytest.raises(ValueError, match=word):
        ClipSampling(**options)
