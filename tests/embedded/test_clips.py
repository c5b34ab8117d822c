"""The embedded clips: the same everywhere, actions that no frame tells, exact masks, splits and backgrounds apart, a cue."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from attention_refine import clips, data

PREPROCESSING = {"input_size": [3, 16, 64, 64], "mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear",
                 "crop_pct": 1.0, "fps": 8}  # fmt: skip


@pytest.fixture(scope="module")
def drawn():
    return list(clips.rows("train", 40))


def centres(row):
    return [np.argwhere(mask).mean(0) if mask.any() else None for mask in row["mask"]]


def test_a_seed_draws_the_same_clips_and_more_of_them_begin_with_fewer(drawn):
    for one, other in zip(clips.rows("train", 3), drawn):
        assert (one["video"] == other["video"]).all() and one["cue_bbox"] == other["cue_bbox"]
    again = next(clips.rows("train", 1, seed=1))
    assert not (again["video"] == drawn[0]["video"]).all()


def test_no_clip_and_no_background_is_in_two_splits():
    digests, grounds = [], []
    for split in clips.SIZES:
        found = list(clips.rows(split, 10, size=32, frames=4))
        digests += [hashlib.sha256(row["video"].tobytes()).hexdigest() for row in found]
        grounds.append({row["background"] for row in found})
    assert len(set(digests)) == 40 and len(set.union(*grounds)) == sum(map(len, grounds))


def test_a_background_serves_a_clip_of_every_action(drawn):
    served = {}
    for row in drawn:
        served.setdefault(row["background"], []).append(row["label"])
    assert len(served) == clips.BACKGROUNDS and all(sorted(labels) == [0, 1, 2, 3, 4] for labels in served.values())


def test_what_each_action_does_is_in_the_masks(drawn):
    for row in drawn:
        places, sizes = centres(row), row["mask"].astype(bool).sum((1, 2))
        seen = [place for place in places if place is not None]
        way = np.linalg.norm(seen[-1] - seen[0])
        wander = np.linalg.norm(np.diff(seen, axis=0), axis=1).sum()
        if row["label"] == 0:
            assert way > 0.25 * 64 and wander < 1.2 * way
        elif row["label"] == 2:
            assert sizes[-1] > 2.2 * sizes[0]
        elif row["label"] == 3:
            assert 4 <= sum(place is not None for place in places) <= 12
        elif row["label"] == 4:
            assert wander > 8 and way < 0.12 * 64
        if row["label"] in (0, 1, 4):
            assert sizes.max() < 1.4 * sizes.min()
        assert (row["label"] == 3) == any(place is None for place in places)


def test_a_mask_is_the_object_and_nothing_else(drawn):
    """The object differs from the ground that drifts under it: outside of every mask neighbouring frames are alike."""
    for row in drawn[:10]:
        video, mask = row["video"].astype(int), row["mask"] > 0
        change = abs(video[1:] - video[:-1]).mean(-1)
        grown = np.zeros_like(mask)
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                grown |= np.roll(mask, (down, across), (1, 2))
        outside = ~(grown[1:] | grown[:-1])
        if row["label"] in (0, 3, 4):  # where the object came or went the picture changed more than the ground does
            swept = mask[1:] ^ mask[:-1]
            assert change[swept].mean() > 1.5 * change[outside].mean()
        for box, each in zip(row["bbox"], mask):
            x, y, w, h = box or (0, 0, 0, 0)
            inside = np.zeros_like(each)
            inside[int(y) : int(y + h), int(x) : int(x + w)] = True
            assert each.sum() == (each & inside).sum() and (box is None) == (not each.any())


def test_the_cue_goes_with_the_action_in_training_and_lies_at_test():
    for split, low, high in (("train", 0.9, 1.0), ("test_intact", 0.9, 1.0), ("test", 0.0, 0.4)):
        found = list(clips.rows(split, 100, size=32, frames=4))
        share = np.mean([row["label"] == row["cue"] for row in found])
        assert low <= share <= high, split
    row = next(iter(clips.rows("train", 1)))
    x, y, side, _ = row["cue_bbox"]
    middle = row["video"][:, int(y + side / 2), int(x + side / 2)] / 255
    free = ~(row["mask"][:, int(y + side / 2), int(x + side / 2)] > 0)
    assert abs(middle[free] - clips.badge_colour(row["cue"])).mean() < 0.06


def test_a_dataset_of_them_is_read_exactly_and_without_pyav(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    dataset = clips.make("test", 5)
    assert data.class_names(dataset) == list(clips.CLASSES)
    for row, item in zip(clips.rows("test", 5), data.prepare(dataset, PREPROCESSING)):
        pixels = torch.from_numpy(row["video"]).permute(3, 0, 1, 2) / 255
        assert torch.allclose(item["pixel_values"], pixels, atol=1e-6)
        assert (item["mask"][0].numpy() == (row["mask"] > 0)).all()
        x, y, side, _ = row["cue_bbox"]
        assert item["cue"][0, 5].sum() == pytest.approx(side**2, rel=0.25)


def test_written_as_mp4_and_read_again(tmp_path):
    clips.write(tmp_path, ("train", "test"), n=5)
    dataset = data.load_dataset(tmp_path, "test")
    assert str(data.describe(dataset)) == "5 videos, 5 classes, 5 masks, 0 boxes, 5 cue boxes"
    assert set(dataset["background"]) == {f"test {i}" for i in range(5)}
    for row, item in zip(clips.rows("test", 5), data.prepare(dataset, PREPROCESSING)):
        pixels = torch.from_numpy(row["video"]).permute(3, 0, 1, 2) / 255
        assert (item["pixel_values"] - pixels).abs().mean() < 0.03  # H.264 has half the resolution of colour
        assert (item["mask"][0].numpy() == (row["mask"] > 0)).all()
    with pytest.raises(ValueError, match="exists already"):
        clips.write(tmp_path, ("test",), n=5)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"split": "val"}, "no split"), ({"size": 8}, "32 pixels"), ({"frames": 2}, "4 frames"), ({"cue": 2}, "between 0"),
     ({"n": 0}, "at least one")],
)  # fmt: skip
def test_out_of_range_is_refused(options, word):
    with pytest.raises(ValueError, match=word):
        next(clips.rows(**{"split": "train", **options}))
