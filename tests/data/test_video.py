"""Frames of video files: seeking equals reading from the start, and odd files end right or in a sentence."""

from __future__ import annotations

import numpy as np
import pytest
from films import moving, read_from_the_start, turn, write, write_sound
from PIL import Image

from attention_refine.data import DataError
from attention_refine.data.video import open_video

KINDS = [  # suffix, codec, options: key frames rare enough that seeking has to decode on, with and without B-frames
    (".mp4", "libx264", {"g": "12", "bf": "3"}),
    (".webm", "libvpx-vp9", {"g": "15"}),
    (".avi", "mpeg4", {"g": "10"}),
    (".mkv", "ffv1", {}),
    (".mov", "mpeg4", {"g": "12", "bf": "2"}),
]


@pytest.mark.parametrize(("suffix", "codec", "options"), KINDS, ids=[kind[0] for kind in KINDS])
def test_seeking_gives_the_frames_that_reading_from_the_start_gives(tmp_path, suffix, codec, options):
    path = write(tmp_path / f"a{suffix}", moving(60), codec=codec, options=options)
    whole = read_from_the_start(path)
    assert len(whole) == 60
    with open_video(path) as video:
        assert video.size == (48, 36) and video.duration == pytest.approx(2.4, abs=0.05)
        assert video.rate == pytest.approx(25, abs=0.5)
        assert len(video.times()) == 60 and video.times() == pytest.approx([i / 25 for i in range(60)], abs=0.002)
        for first in (0, 7, 11, 12, 13, 29, 40, 56):
            places = [first, first + 1, first + 3]
            shown = video.at([(place + 0.5) / 25 for place in places])
            assert (shown == np.stack([whole[place] for place in places])).all(), first


def test_moments_may_come_in_any_order_and_far_apart(tmp_path):
    path = write(tmp_path / "a.mp4", moving(260), options={"g": "25"})
    whole = read_from_the_start(path)
    with open_video(path) as video:
        shown = video.at([9.02, 0.02, 5.02, 0.02, 100.0])
    for frame, place in zip(shown, (225, 0, 125, 0, 259)):
        assert (frame == whole[place]).all()


def test_the_frame_at_a_moment_is_the_one_that_is_shown_then(tmp_path):
    times = [0, 40, 80, 500, 520, 900, 1000, 1010, 1900, 1950]
    for suffix in (".mkv", ".mp4"):
        path = write(tmp_path / f"a{suffix}", moving(10), times=times)
        whole = read_from_the_start(path)
        with open_video(path) as video:
            assert video.times() == pytest.approx([time / 1000 for time in times], abs=1e-3)
            assert video.rate == pytest.approx(10 / 1.95, rel=0.01)
            for moment, place in ((0.0, 0), (0.079, 1), (0.3, 2), (0.51, 3), (0.95, 5), (1.5, 7), (1.94, 8), (1.96, 9)):
                assert (video.at([moment])[0] == whole[place]).all(), moment


def test_bytes_and_a_file_with_the_wrong_ending_are_read_by_what_they_are(tmp_path):
    path = write(tmp_path / "a.avi", moving(10))
    wrong = tmp_path / "a.mp4"
    wrong.write_bytes(path.read_bytes())
    whole = read_from_the_start(path)
    for cell in (path, str(wrong), path.read_bytes(), {"path": "gone.avi", "bytes": path.read_bytes()}):
        with open_video(cell) as video:
            assert (video.at([0.22])[0] == whole[5]).all()


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_rotation_tag_turns_the_frames_upright(tmp_path, quarters):
    plain = write(tmp_path / "plain.mp4", moving(5))
    turned = turn(plain, tmp_path / "turned.mp4", quarters)
    expected = np.rot90(read_from_the_start(plain)[2], -quarters)
    with open_video(turned) as video:
        assert video.size == expected.shape[1::-1]
        assert (video.at([0.1])[0] == expected).all()


