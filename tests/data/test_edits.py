"""Edited maps as data: written whole, read back exactly, moved with their images, learnt by finetune."""

from __future__ import annotations

import json
from functools import partial

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

import attention_refine as ar
from attention_refine import data, shapes
from attention_refine.data import DataError, Prepared, Transform, collate, discard_edits, load_dataset, save_edits

edit_train = partial(save_edits, split="train")
RECIPE = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "crop_pct": 1.0}


def map_of(seed: int, size: tuple[int, int] = (7, 7)) -> np.ndarray:
    return np.random.default_rng(seed).random(size, dtype=np.float32)


@pytest.fixture
def folder(tmp_path):
    return shapes.write(tmp_path / "shapes", splits=("train", "test"), n=6, size=32)


def plain_folder(root, suffix: str):
    """Class folders, or a csv beside the images."""
    for i in range(4):
        here = root / ("ab"[i % 2] if suffix == "classes" else "")
        here.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 30, 3), 50 * i, np.uint8)).save(here / f"{i}.png")
    if suffix == "csv":
        lines = [f"{i}.png,{'ab'[i % 2]}" for i in range(4)]
        (root / "metadata.csv").write_text("\n".join(["file_name,label", *lines]) + "\n")
    return root


# there and back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format, error", [("npy", 0.0), ("png", 1 / 65535)])
def test_a_folder_keeps_maps_and_everything_else_it_held(folder, format, error):
    before = load_dataset(folder, "train")
    edited = edit_train(folder, [1, 4], [map_of(1), torch.from_numpy(map_of(4))[None]], format=format)
    assert edited["edited"] == [False, True, False, False, True, False]
    for i in (1, 4):
        np.testing.assert_allclose(data.read_map(edited["maps"][i]), map_of(i), rtol=0, atol=error)
    assert [edited["maps"][i] for i in (0, 2, 3, 5)] == [None] * 4
    for column in before.column_names:
        assert edited[column] == before[column]
    assert "maps" not in load_dataset(folder, "test").column_names
    again = edit_train(folder, 1, map_of(9), format=format)  # an edit of an edit takes its place
    np.testing.assert_allclose(data.read_map(again["maps"][1]), map_of(9), rtol=0, atol=error)
    np.testing.assert_allclose(data.read_map(again["maps"][4]), map_of(4), rtol=0, atol=error)


@pytest.mark.parametrize("suffix", ["classes", "csv"])
def test_class_folders_and_csv_folders(tmp_path, suffix):
    folder = plain_folder(tmp_path, suffix)
    before = load_dataset(folder)
    edited = edit_train(folder, 2, map_of(2))
    assert edited["label"] == before["label"] and data.class_names(edited) == ["a", "b"]
    for was, now in zip(before["image"], edited["image"]):
        np.testing.assert_array_equal(np.asarray(was), np.asarray(now))
    np.testing.assert_array_equal(data.read_map(edited["maps"][2]), map_of(2))
    twice = edit_train(folder, 0, map_of(0))
    assert twice["edited"] == [True, False, True, False]


def test_a_dataset_in_memory_is_not_changed_and_survives_parquet(tmp_path):
    dataset = shapes.make("train", n=4, size=32)
    edited = save_edits(dataset, 3, map_of(3))
    assert "maps" not in dataset.column_names and edited["edited"] == [False, False, False, True]
    save_edits(edited, [0], [map_of(0, (5, 9))]).to_parquet(tmp_path / "train.parquet")
    back = load_dataset(tmp_path)
    np.testing.assert_array_equal(data.read_map(back["maps"][3]), map_of(3))
    np.testing.assert_array_equal(data.read_map(back["maps"][0]), map_of(0, (5, 9)))


