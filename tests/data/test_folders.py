"""Folders as people have them: metadata beside class folders, masks by stem, layouts with two readings, leftovers."""

from __future__ import annotations

import json
import os
import re

import datasets
import numpy as np
import pytest
from PIL import Image

from attention_refine import data
from attention_refine.data import DataError, describe, load_dataset, load_unlabeled

PREPROCESSING = {"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear",
                 "crop_pct": 1.0}  # fmt: skip


def image(path, level: int = 90, size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), level, np.uint8)).save(path)
    return path


def mask(path, size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[4:9, 3:12] = 255
    Image.fromarray(pixels).save(path)
    return path


def classes(root, names=("ant", "bee", "cow"), n=2, suffix=".png"):
    for name in names:
        for i in range(n):
            image(root / name / f"{name}{i}{suffix}")
    return root


def lines(folder, *rows):
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def files(dataset) -> list[str]:
    return [
        os.path.basename(cell["path"]) for cell in dataset.cast_column("image", datasets.Image(decode=False))["image"]
    ]


# --- metadata adds to class folders


def test_metadata_that_names_four_masks_adds_to_24_images_in_class_folders(tmp_path):
    root = classes(tmp_path / "train", n=8)
    named = [f"ant/ant{i}.png" for i in range(2)] + [f"bee/bee{i}.png" for i in range(2)]
    for name in named:
        mask(root / "masks" / name)
    lines(root, *({"file_name": name, "mask_file_name": f"masks/{name}"} for name in named))
    found = load_dataset(tmp_path)
    assert str(describe(found)) == "24 images, 3 classes, 4 masks, 0 boxes"
    assert describe(found).classes == {"ant": 8, "bee": 8, "cow": 8} and describe(found).left_out == ()
    assert all(found[i]["label"] == ["ant", "bee", "cow"].index(name[:3]) for i, name in enumerate(files(found)))


def test_a_label_in_the_metadata_comes_before_the_folders_name(tmp_path):
    root = classes(tmp_path, ("a", "b"))
    lines(root, {"file_name": "a/a0.png", "label": "a", "bbox": [1, 1, 4, 4]})
    assert str(describe(load_dataset(root))) == "4 images, 2 classes, 0 masks, 1 box"
    lines(root, {"file_name": "a/a0.png", "label": "a"}, {"file_name": "b/b0.png", "label": "c"})
    with pytest.raises(DataError, match="line 2: label is 'c' and the image lies in .*/b, while other lines agree"):
        load_dataset(root)


def test_folders_that_the_metadata_contradicts_are_no_classes_and_what_it_does_not_name_is_counted(tmp_path):
    for i in range(5):
        image(tmp_path / "images" / f"{i}.png")
    lines(tmp_path, *({"file_name": f"images/{i}.png", "label": "xy"[i % 2]} for i in range(3)))
    found = describe(load_dataset(tmp_path))
    assert found.classes == {"x": 2, "y": 1}
    assert found.left_out == ("2 images that no line of the metadata names: images/3.png, images/4.png",)


# --- masks and maps by stem


@pytest.mark.parametrize(
    "place",
    ["masks/{split}/{name}/{file}.png", "masks/{split}/{file}.png", "masks/{file}.png", "{split}/masks/{name}/{file}.png",
     "{split}/masks/{file}.png", "{split}/{name}/masks/{file}.png", "{split}/{name}/{file}_mask.png",
     "Masks/{split}/{name}/{file}.png", "{split}/masks/{name}/{file}.jpg.png", "masks/{file}_mask.png"],
)  # fmt: skip
def test_masks_go_to_the_image_of_their_stem_and_are_no_class(tmp_path, place):
    classes(tmp_path / "train", ("ant", "bee"), suffix=".jpg")
    classes(tmp_path / "test", ("ant", "bee"), suffix=".jpg")
    for path in (tmp_path / "test").rglob("*.jpg"):
        path.rename(path.with_name("t" + path.name))
    mask(tmp_path / place.format(split="train", name="bee", file="bee1"))
    found = load_dataset(tmp_path)
    assert str(describe(found)) == "4 images, 2 classes, 1 mask, 0 boxes" and describe(found).left_out == ()
    at = files(found).index("bee1.jpg")
    assert [cell is not None for cell in found["mask"]] == [i == at for i in range(4)]
    assert str(describe(load_dataset(tmp_path, "test"))) == "4 images, 2 classes, 0 masks, 0 boxes"
    assert len(load_unlabeled(tmp_path)) == 4, "a mask is no image there either"


def test_maps_by_stem_are_edited_and_cue_masks_are_cues(tmp_path):
    classes(tmp_path, ("a", "b"), n=1)
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "a0.npy", np.ones((3, 3), np.float32))
    mask(tmp_path / "cue_masks" / "b0.png")
    found = load_dataset(tmp_path)
    assert str(describe(found)) == "2 images, 2 classes, 0 masks, 0 boxes, 1 cue mask, 1 edited map"
    items = [data.prepare(found, PREPROCESSING)[i] for i in range(2)]
    assert items[0]["edited_map"].eq(1).all() and "cue" not in items[0]
    assert int(items[1]["cue"].sum()) == 5 * 9 and set(items[1]["cue"].unique().tolist()) == {0, 1}
    batch = data.collate(items)
    assert batch["cue"].sum((1, 2, 3)).tolist() == [0, 45]


