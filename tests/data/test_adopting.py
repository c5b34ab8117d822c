"""Training and evaluation take images however people hold them, and classes meet by name."""

from __future__ import annotations

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import attention_refine as ar
from attention_refine import data
from attention_refine.data import DataError, as_prepared

NAMES = ("ant", "bee", "cow")
LEVELS = {"ant": 20, "bee": 120, "cow": 220}


def picture(name: str, i: int = 0) -> Image.Image:
    return Image.fromarray(np.full((40, 40, 3), LEVELS[name] + i, np.uint8))


@pytest.fixture
def folder(tmp_path):
    for split, n in (("train", 4), ("test", 2)):
        for name in NAMES:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(n):
                picture(name, i).save(tmp_path / "data" / split / name / f"{i}.png")
    return tmp_path / "data"


def model(labels=NAMES, **options):
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=len(labels))
    return ar.wrap(net, labels=list(labels), preprocessing={"input_size": [3, 32, 32]}, **options)


def kinds(folder) -> dict:
    """The test images of the folder in every form; labels are indices of NAMES, or names."""
    paths = sorted((folder / "test").rglob("*.png"))
    labels = [NAMES.index(path.parent.name) for path in paths]
    pictures = [Image.open(path).copy() for path in paths]
    raw = datasets.Dataset.from_dict({"img": pictures, "species": [NAMES[i] for i in labels]})
    pixels = v2.Compose([v2.ToImage(), v2.Resize((32, 32)), v2.ToDtype(torch.float32, scale=True)])
    return {
        "folder": folder,
        "text": str(folder),
        "loaded": data.load_dataset(folder, "test"),
        "raw": raw.cast_column("img", datasets.Image()).rename_column("species", "label"),
        "ImageFolder": ImageFolder(folder / "test"),
        "ImageFolder of tensors": ImageFolder(folder / "test", pixels),
        "pairs of paths": list(zip(map(str, paths), labels)),
        "pairs of pictures": list(zip(pictures, labels)),
        "pairs of names": [(path, NAMES[i]) for path, i in zip(paths, labels)],
        "dicts": [{"image": p, "label": i} for p, i in zip(pictures, labels)],
        "bytes as tensors": [(torch.as_tensor(np.array(p)).permute(2, 0, 1), i) for p, i in zip(pictures, labels)],
        "pixels": [{"pixel_values": pixels(p), "label": torch.tensor(i)} for p, i in zip(pictures, labels)],
        "subset": torch.utils.data.Subset(ImageFolder(folder / "test"), range(6)),
    }


FORMS = ("folder", "text", "loaded", "raw", "ImageFolder", "ImageFolder of tensors", "pairs of paths",
         "pairs of pictures", "pairs of names", "dicts", "bytes as tensors", "pixels", "subset")  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_items_and_trains_and_is_judged(folder, tmp_path, form):
    net = model()
    given = kinds(folder)[form]
    items = as_prepared(net, given)
    expected = as_prepared(net, data.load_dataset(folder, "test"))
    assert len(items) == 6 and items.class_names == list(NAMES)
    for i in range(6):
        item = items[i]
        assert int(item["labels"]) == i // 2 and item["pixel_values"].shape == (3, 32, 32)
        if "tensors" not in form and form != "pixels":
            torch.testing.assert_close(item["pixel_values"], expected[i]["pixel_values"], rtol=0, atol=1e-6)
    config = ar.TrainingConfig(output_dir=str(tmp_path / "run"), epochs=1, batch_size=3, progress=False)
    assert ar.finetune(net, given, config, eval_dataset=given).steps == (4 if form in ("folder", "text") else 2)
    judged = ar.evaluate(net, given, progress=False, perturbation_images=0, measures=["accuracy"])
    again = ar.evaluate(net, items, progress=False, perturbation_images=0, measures=["accuracy"])
    assert [sample["prediction"] for sample in judged.samples] == [sample["prediction"] for sample in again.samples]


def test_training_augments_by_seed_epoch_and_row():
    noisy = [
        (Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)), 0) for i in (0, 1)
    ]
    items = as_prepared(model(), noisy, train=True, seed=3)
    first = items[0]["pixel_values"]
    torch.rand(5)
    assert torch.equal(items[0]["pixel_values"], first)
    items.set_epoch(1)
    assert not torch.equal(items[0]["pixel_values"], first)


def test_a_dict_keeps_its_mask_and_boxes():
    mask = np.zeros((40, 40), np.uint8)
    mask[:20] = 255
    items = as_prepared(
        model(), [{"image": picture("ant"), "label": 0, "mask": Image.fromarray(mask), "bbox": [0, 0, 40, 20]}]
    )
    assert items[0]["mask"].float().mean() == pytest.approx(0.5, abs=0.05) and items[0]["boxes"].shape == (1, 4)


