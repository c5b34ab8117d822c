"""A run and an evaluation know their data again, wherever it lies, and say what has changed in it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import warnings
from functools import partial
from importlib import import_module
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from judged import QUIET, made_model
from PIL import Image
from test_folders import PREPROCESSING, classes, image, lines, mask
from training_runs import TinyModel

from attention_refine import data, finetune, recipe, shapes
from attention_refine.data import as_prepared, difference, fingerprint, load_dataset, prepare
from attention_refine.evaluation import evaluate
from attention_refine.training import TrainingConfig, TrainingError

module = import_module("attention_refine.data.digests")
NAMES = ("ant", "bee", "cow")


def read(root, train=False, **options):
    return prepare(load_dataset(root), PREPROCESSING, train=train, **options)


def made(root):
    """Images of one size in bytes, with masks, boxes and groups."""
    classes(root / "train", NAMES)
    rows = [
        {"file_name": f"{name}/{name}{i}.png", "label": name, "bbox": [[1, 2, 5, 6]], "group": "wet", "edited": True}
        for name in NAMES
        for i in range(2)
    ]
    for row in rows:
        mask(root / "train" / "masks" / row["file_name"])
    lines(root / "train", *rows)
    return root, rows


# --- the same data


@pytest.mark.parametrize("few", [2, 256])
def test_data_that_were_moved_or_copied_are_the_same(tmp_path, few, monkeypatch):
    monkeypatch.setattr(module, "READ", few)
    root, _ = made(tmp_path / "data")
    before = fingerprint(read(root))
    assert difference(before, fingerprint(read(root))) is None
    monkeypatch.chdir(tmp_path)
    assert difference(before, fingerprint(read("data"))) is None
    shutil.copytree(root, tmp_path / "other" / "place", copy_function=shutil.copy)  # without the files' times
    assert difference(before, fingerprint(read(tmp_path / "other" / "place"))) is None
    shutil.move(root, tmp_path / "moved")
    assert difference(before, fingerprint(read(tmp_path / "moved"))) is None


def test_only_the_files_of_a_few_images_are_read(tmp_path, monkeypatch):
    classes(tmp_path, NAMES, n=20)
    opened = []
    monkeypatch.setattr(module, "READ", 6)
    monkeypatch.setattr(module, "_head", lambda path: opened.append(path) or b"")
    fingerprint(read(tmp_path))
    assert len(opened) == 6 and {os.path.basename(path)[:3] for path in opened} == set(NAMES)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 8))
def test_what_is_read_is_spread_over_all_rows(rows, read, most):
    seen = []
    files = module._Files([None] * rows, [1] * rows, lambda row: seen.append(row) or b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "READ", read)
        module._contents({"image": files}, rows)
    assert len(set(seen)) == len(seen) == min(read, rows) and seen == sorted(seen) and seen[0] == 0
    assert rows - seen[-1] <= -(-rows // len(seen))


# --- what has changed


def swap(one, other):
    one.rename(one.parent / "aside")
    other.rename(one)
    (one.parent / "aside").rename(other)


def test_two_class_folders_swapped(tmp_path):
    """Images of the same names and sizes: only what is in them tells."""
    for name, level in (("ant", 40), ("bee", 200)):
        for i in range(3):
            image(tmp_path / name / f"{i}.png", level)
    assert (tmp_path / "ant" / "0.png").stat().st_size == (tmp_path / "bee" / "0.png").stat().st_size
    before = fingerprint(read(tmp_path))
    swap(tmp_path / "ant", tmp_path / "bee")
    assert difference(before, fingerprint(read(tmp_path))) == "files have other contents under the same names and sizes"
    image(tmp_path / "ant" / "0.png", size=(40, 30))
    assert difference(before, fingerprint(read(tmp_path))) == "images of ant have another name, size or label"


def test_a_file_written_anew_under_its_name_among_many(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "READ", 2)
    classes(tmp_path, NAMES, n=4)
    before = fingerprint(read(tmp_path))
    image(tmp_path / "bee" / "bee1.png", 91)  # as long as before, and none of the two that are read
    assert difference(before, fingerprint(read(tmp_path))).startswith("files have been written since")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": "bee"}, "images of ant, bee have another name, size or label"),
        ({"label": "dog"}, "the classes are ant, bee, cow, dog now, and were ant, bee, cow"),
        ({"bbox": [[1, 2, 5, 7]]}, "the column 'bbox' has changed"),
        ({"group": "dry"}, "the column 'group' has changed"),
        ({"mask_void": [7]}, "the column 'mask_void' has changed"),
    ],
)
def test_a_line_of_the_metadata_corrected(tmp_path, change, said):
    root, rows = made(tmp_path)
    before = fingerprint(read(root))
    rows[0] |= change
    lines(root / "train", *rows)
    assert difference(before, fingerprint(read(root))) == said


def test_annotations_drawn_anew_and_rows_left_out(tmp_path):
    root, rows = made(tmp_path)
    for row in rows:
        path = root / "train" / "maps" / f"{row['file_name']}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.zeros((4, 4), np.float32))
    before = fingerprint(read(root))
    np.save(path, np.ones((4, 4), np.float32))  # a map has the same size in bytes whatever it says
    assert difference(before, fingerprint(read(root))) == "files have other contents under the same names and sizes"
    np.save(path, np.zeros((4, 4), np.float32))
    assert difference(before, fingerprint(read(root))) is None
    mask(root / "train" / "masks" / rows[0]["file_name"], size=(21, 16))
    assert difference(before, fingerprint(read(root))) == "the column 'mask' has changed"
    mask(root / "train" / "masks" / rows[0]["file_name"])
    (root / "train" / "ant" / "ant1.png").write_bytes(b"")
    assert (
        difference(before, fingerprint(read(root, on_error="skip", progress=False)))
        == "there are 5 images now, and were 6"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"augment": "jitter"}, "the augmentation is"),
        ({"scale": (0.5, 1.0)}, "the augmentation is"),
        ({"seed": 3}, "the augmentation's seed is 3 now, and was 0"),
        ({"class_names": ["bee", "ant", "cow"]}, "the list of classes is"),
    ],
)
def test_another_way_from_images_to_items(tmp_path, options, said):
    classes(tmp_path)
    before = fingerprint(read(tmp_path, train=True))
    assert difference(before, fingerprint(read(tmp_path, train=True))) is None
    assert said in difference(before, fingerprint(read(tmp_path, train=True, **options)))
    small = {**PREPROCESSING, "input_size": [3, 8, 8]}
    again = prepare(load_dataset(tmp_path), small, train=True)
    assert "the preprocessing's input_size is [3, 8, 8] now" in difference(before, fingerprint(again))


def test_rows_in_another_order(tmp_path):
    dataset = load_dataset(classes(tmp_path))
    before = fingerprint(prepare(dataset, PREPROCESSING))
    turned = prepare(dataset.select([2, 0, 1, 3, 4, 5]), PREPROCESSING)
    assert difference(before, fingerprint(turned)) == "the images come in another order"


# --- data that are in memory, and lists


def test_a_table_in_memory_and_a_part_of_it():
    data = shapes.make("test", 12, size=32)
    before = fingerprint(prepare(data, PREPROCESSING))
    assert difference(before, fingerprint(prepare(shapes.make("test", 12, size=32), PREPROCESSING))) is None
    part = prepare(data.select([0, 3, 5, 7]), PREPROCESSING)
    assert difference(fingerprint(part), fingerprint(prepare(data.select([0, 3, 5, 7]), PREPROCESSING))) is None
    rewritten = data.map(lambda row, i: {"label": (row["label"] + (i == 3)) % 6}, with_indices=True)
    assert "have another name, size or label" in difference(before, fingerprint(prepare(rewritten, PREPROCESSING)))
    turned = data.map(lambda row, i: {"image": row["image"].rotate(180 * (i == 3))}, with_indices=True)
    assert difference(before, fingerprint(prepare(turned, PREPROCESSING))) is not None
    maps = data.add_column("maps", [[[0.0, 1.0]]] * 12)
    other = data.add_column("maps", [[[0.0, 1.0]]] * 11 + [[[1.0, 0.0]]])
    assert difference(*(fingerprint(prepare(each, PREPROCESSING)) for each in (maps, other))) is not None


def folder_items(root, model):
    source = torchvision.datasets.ImageFolder(root, transform=torchvision.transforms.ToTensor())
    return as_prepared(model, torch.utils.data.Subset(source, [0, 1, 4, 5]))


def test_lists_and_torch_datasets_by_what_they_say(tmp_path):
    model = SimpleNamespace(labels=list(NAMES), preprocessing=PREPROCESSING)
    classes(tmp_path)
    pairs = [(path, path.parent.name) for path in sorted(tmp_path.rglob("*.png"))]
    before = fingerprint(as_prepared(model, pairs))
    assert difference(before, fingerprint(as_prepared(model, [(str(path), name) for path, name in pairs]))) is None
    other = [*pairs[:-1], (pairs[-1][0], "ant")]
    assert difference(before, fingerprint(as_prepared(model, other))).startswith("images of ant, cow have another")

    before = fingerprint(folder_items(tmp_path, model))
    assert difference(before, fingerprint(folder_items(tmp_path, model))) is None
    image(tmp_path / "cow" / "cow0.png", size=(30, 30))
    assert difference(before, fingerprint(folder_items(tmp_path, model))) is not None

    tensors = [{"pixel_values": torch.zeros(3, 4, 4), "labels": torch.tensor(0), "mask": torch.zeros(1, 4, 4)}]
    again = [{"pixel_values": torch.zeros(3, 4, 4), "labels": torch.tensor(0), "mask": torch.ones(1, 4, 4)}]
    assert difference(fingerprint(tensors), fingerprint(list(map(dict, tensors)))) is None
    assert difference(fingerprint(tensors), fingerprint(again)) is not None


def test_what_says_nothing_of_its_rows_is_not_compared(tmp_path):
    nothing = torch.utils.data.TensorDataset(torch.zeros(2, 3, 4, 4), torch.zeros(2))
    generated = datasets.IterableDataset.from_generator(lambda: iter(()), features=SHARD_FEATURES)
    assert fingerprint(nothing) is fingerprint(prepare(generated, PREPROCESSING)) is None
    classes(tmp_path)
    assert difference(None, fingerprint(read(tmp_path))) is difference(fingerprint(read(tmp_path)), None) is None


# --- streams

SHARD_FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})


def write_shard(path, first, level=90):
    """Three samples of WebDataset; ``level`` changes no size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for row in range(first, first + 3):
            picture = io.BytesIO()
            Image.new("RGB", (16, 16), (level, 0, row)).save(picture, "BMP")
            for ending, content in (("bmp", picture.getvalue()), ("cls", str(row % 3).encode())):
                entry = tarfile.TarInfo(f"{row:04d}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path):
    for n in range(3):
        write_shard(tmp_path / "data" / f"{n}.tar", 3 * n)
    return tmp_path / "data"


def from_shards(folder, buffer=None, seed=0):
    files = sorted(map(str, folder.glob("*.tar")))
    found = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True)
    found = found if buffer is None else found.shuffle(seed=seed, buffer_size=buffer)
    return data.as_canonical(found, class_names=["0", "1", "2"])


