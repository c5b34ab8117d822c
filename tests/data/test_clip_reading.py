"""Datasets of videos: folders, metadata, masks, a column of datasets; items whose frames are moved by one draw."""

from __future__ import annotations

import json
import warnings

import datasets
import numpy as np
import pytest
import torch
from films import moving, read_from_the_start, write
from PIL import Image
from torch.utils.data import DataLoader

from attention_refine import data
from attention_refine.data import DataError, check, collate, describe, load_dataset, load_unlabeled, prepare

MEAN, STD = [0.4, 0.45, 0.5], [0.2, 0.25, 0.3]


def recipe(frames=4, size=(36, 48), crop_pct=1.0, **more):
    return {"input_size": [3, frames, *size], "mean": MEAN, "std": STD, "interpolation": "bilinear",
            "crop_pct": crop_pct} | more  # fmt: skip


def squares(n=12, size=(48, 36), side=8):
    """A white square that moves right on grey; frames (H, W, 3), masks (H, W) of 0 and 255, boxes."""
    width, height = size
    frames, masks, boxes = [], [], []
    for i in range(n):
        mask = np.zeros((height, width), np.uint8)
        mask[10 : 10 + side, 4 + 2 * i : 4 + 2 * i + side] = 255
        frames.append(np.maximum(mask, 60)[..., None].repeat(3, 2))
        masks.append(mask)
        boxes.append([4 + 2 * i, 10, side, side])
    return frames, masks, boxes


def folder(root, names=("jump", "walk"), n=2, suffix=".mp4", split="train"):
    for k, name in enumerate(names):
        for i in range(n):
            write(root / split / name / f"{name}{i}{suffix}", moving(12, seed=10 * k + i))
    return root


def lines(where, *rows):
    (where / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def pixels(frames) -> torch.Tensor:
    """(3, T, H, W), normalised."""
    clip = torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2) / 255
    return (clip - torch.tensor(MEAN).view(3, 1, 1, 1)) / torch.tensor(STD).view(3, 1, 1, 1)


# --- sources


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi", ".mov", ".mkv"])
def test_class_folders_of_videos(tmp_path, suffix):
    dataset = load_dataset(folder(tmp_path, suffix=suffix))
    assert data.class_names(dataset) == ["jump", "walk"] and len(dataset) == 4
    assert str(describe(dataset)) == "4 videos, 2 classes, 0 masks, 0 boxes"
    item = prepare(dataset, recipe(stride=2))[2]
    path = dataset.cast_column("video", datasets.Video(decode=False))[2]["video"]["path"]
    whole = read_from_the_start(path)
    assert item["pixel_values"].shape == (3, 4, 36, 48) and item["labels"] == 1
    assert torch.allclose(item["pixel_values"], pixels([whole[i] for i in (2, 4, 6, 8)]), atol=1e-5)


def test_a_folder_of_gifs_is_one_of_videos_where_that_is_asked_for(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(2):
            pictures = [Image.fromarray(frame) for frame in moving(6, seed=i)]
            pictures[0].save(tmp_path / name / f"{i}.gif", save_all=True, append_images=pictures[1:], duration=40)
    assert "image" in load_dataset(tmp_path).column_names
    videos = load_dataset(tmp_path, media="video")
    assert prepare(videos, recipe())[0]["pixel_values"].shape == (3, 4, 36, 48)


def test_videos_beside_images_are_left_out_and_counted_until_asked_for(tmp_path):
    folder(tmp_path, n=1)
    for name in ("jump", "walk"):
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / "a.png")
    images = load_dataset(tmp_path)
    assert "image" in images.column_names and "media='video'" in describe(images).left_out[0]
    videos = load_dataset(tmp_path, media="video")
    assert str(describe(videos)).startswith("2 videos") and "images beside videos" in describe(videos).left_out[0]
    with pytest.raises(ValueError, match="auto, image, video"):
        load_dataset(tmp_path, media="film")