def test_lists_of_labels_name_classes_and_tensors_tell_of_each():
    first, second, third = (picture(name) for name in NAMES)
    items = as_prepared(model(), [(first, ["ant", "cow"]), (second, [1]), (third, [2, 2, 0])])
    assert [item["labels"].tolist() for item in items] == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    hot = as_prepared(model(), [(first, torch.tensor([0, 1, 1]))])
    assert hot[0]["labels"].tolist() == [0, 1, 1]
    with pytest.raises(
        DataError, match=r"row 0: label \[0, 1, 1\] seems to be 0 or 1 for each class, .* give torch.tensor"
    ):
        as_prepared(model(), [(first, [0, 1, 1])])[0]


def test_looking_at_a_dataset_leaves_the_random_generators_alone():
    class Noisy(torch.utils.data.Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return torch.rand(3, 32, 32) + float(np.random.rand()), i

    net = model()
    torch.manual_seed(0), np.random.seed(0)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(0), np.random.seed(0)
    as_prepared(net, Noisy())
    assert (torch.rand(1), np.random.rand()) == expected


# --- classes meet by name


@pytest.mark.parametrize("form", ["loaded", "prepared", "ImageFolder", "pairs of names"])
def test_a_model_whose_classes_stand_in_another_order(folder, form):
    net = model(("cow", "dog", "ant", "bee"))
    given = kinds(folder).get(form)
    if form == "prepared":
        given = data.prepare(data.load_dataset(folder, "test"), net.preprocessing)
    items = as_prepared(net, given)
    assert [int(items[i]["labels"]) for i in range(6)] == [2, 2, 3, 3, 0, 0]
    assert list(items.class_names) == net.labels
    if form == "prepared":
        assert [int(given[i]["labels"]) for i in range(6)] == [0, 0, 1, 1, 2, 2], "the caller's own is not changed"


def test_numbered_classes_go_by_their_order_where_there_are_as_many(folder):
    net = ar.wrap(timm.create_model("test_resnet", num_classes=3), preprocessing={"input_size": [3, 32, 32]})
    assert [int(as_prepared(net, folder)[i]["labels"]) for i in range(6)] == [0, 0, 1, 1, 2, 2]
    wide = ar.wrap(timm.create_model("test_resnet", num_classes=1000), preprocessing={"input_size": [3, 32, 32]})
    with pytest.raises(DataError, match=r"the dataset has ant, bee, cow; the model: 0, 1, .* \(1000 in all\)"):
        ar.evaluate(wide, folder, progress=False)


# --- what is refused


@pytest.mark.parametrize(
    "given, said",
    [
        ({"train": 1, "test": 2}, "give one split of a dataset, not all of train, test"),
        ([("a.png", 3)] , r"row 0.*label 3 is not one of the model's 3 classes, 0 to 2 \(ant, bee, cow\)"),
        ([(picture("ant"), "fly")], "row 0: label 'fly' is not one of the 3 classes"),
        ([(picture("ant"), 1.5)], "row 0: label 1.5 is neither an index"),
        ([(picture("ant"), 0, 1)], "row 0 is a tuple of 3: it must be .image, label."),
        ([{"photo": 1}], "row 0 has no 'image': it has photo"),
        ([{"image": picture("ant")}], "row 0 has no 'label': it has image"),
        ([], "the dataset is empty"),
        (5, "int is no dataset: give a folder"),
        (torch.utils.data.DataLoader([1, 2]), "a DataLoader makes batches of its own"),
        ([(torch.zeros(1, 48, 48), 0)], r"row 0 has pixels of shape \(1, 48, 48\), and the model takes \(3, "),
        ([(torch.zeros(48, 48), 0)], r"row 0 has pixels of shape \(48, 48\)"),
        ([("gone.png", 0)], r"row 0 \(gone.png\) cannot be read as an image"),
    ],
)  # fmt: skip
def test_what_is_no_dataset_is_refused(given, said):
    with pytest.raises(DataError, match=said):
        as_prepared(model(), given)[0]


def test_no_test_split_to_judge_on_and_one_class_to_learn(folder, tmp_path):
    import shutil

    shutil.rmtree(folder / "test")
    with pytest.raises(DataError, match="has no split 'test' to judge on, but train: name one"):
        ar.evaluate(model(), folder)
    with pytest.raises(DataError, match="the dataset has ant, bee, cow; the model: dog, emu, fly"):
        as_prepared(model(("dog", "emu", "fly")), ImageFolder(folder / "train"))
    with pytest.raises(DataError, match="there is one class to learn, 'ant'"):
        shutil.rmtree(folder / "train" / "bee"), shutil.rmtree(folder / "train" / "cow")
        ar.finetune(model(("ant",)), folder, ar.TrainingConfig(output_dir=str(tmp_path / "run")))


@pytest.mark.parametrize(
    "label, said",
    [(-2, "row 5 .* label -2 is not one of"), ("CAT", "row 5 .*'CAT' is not one of"), (-1, "row 5 .*is -1")],
)
def test_a_wrong_label_in_a_list_is_said_before_an_image_is_read(label, said):
    preprocessing = {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    model = SimpleNamespace(labels=["cat", "dog"], preprocessing=preprocessing | {"crop_pct": 1.0})
    with pytest.raises(ar.data.DataError, match=said):
        ar.data.as_prepared(model, [*[("nowhere.png", 0)] * 5, ("nowhere.png", label)])
