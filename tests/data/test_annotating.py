"""Masks from words: by hand from known outputs, laws of batches and caches, what people drew kept, bad input."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from types import SimpleNamespace

import annotating_runs
import datasets
import numpy as np
import pytest
import torch
import transformers
import word_model_folders
from PIL import Image
from processes import server_of
from safetensors.torch import load_file, save_file

import attention_refine as ar
from attention_refine import shapes
from attention_refine.backbones.word_models import KINDS, WordModel, load_word_model
from attention_refine.data import DataError, annotate, read_mask
from attention_refine.mending.propagation import propagation

QUIET = {"progress": False, "device": "cpu"}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """A folder of each kind, made when it is asked for."""
    root, made = tmp_path_factory.mktemp("word-models"), {}

    def get(kind, seed=0):
        if (kind, seed) not in made:
            made[kind, seed] = word_model_folders.write(root / f"{kind}-{seed}", kind, seed)
        return made[kind, seed]

    return get


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    return shapes.make("train", 7, size=40).select_columns(["image", "label"])


@pytest.fixture
def looked(monkeypatch):
    """The texts that networks were asked for, one an image."""
    asked = []
    real = WordModel.find

    def find(self, images, texts):
        asked.extend(texts)
        return real(self, images, texts)

    monkeypatch.setattr(WordModel, "find", find)
    return asked


def cells(dataset):
    return list(dataset.cast_column("mask", datasets.Image(decode=False))["mask"])


def made(dataset):
    """All that was made, comparable."""
    what = [cell and cell["bytes"] for cell in cells(dataset)] if "mask" in dataset.column_names else dataset["bbox"][:]
    return what, dataset["mask_source"][:], dataset["mask_confidence"][:]


def pictures(*sizes, exif=None) -> datasets.Dataset:
    """Images of these (width, height) in memory, without classes."""
    held = []
    for number, size in enumerate(sizes):
        out = io.BytesIO()
        tags = Image.Exif()
        tags[0x0112] = exif or 1
        Image.new("RGB", size, (40 * number, 90, 60)).save(out, "JPEG", exif=tags)
        held.append({"path": None, "bytes": out.getvalue()})
    return datasets.Dataset.from_dict({"image": held}, features=datasets.Features({"image": datasets.Image()}))


# By hand ---------------------------------------------------------------------------------------------------------------


def answering(monkeypatch, kind, **outputs):
    """The network of a kind says the same of every image."""
    network = getattr(transformers, KINDS[kind].network)

    def forward(self, pixel_values, **_):
        count = len(pixel_values)
        return SimpleNamespace(**{name: torch.stack([value] * count) for name, value in outputs.items()})

    monkeypatch.setattr(network, "forward", forward)


def test_a_mask_is_the_map_cut_at_the_threshold(folders, monkeypatch):
    probabilities = np.full((4, 6), 0.2)
    probabilities[1:3, 2:5] = 0.9
    probabilities[3, 5] = 0.6
    logits = torch.from_numpy(np.log(probabilities / (1 - probabilities))).float()
    answering(monkeypatch, "clipseg", logits=logits)
    dataset = pictures((6, 4), (12, 8))
    found = annotate(dataset, "a bird", model=folders("clipseg"), threshold=0.7, **QUIET)
    by_hand = np.zeros((4, 6), np.uint8)
    by_hand[1:3, 2:5] = 1
    masks = [read_mask(cell) for cell in cells(found)]
    assert masks[0].tolist() == by_hand.tolist()
    outside = 0.6 + 0.2 * (24 - 7)
    assert found["mask_confidence"][0] == pytest.approx(6 * 0.9 / (6 + outside), abs=1e-3)
    large = torch.nn.functional.interpolate(
        torch.from_numpy(probabilities).half().float()[None, None], (8, 12), mode="bilinear", align_corners=False
    )
    assert masks[1].shape == (8, 12) and masks[1].tolist() == (large[0, 0] >= 0.7).int().tolist()
    lower = annotate(dataset, "a bird", model=folders("clipseg"), **QUIET)  # 0.5
    by_hand[3, 5] = 1
    assert read_mask(cells(lower)[0]).tolist() == by_hand.tolist()
    none = annotate(dataset, "a bird", model=folders("clipseg"), threshold=0.95, **QUIET)
    assert none["mask"][:] == [None, None]
    assert none["mask_source"][:] == [None, None] and none["mask_confidence"][:] == [0, 0]
    sure = annotate(dataset, "a bird", model=folders("clipseg"), threshold=0.7, min_confidence=0.9, **QUIET)
    assert sure["mask_source"][:] == [None, None]


@pytest.mark.parametrize("kind", ["owlvit", "owlv2", "grounding-dino"])
def test_boxes_are_those_of_a_score_at_the_threshold_in_pixels_of_their_image(folders, monkeypatch, kind):
    boxes = torch.tensor(  # centre x, centre y, width, height, as shares
        [[0.5, 0.25, 0.5, 0.25], [0.5, 0.26, 0.5, 0.25], [0.0, 0.25, 0.25, 0.25], [0.5, 0.5, 0.01, 0.01], [0.2, 0.2, 0.1, 0.1]]
    )  # fmt: skip
    scores = torch.tensor([0.9, 0.8, 0.5, 0.9, 0.3])
    logits = torch.full((5, 16 if kind == "grounding-dino" else 1), -30.0)
    logits[:, 0] = torch.logit(scores)
    answering(monkeypatch, kind, logits=logits, pred_boxes=boxes)
    found = annotate(pictures((80, 40)), "a bird", model=folders(kind), threshold=0.4, **QUIET)
    # The second is the first once more, the third reaches over the edge, the fourth is no larger than a pixel.
    high = 80 if kind == "owlv2" else 40  # OWLv2 sees the image at the top of a square
    by_hand = [[20, 0.125 * high, 40, 0.25 * high], [0, 0.125 * high, 10, 0.25 * high]]
    assert "mask" not in found.column_names
    assert np.array(found["bbox"][0]) == pytest.approx(np.array(by_hand), abs=1e-3)
    assert found["mask_confidence"][0] == pytest.approx(0.7, abs=1e-6) and found["mask_source"][0] == "words"
    more = annotate(pictures((80, 40)), "a bird", model=folders(kind), threshold=0.25, **QUIET)
    assert len(more["bbox"][0]) == 3 and more["mask_confidence"][0] == pytest.approx(1.7 / 3, abs=1e-6)


def test_masks_have_the_size_of_their_images_as_they_are_looked_at(folders):
    for turned, shapes_there in ((1, [(30, 50), (44, 24)]), (6, [(50, 30), (24, 44)])):
        dataset = pictures((50, 30), (24, 44), exif=turned)
        found = annotate(dataset, "a bird", model=folders("clipseg"), threshold=0.01, **QUIET)
        assert [read_mask(cell).shape for cell in cells(found)] == shapes_there
        boxes = annotate(dataset, "a bird", model=folders("owlv2"), threshold=0.01, **QUIET)["bbox"]
        for (height, width), of_row in zip(shapes_there, boxes):
            assert of_row and all(x + w <= width + 1e-3 and y + h <= height + 1e-3 for x, y, w, h in of_row)


# Laws ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
def test_one_by_one_is_batched(folders, kind):
    finder = load_word_model(folders(kind), device="cpu")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (40, side, 3), dtype=np.uint8)) for side in (30, 60, 60, 40, 60)]
    texts = ["a bird", "a cat", "a bird", "a dog", "bird"]
    together = finder.find(images, texts)
    for image, text, found in zip(images, texts, together):
        (alone,) = finder.find([image], [text])
        assert alone.shape == found.shape and len(found) > 0
        assert np.allclose(alone.astype(np.float64), found.astype(np.float64), atol=1e-3)  # a map is float16
    others = finder.find(images, ["a dog"] * 5)
    assert not all(np.array_equal(one, other) for one, other in zip(together, others)), "the text has no say"


@pytest.mark.parametrize("kind", ["clipseg", "grounding-dino"])
def test_a_call_that_broke_off_goes_on_where_it_was(folders, rows, tmp_path, monkeypatch, looked, kind):
    options = {"model": folders(kind), "threshold": 0.01, "batch_size": 2, **QUIET}
    whole = annotate(rows, "a bird", **options)
    assert whole["mask_source"][:].count("words") > 0
    real, looked[:] = WordModel.find, []

    def broken(self, images, texts):
        if len(looked) == 4:
            raise KeyboardInterrupt
        return real(self, images, texts)

    monkeypatch.setattr(WordModel, "find", broken)
    with pytest.raises(KeyboardInterrupt):
        annotate(rows, "a bird", cache=tmp_path, **options)
    assert len(list(tmp_path.iterdir())) == 4 and all(path.suffix == ".npy" for path in tmp_path.iterdir())
    monkeypatch.setattr(WordModel, "find", real)
    looked[:] = []
    resumed = annotate(rows, "a bird", cache=tmp_path, **options)
    assert len(looked) == 3 and made(resumed) == made(whole)
    looked[:] = []
    assert made(annotate(rows, "a bird", cache=tmp_path, **options)) == made(whole)
    assert made(annotate(rows, "a bird", cache=tmp_path, **{**options, "threshold": 0.6})) != made(whole)
    assert made(annotate(rows.select([3, 1]), "a bird", cache=tmp_path, **options))[2] == [
        whole["mask_confidence"][row] for row in (3, 1)
    ]
    assert looked == [], "the same images, another threshold and fewer rows cost nothing"
    damaged = next(tmp_path.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert made(annotate(rows, "a bird", cache=tmp_path, **options)) == made(whole) and len(looked) == 1


def test_a_call_that_was_killed_goes_on_and_leaves_nothing_half_written(folders, tmp_path):
    data = shapes.write(tmp_path / "data", ("train",), n=4, size=40)
    cache, out = tmp_path / "cache", tmp_path / "out"
    context, there = server_of("annotating_runs"), []
    for count in (0, 1, 3, 2, 0):  # flushes and renames before the kill; two an image, then those of the folder
        process = context.Process(target=annotating_runs.killed, args=(count, data, folders("clipseg"), cache, out))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        there.append(sorted(path.name for path in cache.glob("[!.]*.npy")))
        assert all(np.load(cache / name).shape == (32, 32) for name in there[-1])
        assert not (out / "train").exists()
    assert [len(names) for names in there] == [0, 0, 1, 2, 2]
    annotating_runs.run(data, folders("clipseg"), cache, out)
    rows = ar.data.load_dataset(data).select_columns(["image", "label"])
    whole = annotate(rows, "a bird", model=folders("clipseg"), threshold=0.01, batch_size=1, **QUIET)
    found = ar.data.load_dataset(out)
    assert [read_mask(cell).tolist() for cell in cells(found)] == [read_mask(cell).tolist() for cell in cells(whole)]
    assert found["mask_confidence"][:] == pytest.approx(whole["mask_confidence"][:], abs=1e-3)
    assert found["mask_source"][:] == ["words"] * 4


def test_the_cache_is_of_the_same_image_text_and_model(folders, rows, tmp_path, looked):
    files = shapes.write(tmp_path / "data", ("train",), n=3, size=40)
    dataset = ar.data.load_dataset(files).select_columns(["image", "label"])
    options = {"cache": tmp_path / "cache", **QUIET}

    def asked(prompt, model, given=dataset):
        looked[:] = []
        annotate(given, prompt, model=model, **options)
        return len(looked)

    clipseg = folders("clipseg")
    assert [asked("a bird", clipseg), asked("a bird", clipseg)] == [3, 0]
    assert [asked("a cat", clipseg), asked("a bird", folders("clipseg", 1)), asked("a bird", folders("owlv2"))] == [
        3,
        3,
        3,
    ]
    assert asked("a bird", clipseg) == 0, "what others found is still there beside it"
    path = dataset.cast_column("image", datasets.Image(decode=False))["image"][0]["path"]
    os.utime(path, ns=(0, 0))
    assert asked("a bird", clipseg) == 1


def test_a_cached_answer_is_of_one_revision(folders):
    finder = load_word_model(folders("clipseg"), device="cpu")
    facts = finder.facts
    finder.commit = "a" * 40
    assert finder.facts != facts
    finder.commit = None
    assert finder.facts == facts
    finder.processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    assert finder.facts != facts


# What people drew ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clipseg", "owlv2"])
def test_what_people_drew_is_left_alone(folders, kind, looked):
    drawn = shapes.make("train", 6, size=40)
    masks = cells(drawn)
    boxes = drawn["bbox"][:]
    plain = drawn.select_columns(["image", "label"])
    few = plain.add_column("mask", [masks[0], None, None, None, None, None], feature=datasets.Image())
    few = few.add_column("bbox", [None, boxes[1], [], None, None, None], feature=drawn.features["bbox"])
    map = np.zeros((8, 8), np.float32)
    map[2:5, 2:5] = 1
    few = ar.data.save_edits(few, [2], [map])
    found = annotate(few, "a bird", model=folders(kind), threshold=0.01, **QUIET)
    assert len(looked) == 3, "the network does not look at their images"
    assert found["mask_source"][:3] == ["person"] * 3 and found["mask_confidence"][:3] == [1, 1, 1]
    assert cells(found)[0]["bytes"] == masks[0]["bytes"] and cells(found)[1:3] == [None, None]
    assert np.array(found["bbox"][1]).ravel().tolist() == np.array(boxes[1]).ravel().tolist()
    assert found["maps"][2] == few["maps"][2] and "words" in found["mask_source"][3:]
    assert few.column_names == ["image", "label", "mask", "bbox", "maps", "edited"], "the dataset given is as it was"
    again = annotate(found, "a bird", model=folders(kind), threshold=0.01, **QUIET)
    assert made(again) == made(found) and len(looked) == 6, "what words made is made anew"
    other = annotate(found, "a bird", model=folders("clipseg" if kind == "owlv2" else "owlv2"), threshold=0.01, **QUIET)
    assert other["mask_source"][:3] == ["person"] * 3
    there = [bool(cell) for cell in (cells(other) if kind == "clipseg" else other["bbox"][:])]
    assert there[3:] == [False] * 3, "nothing of the first network is left"


@pytest.mark.parametrize("kind", ["clipseg", "owlv2"])
def test_what_words_made_trains_and_propagates(folders, rows, kind):
    found = annotate(rows, "a bird", model=folders(kind), threshold=0.3, **QUIET).select(range(6))
    words = [row for row, source in enumerate(found["mask_source"]) if source == "words"]
    model = ar.wrap("test_resnet", None, [ar.MapSupervision()], labels=ar.data.class_names(rows), pretrained=False)
    item = ar.data.prepare(found, model.preprocessing)[words[0]]
    assert item["mask"].max() == 1
    assert item["mask_confidence"] == pytest.approx(found["mask_confidence"][words[0]])
    spread = propagation(model.eval(), found, cut=0.5, progress=False)
    assert spread.annotated == len(words)
    after = spread.dataset
    assert [after["mask_source"][row] for row in words] == ["words"] * len(words)
    assert [after["mask_confidence"][row] for row in words] == [found["mask_confidence"][row] for row in words]
    once_more = annotate(after, "a bird", model=folders(kind), threshold=0.3, **QUIET)
    assert made(once_more)[1:] == made(found)[1:], "neither what words nor what a model made is taken for a person's"


def test_a_map_that_a_person_edited_counts_before_a_mask_from_words(folders, rows):
    found = annotate(rows, "a bird", model=folders("clipseg"), threshold=0.3, **QUIET).select(range(6))
    row = found["mask_source"][:].index("words")
    map = np.zeros((8, 8), np.float32)
    map[2:5, 2:5] = 1
    found = ar.data.save_edits(found, [row], [map])
    model = ar.wrap("test_resnet", None, labels=ar.data.class_names(rows), pretrained=False).eval()
    items = ar.data.prepare(found, model.preprocessing)
    others = [each for each in range(6) if each != row]
    assert items[row]["mask_confidence"] == 1
    assert [float(items[each]["mask_confidence"]) for each in others] == [
        found["mask_confidence"][each] for each in others
    ]
    after = propagation(model, found, cut=0.5, progress=False).dataset
    assert (after["mask_source"][row], after["mask_confidence"][row]) == ("person", 1)
    again = annotate(found, "a bird", model=folders("clipseg"), threshold=0.3, **QUIET)
    assert (again["mask_source"][row], cells(again)[row]) == ("person", None)


# Texts -----------------------------------------------------------------------------------------------------------------


def test_texts_are_the_classes_or_one_each_or_one_for_all(folders, rows, looked):
    names = ar.data.class_names(rows)
    own = [names[label] for label in rows["label"]]
    options = {"model": folders("grounding-dino"), **QUIET}
    annotate(rows, **options)
    annotate(rows, {name: name[::-1][:5] for name in names}, **options)
    annotate(rows, "a bird", **options)
    assert sorted(looked) == sorted(own + [name[::-1][:5] for name in own] + ["a bird"] * 7)


@pytest.mark.parametrize("kind", ["clipseg", "owlv2"])
def test_several_classes_have_the_union_of_what_their_texts_find(folders, rows, kind):
    names = datasets.ClassLabel(names=["a_bird", "cat"])
    images = pictures(*[(32, 32)] * 4)  # as large as the maps
    several = images.add_column("labels", [[0, 1], [0], [1], []], feature=datasets.List(names))
    options = {"model": folders(kind), "threshold": 0.3, **QUIET}
    found = annotate(several, **options)
    bird, cat = (annotate(images, text, **options) for text in ("a bird", "cat"))
    for row, one in ((1, bird), (2, cat)):
        assert found["mask_source"][row] == one["mask_source"][row] == "words"
        assert found["mask_confidence"][row] == pytest.approx(one["mask_confidence"][row], abs=1e-5)
    assert found["mask_source"][3] is None
    if kind == "clipseg":
        masks = [read_mask(cells(each)[0]) for each in (found, bird, cat)]
        assert (masks[0] == np.maximum(masks[1], masks[2])).all() and masks[0].sum() > masks[1].sum() > 0
    else:
        both = np.array(bird["bbox"][0] + cat["bbox"][0])
        assert np.array(found["bbox"][0]) == pytest.approx(both, abs=1e-3) and len(both) > 1


# Bad input -------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_in_a_sentence(folders, rows, tmp_path):
    model = folders("owlv2")

    def refused(kind, said, dataset=rows, prompt="a bird", **options):
        with pytest.raises(kind, match=said):
            annotate(dataset, prompt, **{"model": model, **QUIET, **options})

    refused(DataError, "a stream has no rows", rows.to_iterable_dataset())
    refused(DataError, "annotate takes images, and the dataset has no image column", rows.remove_columns("image"))
    refused(DataError, "no classes to take texts from: give one text", pictures((8, 8)), None)
    refused(ValueError, "threshold must be between 0 and 1, both excluded, or None for the model's, got 1", threshold=1)
    refused(ValueError, "min_confidence must be between 0 and 1, got 2", min_confidence=2)
    refused(ValueError, "batch_size must be 1 or more, got 0", batch_size=0)
    refused(ValueError, "a prompt must be a text that names something, such as 'a bird', got ' '", prompt=" ")
    refused(ValueError, "prompt must be a text, a text for each class by its name, or None, got 3", prompt=3)
    names = ar.data.class_names(rows)
    refused(
        ValueError, "texts for 'bird', which are no classes: the classes are striped disc", prompt={"bird": "a bird"}
    )
    refused(ValueError, "the prompt has no text for 'woven ring'", prompt={name: "it" for name in names[:-1]})
    refused(ValueError, r"is 20\d tokens long and a owlv2 model reads 16: shorten it", prompt="a bird, " * 33)
    features = datasets.Features({"image": datasets.Image()})
    broken = datasets.Dataset.from_dict({"image": [{"path": None, "bytes": b"no image"}]}, features=features)
    refused(DataError, "row 0 .in memory. cannot be read as an image", broken)


def test_other_models_are_refused_with_the_kinds(folders, tmp_path):
    kinds = ", ".join(f"{kind} .{each.example}." for kind, each in KINDS.items())
    transformers.ViTConfig(hidden_size=8).save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match=f"its type is 'vit'.: the kinds are {kinds}"):
        load_word_model(tmp_path / "vit")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}')
    (tmp_path / "own" / "mine.py").write_text("raise SystemExit('the code of a repository was run')")
    with pytest.raises(ValueError, match=f"is no model that finds what a text names .*: the kinds are {kinds}"):
        load_word_model(tmp_path / "own")


def test_weights_that_lack_what_finds_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders("clipseg"), tmp_path / "half")
    weights = {name: value for name, value in load_file(folder / "model.safetensors").items() if "decoder" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack \d+ tensors of a CLIPSegForImageSegmentation .decoder.*: take a model"):
        load_word_model(folder)
    net = load_word_model(folders("clipseg"), device="cpu").net
    (folder / "model.safetensors").unlink()
    torch.save(net.state_dict(), folder / "pytorch_model.bin")  # a pickle, which is not read
    with pytest.raises(OSError, match="has it safetensors"):
        load_word_model(folder)


def test_an_image_processor_that_cuts_margins_off_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders("owlvit"), tmp_path / "cut")
    file = next(path for path in folder.glob("*processor_config.json"))
    settings = json.loads(file.read_text())
    (settings.get("image_processor", settings))["do_center_crop"] = True
    file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="cuts the images' margins off .do_center_crop."):
        load_word_model(folder)


# Boxes cut out ---------------------------------------------------------------------------------------------------------


def test_what_is_in_the_boxes_is_cut_out_as_sam_does_it(folders, rows):
    finder = load_word_model(folders("owlv2"), device="cpu")
    surest = [finder.find([row["image"]], ["a bird"])[0][0, 4] for row in rows]
    options = {"model": folders("owlv2"), "threshold": float(np.sort(surest)[1]) - 1e-6, **QUIET}  # one row has no box
    boxed = annotate(rows, "a bird", **options)
    found = annotate(rows, "a bird", segmenter=folders("sam"), **options)
    net = transformers.SamModel.from_pretrained(folders("sam")).eval()
    processor = transformers.SamProcessor.from_pretrained(folders("sam"))
    checked = 0
    for row, cell in enumerate(cells(found)):
        boxes = [[x, y, x + w, y + h] for x, y, w, h in boxed["bbox"][row] or []]
        if not boxes:
            assert cell is None
            continue
        union = np.zeros((40, 40), bool)
        for box in boxes:  # one at a time
            given = processor(images=rows[row]["image"], input_boxes=[[box]], return_tensors="pt")
            with torch.no_grad():
                outputs = net(
                    pixel_values=given["pixel_values"], input_boxes=given["input_boxes"].float(), multimask_output=False
                )
            (mask,) = processor.image_processor.post_process_masks(
                outputs.pred_masks, given["original_sizes"], given["reshaped_input_sizes"]
            )
            union |= mask[0, 0].numpy()
        assert (cell is None and not union.any()) or ((read_mask(cell) == 1) == union).mean() > 0.99
        checked += cell is not None and 0 < union.mean() < 1
    assert checked and found["mask_source"][:] == ["words" if cell else None for cell in cells(found)]


def test_a_batch_and_a_cache_give_the_same_cut_out(folders, rows, tmp_path, looked):
    options = {"model": folders("owlv2"), "segmenter": folders("sam"), **QUIET}
    once = made(annotate(rows, "a bird", batch_size=1, cache=tmp_path, **options))
    assert made(annotate(rows, "a bird", batch_size=3, **options)) == once
    asked = len(looked)
    assert made(annotate(rows, "a bird", cache=tmp_path, **options)) == once and len(looked) == asked
    annotate(rows, "a bird", cache=tmp_path, threshold=0.2, **options)  # other boxes
    assert len(looked) == asked + len(rows)


def test_a_segmenter_is_refused_where_it_has_nothing_to_cut(folders, rows):
    with pytest.raises(ValueError, match="a clipseg model makes masks itself"):
        annotate(rows, "a bird", model=folders("clipseg"), segmenter=folders("sam"), **QUIET)
    with pytest.raises(ValueError, match="no model that cuts out.*facebook/sam-vit-base"):
        annotate(rows, "a bird", model=folders("owlv2"), segmenter=folders("clipseg"), **QUIET)
    with pytest.raises(ValueError, match="no model that finds what a text names"):
        annotate(rows, "a bird", model=folders("sam"), **QUIET)