def test_metadata_names_videos_parts_of_them_and_several_labels(tmp_path):
    write(tmp_path / "a.mp4", moving(50))
    write(tmp_path / "b.mp4", moving(50, seed=1))
    lines(
        tmp_path,
        {"file_name": "a.mp4", "label": "jump", "start": 0.4, "end": 0.8},
        {"file_name": "a.mp4", "label": "walk", "start": 1.2, "end": 1.6},
        {"file_name": "b.mp4", "label": "walk"},
    )
    dataset = load_dataset(tmp_path)
    assert len(dataset) == 3 and dataset["start"] == [0.4, 1.2, None]
    whole = read_from_the_start(tmp_path / "a.mp4")
    for train, place in ((False, 13), (True, None)):
        item = prepare(dataset, recipe(4), train=train, augment="none")[0]["pixel_values"]
        if place is not None:
            assert torch.allclose(item, pixels(whole[place : place + 4]), atol=1e-5)
        else:
            firsts = [i for i in range(10, 17) if torch.allclose(item, pixels(whole[i : i + 4]), atol=1e-5)]
            assert len(firsts) == 1
    lines(tmp_path, {"file_name": "a.mp4", "labels": ["jump", "walk"]}, {"file_name": "b.mp4", "labels": []})
    assert prepare(load_dataset(tmp_path), recipe())[0]["labels"].tolist() == [1, 1]
    for part, word in (
        ({"start": 1.0, "end": 0.5}, "no part"),
        ({"start": 3.0}, "lasts 2.00 s"),
        ({"end": "x"}, "numbers"),
    ):
        lines(tmp_path, {"file_name": "a.mp4", "label": "jump", **part}, {"file_name": "b.mp4", "label": "walk"})
        with pytest.raises(DataError, match=word):
            prepare(load_dataset(tmp_path), recipe())[0]


def test_a_column_of_videos_of_datasets_and_a_stream_of_it(tmp_path):
    folder(tmp_path)
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(tmp_path.rglob("*.mp4"))]
    features = datasets.Features(film=datasets.Video(), action=datasets.ClassLabel(names=["jump", "walk"]))
    rows = datasets.Dataset.from_dict({"film": cells, "action": [0, 0, 1, 1]}, features=features)
    rows.to_parquet(tmp_path / "rows" / "train.parquet")
    plain = prepare(load_dataset(tmp_path / "rows"), recipe())
    stream = load_dataset(tmp_path / "rows", streaming=True)
    assert "video" in stream.column_names
    streamed = list(prepare(stream, recipe()))
    assert len(streamed) == len(plain) == 4
    for one, other in zip(plain, streamed):
        assert torch.equal(one["pixel_values"], other["pixel_values"]) and one["labels"] == other["labels"]
    trained = [[item["pixel_values"] for item in prepare(stream, recipe(), train=True, seed=3)] for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*trained))


def test_a_list_of_paths_is_a_dataset_for_a_model_of_clips(tmp_path):
    folder(tmp_path)
    model = torch.nn.Identity()
    model.preprocessing, model.labels = recipe(), ["jump", "walk"]
    paths = sorted(map(str, tmp_path.rglob("*.mp4")))
    listed = data.as_prepared(model, [(paths[0], "jump"), (paths[2], 1)])
    read = data.as_prepared(model, tmp_path / "train")
    assert torch.equal(listed[1]["pixel_values"], read[2]["pixel_values"]) and listed[1]["labels"] == 1
    assert len(load_unlabeled(tmp_path)) == 4 and load_unlabeled(tmp_path).column_names == ["video"]
    unlabelled = data.as_prepared(model, tmp_path, train=True, labeled=False)
    assert "labels" not in unlabelled[0]