def test_one_frame_lasts_for_ever(tmp_path):
    path = write(tmp_path / "one.mp4", moving(1))
    with open_video(path) as video:
        assert (video.at([0.0, 5.0]) == read_from_the_start(path)[0]).all()


def test_odd_sizes_ten_bits_and_alpha_are_read_as_eight_bit_colours(tmp_path):
    frames = moving(8, size=(37, 23))
    lossless = write(tmp_path / "odd.mkv", frames)
    with open_video(lossless) as video:
        assert video.size == (37, 23) and not video.lossy
        assert (video.at([0.1])[0] == frames[2]).all()
    ten = write(tmp_path / "ten.mp4", moving(8), pixels="yuv420p10le", options={"crf": "5"})
    with open_video(ten) as video:
        assert video.lossy and video.at([0.1]).dtype == np.uint8
        assert (video.at([0.1])[0, :3] == read_from_the_start(ten)[2][:3]).all()
    clear = [np.dstack([frame, np.full(frame.shape[:2], 90, np.uint8)]) for frame in moving(8)]
    with open_video(write(tmp_path / "alpha.mov", clear, codec="qtrle")) as video:
        assert (video.at([0.1])[0] == clear[2][..., :3]).all()


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_moving_pictures_are_videos(tmp_path, suffix):
    frames = [np.full((20, 30, 3), level, np.uint8) for level in (0, 80, 160, 240)]
    pictures = [Image.fromarray(frame) for frame in frames]
    path = tmp_path / f"a{suffix}"
    lossless = {"lossless": True} if suffix == ".webp" else {}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100, 100, 400, 100], **lossless)
    with open_video(path) as video:
        assert video.size == (30, 20) and video.duration == pytest.approx(0.7) and not video.lossy
        for moment, place in ((0.05, 0), (0.15, 1), (0.3, 2), (0.55, 2), (0.65, 3), (9.0, 3)):
            assert (video.at([moment])[0] == frames[place]).all(), moment


def cut(path, to, share=0.5):
    content = path.read_bytes()
    to.write_bytes(content[: int(len(content) * share)])
    return to


def test_broken_files_end_in_a_sentence_that_names_them(tmp_path):
    frames = moving(60)
    none = write(tmp_path / "none.mp4", [])
    sound = write_sound(tmp_path / "sound.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("no video\n" * 100)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    gone = tmp_path / "gone.mp4"
    at_front = write(tmp_path / "front.mp4", frames, muxer={"movflags": "faststart"})
    words = {
        none: "holds no", sound: "no video, only audio", text: "is no video", empty: "is no video", gone: "no such file",
        cut(write(tmp_path / "a.mp4", frames), tmp_path / "cut.mp4"): "cut off",
        cut(at_front, tmp_path / "cut_front.mp4"): "cut off",
        cut(write(tmp_path / "a.mkv", frames), tmp_path / "cut.mkv"): "cut off",
        cut(write(tmp_path / "a.webm", frames), tmp_path / "cut.webm"): "cut off",
        cut(write(tmp_path / "a.avi", frames), tmp_path / "cut.avi"): "cut off",
    }  # fmt: skip
    for path, word in words.items():
        with pytest.raises(DataError, match=word) as error, open_video(path, str(path)) as video:
            video.at([video.duration])
        assert str(path) in str(error.value) and "\n" not in str(error.value), path


def test_a_cut_file_still_gives_the_frames_it_has(tmp_path):
    whole = write(tmp_path / "a.mkv", moving(60))
    with open_video(cut(whole, tmp_path / "cut.mkv")) as video:
        assert (video.at([0.1])[0] == read_from_the_start(whole)[2]).all()


def test_without_pyav_the_remedy_is_said(tmp_path, monkeypatch):
    import sys

    path = write(tmp_path / "a.mp4", moving(3))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"pip install attention-refine\[video\]"), open_video(path):
        pass