@pytest.mark.parametrize("buffer", [None, 4])
def test_a_stream_from_the_same_shards_is_the_same(shards, tmp_path, buffer):
    stream = prepare(from_shards(shards, buffer), PREPROCESSING, train=True)
    before = json.loads(json.dumps(fingerprint(stream)))
    assert [name for name, _ in sorted(before["shards"])] == ["0.tar", "1.tar", "2.tar"]
    stream.set_epoch(2)
    assert len(list(stream)) == 9
    assert difference(before, fingerprint(stream)) is None, "gone through, and in another epoch"
    shutil.move(shards, tmp_path / "moved")
    assert (
        difference(before, fingerprint(prepare(from_shards(tmp_path / "moved", buffer), PREPROCESSING, True))) is None
    )


def more(folder):
    write_shard(folder / "3.tar", 9)


def replaced(folder):
    (folder / "1.tar").rename(folder / "other.tar")


def longer(folder):
    with tarfile.open(folder / "1.tar", "a") as tar:
        tar.add(folder / "0.tar")


@pytest.mark.parametrize("buffer", [None, 4])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (more, r"the shard '3\.tar' is new \(there are 4 now, and were 3\)"),
        (lambda folder: (folder / "1.tar").unlink(), r"the shard '1\.tar' is missing \(there are 2 now, and were 3\)"),
        (replaced, r"the shard '1\.tar' is missing and the shard 'other\.tar' is new \(there are 3 now, and were 3\)"),
        (longer, r"the shard '1\.tar' has \d+ bytes now, and had \d+"),
        (
            lambda folder: write_shard(folder / "1.tar", 3, 91),
            "files have other contents under the same names and sizes",
        ),
    ],
)
def test_other_shards_are_said(shards, buffer, change, said):
    before = fingerprint(from_shards(shards, buffer))
    change(shards)
    assert re.fullmatch(said, difference(before, fingerprint(from_shards(shards, buffer))))