def test_videos_and_a_network_of_images_are_refused_and_the_other_way_round(tmp_path):
    images = {"input_size": [3, 32, 32], "mean": MEAN, "std": STD, "interpolation": "bilinear", "crop_pct": 1.0}
    with pytest.raises(DataError, match="holds videos, and preprocessing input_size .* is of images"):
        prepare(load_dataset(folder(tmp_path)), images)
    with pytest.raises(DataError, match="holds images, and preprocessing input_size .* is of clips"):
        prepare(load_dataset("shapes", "test"), recipe())


# --- masks and boxes


def masked(tmp_path, mask=None, n=12, **line):
    frames, masks, boxes = squares(n)
    write(tmp_path / "a.mp4", frames)
    write(tmp_path / "b.mp4", frames)
    if mask == "video":
        write(tmp_path / "m.mp4", [each[..., None].repeat(3, 2) for each in masks])
        line["mask_file_name"] = "m.mp4"
    elif mask == "gif":
        pictures = [Image.fromarray((each > 0).astype(np.uint8), "P") for each in masks]
        for picture in pictures:
            picture.putpalette([0, 0, 0, 200, 0, 0])
        pictures[0].save(tmp_path / "m.gif", save_all=True, append_images=pictures[1:], duration=40, optimize=False)
        line["mask_file_name"] = "m.gif"
    elif mask == "folder":
        (tmp_path / "m").mkdir()
        for i, each in enumerate(masks):
            Image.fromarray(each).save(tmp_path / "m" / f"{i:03d}.png")
        line["mask_file_name"] = "m"
    elif mask == "image":
        Image.fromarray(masks[5]).save(tmp_path / "m.png")
        line["mask_file_name"] = "m.png"
    lines(tmp_path, {"file_name": "a.mp4", "label": "x", **line}, {"file_name": "b.mp4", "label": "y"})
    return load_dataset(tmp_path), np.stack(masks) > 0, boxes


@pytest.mark.parametrize("kind", ["video", "gif", "folder", "image"])
def test_masks_are_those_of_the_moments_of_the_frames(tmp_path, kind):
    dataset, masks, _ = masked(tmp_path, kind)
    items = prepare(dataset, recipe(4, stride=2))
    expected = masks[[5] * 4] if kind == "image" else masks[[2, 4, 6, 8]]
    assert items[0]["mask"].shape == (1, 4, 36, 48) and items[0]["mask"].dtype == torch.uint8
    assert (items[0]["mask"][0].numpy() == expected).mean() > 0.999  # a lossy film's edge may lie a pixel off
    if kind != "video":
        assert (items[0]["mask"][0].numpy() == expected).all()
    assert "mask" not in items[1] and describe(dataset).masks == 1
    batch = collate([items[0], items[1]])
    assert (batch["mask"][1] == 255).all() and batch["pixel_values"].shape == (2, 3, 4, 36, 48)


def test_boxes_of_each_frame_or_one_for_all_are_filled_in(tmp_path):
    _, masks, boxes = masked(tmp_path)
    cases = {"frames": boxes, "lists": [[box] for box in boxes], "one": boxes[3], "one in a list": [boxes[3]]}
    for name, given in cases.items():
        lines(tmp_path, {"file_name": "a.mp4", "label": "x", "bbox": given}, {"file_name": "b.mp4", "label": "y"})
        item = prepare(load_dataset(tmp_path), recipe(4, stride=2))[0]
        expected = masks[[3] * 4] if name.startswith("one") else masks[[2, 4, 6, 8]]
        assert (item["mask"][0].numpy() == expected).all(), name
    corners = [[x, y, x + w, y + h] for x, y, w, h in boxes]
    lines(tmp_path, {"file_name": "a.mp4", "label": "x", "cue_bbox": corners}, {"file_name": "b.mp4", "label": "y"})
    item = prepare(load_dataset(tmp_path, box_format="xyxy"), recipe(4, stride=2))[0]
    assert (item["cue"][0].numpy() == masks[[2, 4, 6, 8]]).all() and "mask" not in item