def test_a_mask_that_could_belong_to_two_images_is_refused(tmp_path):
    for name in ("a", "b"):
        image(tmp_path / name / "1.png")
    mask(tmp_path / "masks" / "1.png")
    with pytest.raises(DataError, match="masks/1.png could belong to .*a/1.png or to .*b/1.png"):
        load_dataset(tmp_path)
    (tmp_path / "masks" / "a").mkdir()
    (tmp_path / "masks" / "1.png").rename(tmp_path / "masks" / "a" / "1.png")
    assert describe(load_dataset(tmp_path)).masks == 1
    other = tmp_path / "splits"
    for split in ("train", "test"):
        image(other / split / "a" / "1.png")
    mask(other / "masks" / "1.png")
    with pytest.raises(DataError, match="could belong to .*train/a/1.png or to .*test/a/1.png"):
        load_dataset(other)


def test_masks_that_belong_to_nothing_are_counted_or_refused(tmp_path):
    classes(tmp_path, ("a", "b"), n=1)
    mask(tmp_path / "masks" / "zebra.png")
    with pytest.raises(DataError, match="masks holds 1 files and no image has the stem of one, such as zebra.png"):
        load_dataset(tmp_path)
    mask(tmp_path / "masks" / "a0.png")
    assert describe(load_dataset(tmp_path)).left_out == ("1 files in masks whose stem no image has: masks/zebra.png",)


# --- layouts with two readings


@pytest.mark.parametrize(
    "paths, said",
    [
        (["cats/old/1.png", "dogs/old/2.png"], "two readings: classes cats, dogs, or classes old inside"),
        (["cam1/cat/1.png", "cam1/dog/2.png", "cam2/cat/3.png"], "classes cam1, cam2, or classes cat, dog"),
        (["cat/train/1.png", "cat/test/2.png"], "splits inside of classes .cat/te"),
        (["cat/train/1.png", "dog/train/2.png"], "splits inside of classes .cat/train"),
        (["Train/a/1.png", "training_set/a/2.png"], "both 'Train' and 'training_set' in .* could be the split 'train'"),
        (["a/1.png", "2.png"], "2.png lies in no class folder, beside class folders"),
        (["Cat/1.png", "cat/2.png"], "holds 'Cat' .1 rows. and 'cat' .1 rows., which differ in case alone"),
    ],
)
def test_folders_with_two_readings_are_refused_with_both(tmp_path, paths, said):
    for path in paths:
        image(tmp_path / path)
    with pytest.raises(DataError, match=said):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    "paths, counts",
    [
        (["images/cat/1.png", "images/dog/2.png"], {"cat": 1, "dog": 1}),
        (["cat/1.png", "cat/old/2.png", "dog/3.png"], {"cat": 2, "dog": 1}),
        (["cat/1.png", "dog/one/2.png", "dog/two/3.png"], {"cat": 1, "dog": 2}),
        (["Train/cat/1.png", "Test/cat/2.png", "Train/dog/3.png"], {"cat": 1, "dog": 1}),
        (["train_set/cat/1.png", "validation-images/cat/2.png", "train_set/dog/3.png"], {"cat": 1, "dog": 1}),
        (["cat/1.png", "cat /2.png", "dog/3.png"], {"cat": 2, "dog": 1}),
        (["caf\u00e9/1.png", "cafe\u0301/2.png", "dog/3.png"], {"caf\u00e9": 2, "dog": 1}),
        (["cat/1.png", "cat/@eaDir/1.png/T.png", "cat/.ipynb_checkpoints/1.png", "dog/2.png"], {"cat": 1, "dog": 1}),
        (["cat/1.png", "dog/2.png", "__MACOSX/cat/._1.png", "dog/._2.png"], {"cat": 1, "dog": 1}),
    ],
)
def test_folders_with_one_reading(tmp_path, paths, counts):
    for path in paths:
        image(tmp_path / path)
    assert describe(load_dataset(tmp_path)).classes == counts


