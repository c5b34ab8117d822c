"""The embedded dataset: the same everywhere, exact masks, splits apart, a cue that holds in training, not at test."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from attention_refine import data, shapes


def _pixels(dataset):
    return [np.asarray(image) for image in dataset["image"]]


def test_same_seed_same_images_in_another_process_and_for_another_length():
    script = (
        "import hashlib; from attention_refine.embedded.shapes import rows; "
        "print([hashlib.sha256(r['image'].tobytes()).hexdigest() for r in rows('train', 3, size=48)])"
    )
    here = [hashlib.sha256(row["image"].tobytes()).hexdigest() for row in shapes.rows("train", 8, size=48)]
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert there.strip() == str(here[:3])


def test_draws_are_the_same_on_every_platform():
    # Random draws are equal everywhere; the last bit of sin and exp may not be, hence the tolerance.
    row = list(shapes.rows("train", 3, size=64, seed=5))[2]
    assert (row["label"], row["cue"]) == (2, 2)
    assert row["bbox"] == [34, 31, 19, 21]
    np.testing.assert_allclose(row["cue_bbox"], [12.9207, 49.4970, 9.9704, 9.9704], atol=1e-3)
    np.testing.assert_allclose(row["image"].mean((0, 1)), [133.386, 123.010, 80.409], atol=0.05)


def test_no_image_is_in_two_splits_or_two_seeds():
    digests = [
        hashlib.sha256(row["image"].tobytes()).hexdigest()
        for split in shapes.SIZES
        for seed in (0, 1)
        for row in shapes.rows(split, 24, size=32, seed=seed)
    ]
    assert len(set(digests)) == len(digests) == 24 * 2 * 4


@pytest.mark.parametrize("label", range(6))
def test_mask_is_the_object_and_bbox_bounds_it(label):
    """Drawing the same image as another class changes pixels inside the two masks and nowhere else."""
    one = shapes.draw(np.random.default_rng(label), label, 0, 96)
    other = shapes.draw(np.random.default_rng(label), (label + 1) % 6, 0, 96)
    changed = (one["image"] != other["image"]).any(-1)
    either = (one["mask"] == 255) | (other["mask"] == 255)
    grown = np.pad(either, 1)
    grown = np.stack([grown[1 + i : 97 + i, 1 + j : 97 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)]).any(0)
    assert changed[~grown].mean() == 0
    assert changed[either].mean() > 0.9
    y, x = np.nonzero(one["mask"])
    assert one["bbox"] == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
    assert set(np.unique(one["mask"])) == {0, 255}


@pytest.mark.parametrize("shape", range(6))
def test_no_shape_reaches_out_of_the_square_it_is_drawn_in(shape):
    v, u = np.mgrid[-3:3:601j, -3:3:601j]
    inside = shapes.inside(shape, u, v)
    assert inside.any() and np.hypot(u, v)[inside].max() < shapes.REACH  # a circle: shapes are turned


def test_badge_keeps_off_the_object_and_shows_the_colour_of_its_class():
    for i in range(40):
        row = shapes.draw(np.random.default_rng(i), i % 6, (i + 2) % 6, 96)
        left, top, width, height = row["cue_bbox"]
        assert min(left, top) >= 0 and left + width <= 96 and top + height <= 96
        y, x = np.mgrid[:96, :96] + 0.5
        badge = np.hypot(x - left - width / 2, y - top - height / 2) < width / 2
        assert not (badge & (row["mask"] > 0)).any()
        core = np.hypot(x - left - width / 2, y - top - height / 2) < width / 4
        seen = row["image"][core].mean(0) / 255
        distance = [np.abs(seen - shapes.badge_colour(k)).sum() for k in range(6)]
        assert int(np.argmin(distance)) == (i + 2) % 6


def test_cue_goes_with_the_class_except_at_test():
    def agreement(split, **options):
        rows = list(shapes.rows(split, 300, size=32, **options))
        return np.mean([row["cue"] == row["label"] for row in rows])

    expected = 0.95 + 0.05 / 6
    assert agreement("train") == pytest.approx(expected, abs=0.03)
    assert agreement("test_intact") == pytest.approx(expected, abs=0.03)
    assert agreement("test") == pytest.approx(1 / 6, abs=0.06)
    assert agreement("train", cue=1.0) == 1.0
    assert agreement("train", cue=0.0) == pytest.approx(1 / 6, abs=0.06)


def test_colour_says_nothing_about_the_class():
    """Mean colours of the objects, class by class, are within noise of one another."""
    rows = list(shapes.rows("train", 300, size=32))
    means = np.array([row["image"][row["mask"] > 0].mean(0) for row in rows])
    labels = np.array([row["label"] for row in rows])
    spread = means.std(0) / np.sqrt(50)
    per_class = np.stack([means[labels == k].mean(0) for k in range(6)])
    assert (abs(per_class - means.mean(0)) < 4.5 * spread).all()


def test_make_has_the_canonical_columns_and_balanced_classes():
    dataset = shapes.make("train", 12, size=48)
    assert dataset.column_names == ["image", "label", "mask", "bbox", "cue", "cue_bbox"]
    assert data.class_names(dataset) == list(shapes.CLASSES)
    assert sorted(dataset["label"]) == sorted(list(range(6)) * 2)
    assert dataset[0]["image"].mode == "RGB" and dataset[0]["mask"].size == (48, 48)


def test_written_folder_reads_back_as_it_was_made(tmp_path):
    shapes.write(tmp_path / "shapes", splits=("train", "test"), n=6, size=48)
    read = data.load_dataset(tmp_path / "shapes", "test")
    made = shapes.make("test", 6, size=48)
    names = data.class_names(read)
    assert [names[v] for v in read["label"]] == [shapes.CLASSES[v] for v in made["label"]]
    assert all((a == b).all() for a, b in zip(_pixels(read), _pixels(made)))
    assert all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(read["mask"], made["mask"]))
    assert read["bbox"] == made["bbox"]
    line = json.loads((tmp_path / "shapes/test/metadata.jsonl").read_text().splitlines()[0])
    assert line["cue"] in shapes.CLASSES and Image.open(tmp_path / "shapes/test" / line["mask_file_name"]).size == (
        48,
        48,
    )
    with pytest.raises(ValueError, match="train exists already"):
        shapes.write(tmp_path / "shapes", splits=("train",), n=1, size=48)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split": "val"}, "no split 'val'.*train, validation, test, test_intact"),
        ({"n": 0}, "n=0"),
        ({"size": 8}, "size=8"),
        ({"cue": 1.5}, "cue .* got 1.5"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shapes.make(**options)
