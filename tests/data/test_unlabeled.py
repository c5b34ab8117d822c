"""Few labels and none: sources without labels, how a few of each class are drawn, and a recipe that uses both."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from attention_refine import data, shapes
from attention_refine.data import DataError
from attention_refine.recipe import Recipe, load_splits, run

PREPROCESSING = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear",
                 "crop_pct": 1.0}  # fmt: skip


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """A little of the embedded dataset as a folder: 72 training images in six classes, with masks."""
    return shapes.write(tmp_path_factory.mktemp("shapes") / "data", ("train", "test"), n=72, size=32)


def write_image(path, level: int):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 20, 3), level, np.uint8)).save(path)


def levels(dataset) -> list[int]:
    """The grey level of each image, as it comes out of the items."""
    prepared = data.prepare(dataset, PREPROCESSING, labeled=False)
    return [round(float(item["pixel_values"].mean() * 0.5 + 0.5) * 255) for item in prepared]


# --- images without labels -------------------------------------------------------------------------------------------


def test_a_flat_folder_and_class_folders(tmp_path):
    for level in (10, 20, 30):
        write_image(tmp_path / "flat" / f"{level}.png", level)
    write_image(tmp_path / "classes" / "train" / "a" / "1.png", 40)
    write_image(tmp_path / "classes" / "train" / "b" / "2.png", 50)
    write_image(tmp_path / "classes" / "test" / "a" / "3.png", 60)
    (tmp_path / "flat" / "notes.txt").write_text("not an image")
    assert levels(data.load_unlabeled(tmp_path / "flat")) == [10, 20, 30]
    assert levels(data.load_unlabeled(tmp_path / "classes")) == [40, 50]
    assert levels(data.load_unlabeled(tmp_path / "classes", "test")) == [60]


def test_metadata_names_the_images(tmp_path):
    for level in (10, 20):
        write_image(tmp_path / f"{level}.png", level)
    write_image(tmp_path / "masks" / "10.png", 255)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "10.png"}\n{"file_name": "20.png", "label": "a"}\n')
    assert levels(data.load_unlabeled(tmp_path)) == [10, 20], "not the mask, and no label is needed"


def test_tables_and_the_embedded_dataset(tmp_path):
    pictures = [Image.fromarray(np.full((20, 20, 3), level, np.uint8)) for level in (70, 80)]
    features = datasets.Features({"photo": datasets.Image(), "note": datasets.Value("string")})
    datasets.Dataset.from_dict({"photo": pictures, "note": ["x", "y"]}, features=features).save_to_disk(tmp_path / "t")
    loaded = data.load_unlabeled(tmp_path / "t")
    assert loaded.column_names == ["image"] and levels(loaded) == [70, 80]


def test_items_have_no_labels(embedded):
    prepared = data.prepare(data.load_unlabeled(embedded), PREPROCESSING, True, labeled=False)
    batch = data.collate([prepared[0], prepared[3]])
    assert set(batch) == {"pixel_values", "index"} and batch["index"].tolist() == [0, 3]
    assert torch.equal(prepared[1]["pixel_values"], prepared[1]["pixel_values"]), "seeded, as with labels"
    dataset = data.load_dataset(embedded)
    without = data.prepare(dataset, PREPROCESSING, labeled=False)[0]
    assert set(without) == set(data.prepare(dataset, PREPROCESSING)[0]) - {"labels"}, "what else the dataset has stays"
    assert {"mask", "boxes"} < set(without)


def test_what_has_no_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no images"):
        data.load_unlabeled(tmp_path / "empty")
    with pytest.raises(DataError, match="is not a folder that exists"):
        data.load_unlabeled(tmp_path / "absent")
    datasets.Dataset.from_dict({"number": [1, 2]}).save_to_disk(tmp_path / "numbers")
    with pytest.raises(DataError, match="which column holds the image is unclear among number"):
        data.load_unlabeled(tmp_path / "numbers")
    write_image(tmp_path / "one" / "1.png", 10)
    with pytest.raises(DataError, match="column 'label' does not hold classes"):
        data.prepare(data.load_unlabeled(tmp_path / "one"), PREPROCESSING)


# --- few labels ------------------------------------------------------------------------------------------------------


def labelled(counts: dict[str, int]) -> datasets.Dataset:
    names = sorted(counts)
    rows = [names.index(name) for name, count in counts.items() for _ in range(count)]
    features = datasets.Features({"label": datasets.ClassLabel(names=names), "row": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"label": rows, "row": list(range(len(rows)))}, features=features)


def test_a_few_of_each_class_and_the_rest():
    whole = labelled({"a": 9, "b": 4, "c": 6})
    for seed in (0, 1):
        sets = []
        for count in (1, 2, 4):
            few, rest = data.split_few_labels(whole, count, seed)
            labels, chosen, others = list(few["label"]), list(few["row"]), list(rest["row"])
            assert [labels.count(k) for k in range(3)] == [count] * 3
            assert sorted(chosen + others) == list(range(19)) and chosen == sorted(chosen) and others == sorted(others)
            sets.append(set(chosen))
        assert sets[0] < sets[1] < sets[2], "more of one seed are a superset"
    assert list(data.split_few_labels(whole, 2, 0)[0]["row"]) != list(data.split_few_labels(whole, 2, 1)[0]["row"])
    with pytest.raises(DataError, match="5 images of each class are more than there are: a class has 4"):
        data.split_few_labels(whole, 5, 0)
    with pytest.raises(ValueError, match="per_class must be 1 or more, got 0"):
        data.split_few_labels(whole, 0, 0)


# --- a recipe --------------------------------------------------------------------------------------------------------


def recipe(folder, source, **options) -> Recipe:
    return Recipe.from_dict({
        "model": {"backbone": "test_resnet", "pretrained": False, "image_size": 32,
                  "objectives": [{"name": "contrastive", "dimension": 8, "smallest_crop": 0.5, "blur": 0}]},
        "data": {"source": str(source), "validation": 0.2, "images_per_class": 4, "test_split": None, **options},
        "training": {"output_dir": str(folder), "strategy": "alternated", "alternated_alpha": 4.0, "max_steps": 6,
                     "batch_size": 8, "unlabeled_batch_size": 16, "progress": False},
    })  # fmt: skip


def test_a_recipe_takes_its_unlabelled_images_from_a_source_or_from_the_rest(tmp_path, embedded):
    def sizes(**options):
        splits = load_splits(recipe(tmp_path, embedded, **options).data)
        return {name: len(split) for name, split in splits.items()}

    found = sizes(unlabeled="rest")
    assert found["train"] == 24 and found["unlabeled"] == 72 - 24 - found["validation"], "none of the validation images"
    for index in range(10):
        write_image(tmp_path / "images" / f"{index}.png", 20 * index)
    assert sizes(unlabeled=str(tmp_path / "images"))["unlabeled"] == 10
    assert sizes(unlabeled=str(embedded), unlabeled_split="test")["unlabeled"] == 72
    assert "unlabeled" not in sizes()
    with pytest.raises(ValueError, match="'rest' takes what images_per_class leaves out, and it leaves out nothing"):
        sizes(unlabeled="rest", images_per_class=None)


def test_a_recipe_runs(tmp_path, embedded):
    done = run(recipe(tmp_path, embedded, unlabeled="rest"))
    (entry,) = done.history
    assert entry["step"] == 6 and {"train/contrastive", "eval/accuracy"} <= entry.keys()


def test_the_embedded_dataset_needs_no_folder():
    embedded = data.load_unlabeled("shapes:validation")
    assert embedded.column_names == ["image"] and len(embedded) == 300


def test_images_prepared_without_labels_have_none_and_train_a_label_free_objective(tmp_path):
    import timm

    import attention_refine as ar
    from attention_refine import shapes

    rows = shapes.make("train", n=12, size=48)
    objective = ar.ContrastivePretraining(smallest_crop=0.35, blur=0)
    net = timm.create_model("test_resnet", num_classes=6)
    size = {"input_size": [3, 48, 48]}
    model = ar.wrap(net, objectives=[objective], labels=shapes.CLASSES, preprocessing=size)
    images = ar.data.prepare(rows, model.preprocessing, train=True, labeled=False)
    assert images.labels is None and "labels" not in images[0]
    config = ar.TrainingConfig(str(tmp_path), strategy="finetune", max_steps=2, batch_size=4, progress=False)
    assert ar.finetune(model, images, config).steps == 2