def test_masks_lie_beside_their_videos_by_stem(tmp_path):
    frames, masks, _ = squares()
    for name in ("x", "y"):
        write(tmp_path / "train" / name / f"{name}1.mp4", frames)
    write(tmp_path / "train" / "masks" / "x1.mkv", [each[..., None].repeat(3, 2) for each in masks])
    (tmp_path / "train" / "masks" / "y1").mkdir()
    for i, each in enumerate(masks):
        Image.fromarray(each).save(tmp_path / "train" / "masks" / "y1" / f"{i:03d}.png")
    dataset = load_dataset(tmp_path)
    assert describe(dataset).masks == 2
    for item in prepare(dataset, recipe(4, stride=2)):
        assert (item["mask"][0].numpy() == (np.stack(masks) > 0)[[2, 4, 6, 8]]).all()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ({"bbox": [[1, 1, 4, 4]] * 5}, "5 entries and its video has 12 frames"),
        ({"bbox": [40, 30, 30, 30]}, "leaves its image"),
        ({"bbox": ["left"]}, "is not .x, y, width, height."),
        ({"mask_file_name": "none.png"}, "is not a file"),
        ({"mask_file_name": "small.png"}, "8x8 but its video is 48x36"),
        ({"mask_file_name": "long.mp4"}, "lasts 2.00 s and its video 0.48 s"),
        ({"mask_file_name": "five"}, "5 pictures and its video has 12 frames"),
    ],
)
def test_annotations_that_do_not_fit_are_refused_with_the_file(tmp_path, line, word):
    masked(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "small.png")
    write(tmp_path / "long.mp4", squares(50, size=(128, 36))[0][:50])
    (tmp_path / "five").mkdir()
    for i in range(5):
        Image.new("L", (48, 36)).save(tmp_path / "five" / f"{i}.png")
    lines(tmp_path, {"file_name": "a.mp4", "label": "x", **line}, {"file_name": "b.mp4", "label": "y"})
    with pytest.raises(DataError, match=word) as error:
        prepare(load_dataset(tmp_path), recipe())[0]
    assert "a.mp4" in str(error.value) or "metadata.jsonl" in str(error.value)


# --- items


def test_one_draw_moves_all_frames_of_a_clip_and_their_masks(tmp_path):
    """The square of every frame lies where its mask says, and crop, flip and colour are the same for all frames."""
    dataset, *_ = masked(tmp_path, "folder")
    for augment in ("default", "jitter"):
        train = prepare(dataset, recipe(6, size=(64, 64)), train=True, augment=augment, scale=(0.6, 1.0), seed=1)
        seen = set()
        for epoch in range(6):
            train.set_epoch(epoch)
            item = train[0]
            light = item["pixel_values"][0] * STD[0] + MEAN[0]
            mask = item["mask"][0] == 1
            assert ((light > 0.6) == mask).float().mean() > 0.985
            for frame, own in zip(light, mask) if augment == "default" else ():  # centres: within half a pixel
                if own.sum() > 50:
                    weights = ((frame - 60 / 255) / (195 / 255)).where(frame > 0.35, torch.tensor(0.0))
                    centres = [_centre(weights), _centre(own.float())]
                    assert (centres[0] - centres[1]).abs().max() < 0.5
            steps = [
                b.nonzero()[:, 1].min() - a.nonzero()[:, 1].min() for a, b in zip(mask, mask[1:]) if a.any() and b.any()
            ]
            seen.add(tuple(int(s) for s in steps[:1]))
            background = item["pixel_values"][:, :, :2].flatten(2)  # the ground stands still: equal in every frame
            assert (background.std(1) < 0.05).all()
        assert len(seen) > 1  # other scales and flips in other epochs


def _centre(weights):
    at = torch.stack(torch.meshgrid(*(torch.arange(float(side)) for side in weights.shape), indexing="ij"))
    return (at * weights).flatten(1).sum(1) / weights.sum()