# --- what is left out is said


def test_what_is_left_out_is_counted_with_the_reason(tmp_path):
    classes(tmp_path / "train", ("a", "b"))
    (tmp_path / "train" / "a" / "notes.txt").write_text("x")
    (tmp_path / "train" / "a" / "1.heic").write_bytes(b"x")
    (tmp_path / "train" / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    image(tmp_path / "train" / "a" / "@eaDir" / "a0.png")
    classes(tmp_path / "extra", ("a",))
    found = describe(load_dataset(tmp_path))
    assert found.classes == {"a": 2, "b": 2}
    text = "\n".join(found.left_out)
    for said in ("1 .txt files, which are no images: train/a/notes.txt", "1 .heic images, which Pillow cannot open here",
                 "pillow-heif", "1 links to nothing: train/b/gone.png", "an operating system's: train/a/@eaDir",
                 "1 folders beside the splits (a split's name reads one): extra"):  # fmt: skip
        assert said in text
    part = load_dataset(tmp_path).select([0, 1, 2])
    assert describe(part).left_out == found.left_out, "a part of a dataset still says what its folder left out"
    assert describe(load_dataset(tmp_path, "extra")).classes == {"a": 2, "b": 0}


def test_a_class_of_images_that_cannot_be_opened_is_refused(tmp_path):
    classes(tmp_path, ("a", "b"))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "1.HEIC").write_bytes(b"x")
    with pytest.raises(DataError, match=r"the 1 images in .*/c are .heic files, .*pillow-heif.*JPEG or PNG"):
        load_dataset(tmp_path)


def test_tables_and_archives_beside_more_images_are_left_out(tmp_path):
    """They do not make the folder another kind of dataset, in which masks are not found."""
    root = classes(tmp_path)
    mask(root / "masks" / "ant0.png")
    for name in ("backup.zip", "ant/raw.tar", "features.parquet"):
        (root / name).write_bytes(b"PK\5\6" + b"\0" * 18)
    found = describe(load_dataset(root))
    assert str(found) == "6 images, 3 classes, 1 mask, 0 boxes" and len(found.left_out) == 3
    assert "1 .zip files, which are no images: backup.zip" in found.left_out


def test_names_that_are_no_text_and_empty_folders_are_counted(tmp_path):
    root = classes(tmp_path)
    (root / "dog").mkdir()
    name = os.path.join(os.fsencode(root / "ant"), b"caf\xe9.png")
    try:
        with open(name, "wb") as file:
            file.write((root / "ant" / "ant0.png").read_bytes())
    except OSError:
        pytest.skip("the file system takes UTF-8 alone")
    found = describe(load_dataset(root))
    assert found.images == 6
    assert set(found.left_out) == {
        r"1 files whose names are not UTF-8 (rename them): ant/caf\xe9.png", "1 empty folders: dog"
    }  # fmt: skip
    os.rename(os.fsencode(root / "bee"), os.path.join(os.fsencode(root), b"b\xe9e"))
    with pytest.raises(DataError, match=r"the name of the folder .*b\\xe9e is not UTF-8: rename it"):
        load_dataset(root)