def test_a_column_of_images_is_read_as_the_hub_gives_it():
    table = shapes.make("train", n=2, size=32)
    picture = {"bytes": _png(np.array([[0, 255], [128, 64]], np.uint8)), "path": None}
    table = table.add_column("maps", [picture, None], feature=datasets.Image()).add_column("edited", [True, False])
    prepared = Prepared(data.as_canonical(table), RECIPE)
    assert [bool(prepared[i]["edited"]) for i in (0, 1)] == [True, False]
    corners = prepared[0]["edited_map"][0, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.tolist() == pytest.approx([0, 1, 128 / 255, 64 / 255])
    assert prepared[1]["edited_map"].shape == (1, 32, 32) and not prepared[1]["edited_map"].any()


def _png(array: np.ndarray) -> bytes:
    import io

    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def test_a_write_that_breaks_off_leaves_what_was_there(folder, monkeypatch):
    edit_train(folder, 1, map_of(1))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr(json, "dumps", lambda *args, **options: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        edit_train(folder, [1, 2], [map_of(5), map_of(6)])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# taken back ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["classes", "csv"])
def test_an_edit_can_be_taken_back_and_made_again(tmp_path, suffix):
    folder = plain_folder(tmp_path, suffix)
    names = ["0.png", "3.png"]
    first = save_edits(folder, names, [map_of(0), map_of(3)])
    left = discard_edits(folder, "0.png")
    assert sum(first["edited"]) == 2 and sum(left["edited"]) == 1 and len(left) == 4
    assert [bool(item["edited"]) for item in Prepared(left, RECIPE)] == left["edited"]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert discard_edits(folder, ["0.png", "1.png"])["edited"] == left["edited"], "there is nothing to take back"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert sum(save_edits(folder, "0.png", map_of(7))["edited"]) == 2


def test_a_map_that_lies_there_by_its_name_alone_can_be_taken_back(tmp_path):
    folder = plain_folder(tmp_path, "classes")
    (folder / "maps").mkdir()
    np.save(folder / "maps" / "1.npy", map_of(1))
    assert sum(load_dataset(folder)["edited"]) == 1
    left = discard_edits(folder, "b/1.png")
    assert sum(left["edited"]) == 0 and sorted(left["label"]) == [0, 0, 1, 1]
    with pytest.raises(DataError, match="no split of .* has all of 'zebra.png'|no image of .* is called 'zebra.png'"):
        discard_edits(folder, "zebra.png")
    with pytest.raises(DataError, match="is not a folder that exists"):
        discard_edits(folder / "nowhere", "1.png")


# by file name, from any form, of a split that is known -----------------------------------------------------------------


def test_images_are_named_by_their_file(folder):
    edited = save_edits(folder, "train/00002.png", map_of(2))
    assert edited["edited"] == [False, False, True, False, False, False]
    assert "maps" not in load_dataset(folder, "test").column_names
    again = save_edits(folder, ["00004.png", "00000.png"], [map_of(4), map_of(0)], split="test")
    assert again["edited"] == [True, False, False, False, True, False]
    np.testing.assert_array_equal(data.read_map(again["maps"][4]), map_of(4))
    memory = save_edits(load_dataset(folder, "train"), ["00003.png"], [map_of(3)])
    assert memory["edited"] == [False, False, True, True, False, False]


@pytest.mark.parametrize(
    "index, split, said",
    [
        (
            4,
            None,
            "more than one split has row 4 .its splits are train, test.: say which, split='train', and give images",
        ),
        ("00004.png", None, "more than one split has '00004.png'"),
        ("zebra.png", None, "no split of .* has all of 'zebra.png'"),
        ("zebra.png", "train", "no image of the split 'train' of .* is called 'zebra.png'"),
        ("test/00001.png", "train", "no image of the split 'train'"),
        (["train/00001.png", "test/00001.png"], None, "no split of .* has all of"),
    ],
)
def test_a_row_that_two_splits_have_is_not_guessed(folder, index, split, said):
    maps = [map_of(0)] * len(index) if isinstance(index, list) else map_of(0)
    before = sorted(folder.rglob("*"))
    with pytest.raises(DataError, match=said):
        save_edits(folder, index, maps, split=split)
    assert sorted(folder.rglob("*")) == before


def test_a_row_that_one_split_has_is_clear(tmp_path):
    folder = shapes.write(tmp_path / "shapes", splits=("train", "test"), n=3, size=32)
    more = shapes.write(tmp_path / "more", splits=("train",), n=5, size=32)
    (folder / "train").rename(tmp_path / "old"), (more / "train").rename(folder / "train")
    assert save_edits(folder, 4, map_of(4))["edited"] == [False] * 4 + [True]


def test_two_images_of_one_name_are_told_apart_by_their_folders(tmp_path):
    folder = plain_folder(tmp_path, "classes")
    (tmp_path / "b" / "1.png").rename(tmp_path / "b" / "0.png")
    with pytest.raises(DataError, match="'0.png' could be .*a/0.png or .*b/0.png: give more of its folders"):
        save_edits(folder, "0.png", map_of(0), split="train")
    assert save_edits(folder, "b/0.png", map_of(0))["edited"] == [False, False, True, False]


@pytest.mark.parametrize(
    "form", ["path", "text", "npy", "picture", "one bit", "uint8", "bool", "0 and 1", "tensor", "16 bit"]
)
def test_maps_come_as_files_pictures_and_masks(folder, tmp_path, form):
    mask = np.zeros((8, 9), np.uint8)
    mask[2:5, 3:7] = 255
    Image.fromarray(mask).save(tmp_path / "m.png"), np.save(tmp_path / "m.npy", (mask / 255).astype(np.float32))
    given = {
        "path": tmp_path / "m.png", "text": str(tmp_path / "m.png"), "npy": tmp_path / "m.npy",
        "picture": Image.fromarray(mask), "one bit": Image.fromarray(mask).convert("1"), "uint8": mask,
        "bool": mask > 0, "0 and 1": Image.fromarray(mask // 255), "tensor": torch.from_numpy(mask),
        "16 bit": Image.fromarray(mask.astype(np.uint16) * 257),
    }[form]  # fmt: skip
    edited = edit_train(folder, "00001.png", given)
    np.testing.assert_array_equal(data.read_map(edited["maps"][1]), (mask / 255).astype(np.float32))


def test_a_foreign_metadata_file_stays_and_images_added_later_can_be_edited(tmp_path):
    folder = plain_folder(tmp_path, "classes")
    (folder / "metadata.json").write_text('{"made by": "a camera"}')
    save_edits(folder, "a/0.png", map_of(0))
    Image.fromarray(np.full((40, 30, 3), 77, np.uint8)).save(folder / "b" / "9.png")
    assert len(load_dataset(folder)) == 5, "an image added later is there"
    edited = save_edits(folder, "9.png", map_of(9))
    assert len(edited) == 5 and edited["edited"] == [True, False, False, False, True]
    assert edited["label"] == [0, 0, 1, 1, 1] and data.class_names(edited) == ["a", "b"]
    assert (folder / "metadata.json").read_text() == '{"made by": "a camera"}'


# moved together ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", ["none", "default", "jitter"])
@pytest.mark.parametrize("size", [(48, 80), (64, 40)])
def test_a_map_moves_as_its_image_does(augment, size):
    """The image is the map in grey: wherever it goes, the map is what the pixels show."""
    y, x = np.mgrid[: size[0], : size[1]]
    values = (np.sin(x / 9.0) * np.cos(y / 7.0) * 0.5 + 0.5).astype(np.float32)
    image = Image.fromarray(np.repeat((values * 255 + 0.5).astype(np.uint8)[..., None], 3, 2))
    transform = Transform(RECIPE, train=augment != "none", augment=augment)
    for seed in range(6):
        torch.manual_seed(seed)
        item = transform(image, edited_map=values)
        seen = (item["pixel_values"].mean(0) + 1) / 2
        moved = item["edited_map"][0]
        assert item["edited_map"].shape == (1, 32, 32) and moved.min() >= 0 and moved.max() <= 1
        if augment == "jitter":  # other colours, the same places
            assert torch.corrcoef(torch.stack([seen.flatten(), moved.flatten()]))[0, 1] > 0.98
        else:
            torch.testing.assert_close(moved, seen, rtol=0, atol=0.02)


def test_a_map_of_another_resolution_covers_the_whole_image():
    values = np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)
    image = Image.new("RGB", (64, 64))
    transform = Transform(RECIPE, train=True, augment=v2.RandomHorizontalFlip(1.0))
    flipped = transform(image, edited_map=values)["edited_map"][0]
    assert flipped[0, -1] == 1 and flipped[:16, :16].max() < 0.6 and flipped[-1].max() == 0


def test_the_augmentation_of_the_image_is_the_same_with_and_without_a_map(folder):
    plain = Prepared(load_dataset(folder, "train"), RECIPE, train=True)
    edited = Prepared(edit_train(folder, 2, map_of(2)), RECIPE, train=True)
    assert all(torch.equal(plain[i]["pixel_values"], edited[i]["pixel_values"]) for i in range(6))


# learnt --------------------------------------------------------------------------------------------------------------


def test_batches_mix_edited_and_unedited_and_finetune_learns_from_them(folder, tmp_path):
    import timm

    dataset = edit_train(folder, [0, 3], [np.zeros((3, 3), np.float32)] * 2)
    model = ar.wrap(
        timm.create_model("test_resnet", num_classes=6), ar.AttentionBranch(fade_in_steps=0),
        [ar.MapSupervision(norm="mse", target="edited", weight=5.0)], preprocessing={"input_size": [3, 32, 32]},
    )  # fmt: skip
    prepared = Prepared(dataset, model.preprocessing, train=True, augment="none")
    batch = next(iter(DataLoader(prepared, batch_size=6, collate_fn=collate)))
    assert batch["edited"].tolist() == [True, False, False, True, False, False]
    assert batch["edited_map"].shape == (6, 1, 32, 32)
    config = ar.TrainingConfig(
        output_dir=str(tmp_path / "run"), epochs=3, batch_size=3, learning_rate=0.01, schedule="constant",
        progress=False,
    )  # fmt: skip
    history = ar.finetune(model, prepared, config).history
    assert history[-1]["train/map_supervision"] < history[0]["train/map_supervision"]
    assert history[0]["train/map_supervision_images"] == pytest.approx(1 / 3)


def test_a_batch_where_some_items_have_a_mask_is_void_elsewhere():
    items = [{"pixel_values": torch.zeros(3, 4, 4), "mask": torch.ones(1, 4, 4, dtype=torch.uint8)}]
    batch = collate([*items, {"pixel_values": torch.zeros(3, 4, 4)}])
    assert batch["mask"][0].eq(1).all() and batch["mask"][1].eq(255).all()


def test_clicks_become_bumps():
    made = data.map_from_clicks([(10, 20), (30, 5)], (40, 60), spread=0.1)
    assert made.shape == (40, 60) and made[20, 10] == 1 and made[5, 30] == 1
    assert made[20, 14] == pytest.approx(np.exp(-0.5)) and made[39, 59] < 1e-6
    assert data.map_from_clicks([], (4, 5)).tolist() == [[0] * 5] * 4


# bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "index, maps, said",
    [
        (6, map_of(0), "there is no row 6: the dataset's rows are 0 to 5"),
        ([0, 1], [map_of(0)], "1 maps are given for 2 rows"),
        (0, map_of(0) * 2, "values from .* a map lies in"),
        (0, np.full((2, 2), np.nan), "a map lies in"),
        (0, np.zeros((2, 3, 3)), r"shape \(2, 3, 3\): give one map"),
        (0, "heart", "not a table of numbers"),
        (0, "heart.png", "the map for row 0 cannot be read"),
    ],
)
def test_what_is_no_map_is_refused_and_nothing_is_written(folder, index, maps, said):
    before = sorted(path for path in folder.rglob("*"))
    with pytest.raises(DataError, match=said):
        edit_train(folder, index, maps)
    assert sorted(path for path in folder.rglob("*")) == before


def test_a_map_file_that_cannot_be_read_is_named(folder):
    edited = edit_train(folder, 1, map_of(1))
    (folder / "train" / "maps" / "00001.png.npy").write_bytes(b"not numbers")
    with pytest.raises(DataError, match=r"the map of row 1 \(.*00001.png\) cannot be read"):
        Prepared(edited, RECIPE)[1]
    skipped = Prepared(edited, RECIPE, on_error="skip", progress=False)
    assert [row for row, _ in skipped.skipped] == [1]
    (folder / "train" / "maps" / "00001.png.npy").unlink()
    with pytest.raises(DataError, match="maps_file_name 'maps/00001.png.npy' is not a file"):
        load_dataset(folder, "train")


def test_formats_and_sources_that_cannot_hold_edits(folder, tmp_path):
    with pytest.raises(ValueError, match="format 'jpg' is not one of npy, png"):
        edit_train(folder, 0, map_of(0), format="jpg")
    with pytest.raises(DataError, match="is not a folder that exists"):
        save_edits(tmp_path / "nowhere", 0, map_of(0))
    with pytest.raises(DataError, match="a stream cannot be edited"):
        save_edits(load_dataset(folder, "train", streaming=True), 0, map_of(0))


# beside metadata that is not ours ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, text",
    [
        ("metadata.json", '{"source": "a scanner"}'),
        ("metadata.json", "[1, 2]"),
        ("metadata.json", "{"),
        ("metadata.jsonl", ""),
        ("metadata.jsonl", "\n\n"),
        ("metadata.csv", ""),
        ("metadata.csv", "file_name,label\n"),
        ("metadata.csv", '\ufefffile_name, label, note\r\na/0.png, a, "old, torn"\r\n'),
        ("metadata.jsonl", '{"file_name": "b/1.png", "score": NaN}\n'),
    ],
)
def test_edits_beside_metadata_of_several_shapes(tmp_path, name, text):
    folder = plain_folder(tmp_path, "classes")
    (folder / name).write_bytes(text.encode())
    edited = save_edits(folder, "a/0.png", map_of(1))
    assert sum(map(bool, edited["edited"])) == 1 and len(edited) == 4 and data.class_names(edited) == ["a", "b"]
    if name == "metadata.json":
        assert (folder / name).read_text() == text
    if "torn" in text:
        assert edited["note"][0] == "old, torn"


