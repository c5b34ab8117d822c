"""A photograph explained: the map lies where the model saw it, all of the photograph is there, and it says what it shows."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from cases import BY_NAME
from PIL import Image, ImageDraw

import attention_refine as ar
from attention_refine.data import Transform
from attention_refine.explanation import Explanation
from attention_refine.overlay import SHADE, overlay

CASE = BY_NAME["resnet18"]
PREPROCESSING = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}


def photograph(width: int, height: int) -> Image.Image:
    """A bright disc in the right third of a dim gradient."""
    across = np.linspace(40, 90, width).astype(np.uint8)
    picture = Image.fromarray(np.broadcast_to(across[None, :, None], (height, width, 3)).copy())
    ImageDraw.Draw(picture).ellipse((0.7 * width, 0.3 * height, 0.9 * width, 0.6 * height), fill=(240, 230, 40))
    return picture


@pytest.mark.parametrize("size", [(64, 64), (200, 100), (100, 233), (97, 64), (640, 480)])
@pytest.mark.parametrize("crop_pct, mode", [(1.0, "center"), (0.875, "center"), (0.9, "squash")])
def test_the_part_that_is_seen_is_the_part_that_the_crop_holds(size, crop_pct, mode):
    """Against the transform itself, run on an image whose colours are its coordinates."""
    width, height = size
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    coordinates = Image.fromarray((np.stack([x, y, 0 * x], 2) * 255).astype(np.uint8))
    transform = Transform({**PREPROCESSING, "crop_pct": crop_pct, "crop_mode": mode})
    seen = transform(coordinates)["pixel_values"] * 0.25 + 0.5
    left, top, right, bottom = transform.seen(width, height)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    columns, rows = seen[0].mean(0) * width, seen[1].mean(1) * height  # of the crop's pixels, in the photograph's
    half = (right - left) / 128, (bottom - top) / 128
    assert columns[2].item() == pytest.approx(left + 5 * half[0], abs=0.02 * width)
    assert columns[-3].item() == pytest.approx(right - 5 * half[0], abs=0.02 * width)
    assert rows[2].item() == pytest.approx(top + 5 * half[1], abs=0.02 * height)
    assert rows[-3].item() == pytest.approx(bottom - 5 * half[1], abs=0.02 * height)


def test_show_draws_the_map_on_the_crop_and_shades_the_rest():
    model, picture = CASE.wrap(), photograph(300, 150)
    shown = model.show(picture)
    assert isinstance(shown, Explanation) and shown.picture.size == (300, 150)
    pixels = model.preprocess(picture)
    with torch.no_grad():
        scores = model(pixels).logits.softmax(1)[0]
    assert shown.label == model.labels[int(scores.argmax())] and shown.score == pytest.approx(float(scores.max()))
    assert shown.method == "grad_cam" and torch.equal(shown.map, model.explain(pixels)[0, 0])
    left, top, right, bottom = map(round, shown.box)
    assert (right - left) == (bottom - top) < 150
    expected = overlay(picture.crop((left, top, right, bottom)), shown.map)
    assert np.array_equal(np.asarray(shown.picture.crop((left, top, right, bottom))), np.asarray(expected))
    outside = np.asarray(shown.picture)[:, : left - 1].astype(float)
    np.testing.assert_allclose(outside, SHADE * np.asarray(picture)[:, : left - 1], atol=0.6)
    assert "the model saw the middle, 46% of the area" in shown.note and "Map by grad_cam" in shown.note


def test_a_trained_head_shows_its_own_map_and_each_class_its_own():
    model, picture = CASE.wrap(ar.AttentionBranch(maps="per_class")), photograph(80, 64)
    model.head.begun_steps.fill_(1000)
    shown = model.show(picture, target=3)
    assert shown.method == "model" and "Map of the abn head" in shown.note
    assert (shown.label, model.show(picture, target="3").label) == ("3", "3")
    assert torch.equal(shown.map, model.explain(model.preprocess(picture))[0, 3])
    for wrong, said in (("cat", "'cat' is not one of the model's classes: 0, 1"), (9, "between 0 and 4")):
        with pytest.raises(ValueError, match=said):
            model.show(picture, target=wrong)


def test_the_whole_photograph_at_the_scale_of_the_crop():
    model, picture, sizes = CASE.wrap(), photograph(300, 150), []
    handle = model.backbone.net.conv1.register_forward_pre_hook(lambda module, args: sizes.append(args[0].shape[2:]))
    shown = model.show(picture, whole=True)
    handle.remove()
    assert shown.box == (0, 0, 300, 150) and shown.picture.size == (300, 150)
    assert sizes[0] == (64, 128)  # 67 x 134 before the crop, in steps of 32
    assert shown.map.shape == (64, 128) and shown.note.endswith("the model saw the whole photograph.")
    disc, corner = (np.asarray(shown.picture)[y, x].astype(int) for y, x in ((67, 240), (10, 10)))
    assert (disc != np.asarray(picture)[67, 240]).any() and (corner != np.asarray(picture)[10, 10]).any()


def test_a_network_of_one_size_sees_the_whole_squeezed_and_it_is_said():
    model, picture = BY_NAME["deit"].wrap(), photograph(300, 150)
    shown = model.show(picture, whole=True)
    assert shown.map.shape == (64, 64) and shown.box == (0, 0, 300, 150)
    assert "squeezed into 64x64, the one size that its network takes" in shown.note


def test_a_turned_photograph_is_upright_and_a_large_one_smaller(tmp_path):
    model, picture = CASE.wrap(), photograph(120, 80)
    turned = picture.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    turned.save(tmp_path / "turned.png", exif=exif)
    picture.save(tmp_path / "upright.png")
    one, other = (model.show(tmp_path / f"{name}.png") for name in ("turned", "upright"))
    assert one.picture.size == (120, 80) and np.array_equal(np.asarray(one.picture), np.asarray(other.picture))
    large = model.show(photograph(4000, 1000))
    assert large.picture.size == (1600, 400) and large.box[2] - large.box[0] == pytest.approx(
        1000 * 64 / 67
    )  # crop_pct 0.95


def test_it_saves_itself_with_its_caption_and_shows_itself(tmp_path):
    model = CASE.wrap(labels=["<b>cat</b>", "dog"])
    shown = model.show(photograph(400, 200), target=0)
    shown.save(tmp_path / "shown.png")
    saved = Image.open(tmp_path / "shown.png")
    assert saved.width == 400 and saved.height > 220
    assert np.array_equal(np.asarray(saved)[:200], np.asarray(shown.picture))
    caption = np.asarray(saved)[200:]
    assert (caption == 255).mean() > 0.7 and (caption < 100).any()
    model.show(photograph(40, 20)).save(tmp_path / "small.png")
    assert Image.open(tmp_path / "small.png").width == 320
    page = shown._repr_html_()
    assert "data:image/png;base64," in page and "&lt;b&gt;cat&lt;/b&gt;, " in page and "<b>cat" not in page
    assert repr(shown) == f"Explanation({shown.caption})" and shown.caption.startswith(
        f"<b>cat</b>, {shown.score:.0%}. "
    )


def test_show_leaves_the_mode_alone_and_warns_of_nothing():
    model = CASE.wrap().train()
    model.backbone.net.layer1.eval()
    flags = [module.training for module in model.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = model.show(photograph(100, 80))
    assert [module.training for module in model.modules()] == flags
    assert shown.label == model.eval().show(photograph(100, 80)).label


def test_what_is_no_photograph_is_refused(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="broken.jpg cannot be read as an image"):
        CASE.wrap().show(tmp_path / "broken.jpg")


@pytest.mark.parametrize("size", [(1, 20000), (20000, 2), (1, 1)])
@pytest.mark.parametrize("whole", [False, True])
def test_slim_pictures_are_shown_without_enlarging_them_whole(size, whole, monkeypatch):
    """Counted in pixels that are made: the model is shown at most eight times its own side."""
    model, seen = CASE.wrap(), []
    own = model.forward
    monkeypatch.setattr(
        model, "forward", lambda pixels, **more: (seen.append(pixels.shape[-2:]), own(pixels, **more))[1]
    )
    found = model.show(Image.new("RGB", size, (90, 20, 30)), method="gradient", whole=whole)
    assert max(found.picture.size) == min(max(size), 1600) and len(seen) >= 1
    assert all(max(shape) <= 8 * max(model.preprocessing["input_size"][1:]) for shape in seen)
