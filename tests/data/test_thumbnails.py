"""Images that are kept decoded and small are the images, their masks and boxes where they belong."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from test_folders import lines

from attention_refine import recipe
from attention_refine.data import collate, difference, fingerprint, load_dataset, prepare, thumbnails
from attention_refine.data.loader import Loader
from attention_refine.data.thumbnails import Thumbnails
from attention_refine.data.transforms import Transform

PREPROCESSING = {
    "input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 0.9,
}  # fmt: skip
BOX = [130, 60, 120, 96]  # of the red object, x, y, width, height


def picture(path, size, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(shade)
    coarse = Image.fromarray(rng.integers(0, 90, (6, 9, 3), np.uint8)).resize(size, Image.Resampling.BILINEAR)
    x, y, width, height = BOX
    ImageDraw.Draw(coarse).rectangle((x, y, x + width - 1, y + height - 1), (255, 0, 0))
    coarse.save(path, quality=95, subsampling=0)


@pytest.fixture
def photographs(tmp_path):
    root = tmp_path / "photographs"
    for i in range(4):
        picture(root / f"{i}.jpg", (420, 300), i)
    mask = np.zeros((300, 420), np.uint8)
    x, y, width, height = BOX
    mask[y : y + height, x : x + width] = 1
    (root / "masks").mkdir()
    rows = [{"file_name": f"{i}.jpg", "label": "ab"[i % 2], "cue_bbox": [BOX]} for i in range(4)]
    for i in (0, 1):
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
        rows[i] |= {"mask_file_name": f"masks/{i}.png"}
    rows[2] |= {"bbox": [BOX]}
    lines(root, *rows)
    return root


def items(root, folder, **options):
    made = prepare(load_dataset(root), PREPROCESSING, True, cache_images=folder, **options)
    return [made[i] for i in range(len(made))]


def same(found, wanted):
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def files(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


# --- laws


def test_kept_or_not_an_item_is_the_same(photographs, tmp_path, monkeypatch):
    first = items(photographs, tmp_path / "kept")
    assert len(files(tmp_path / "kept")) == 4
    (tmp_path / "no folder").write_text("")
    with pytest.warns(UserWarning, match="cache_images: no more images are kept") as said:
        same(items(photographs, tmp_path / "no folder" / "in a file"), first)
    assert len(said) == 1
    monkeypatch.setattr(thumbnails, "read_image", None)  # none is decoded any more
    same(items(photographs, tmp_path / "kept"), first)


def test_an_image_that_is_small_already_is_as_without(photographs, tmp_path):
    for path in photographs.glob("*.jpg"):
        picture(path, (62, 60), 3)
    lines(photographs, *({"file_name": f"{i}.jpg", "label": "ab"[i % 2]} for i in range(4)))
    for path in (photographs / "masks").iterdir():
        path.unlink()
    for _ in range(2):
        same(items(photographs, tmp_path / "kept"), items(photographs, None))


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(8, 300), st.floats(0.05, 1), st.booleans())
def test_no_crop_is_enlarged_that_was_not(width, height, side, smallest, squash):
    given = {**PREPROCESSING, "input_size": [3, side, side], "crop_mode": "squash" if squash else "center"}
    transform = Transform(given, True, scale=(smallest, 1.0))
    size = Thumbnails("", transform, smallest).size(width, height)
    assert size[0] <= width and size[1] <= height
    if size != (width, height):
        for ratio in (3 / 4, 1, 4 / 3):
            area = smallest * size[0] * size[1]
            assert min((area * ratio) ** 0.5, (area / ratio) ** 0.5) >= side - 1e-6
        assert all(kept >= wanted for kept, wanted in zip(size[::-1], transform.resized([height, width])))
        assert abs(size[0] * height - size[1] * width) <= max(width, height), "its shape is the image's"


# --- annotations


@pytest.mark.parametrize("augment", ["none", "default"])
def test_masks_and_boxes_lie_where_the_object_does(photographs, tmp_path, augment):
    found = items(photographs, tmp_path / "kept", augment=augment)
    plain = items(photographs, None, augment=augment)
    for ours, theirs in zip(found, plain):
        red = (ours["pixel_values"][0] > 0.4) & (ours["pixel_values"][1] < -0.4)
        for name in {"mask", "cue"} & ours.keys():
            there = ours[name][0] == 1
            assert (red & there).sum() / (red | there).sum() > 0.85, name
        if augment == "none":  # else the crop is another: it is drawn in whole pixels of the thumbnail
            assert (ours["pixel_values"] - theirs["pixel_values"]).abs().mean() < 0.05
            if "boxes" in ours:
                assert torch.allclose(ours["boxes"], theirs["boxes"], atol=1)  # timm rounds the resized side down
    assert "mask" in found[0] and "boxes" in found[2] and "cue" in found[3] and "mask" not in found[3]


def test_a_mask_of_another_size_is_refused_by_the_size_of_the_file(photographs, tmp_path):
    items(photographs, tmp_path / "kept")
    small = Thumbnails("", Transform(PREPROCESSING, True), 0.35).size(420, 300)
    Image.new("L", small).save(photographs / "masks" / "0.png")
    with pytest.raises(ValueError, match=f"{small[0]}x{small[1]} but its image is 420x300"):
        items(photographs, tmp_path / "kept")


# --- the folder


@pytest.mark.parametrize(
    "damaged",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:-1],
        lambda content: content + b"0",
        lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        lambda content: content.replace(b"\n255", b"\n256", 1),
    ],
)
def test_a_damaged_file_is_made_anew(photographs, tmp_path, damaged):
    first = items(photographs, tmp_path / "kept")
    before = {path: path.read_bytes() for path in files(tmp_path / "kept")}
    for path, content in before.items():
        path.write_bytes(damaged(content))
    same(items(photographs, tmp_path / "kept"), first)
    assert {path: path.read_bytes() for path in files(tmp_path / "kept")} == before


def test_an_image_written_anew_is_seen(photographs, tmp_path):
    before = items(photographs, tmp_path / "kept")
    picture(photographs / "3.jpg", (420, 300), 99)
    now = items(photographs, tmp_path / "kept")
    same(now[:3], before[:3])
    assert not torch.equal(now[3]["pixel_values"], before[3]["pixel_values"])
    other = prepare(load_dataset(photographs), {**PREPROCESSING, "input_size": [3, 48, 48]}, True,
                    cache_images=tmp_path / "kept")  # fmt: skip
    assert other[0]["pixel_values"].shape == (3, 48, 48) and len(files(tmp_path / "kept")) == 6


def test_several_workers_keep_at_once_and_leave_nothing_else(photographs, tmp_path):
    def pixels(folder, workers):
        made = prepare(load_dataset(photographs), PREPROCESSING, True, cache_images=folder)
        twice = torch.utils.data.ConcatDataset([made, made, made])
        loader = Loader(twice, batch_size=1, num_workers=workers, collate_fn=collate)
        return torch.cat([batch["pixel_values"] for batch in loader])

    assert torch.equal(pixels(tmp_path / "two", 2), pixels(tmp_path / "one", 0))
    assert [path.relative_to(tmp_path / "two") for path in files(tmp_path / "two")] == [
        path.relative_to(tmp_path / "one") for path in files(tmp_path / "one")
    ]


def test_images_in_memory_are_known_by_their_bytes_and_streams_keep_too(photographs, tmp_path, monkeypatch):
    content = [path.read_bytes() for path in sorted(photographs.glob("*.jpg"))]
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": each, "path": None} for each in content], "label": [0, 1, 0, 1]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])}),
    )
    options = {"train": True, "cache_images": tmp_path / "kept"}
    first = list(prepare(rows.to_iterable_dataset(2), PREPROCESSING, **options))
    made = prepare(rows, PREPROCESSING, **options)
    monkeypatch.setattr(thumbnails, "read_image", None)
    same(list(prepare(rows.to_iterable_dataset(2), PREPROCESSING, **options)), first)
    assert made[3]["pixel_values"].shape == (3, 32, 32)


def test_a_turned_photograph_is_kept_upright(tmp_path):
    turned, exif = Image.new("RGB", (300, 420), "blue"), Image.Exif()
    exif[274] = 6  # shown turned by a quarter
    content = io.BytesIO()
    turned.save(content, "JPEG", exif=exif)
    kept = Thumbnails(tmp_path, Transform(PREPROCESSING, True), 0.35)
    for _ in range(2):
        small, whole = kept.read(content.getvalue(), "the image")
        assert whole == (420, 300) and small.size == kept.size(420, 300)


def test_what_is_not_trained_on_is_refused_and_a_resumed_run_is_told(photographs, tmp_path):
    with pytest.raises(ValueError, match="keeps images to train on, not images that are judged"):
        prepare(load_dataset(photographs), PREPROCESSING, cache_images=tmp_path)
    prints = [
        fingerprint(prepare(load_dataset(photographs), PREPROCESSING, True, cache_images=folder))
        for folder in (None, tmp_path / "one", tmp_path / "other")
    ]
    assert difference(prints[1], prints[2]) is None
    assert "what cache_images shrinks to is None now, and was [32, 32, 0.9" in difference(prints[1], prints[0])
    prints[0]["options"].pop("what cache_images shrinks to")  # as of a checkpoint of before
    assert difference(prints[0], prints[1]) is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = recipe.Recipe.from_dict({"data": {"source": str(photographs), "cache_images": str(tmp_path / "one")}})
    assert plan.data.cache_images == str(tmp_path / "one")