def test_of_very_many_files_runs_are_named(shards, monkeypatch):
    monkeypatch.setattr(module, "NAMED", 2)
    before = fingerprint(from_shards(shards))
    assert len(before["shards"]) == 2 and difference(before, fingerprint(from_shards(shards))) is None
    longer(shards)
    assert "the shard '0.tar to 1.tar (" in difference(before, fingerprint(from_shards(shards)))


def test_another_order_of_shards_and_rows_is_said(shards):
    before = fingerprint(from_shards(shards, 4))
    said = difference(before, fingerprint(from_shards(shards, 4, seed=5)))
    assert re.fullmatch(r"the shards come in another order, '\d\.tar' where '\d\.tar' was: shuffle with .*", said)
    for other in (from_shards(shards, 5), from_shards(shards, 4).skip(1)):
        assert difference(before, fingerprint(other)).startswith("rows are shuffled, or parts of them taken, in")
    assert difference(before, {**before, "shards": None}) == "they are no stream now"
    small = fingerprint(prepare(from_shards(shards, 4), {**PREPROCESSING, "input_size": [3, 8, 8]}))
    assert "input_size is [3, 8, 8] now" in difference(
        fingerprint(prepare(from_shards(shards, 4), PREPROCESSING)), small
    )


def test_a_stream_of_a_table_is_known_by_its_rows(tmp_path):
    classes(tmp_path, n=3)

    def streamed(seed=1):
        return prepare(load_dataset(tmp_path, streaming=True).shuffle(seed=seed, buffer_size=4), PREPROCESSING)

    before = fingerprint(streamed())
    assert difference(before, fingerprint(streamed())) is None
    assert difference(before, fingerprint(streamed(2))).startswith("rows are shuffled, or parts of them taken, in")
    image(tmp_path / "bee" / "bee1.png", 91)
    assert difference(before, fingerprint(streamed())) == "files have other contents under the same names and sizes"
    image(tmp_path / "bee" / "bee1.png", size=(31, 16))
    assert difference(before, fingerprint(streamed())) == "images of bee have another name, size or label"
    (tmp_path / "bee" / "bee1.png").unlink()
    assert difference(before, fingerprint(streamed())) == "there are 8 images now, and were 9"
    made = datasets.Dataset.from_dict(
        {"img": [np.full((8, 8, 3), 9 * i, np.uint8) for i in range(4)], "label": [0, 1, 2, 0]},
        features=datasets.Features({"img": datasets.Image(), "label": SHARD_FEATURES["label"]}),
    )
    one, same, other = (fingerprint(made.select(rows).to_iterable_dataset(2)) for rows in ([0, 1], [0, 1], [0, 2]))
    assert difference(one, same) is None and difference(one, other) is not None