def test_splits_one_folder_deeper_and_a_split_with_a_space_behind_it(tmp_path):
    classes(tmp_path / "data" / "train")
    classes(tmp_path / "data" / "test ")
    with pytest.raises(DataError, match=r"holds its splits in data: give .*/data$"):
        load_dataset(tmp_path)
    assert describe(load_dataset(tmp_path / "data", "test")).images == 6


def test_tables_as_people_save_them(tmp_path):
    for i in range(2):
        image(tmp_path / f"{i}.png")
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,label\n0.png,cat\n\n1.png,dog\n,\n,,\n")
    assert describe(load_dataset(tmp_path)).classes == {"cat": 1, "dog": 1}
    table.write_text("file_name,label\n0.png,cat, black\n1.png,dog\n")
    with pytest.raises(DataError, match=r"line 2 has more cells than the 2 columns, 'black': quote commas"):
        load_dataset(tmp_path)
    table.write_text("file_name,label\n0.png,cat\n1.png,dog\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"metadata\.csv is not UTF-8 text .*: save it as UTF-8"):
        load_dataset(tmp_path)


def test_links_are_followed_and_do_not_go_round(tmp_path):
    classes(tmp_path / "elsewhere", ("b",))
    classes(tmp_path / "data", ("a",))
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere" / "b")
    (tmp_path / "data" / "a" / "round").symlink_to(tmp_path / "data")
    found = describe(load_dataset(tmp_path / "data"))
    assert found.classes == {"a": 2, "b": 2} and "links to a folder that they lie in" in found.left_out[0]


# --- metadata


def test_metadata_twice_counts_an_image_once_and_contradictions_are_refused(tmp_path):
    image(tmp_path / "1.png"), image(tmp_path / "2.png")
    lines(tmp_path, {"file_name": "1.png", "label": "a"}, {"file_name": "2.png", "label": "b"})
    (tmp_path / "metadata.csv").write_text("file_name,label,group\n./1.png,a,g\n2.png,b,h\n")
    found = load_dataset(tmp_path)
    assert len(found) == 2 and data.group_names(found) == ["g", "h"]
    assert "2 lines of metadata that name an image again" in describe(found).left_out[0]
    (tmp_path / "metadata.csv").write_text("file_name,label\n1.png,b\n2.png,b\n")
    with pytest.raises(
        DataError, match="1.png has label 'a' here and 'b' at .*metadata.csv line 2: one image, one line"
    ):
        load_dataset(tmp_path)


def test_boxes_over_several_lines_are_refused_with_the_remedy(tmp_path):
    image(tmp_path / "1.png")
    lines(tmp_path, *({"file_name": "1.png", "label": "a", "bbox": [i, 0, 2, 2]} for i in range(2)))
    with pytest.raises(DataError, match=r"bbox .* one line; several boxes of an image are one list, \[\[x, y"):
        load_dataset(tmp_path)


def test_metadata_of_a_notebooks_copies_is_not_read_and_backslashes_are_folders(tmp_path):
    classes(tmp_path, ("a", "b"), n=1)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    lines(tmp_path / ".ipynb_checkpoints", {"file_name": "gone.png", "label": "old"})
    lines(tmp_path, {"file_name": "a\\a0.png", "bbox": [0, 0, 3, 3]})
    assert str(describe(load_dataset(tmp_path))) == "2 images, 2 classes, 0 masks, 1 box"


def test_metadata_beside_the_splits_that_names_no_split_is_counted(tmp_path):
    classes(tmp_path / "train", ("a", "b"), n=1)
    lines(tmp_path, {"file_name": "a/a0.png", "label": "a", "bbox": [0, 0, 3, 3]})
    assert (
        "1 lines of metadata beside the splits that name no file in one" in describe(load_dataset(tmp_path)).left_out[0]
    )


# --- labels


@pytest.mark.parametrize(
    "labels, said",
    [
        (["a", ""], "line 2 has no 'label' .it is ''."),
        (["a", float("nan")], "line 2 has no 'label' .it is nan."),
        (["a", None], "line 2 has no 'label' .it is empty.: it has file_name, label"),
        (["a", "nan"], "label holds 'nan' in 1 rows"),
        (["a", "N/A"], "label holds 'N/A' in 1 rows"),
        ([1.5, 2], "line 1: label 1.5 is a number with a fraction"),
        (["1.5", "2"], "numbers with fractions, such as 1.5: a quantity"),
        (["Cat", "cat"], "differ in case alone"),
    ],
)
def test_labels_of_no_sense_are_refused(tmp_path, labels, said):
    for i in range(len(labels)):
        image(tmp_path / f"{i}.png")
    lines(tmp_path, *({"file_name": f"{i}.png", "label": label} for i, label in enumerate(labels)))
    with pytest.raises(DataError, match=said):
        load_dataset(tmp_path)


@pytest.mark.parametrize("name", ["Label", "species", "class"])
def test_a_field_that_is_a_label_by_another_name_is_told(tmp_path, name):
    image(tmp_path / "1.png")
    lines(tmp_path, {"file_name": "1.png", "camera": "7", name: "cat"})
    with pytest.raises(DataError, match=f"it has file_name, camera, {name} .label_column='{name}', if that is it"):
        load_dataset(tmp_path)


def test_a_folder_of_masks_by_another_name_is_no_class(tmp_path):
    classes(tmp_path)
    for name in ("ant", "bee"):
        mask(tmp_path / "segmentations" / name / f"{name}0.png")
    said = r"segmentations holds files for 2 images beside it \(segmentations/ant/ant0 for ant/ant0\): if they are"
    with pytest.raises(DataError, match=said + " masks, call the folder masks"):
        load_dataset(tmp_path)
    (tmp_path / "segmentations").rename(tmp_path / "masks")
    assert describe(load_dataset(tmp_path)).masks == 2
    image(tmp_path / "moths" / "ant" / "moth7.png")
    assert describe(load_dataset(tmp_path)).classes["moths"] == 1


def test_what_a_folder_without_images_holds_is_told(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0001").write_bytes(image(tmp_path.parent / "one.png").read_bytes())
    with pytest.raises(
        DataError, match="is empty: .*; what it holds is 1 nameless files, which are no images: cat/0001"
    ):
        load_dataset(tmp_path)


def test_a_broken_archive_is_said(tmp_path):
    (tmp_path / "train.zip").write_bytes(b"PK of nothing")
    with pytest.raises(DataError, match="cannot be read, from a folder or from the Hub .File is not a zip file"):
        load_dataset(tmp_path)


def test_labels_that_mean_the_same_are_one_class(tmp_path):
    values = ["1", 1, 1.0, " 1", "2", 2.0]
    for i in range(len(values)):
        image(tmp_path / f"{i}.png")
    lines(tmp_path, *({"file_name": f"{i}.png", "label": value} for i, value in enumerate(values)))
    assert describe(load_dataset(tmp_path)).classes == {"1": 4, "2": 2}


def test_many_numbers_are_asked_about_unless_they_are_said_to_be_classes(tmp_path):
    for i in range(25):
        image(tmp_path / f"{i}.png")
    lines(tmp_path, *({"file_name": f"{i}.png", "label": i + 20} for i in range(25)))
    with pytest.warns(UserWarning, match="label holds 25 different numbers.*a quantity, such as an age"):
        load_dataset(tmp_path)
    assert len(data.class_names(load_dataset(tmp_path, class_names=[str(i) for i in range(20, 45)]))) == 25


@pytest.mark.parametrize(
    "labels, said",
    [
        ([[0, 1, 0], [1, 0, 0]], r"labels holds \[0, 1, 0\], which seems to be 0 or 1 for each class: give the names"),
        ([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], r"0 or 1 for each class"),
        ([["a"], [["b"]]], r"line 2: label \['b'\] is a list: give a name or a number"),
        ([["a"], [0.2]], r"line 2: label 0.2 is a number with a fraction"),
        ([{"name": "a"}, {"name": "b"}], r"line 1: label {'name': 'a'} is a dict: give a name"),
        (
            ["a", "a, b", "b"],
            r"label holds 'a, b' \(1 rows\), and 'a' and 'b' are classes .* are a list, such as \[\"a\"",
        ),
        (["1", "01"], r"holds '01' \(1 rows\) and '1' \(1 rows\), the same number"),
        (["1e3", "1000"], r"holds numbers with fractions, such as 1e3"),
        (["<NA>", "a"], r"label holds '<NA>' in 1 rows: label or drop them"),
    ],
)
def test_labels_written_in_another_way_are_refused(tmp_path, labels, said):
    field = "labels" if isinstance(labels[0], list) else "label"
    for i in range(len(labels)):
        image(tmp_path / f"{i}.png")
    lines(tmp_path, *({"file_name": f"{i}.png", field: label} for i, label in enumerate(labels)))
    with pytest.raises(DataError, match=said):
        load_dataset(tmp_path)
    assert any(re.search(said, problem) for problem in data.check(tmp_path).problems)


def test_lists_that_only_look_like_0_and_1_for_each_class_are_labels(tmp_path):
    for i in range(2):
        image(tmp_path / f"{i}.png")
    for labels in ([[0, 1], [1, 0]], [[0, 1, 1], [1]], [["a", "a"], ["b", "a"]], [[0, 0, 2], [1, 2, 0]]):
        lines(tmp_path, *({"file_name": f"{i}.png", "labels": each} for i, each in enumerate(labels)))
        assert describe(load_dataset(tmp_path)).images == 2
    hot = datasets.Dataset.from_dict({"image": ["a", "b"], "labels": [[0, 1, 1], [1, 0, 0]]}).cast_column(
        "image", datasets.Image()
    )
    with pytest.raises(DataError, match="labels holds .*0 or 1 for each class"):
        data.as_canonical(hot)


def test_marks_without_a_width_and_doubled_spaces_do_not_make_classes(tmp_path):
    for i in range(4):
        image(tmp_path / f"{i}.png")
    texts = ["new york", "new\t york\u200b", "\ufeffrome", "rome"]
    lines(tmp_path, *({"file_name": f"{i}.png", "label": text} for i, text in enumerate(texts)))
    assert describe(load_dataset(tmp_path)).classes == {"new york": 2, "rome": 2}


def test_label_and_labels_in_one_line_are_asked_about(tmp_path):
    for i in range(2):
        image(tmp_path / f"{i}.png")
    lines(tmp_path, {"file_name": "0.png", "label": "a", "labels": ["a", "b"]}, {"file_name": "1.png", "label": "b",
                                                                                 "labels": ["b"]})  # fmt: skip
    with pytest.raises(DataError, match=r"line 1 has both label \('a'\) and labels .*label_column='labels' or 'label'"):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, label_column="label")["label"] == [0, 1]
    assert load_dataset(tmp_path, label_column="labels")["labels"] == [[0, 1], [1]]


# --- groups, cues and corners


def test_groups_are_carried_to_the_batch_with_their_names(tmp_path):
    rows = [("a", "b/sea"), ("b", "a/sea"), ("a", "b/sea")]
    for i in range(3):
        image(tmp_path / f"{i}.png")
    lines(
        tmp_path, *({"file_name": f"{i}.png", "label": k, "group": g, "place": g[2:]} for i, (k, g) in enumerate(rows))
    )
    found = load_dataset(tmp_path)
    prepared = data.prepare(found, PREPROCESSING, train=True)
    assert data.group_names(found) == data.group_names(prepared) == prepared.group_names == ["a/sea", "b/sea"]
    assert data.collate([prepared[i] for i in range(3)])["group"].tolist() == [1, 0, 1]
    assert str(describe(found)) == "3 images, 2 classes, 0 masks, 0 boxes, 2 groups"
    assert describe(found).groups == {"a/sea": 1, "b/sea": 2}
    by_place = load_dataset(tmp_path, group_column="place")
    assert data.group_names(by_place) == ["sea"] and by_place["place"] == ["sea"] * 3, "other fields stay as they are"
    streamed = list(data.prepare(load_dataset(tmp_path, streaming=True), PREPROCESSING))
    assert [int(item["group"]) for item in streamed] == [1, 0, 1]
    with pytest.raises(DataError, match="no row has a field 'breed' .group_column."):
        load_dataset(tmp_path, group_column="breed")


def test_a_group_column_with_holes_is_refused_with_the_row_or_has_holes_where_nobody_asked(tmp_path):
    for i in range(2):
        image(tmp_path / f"{i}.png")
    lines(
        tmp_path, {"file_name": "0.png", "label": "a", "group": "g"}, {"file_name": "1.png", "label": "b", "group": ""}
    )
    with pytest.raises(DataError, match="metadata.jsonl line 2 has no 'group' .group_column.: give every row a group"):
        load_dataset(tmp_path, group_column="group")
    found = load_dataset(tmp_path)
    assert data.group_names(found) == ["g"] and found["group"] == [0, None] and describe(found).groups == {"g": 1}
    prepared = data.prepare(found, PREPROCESSING)
    assert prepared.groups == ["g", None] and [int(item["group"]) for item in prepared] == [0, -1]


def test_groups_and_corner_boxes_of_a_dataset_in_memory():
    import datasets

    table = datasets.Dataset.from_dict(
        {"image": [Image.new("RGB", (20, 16))] * 2, "label": ["a", "b"], "place": ["sea", "land"],
         "bbox": [[2, 3, 8, 9], [0, 0, 4, 4]], "cue_bbox": [[[1, 1, 3, 3]], None]},
    ).cast_column("image", datasets.Image())  # fmt: skip
    found = data.as_canonical(table, group_column="place", box_format="xyxy")
    assert data.group_names(found) == ["land", "sea"] and found["group"] == [1, 0] and "place" in found.column_names
    assert found["bbox"] == [[2, 3, 6, 6], [0, 0, 4, 4]] and found["cue_bbox"] == [[[1, 1, 2, 2]], None]
    with pytest.raises(DataError, match="no column 'breed' .group_column."):
        data.as_canonical(table, group_column="breed")
    holes = table.remove_columns("place").add_column("place", ["sea", None])
    with pytest.raises(DataError, match="row 1 has no 'place'"):
        data.as_canonical(holes, group_column="place")


def test_boxes_as_corners_are_turned_or_refused(tmp_path):
    image(tmp_path / "0.png")
    lines(tmp_path, {"file_name": "0.png", "label": "a", "bbox": [[2, 3, 8, 9]], "cue_bbox": [10, 2, 12, 5]})
    found = load_dataset(tmp_path, box_format="xyxy")
    assert found["bbox"] == [[[2, 3, 6, 6]]] and found["cue_bbox"] == [[[10, 2, 2, 3]]]
    lines(tmp_path, {"file_name": "0.png", "label": "a", "bbox": [8, 9, 2, 3]})
    with pytest.raises(DataError, match=r"line 1: box \[8, 9, 2, 3\] is not \[left, top, right, bottom\]"):
        load_dataset(tmp_path, box_format="xyxy")
    with pytest.raises(ValueError, match="box_format 'yolo' is not one of xywh .*, xyxy"):
        load_dataset(tmp_path, box_format="yolo")


# --- masks that lie where classes lie


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (
            "segmentations/{stem}.png",
            r"segmentations holds files for 6 images beside it \(segmentations/ant0 for ant/ant0\)",
        ),
        ("SegmentationClass/{stem}.png", "SegmentationClass holds files for 6 images"),
        ("gt/{stem}.png", "gt holds files for 6 images"),
        ("targets/{stem}.png", "targets holds files for 6 images"),  # for each image of all classes: whatever its name
        ("{name}_masks/{stem}.png", "ant_masks holds files for 2 images"),
        ("{name}/segmentations/{stem}.png", r"ant/segmentations holds files for 2 images"),
        ("{name}/{stem}.png", r"6 images of .* and ant/ant0\.png looks like the mask of ant/ant0\.jpg: put masks into"),
    ],
)
def test_masks_among_the_classes_are_refused_with_a_pair_of_them(tmp_path, place, said):
    classes(tmp_path, suffix=".jpg")
    rng = np.random.default_rng(0)
    for file in sorted(tmp_path.glob("*/*.jpg")):
        Image.fromarray(rng.integers(0, 255, (16, 20, 3), dtype=np.uint8)).save(file)
        mask(tmp_path / place.format(name=file.parent.name, stem=file.stem))
    with pytest.raises(DataError, match=said):
        load_dataset(tmp_path)


