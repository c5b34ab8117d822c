"""Published sets as their archives unpack: known by their own files, and read as they number, split and draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_sets import SETS, SIZE, annotation, photograph, records, text, voc_object
from scipy.io import savemat

from attention_refine.data import (
    DataError,
    check,
    class_names,
    describe,
    group_names,
    load_dataset,
    read_mask,
    save_edits,
)
from attention_refine.data.adopting import as_prepared
from attention_refine.data.published import PUBLISHED, recognise
from attention_refine.data.unlabeled import load_unlabeled

NAMES = {
    "cub_2010": "CUB-200 (2010)", "cub_2011": "CUB-200-2011", "stanford_dogs": "Stanford Dogs", "voc": "PASCAL VOC",
    "imagenet": "ImageNet (ILSVRC 2012)", "imagenet_kaggle": "ImageNet (ILSVRC 2012)", "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100", "svhn": "SVHN (cropped digits)", "waterbirds": "Waterbirds", "spawrious": "Spawrious",
    "imagenet9": "ImageNet-9", "market1501": "Market-1501",
}  # fmt: skip
every_set = pytest.mark.parametrize("name", list(SETS))


def labels(dataset) -> list[str]:
    return [class_names(dataset)[label] for label in dataset["label"]]


def drawn(row) -> np.ndarray:
    return read_mask(row["mask"], values=row.get("mask_values"), void=row.get("mask_void"))


# what holds of all of them --------------------------------------------------------------------------------------------


def test_every_set_has_an_example_here():
    tested = set(NAMES.values())
    assert {each.name for each in PUBLISHED if "Python" not in each.name} == tested


def test_the_page_has_every_set_with_what_it_is_known_by():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    for each in PUBLISHED:
        assert "Python" in each.name or f"| {each.name} | {each.files} |" in page


@every_set
def test_a_set_is_known_by_its_files_and_every_split_is_read(name, tmp_path):
    folder = SETS[name](tmp_path)
    found = recognise(folder)
    assert found.set.name == NAMES[name] and found.folder == folder
    assert found.set.known(folder) and [each.name for each in PUBLISHED if each.known(folder)] == [NAMES[name]]
    classes = {}
    for split in found.splits():
        dataset = load_dataset(folder, split)
        assert len(dataset) > 0
        column = "labels" if "labels" in dataset.features else "label"
        assert {"image", column} <= set(dataset.column_names)
        classes[split] = class_names(dataset)
        assert {row["image"].mode for row in dataset} == {"RGB"}
        assert load_unlabeled(folder, split).column_names == ["image"] and len(load_unlabeled(folder, split)) == len(
            dataset
        )
    if name == "market1501":  # nobody is in both
        assert classes["query"] == classes["gallery"] and not set(classes["train"]) & set(classes["query"])
    else:
        assert len({tuple(names) for names in classes.values()}) == 1


@every_set
def test_check_finds_nothing_wrong_and_counts_what_is_read(name, tmp_path):
    folder = SETS[name](tmp_path)
    looked = check(folder)
    assert looked.problems == []
    for split, summary in looked.splits.items():
        assert summary == describe(load_dataset(folder, split))


@every_set
def test_items_of_a_set_are_made(name, tmp_path):
    folder = SETS[name](tmp_path)
    from attention_refine.data import prepare

    preprocessing = {"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear",
                     "crop_pct": 1.0}  # fmt: skip
    prepared = prepare(load_dataset(folder, recognise(folder).splits()[0]), preprocessing, train=False)
    assert [tuple(item["pixel_values"].shape) for item in prepared] == [(3, 16, 16)] * len(prepared)


@every_set
def test_a_split_that_is_not_there_is_refused_with_those_that_are(name, tmp_path):
    folder = SETS[name](tmp_path)
    with pytest.raises(
        DataError, match=f"as published and has no split 'nowhere': it has {recognise(folder).splits()[0]}"
    ):
        load_dataset(folder, "nowhere")


def test_the_folder_that_an_archive_was_unpacked_in_is_enough_unless_it_holds_two(tmp_path):
    folder = SETS["waterbirds"](tmp_path)
    assert recognise(tmp_path).folder == folder and len(load_dataset(tmp_path, "val")) == 2
    SETS["voc"](tmp_path)
    with pytest.raises(DataError, match="VOC2012 and .*waterbird_complete95_forest2water2: give one of them"):
        load_dataset(tmp_path)


def test_plain_folders_are_read_as_before(tmp_path):
    for name in ("train/cat/1.jpg", "train/dog/2.jpg", "query/cat/3.jpg"):
        photograph(tmp_path / name, 80)
    text(tmp_path / "images.txt", "1 cat/1.jpg")
    assert recognise(tmp_path) is None and class_names(load_dataset(tmp_path)) == ["cat", "dog"]


def test_edits_are_not_written_into_a_published_set_but_kept_in_memory(tmp_path):
    folder = SETS["cub_2011"](tmp_path)
    with pytest.raises(
        DataError, match="is CUB-200-2011 as published, and edited maps are written beside plain folders"
    ):
        save_edits(folder, 0, np.ones((4, 4), np.float32), split="train")
    assert not (folder / "metadata.jsonl").exists()
    edited = save_edits(load_dataset(folder), 0, np.ones((4, 4), np.float32))
    assert edited["edited"][0]


def test_a_set_without_a_test_split_is_not_judged_on_what_it_was_trained_on(tmp_path):
    import torch

    with pytest.raises(DataError, match="has no split 'test' to judge on, but train, validation, trainval"):
        as_prepared(torch.nn.Linear(1, 1), SETS["voc"](tmp_path), train=False)


# each of them ---------------------------------------------------------------------------------------------------------


def test_cub_2011(tmp_path):
    folder = SETS["cub_2011"](tmp_path)
    train, test = load_dataset(folder), load_dataset(folder, "test")
    assert class_names(train) == ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    assert labels(train) == labels(test) == class_names(train)
    assert train["bbox"] == [[[1.0, 2.0, 6.0, 5.0]], [[3.0, 2.0, 6.0, 5.0]]] and test["bbox"][0] == [
        [2.0, 2.0, 6.0, 5.0]
    ]
    assert train[0]["image"].filename.endswith("Black_footed_Albatross_0001_1.jpg")
    mask = drawn(train[0])
    assert mask.shape == SIZE[::-1] and mask[4].tolist() == [0] * 5 + [1, 1, 1] + [0] * 12  # 3 of 5 people or more
    assert train[1]["mask"] is None
    (folder / "segmentations").mkdir()  # one in the set is the one that counts
    assert "mask" not in load_dataset(folder).column_names


@pytest.mark.parametrize(
    "file, lines, said",
    [
        ("train_test_split.txt", ["1 1", "2 0", "3 1"], "train_test_split.txt has no line for image 4"),
        ("train_test_split.txt", ["1 1", "2 0", "3 1", "4 2"], "image 4 has '2', not 1 for train or 0 for test"),
        ("image_class_labels.txt", ["1 1", "2 1", "3 3", "4 2"], "image 3 has the class '3', not one of 1 to 2"),
        ("image_class_labels.txt", ["1 1", "1 1"], "image_class_labels.txt line 2 has the number 1 again"),
        (
            "images.txt",
            ["1 001.Black_footed_Albatross/none.jpg"],
            "image 1 names 001.Black_footed_Albatross/none.jpg, and",
        ),
        (
            "bounding_boxes.txt",
            ["1 1.0 2.0 6.0", "3 1 2 3 4"],
            "bounding_boxes.txt: image 1: '1.0 2.0 6.0' is not 4 numbers",
        ),
        ("classes.txt", ["0 a", "1 b"], "does not number its classes from 1 to 2"),
        ("classes.txt", ["Albatross"], "classes.txt line 1 is 'Albatross', not a number and a text"),
    ],
)
def test_a_broken_table_of_cub_2011_is_named(file, lines, said, tmp_path):
    folder = SETS["cub_2011"](tmp_path)
    text(folder / file, *lines)
    with pytest.raises(DataError, match=said):
        load_dataset(folder)
    assert any(said[:20] in problem for problem in check(folder).problems)


def test_a_table_of_cub_2011_that_is_missing_or_no_text_is_named(tmp_path):
    folder = SETS["cub_2011"](tmp_path)
    (folder / "classes.txt").write_bytes(b"1 \xff\xfe")
    with pytest.raises(DataError, match="classes.txt is not text"):
        load_dataset(folder)
    (folder / "classes.txt").unlink()
    with pytest.raises(
        DataError, match="classes.txt is missing, a part of the published set: unpack the whole archive"
    ):
        load_dataset(folder)


def test_cub_2010(tmp_path):
    folder = SETS["cub_2010"](tmp_path)
    train, test = load_dataset(folder), load_dataset(folder, "test")
    assert labels(train) == labels(test) == ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    assert train["bbox"][0] == [[5.0, 3.0, 7.0, 6.0]]
    assert drawn(train[0]).sum() == 6 * 7 and drawn(train[0])[3:9, 5:12].all()
    file = next((folder / "annotations-mat" / "001.Black_footed_Albatross").glob("*0001*.mat"))
    savemat(file, {"bbox": 4.0, "seg": np.zeros((4, 4))})
    with pytest.raises(DataError, match=f"{file.name}: bbox has no left, top, right, bottom"):
        load_dataset(folder)
    file.write_bytes(b"no such file")
    with pytest.raises(DataError, match=f"{file.name} cannot be read as a MATLAB file"):
        load_dataset(folder)
    file.unlink()
    with pytest.raises(DataError, match=f"{file.name} is missing, a part of the published set"):
        load_dataset(folder)


def test_waterbirds(tmp_path):
    folder = SETS["waterbirds"](tmp_path)
    train, validation, test = (load_dataset(folder, split) for split in ("train", "validation", "test"))
    assert class_names(train) == ["landbird", "waterbird"] and labels(train) == ["landbird", "waterbird"]
    assert [group_names(train)[group] for group in train["group"]] == ["landbird/land", "waterbird/water"]
    assert [group_names(validation)[group] for group in validation["group"]] == ["landbird/water", "waterbird/land"]
    assert labels(test) == ["waterbird", "landbird"] and test["place"] == ["land", "land"]
    assert drawn(train[0]).sum() == 6 * 3
    assert class_names(load_dataset(folder, label_column="place")) == ["land", "water"]
    read = load_dataset(folder, image_column="img_filename", label_column="y")  # as a plain folder with a table
    assert len(read) == 6 and class_names(read) == ["0", "1"]
    assert "bbox" not in train.column_names
    table = (folder / "metadata.csv").read_text().replace("bird_3.jpg,0,1", "bird_3.jpg,0,3")
    (folder / "metadata.csv").write_text(table)
    with pytest.raises(DataError, match="metadata.csv line 4: split is '3', not one of 0 train, 1 validation, 2 test"):
        load_dataset(folder)


def test_waterbirds_has_the_boxes_and_masks_of_cub_beside_it(tmp_path):
    cub, folder = SETS["cub_2011"](tmp_path), SETS["waterbirds"](tmp_path)
    (folder / "segmentations").rename(cub / "segmentations")
    (tmp_path / "segmentations").rename(tmp_path / "elsewhere")
    text(cub / "images.txt", "7 001.Black_footed_Albatross/bird_1.jpg", "9 002.Laysan_Albatross/bird_9.jpg")
    text(cub / "bounding_boxes.txt", "7 3.0 2.0 6.5 5.0", "9 1.0 2.0 3.0 4.0")
    train = load_dataset(folder)
    assert train["bbox"] == [[[3.0, 2.0, 6.5, 5.0]], None] and drawn(train[0]).sum() == 6 * 3


def test_voc(tmp_path):
    folder = SETS["voc"](tmp_path)
    train, validation = load_dataset(folder), load_dataset(tmp_path / "VOCdevkit", "val")
    names = class_names(train)
    assert len(names) == 20 and names == sorted(names)
    assert [[names[label] for label in row] for row in train["labels"]] == [["dog", "person"], ["person"]]
    assert train["bbox"] == [[[0, 0, 20, 16], [2, 3, 6, 6]], [[1, 1, 8, 8]]]  # counted from 1, the last pixel within
    assert validation["labels"] == [[0]] and validation["bbox"] == [[[1, 2, 3, 3], [5, 6, 3, 3]]]
    assert describe(train).left_out[0].startswith("1 images whose objects are all difficult")
    mask = drawn(train[0])
    assert (mask[4:8, 3:7] == 1).all() and mask[3, 2] == 255 and mask[0, 0] == 0 and train[1]["mask"] is None
    assert recognise(folder).splits() == ["train", "validation", "trainval"]


def test_a_broken_annotation_of_voc_is_named(tmp_path):
    folder = SETS["voc"](tmp_path)
    file = folder / "Annotations" / "2008_000002.xml"
    annotation(file, voc_object("person", (9, 2, 2, 9)))
    with pytest.raises(
        DataError, match="2008_000002.xml is not an annotation in VOC's XML .*right or lower side before"
    ):
        load_dataset(folder)
    annotation(file, voc_object("unicorn", (2, 2, 9, 9)))
    with pytest.raises(
        DataError, match="2008_000002.xml has an object 'unicorn', which is not one of VOC's 20 classes"
    ):
        load_dataset(folder)
    file.write_text("<annotation><object>")
    with pytest.raises(DataError, match="2008_000002.xml is not an annotation in VOC's XML"):
        load_dataset(folder)
    file.unlink()
    with pytest.raises(DataError, match="2008_000002.xml is missing"):
        load_dataset(folder)
    text(folder / "ImageSets" / "Main" / "test.txt", "2008_000002")
    with pytest.raises(DataError, match="the labels of this test split are not published; use validation"):
        load_dataset(folder, "test")


def test_stanford_dogs(tmp_path):
    folder = SETS["stanford_dogs"](tmp_path)
    train, test = load_dataset(folder), load_dataset(folder, "test")
    assert labels(train) == labels(test) == ["n02085620-Chihuahua", "n02085782-Japanese_spaniel"]
    assert [row["image"].filename[-6:] for row in train] == ["10.jpg", "10.jpg"]
    assert train["bbox"] == [[[1, 2, 10, 10]]] * 2
    (folder / "lists").mkdir()
    for split in ("train", "test"):
        (folder / f"{split}_list.mat").rename(folder / "lists" / f"{split}_list.mat")
    assert labels(load_dataset(folder)) == labels(train)
    savemat(folder / "lists" / "test_list.mat", {"file_list": np.array(["a.jpg"], object), "labels": np.array([1, 2])})
    with pytest.raises(DataError, match="test_list.mat has 1 files and 2 labels"):
        load_dataset(folder, "test")
    savemat(folder / "lists" / "test_list.mat", {"labels": np.array([1, 2])})
    with pytest.raises(DataError, match="test_list.mat has no 'file_list'"):
        load_dataset(folder, "test")


def test_imagenet(tmp_path):
    folder = SETS["imagenet"](tmp_path)
    train, validation = load_dataset(folder), load_dataset(folder, "val")
    assert labels(train) == ["n01440764", "n01443537"]
    assert labels(validation) == ["n01440764", "n01443537", "n01440764"]
    kit = folder / "ILSVRC2012_devkit_t12" / "data"
    text(kit / "ILSVRC2012_validation_ground_truth.txt", "2", "3", "2")
    with pytest.raises(
        DataError, match="ground_truth.txt line 2 is '3', which is not the number of a class in meta.mat"
    ):
        load_dataset(folder, "validation")
    text(kit / "ILSVRC2012_validation_ground_truth.txt", "2", "1", "2", "1")
    with pytest.raises(DataError, match="line 4 names ILSVRC2012_val_00000004.JPEG, and .* is not there"):
        load_dataset(folder, "validation")


def test_imagenet_as_kaggle_packs_it(tmp_path):
    folder = SETS["imagenet_kaggle"](tmp_path)
    train, validation = load_dataset(folder), load_dataset(folder, "validation")
    assert labels(train) == ["n01440764", "n01443537"] and train["bbox"] == [[[1, 2, 8, 6]], None]
    assert labels(validation) == ["n01440764", "n01443537"]
    assert validation["bbox"] == [[[1, 2, 8, 6], [3, 3, 3, 4]], [[0, 0, 20, 16]]]
    text(folder / "LOC_val_solution.csv", "ImageId,PredictionString", "ILSVRC2012_val_00000001,n01440764 1 2 a 4")
    with pytest.raises(DataError, match="LOC_val_solution.csv line 2: '1 2 a 4' is not 4 numbers"):
        load_dataset(folder, "validation")
    text(folder / "LOC_val_solution.csv", "ImageId,PredictionString", "ILSVRC2012_val_00000001,n01440764 1 2")
    with pytest.raises(
        DataError, match="LOC_val_solution.csv line 2 is not an image and, for each box, a class and four"
    ):
        load_dataset(folder, "validation")


def test_imagenet_with_validation_images_in_class_folders_is_a_plain_folder(tmp_path):
    for name in ("train/n01440764/1.JPEG", "train/n01443537/2.JPEG", "val/n01440764/3.JPEG"):
        photograph(tmp_path / name, 80)
    assert recognise(tmp_path) is None and labels(load_dataset(tmp_path, "validation")) == ["n01440764"]


def test_market1501(tmp_path):
    folder = SETS["market1501"](tmp_path)
    train, query, gallery = (load_dataset(folder, split) for split in ("train", "query", "gallery"))
    assert labels(train) == ["0002", "0002", "0007"] and train["camera"] == [1, 2, 3]
    assert labels(query) == ["0001", "0003"] and query["camera"] == [1, 4]
    assert labels(gallery) == ["0000", "0001", "0003"] and gallery["camera"] == [1, 2, 1]
    assert class_names(gallery) == ["0000", "0001", "0003"]
    assert describe(gallery).left_out[0].startswith("1 images of junk (-1)")
    photograph(folder / "query" / "person.jpg", 80)
    with pytest.raises(DataError, match="query/person.jpg is not named as Market-1501 names its images"):
        load_dataset(folder, "query")


def test_svhn(tmp_path):
    folder = SETS["svhn"](tmp_path)
    train, test = load_dataset(folder), load_dataset(folder, "test")
    assert class_names(train) == [*"0123456789"] and labels(train) == ["1", "0", "9"] and labels(test) == ["0", "2"]
    pixels = np.asarray(train[0]["image"])
    assert pixels.shape == (32, 32, 3) and pixels[0, 1].tolist() == [50, 50, 7] and (pixels[1] == 50).all()
    assert recognise(folder).splits() == ["train", "test"]
    savemat(folder / "train_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[0], [1]])})
    with pytest.raises(DataError, match="train_32x32.mat has the label 0, not one of 1 to 10"):
        load_dataset(folder)
    savemat(folder / "train_32x32.mat", {"X": np.zeros((32, 32, 3, 2)), "y": np.array([[2], [1]])})
    with pytest.raises(DataError, match="train_32x32.mat holds X of float64"):
        load_dataset(folder)


def test_cifar10(tmp_path):
    folder = SETS["cifar10"](tmp_path)
    train, test = load_dataset(folder), load_dataset(tmp_path, "test")
    assert class_names(train) == ["airplane", "automobile", "bird"]
    assert labels(train) == ["automobile", "bird", "airplane", "bird", "automobile", "bird", "airplane", "bird",
                             "automobile", "bird"]  # fmt: skip
    assert labels(test) == class_names(train)
    pixels = np.asarray(train[1]["image"])
    assert pixels[0, 1].tolist() == [77, 100, 200] and pixels[1, 0].tolist() == [11, 100, 200]
    (folder / "data_batch_3.bin").write_bytes(bytes(100))
    with pytest.raises(DataError, match="data_batch_3.bin has 100 bytes, not 3073 for each image"):
        load_dataset(folder)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match="data_batch_3.bin is missing"):
        load_dataset(folder)
    records(folder / "test_batch.bin", (0,), (3,))
    with pytest.raises(DataError, match="test_batch.bin/00002 has the label 3, and there are names for 3"):
        load_dataset(folder, "test")


def test_cifar100(tmp_path):
    folder = SETS["cifar100"](tmp_path)
    train = load_dataset(folder)
    assert labels(train) == ["beaver", "aquarium_fish", "dolphin"]
    assert train["superclass"] == ["aquatic_mammals", "fish", "aquatic_mammals"]
    assert np.asarray(train[2]["image"])[0, 1].tolist() == [77, 100, 200]


@pytest.mark.parametrize(
    "files, binary",
    [
        (["cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/batches.meta"], "cifar-10-binary.tar.gz"),
        (["cifar-100-python/train", "cifar-100-python/test", "cifar-100-python/meta"], "cifar-100-binary.tar.gz"),
    ],
)
def test_pickles_of_cifar_are_refused_unread_with_the_binary_version(files, binary, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    for folder in (tmp_path, tmp_path / files[0].split("/")[0]):
        with pytest.raises(DataError, match=f"whose files are pickles, .* take the binary version, {binary}"):
            load_dataset(folder)
        assert binary in check(folder).problems[0]


def test_imagenet9(tmp_path):
    folder = SETS["imagenet9"](tmp_path)
    assert recognise(folder).splits() == ["train", "original", "mixed_same", "mixed_rand"]
    original, mixed = load_dataset(folder, "original"), load_dataset(folder, "mixed_rand")
    assert labels(original) == labels(mixed) == ["00_dog", "01_bird"]
    assert drawn(original[0]).sum() == 4 * 6 and "mask" not in mixed.column_names
    assert load_dataset(folder)[0]["image"].filename.endswith("in9l/train/00_dog/n02085930_9.JPEG")
    file = folder / "fg_mask" / "val" / "00_dog" / "n02085930_1.npy"
    np.save(file, np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="n02085930_1.npy is not an array"):
        load_dataset(folder, "original")


def test_spawrious(tmp_path):
    folder = SETS["spawrious"](tmp_path)
    assert recognise(folder).splits() == ["o2o_easy_train", "o2o_easy_test", "m2m_hard_train", "m2m_hard_test"]
    train, test = load_dataset(folder, "o2o_easy_train"), load_dataset(folder, "o2o_easy_test")
    assert class_names(train) == ["bulldog", "corgi", "dachshund", "labrador"]
    own = {"bulldog/desert", "dachshund/jungle", "labrador/dirt", "corgi/snow"}
    assert set(group_names(train)) == own | {f"{dog}/beach" for dog in class_names(train)} and len(train) == 16
    assert (
        set(group_names(test)) == {"bulldog/dirt", "dachshund/snow", "labrador/desert", "corgi/jungle"}
        and len(test) == 8
    )
    many, turned = load_dataset(folder, "m2m_hard_train"), load_dataset(folder, "m2m_hard_test")
    assert set(group_names(many)) == {f"{dog}/{place}" for dogs, places in (
        (("bulldog", "dachshund"), ("dirt", "jungle")), (("labrador", "corgi"), ("snow", "beach")),
    ) for dog in dogs for place in places}  # fmt: skip
    assert set(group_names(turned)) == {f"{dog}/{place}" for dogs, places in (
        (("bulldog", "dachshund"), ("snow", "beach")), (("labrador", "corgi"), ("dirt", "jungle")),
    ) for dog in dogs for place in places}  # fmt: skip


def test_spawrious_takes_the_share_of_each_draw(tmp_path, monkeypatch):
    from attention_refine.data.published import spawrious

    folder = SETS["spawrious"](tmp_path)
    monkeypatch.setattr(spawrious, "IMAGES", 8)
    for draw in "01":
        for dog in spawrious.DOGS:
            for place in ("desert", "beach"):
                for n in range(10, 22):
                    Image.new("RGB", SIZE).save(folder / draw / place / dog / f"{place}_{dog}_{n}.png")
    train = load_dataset(folder, "o2o_easy_train")
    counts = describe(train).groups
    assert counts["bulldog/desert"] == 7 + 6 and counts["bulldog/beach"] == 1 + 2