def test_other_streams_of_datasets_name_their_files_once(tmp_path):
    classes(tmp_path)
    folder = datasets.load_dataset("imagefolder", data_dir=str(tmp_path), split="train", streaming=True)
    assert [name for name, _ in fingerprint(folder)["shards"]] == [f"{n}/{n}{i}.png" for n in NAMES for i in range(2)]
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text('{"label": 1}')
    stream = datasets.load_dataset("json", data_files=str(tmp_path / "*.json"), split="train", streaming=True)
    assert fingerprint(stream)["shards"] == [["a.json", 12], ["b.json", 12]]
    both = fingerprint(datasets.interleave_datasets([stream, stream]))
    assert "(there are 4 now, and were 2)" in difference(fingerprint(stream), both)


def test_a_stream_of_ones_own_says_its_shards(shards):
    class Own(torch.utils.data.IterableDataset):
        def __init__(self, urls):
            self.urls = urls

        def __iter__(self):
            return iter(())

    paths = sorted(map(str, shards.glob("*.tar")))
    assert difference(fingerprint(Own(paths)), fingerprint(Own(list(paths)))) is None
    assert "'2.tar' is missing" in difference(fingerprint(Own(paths)), fingerprint(Own(paths[:2])))
    addresses = [f"https://host/{n}.tar" for n in range(2)]
    assert "'https://host/1.tar' is missing" in difference(fingerprint(Own(addresses)), fingerprint(Own(addresses[:1])))


# --- a run and an evaluation


