"""``attention-refine check``: what would be read, what is left out, the first problems; fast, without decoding."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from PIL import Image

from attention_refine import shapes
from attention_refine.cli import main
from attention_refine.data import DataError, describe, load_dataset
from attention_refine.data.checking import check


def image(path, size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(path)
    return path


def lines(folder, *rows):
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_it_says_is_what_is_read(tmp_path, capsys):
    folder = shapes.write(tmp_path / "shapes", splits=("train", "test"), n=12, size=32)
    (folder / "train" / "notes.txt").write_text("x")
    found = check(folder)
    for split in ("train", "test"):
        assert found.splits[split] == describe(load_dataset(folder, split))
    assert found.problems == []
    assert main(["check", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "train: 12 images, 6 classes, 12 masks, 12 boxes, 12 cue boxes" in said
    assert "left out: 1 .txt files, which are no images: train/notes.txt" in said
    assert "no problem found (images were not decoded; sizes of at most 60 annotated ones a split)" in said


def test_groups_and_maps_and_class_folders_are_counted_alike(tmp_path):
    for name in ("a", "b"):
        for i in range(3):
            image(tmp_path / name / f"{name}{i}.png")
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "a0.npy", np.zeros((2, 2), np.float32))
    lines(tmp_path, *({"file_name": f"{n}/{n}{i}.png", "group": f"{n}/{i % 2}"} for n in "ab" for i in range(3)))
    assert check(tmp_path).splits["train"] == describe(load_dataset(tmp_path))


def test_a_thousand_files_in_a_second(tmp_path):
    first = image(tmp_path / "train" / "class0" / "0.jpg", (640, 480)).read_bytes()
    mask = Image.fromarray(np.eye(480, 640, dtype=np.uint8) * 255)
    for i in range(1000):
        path = tmp_path / "train" / f"class{i % 10}" / f"{i}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(first)
    for i in range(0, 1000, 20):
        path = tmp_path / "train" / "masks" / f"class{i % 10}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path)
    started = time.process_time()
    found = check(tmp_path)
    assert time.process_time() - started < 1
    assert found.splits["train"].images == 1000 and found.splits["train"].masks == 50 and not found.problems


@pytest.mark.parametrize(
    "row, options, said",
    [
        ({"bbox": [10, 10, 30, 30]}, {}, r"line 1: bbox \[10.0, 10.0, 30.0, 30.0\] .* leaves its image of 20x16"),
        ({"bbox": [4, 4, 12, 15]}, {}, "box_format='xyxy'"),
        ({"cue_bbox": "1 2 3 4"}, {}, "line 1: bbox '1 2 3 4' is not"),
        ({"mask_file_name": "big.png"}, {}, "big.png is 40x32 but its image .*0.png is 20x16"),
        ({"mask_file_name": "voc.png"}, {}, "the mask .*voc.png holds the values 0, 15, 255"),
        ({"maps_file_name": "text.png"}, {}, "the map .*text.png cannot be read"),
        ({"group": "x"}, {}, "1 of 2 images have no 'group', the first at .*line 2"),
        ({"label": float("nan")}, {}, "line 1 has no 'label'"),
        ({"file_name": "empty.png"}, {}, "1 images of train are empty files"),
    ],
)
def test_the_first_problems_are_said_with_the_row(tmp_path, row, options, said, capsys):
    image(tmp_path / "0.png"), image(tmp_path / "1.png")
    image(tmp_path / "big.png", (40, 32))
    voc = np.zeros((16, 20), np.uint8)
    voc[4:10, 4:10], voc[3, 4:10] = 15, 255
    Image.fromarray(voc).save(tmp_path / "voc.png")
    (tmp_path / "text.png").write_text("no image"), (tmp_path / "empty.png").write_bytes(b"")
    lines(tmp_path, {"file_name": "0.png", "label": "a", **row}, {"file_name": "1.png", "label": "b"})
    with pytest.raises(AssertionError, match=said):
        assert not check(tmp_path, **options).problems, "\n".join(check(tmp_path, **options).problems)
    assert main(["check", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert "problem: " in out and "is not ready to train on" in err


def test_options_say_what_a_mask_means_and_how_boxes_are_written(tmp_path):
    image(tmp_path / "0.png"), image(tmp_path / "1.png")
    voc = np.zeros((16, 20), np.uint8)
    voc[4:10, 4:10], voc[3, 4:10] = 15, 255
    Image.fromarray(voc).save(tmp_path / "voc.png")
    lines(tmp_path, {"file_name": "0.png", "label": "a", "mask_file_name": "voc.png", "bbox": [4, 4, 12, 15]},
          {"file_name": "1.png", "label": "b"})  # fmt: skip
    assert check(tmp_path, void=255, box_format="xyxy").problems == []
    assert main(["check", str(tmp_path), "--void", "255", "--mask-values", "15", "--box-format", "xyxy"]) == 0


def test_one_class_other_labels_at_test_and_layouts_with_two_readings(tmp_path):
    image(tmp_path / "one" / "train" / "a" / "1.png")
    assert "train has one class, 'a': there is nothing to tell apart" in check(tmp_path / "one").problems[0]
    for path in ("train/a/1.png", "train/b/1.png", "test/c/1.png"):
        image(tmp_path / "two" / path)
    assert "label 'c' is not one of the 2 classes (a, b)" in check(tmp_path / "two").problems[0]
    for path in ("cam1/a/1.png", "cam2/a/1.png"):
        image(tmp_path / "three" / path)
    found = check(tmp_path / "three")
    assert "two readings" in found.problems[0] and found.splits == {}
    with pytest.raises(DataError, match="is not a folder that exists"):
        check(tmp_path / "nowhere")
    with pytest.raises(DataError, match="dataset '' names nothing"):
        check("")
    with pytest.raises(ValueError, match="box_format 'yolo' is not one of xywh"):
        check(tmp_path / "one", box_format="yolo")


def test_other_sources_are_described(monkeypatch):
    monkeypatch.setattr(shapes, "SIZES", {"train": 4, "validation": 3, "test": 2, "test_intact": 1})
    assert str(check("shapes").splits["train"]) == "4 images, 6 classes, 4 masks, 4 boxes, 4 cue boxes"


def test_images_that_are_in_another_split_too(tmp_path):
    for split, level in (("train", 0), ("test", 0), ("validation", 1)):
        for i in range(3):
            Image.new("L", (8, 8), 10 * i + level).save(image(tmp_path / split / "ab"[i % 2] / f"{i}.png"))
    (problem,) = check(tmp_path).problems
    assert problem.startswith("3 of the 3 images of test are in train too, such as ")