@pytest.mark.parametrize("name", ["{}_mask", "{}_seg", "{}_Segmentation", "{}_gt", "mask_{}"])
def test_a_mask_beside_its_image_has_its_stem_and_a_word(tmp_path, name):
    for file in sorted(classes(tmp_path, suffix=".jpg").glob("*/*.jpg")):
        mask(file.parent / f"{name.format(file.stem)}.png")
    found = describe(load_dataset(tmp_path))
    assert (found.images, found.masks) == (6, 6)


@pytest.mark.parametrize("names", [("alphabet", "number"), ("cat", "old", "photos")])
def test_classes_whose_images_are_numbered_alike_are_classes(tmp_path, names):
    for name in names:
        for i in range(3):
            image(tmp_path / name / f"{i}.png")
    assert list(describe(load_dataset(tmp_path)).classes) == sorted(names)


def test_a_file_name_without_its_ending_or_in_another_case_is_said(tmp_path):
    image(tmp_path / "1.PNG")
    for given in ("1.png", "1", 1):
        lines(tmp_path, {"file_name": given, "label": "a"})
        with pytest.raises(
            DataError, match=r"line 1: file_name '?1(\.png)?'? is not a file .*: write '1\.PNG', if that"
        ):
            load_dataset(tmp_path)


# --- labels that are none