def test_a_resumed_training_whose_class_folders_were_swapped_is_refused(tmp_path):
    for i, name in enumerate(shapes.CLASSES):
        for j in range(2):
            image(tmp_path / "data" / name / f"{j}.png", 100 + 20 * i + j, (64, 64))
    config = partial(
        TrainingConfig, output_dir=str(tmp_path / "run"), epochs=1, batch_size=6, learning_rate=1e-3, progress=False
    )
    finetune(made_model(), tmp_path / "data", config())
    finetune(made_model(), tmp_path / "data", config(resume=True))
    swap(tmp_path / "data" / shapes.CLASSES[0], tmp_path / "data" / shapes.CLASSES[1])
    said = "was made on other training data, .*: images of .* have another name, size or label. Put the data back as they were, or start"
    with pytest.raises(TrainingError, match=said):
        finetune(made_model(), tmp_path / "data", config(resume=True))
    finetune(made_model(), tmp_path / "data", config(overwrite=True))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (more, r"the shard '3\.tar' is new"),
        (lambda folder: (folder / "1.tar").unlink(), r"the shard '1\.tar' is missing"),
    ],
)
def test_a_resumed_run_on_other_shards_is_refused(shards, tmp_path, change, said):
    def run(**options):
        model = TinyModel()
        model.labels, model.preprocessing = ["0", "1", "2"], PREPROCESSING
        config = TrainingConfig(output_dir=str(tmp_path / "run"), max_steps=3, batch_size=3, progress=False, **options)
        return finetune(model, from_shards(shards, 4), config)

    run()
    run(resume=True)
    change(shards)
    with pytest.raises(TrainingError, match=f"was made on other training data, .*: {said}.* Put the data back as they"):
        run(resume=True)


def test_validation_data_count_as_well(tmp_path):
    data, seen = shapes.make("train", 12, size=64), shapes.make("validation", 12, size=64)
    config = partial(TrainingConfig, output_dir=str(tmp_path), epochs=1, batch_size=6, progress=False)
    finetune(made_model(), data, config(), eval_dataset=seen)
    with pytest.raises(TrainingError, match="on other validation data, .*: there are 11 images now, and were 12"):
        finetune(made_model(), data, config(resume=True), eval_dataset=seen.select(range(11)))
    other = datasets.concatenate_datasets([data.select(range(11)), seen.select([0])])
    with pytest.raises(TrainingError, match="on other training data"):
        finetune(made_model(), other, config(resume=True), eval_dataset=seen)


def test_labels_corrected_in_the_test_folder_are_judged_anew(tmp_path):
    """The issue's case: the same number of files, ``resume``, and the accuracy that was printed before."""
    model = made_model()
    names = list(model.labels)
    found = evaluate(model, shapes.make("test", 8, size=64), measures=["accuracy"], progress=False)
    for i, sample in enumerate(found.samples):  # in the folder of the class that the model says, six of eight times
        label = names[(sample["prediction"] + (i in (2, 5))) % 6]
        path = tmp_path / "data" / "test" / label / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shapes.make("test", 8, size=64)[i]["image"].save(path)
    plan = recipe.Recipe.from_dict(
        {"data": {"source": str(tmp_path / "data")}, "training": {"resume": True, "progress": False},
         "evaluation": {"measures": ["accuracy"], "perturbation_images": 0}}
    )  # fmt: skip
    judged = partial(recipe.judge, plan, model, output=tmp_path / "found")

    def accuracy():
        return judged(split=recipe.load_split(plan.data, "test", names)).summary["classification"]["accuracy"]["value"]

    assert accuracy() == 0.75
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert accuracy() == 0.75
    for i, sample in enumerate(found.samples):
        if i not in (2, 5):
            wrong = names[(sample["prediction"] + 1) % 6]
            (tmp_path / "data" / "test" / wrong).mkdir(exist_ok=True)
            (tmp_path / "data" / "test" / names[sample["prediction"]] / f"{i}.png").rename(
                tmp_path / "data" / "test" / wrong / f"{i}.png"
            )
    split = recipe.load_split(plan.data, "test", names)
    with pytest.raises(ValueError, match=r"cannot be continued, because its data differ: .* Choose another output"):
        evaluate(model, split, measures=["accuracy"], perturbation_images=0, output=tmp_path / "found", resume=True,
                 progress=False, maps=["model"])  # fmt: skip
    with pytest.warns(UserWarning, match="is judged anew, because its data differ"):
        assert accuracy() == 0.0


def test_an_evaluation_of_repainted_masks_is_not_continued(tmp_path):
    data = shapes.make("test", 6, size=64)
    evaluate(made_model(), data, output=tmp_path, **QUIET)
    turned = data.map(lambda row, i: {"mask": row["mask"].rotate(180 * (i == 1))}, with_indices=True)
    with pytest.raises(ValueError, match="because its data differ"):
        evaluate(made_model(), turned, output=tmp_path, resume=True, **QUIET)
