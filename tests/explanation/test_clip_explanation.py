"""A video explained: the frames that the model saw with the map over them, as mp4, GIF, strip and in a report."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import attention_refine as ar
from attention_refine import clips
from attention_refine.cli import main
from attention_refine.data.video import open_video
from attention_refine.drawing.frames import side_by_side, spread, with_maps
from attention_refine.overlay import overlay
from attention_refine.report.gallery import gallery

pytest.importorskip("av")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clips.write(tmp_path_factory.mktemp("clips"), ("test",), n=5, size=48, frames=10)


@pytest.fixture(scope="module")
def model():
    made = ar.wrap("r3d_18@4", head="abn", labels=list(clips.CLASSES), pretrained=False,
                   preprocessing={"input_size": [3, 8, 32, 32], "fps": 8, "crop_pct": 0.8})  # fmt: skip
    return made.eval()


def test_a_strip_shows_the_first_the_last_and_frames_between():
    assert spread(16) == [0, 3, 6, 9, 12, 15] and spread(3) == [0, 1, 2] and spread(1) == [0]
    row = side_by_side([Image.new("RGB", (10, 6), level) for level in ("red", "green", "blue")])
    assert row.size == (34, 6) and row.getpixel((33, 0)) == (0, 0, 255)


def test_maps_of_all_frames_are_drawn_on_one_scale():
    pictures = [Image.new("RGB", (16, 16), "gray")] * 4
    maps = torch.zeros(4, 16, 16)
    maps[0], maps[3, :8] = 1.0, 2.0
    drawn = with_maps(pictures, maps)
    for picture, expected in zip(drawn, maps / 2):
        assert np.array_equal(np.asarray(picture), np.asarray(overlay(pictures[0], expected, scale="unit")))


def test_the_map_lies_where_the_model_looked_and_the_frames_last_as_long(model, folder):
    found = model.show(folder / "test" / "00002.mp4", method="model")
    pixels = model.preprocess(folder / "test" / "00002.mp4")
    scores = model(pixels).logits.softmax(1)[0]
    assert found.label == model.labels[int(scores.argmax())] and found.score == pytest.approx(float(scores.max()))
    assert torch.equal(found.map, model.explain(pixels, method="model")[0, 0])
    assert len(found.frames) == 8 and found.fps == 8 and found.frames[0].size == (48, 48)
    with open_video(folder / "test" / "00002.mp4") as video:
        whole = video.at([(i + 1.5) / 8 for i in range(8)])  # the middle eight of ten
    for frame, drawn in zip(whole, found.frames):  # outside of the middle 80 % a frame is shaded
        assert np.abs(np.asarray(drawn)[:3] - 0.4 * frame[:3].astype(float)).max() <= 1
    assert "abn head" in found.note and "8 frames of 1.0 s" in found.note and "64% of the area" in found.note
    assert model.show(folder / "test" / "00002.mp4", method="grad_cam", target="grow").label == "grow"
    assert "data:image/gif;base64" in found._repr_html_()
    with pytest.raises(ValueError, match="whole"):
        model.show(folder / "test" / "00002.mp4", whole=True)


def test_the_command_writes_an_mp4_and_a_gif(model, folder, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    output = tmp_path / "explained"
    video = folder / "test" / "00001.mp4"
    assert main(["explain", str(tmp_path / "model"), str(video), "--output", str(output), "--method", "model"]) == 0
    shown = model.show(video, method="model")
    for name, tolerance in (("00001.mp4", 30), ("00001.gif", 30)):
        with open_video(output / name) as written:
            assert written.size == (48, 48) and written.duration == pytest.approx(1.0, abs=0.1)
            drawn = written.at([(i + 0.5) / 8 for i in range(8)]).astype(int)
        assert np.abs(drawn - np.stack([np.asarray(frame) for frame in shown.frames])).mean() < tolerance / 3
    assert main(["explain", str(tmp_path / "model"), str(tmp_path / "model"), "--output", str(output)]) == 1
    assert "holds no videos" in capsys.readouterr().err


def test_a_report_shows_strips(model, folder):
    dataset = ar.data.load_dataset(folder, "test")
    (row,) = gallery({"model": model}, dataset, [3])
    assert row.label == "blink" and row.picture.size == row.cells[0].picture.size == (6 * 34 - 2, 32)
    item = ar.data.prepare(dataset, model.preprocessing)[3]
    outlined = np.asarray(row.picture)
    white = [(outlined[:, 34 * place : 34 * place + 32] == 255).all(-1).any() for place in range(6)]
    there = [bool(item["mask"][0, frame].any()) for frame in spread(8)]
    assert white == there and not all(there)  # the object is outlined where it is there
    red = [(outlined[:, 34 * place : 34 * place + 32] == (255, 60, 50)).all(-1).any() for place in range(6)]
    assert all(red)  # the cue in every frame


def test_a_card_shows_strips_and_says_that_it_is_of_videos(model, folder):
    from attention_refine.hub.card import Card, map_grid

    videos = [folder / "test" / "00000.mp4", folder / "test" / "00002.mp4"]
    assert map_grid(model, videos).size == (6 * 34 - 2, 4 * 32)
    text = Card().render(model, "user/clips", [])
    assert "video-classification" in text and "attention-refine[video]" in text and "photo.jpg" not in text


def test_a_second_run_leaves_its_own_videos_alone(model, folder, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "1.mp4").write_bytes((folder / "test" / "00001.mp4").read_bytes())
    explain = ["explain", str(tmp_path / "model"), str(videos), "--method", "model", "--output"]
    for output in (videos / "explained", videos / "explained", tmp_path / "elsewhere"):
        assert main([*explain, str(output)]) == 0
        assert sorted(path.name for path in output.iterdir()) == ["1.gif", "1.mp4"]
    assert "2 pictures that explain wrote: explained/1.gif, explained/1.mp4" in capsys.readouterr().err
    other = tmp_path / "theirs"
    other.mkdir()
    (other / "1.mp4").write_bytes(b"x")
    assert main([*explain, str(other)]) == 1
    assert "1.mp4 is there, and is no picture of explain" in capsys.readouterr().err