def test_a_clip_is_what_its_frames_are_one_by_one(tmp_path):
    from torchvision import tv_tensors

    frames = torch.from_numpy(np.stack(moving(5, size=(90, 70)))).permute(0, 3, 1, 2)
    transform = data.Transform(recipe(5, size=(32, 40), crop_pct=0.9))
    whole = transform(frames)["pixel_values"]
    for i in range(5):
        alone = data.Transform(recipe(1, size=(32, 40), crop_pct=0.9))(frames[i : i + 1])["pixel_values"][:, 0]
        assert torch.equal(whole[:, i], alone)
        resized = transform._centred({"image": tv_tensors.Image(frames[i])})["image"]
        assert torch.allclose(whole[:, i], pixels([resized.permute(1, 2, 0).numpy()])[:, 0], atol=1e-5)


def test_an_augmentation_depends_on_seed_epoch_and_row_alone(tmp_path):
    dataset = load_dataset(folder(tmp_path))

    def items(workers, epoch=0, seed=5):
        train = prepare(dataset, recipe(size=(24, 24)), train=True, seed=seed)
        train.set_epoch(epoch)
        return torch.cat(
            [batch["pixel_values"] for batch in DataLoader(train, 2, num_workers=workers, collate_fn=collate)]
        )

    assert torch.equal(items(0), items(2))
    assert not torch.equal(items(0), items(0, epoch=1)) and not torch.equal(items(0), items(0, seed=6))


def test_several_clips_lie_spread_over_the_video(tmp_path):
    write(tmp_path / "a" / "a.mp4", moving(40))
    write(tmp_path / "b" / "b.mp4", moving(40))
    whole = read_from_the_start(tmp_path / "a" / "a.mp4")
    item = prepare(load_dataset(tmp_path), recipe(4), clips=3)[0]
    assert item["more_clips"].shape == (2, 3, 4, 36, 48)
    for clip, first in zip((*item["more_clips"], item["pixel_values"]), (0, 36, 18)):
        assert torch.allclose(clip, pixels(whole[first : first + 4]), atol=1e-5)
    with pytest.raises(ValueError, match="clips must be"):
        prepare(load_dataset(tmp_path), recipe(4), clips=0)


def test_a_short_video_is_filled_up_and_that_is_said_once(tmp_path):
    dataset = load_dataset(folder(tmp_path))
    items = prepare(dataset, recipe(16))
    with pytest.warns(
        UserWarning, match=r"jump0.mp4.* is shorter than a clip of 16 frames: its last frame is repeated"
    ):
        clip = items[0]["pixel_values"]
    assert torch.equal(clip[:, 11], clip[:, 15]) and not torch.equal(clip[:, 10], clip[:, 11])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        items[1]
    with pytest.warns(UserWarning, match="begins again"):
        clip = prepare(dataset, recipe(16, short="loop"))[0]["pixel_values"]
    assert torch.equal(clip[:, 0], clip[:, 12])


def test_unreadable_videos_are_skipped_and_counted(tmp_path):
    folder(tmp_path)
    (tmp_path / "train" / "jump" / "text.mp4").write_text("no video" * 50)
    whole = write(tmp_path / "whole.mkv", moving(50))
    (tmp_path / "train" / "walk" / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size * 7 // 10])
    dataset = load_dataset(tmp_path, "train")
    with pytest.raises(DataError, match=r"text\.mp4"):
        [item["labels"] for item in prepare(dataset, recipe())]
    kept = prepare(dataset, recipe(), on_error="skip", progress=False)
    assert len(kept) == 4 and kept.skipped_count == 2
    assert "cut off" in kept.skipped[1][1] and "cut.mkv" in kept.skipped[1][1]
    assert len([item["labels"] for item in kept]) == 4
    found = check(tmp_path)
    assert len(found.problems) == 2 and "text.mp4" in found.problems[0] and found.splits["train"].images == 6
    stream = prepare(load_dataset(tmp_path, streaming=True), recipe(), on_error="skip")
    with pytest.warns(UserWarning, match="skipped"):
        assert len(list(stream)) == 5  # of the cut one the middle can be read