def test_an_image_that_two_files_name_is_edited_in_one(tmp_path):
    folder = plain_folder(tmp_path, "classes")
    (folder / "metadata.csv").write_text("file_name,label,number\na/0.png,a,1\nb/1.png,b,2\n")
    (folder / "metadata.jsonl").write_text('{"file_name": "a/0.png", "number": 1}\n')
    for _ in range(2):
        assert sum(map(bool, save_edits(folder, ["a/0.png", "b/1.png"], [map_of(1), map_of(2)])["edited"])) == 2
    held = [(folder / name).read_text().count("a/0.png.npy") for name in ("metadata.csv", "metadata.jsonl")]
    assert sorted(held) == [0, 1]
    assert not any(discard_edits(folder, ["a/0.png", "b/1.png"])["edited"])


def test_a_whole_path_in_the_metadata_is_the_image_in_the_folder(tmp_path, monkeypatch):
    plain_folder(tmp_path / "photos", "classes")
    monkeypatch.chdir(tmp_path)
    line = {"file_name": str(tmp_path / "photos" / "a" / "0.png"), "bbox": [1, 2, 5, 6]}
    (tmp_path / "photos" / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    assert len(load_dataset("photos")) == len(save_edits("photos", "a/0.png", map_of(1))) == 4


@pytest.mark.parametrize(
    "name, text, sentence",
    [
        (
            "metadata.csv",
            "id,species\n1,cat\n",
            "has no field 'file_name' .* it has id, species; .*another name if it is",
        ),
        ("metadata.csv", "file_name;label\na/0.png;a\n", "its columns are divided by ';', save it with commas"),
        ("metadata.csv", "file_name\tlabel\na/0.png\ta\n", r"divided by '\\t', save it with commas"),
        ("metadata.jsonl", '[{"file_name": "a/0.png"}]\n', "an object a line, .* without a list around them"),
        (
            "metadata.jsonl",
            '[\n {"file_name": "a/0.png"}\n]\n',
            "line 1 is not JSON .* each line is an object by itself",
        ),
        ("metadata.jsonl", '{"file_name": "a/9.png"}\n', "'a/9.png' is not a file in .*: put it back, or take it out"),
        ("metadata.jsonl", None, "metadata.jsonl is a folder, where the metadata would be written: move it"),
        ("maps", "of the town", "maps is a file, where the maps would be written: move it"),
    ],
)
def test_files_that_edits_cannot_stand_beside_stay_as_they_are(tmp_path, name, text, sentence):
    folder = plain_folder(tmp_path, "classes")
    (folder / name).mkdir() if text is None else (folder / name).write_text(text)
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(DataError, match=sentence):
        save_edits(folder, "a/0.png", map_of(1))
    assert before == sorted(path.name for path in folder.rglob("*"))
    assert text is None or (folder / name).read_text() == text


def test_images_that_come_and_go_after_an_edit(tmp_path):
    folder = plain_folder(tmp_path, "classes")
    save_edits(folder, "a/0.png", map_of(1))
    Image.new("RGB", (30, 40)).save(folder / "b" / "9.png")
    assert len(load_dataset(folder)) == 5 and len(save_edits(folder, "b/9.png", map_of(2))) == 5
    (folder / "b" / "1.png").unlink()
    with pytest.raises(DataError, match="'b/1.png' is not a file in .*put it back, or take it out of the metadata"):
        load_dataset(folder)