def labelled(folder, labels):
    for i in range(len(labels)):
        image(folder / f"{i}.png")
    return lines(folder, *({"file_name": f"{i}.png", "label": label} for i, label in enumerate(labels)))


@pytest.mark.parametrize("labels", [["a", "b", -1], [0, 1, -1, 2], ["0", "1", "-1"], [-2, -1, 0], [-1, -1]])
def test_a_label_of_minus_one_says_that_there_is_none(tmp_path, labels):
    with pytest.raises(
        DataError, match=rf"label is -1 in \d of {len(labels)} rows, which in many datasets says that the"
    ):
        load_dataset(labelled(tmp_path, labels))
    names = sorted({str(label) for label in labels})
    assert data.class_names(load_dataset(tmp_path, class_names=names)) == names


def test_minus_one_and_one_are_two_classes(tmp_path):
    assert describe(load_dataset(labelled(tmp_path, [-1, 1, 1]))).classes == {"-1": 1, "1": 2}


def test_rows_of_a_datasets_dataset_without_a_label_are_refused(tmp_path):
    kind = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    rows = datasets.Dataset.from_dict(
        {"image": [str(image(tmp_path / f"{i}.png")) for i in range(3)], "label": [0, -1, 1]}, kind
    )
    said = r"label is -1, which says that the class is not known: leave such rows out, dataset\.filter\("
    with pytest.raises(DataError, match=f"1\\.png.*{said}"):
        data.prepare(rows, PREPROCESSING)
    assert len(data.prepare(rows.filter(lambda row: row["label"] != -1), PREPROCESSING)) == 2
    assert len(data.prepare(rows, PREPROCESSING, labeled=False)) == 3


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([True, 0, 1], "label holds True as well as [01]: write them alike"),
        (["['a', 'b']", "['b']"], r"label holds \"\['a', 'b'\]\" \(1 rows\), a list that is written as text"),
    ],
)
def test_labels_in_two_ways_of_writing(tmp_path, labels, said):
    with pytest.raises(DataError, match=said):
        load_dataset(labelled(tmp_path, labels))


def test_marks_without_a_width_make_no_class_of_their_own(tmp_path):
    assert list(describe(load_dataset(labelled(tmp_path, ["a", "a\u200d", "a\u00ad", "❤\ufe0f", "❤"]))).classes) == [
        "a",
        "❤",
    ]
