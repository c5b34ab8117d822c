"""``audit``: models whose rule is known are seen through, scenes are exact, batches and seeds do not matter."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest
import torch
from judged import made_model
from PIL import Image
from test_report import Page
from torch import nn

import attention_refine as ar
from attention_refine import shapes
from attention_refine.auditing import SCENES, scenes
from attention_refine.auditing.audit import examined
from attention_refine.auditing.page import Drawer
from attention_refine.auditing.partners import Candidates
from attention_refine.cli import main
from attention_refine.data import prepare

SIDE, CLASSES = 32, ("red", "green", "blue")
COLOURS = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220]])
OBJECT, PLACE, CUE = (slice(12, 20), slice(12, 20)), (slice(0, 6), slice(0, 6)), (slice(26, 30), slice(26, 30))
PARTS = {"object": OBJECT, "place": PLACE, "cue": CUE}


class Rule(nn.Module):
    """Classifies by the mean colour of one part of the image, and by nothing else."""

    preprocessing = {
        "input_size": [3, SIDE, SIDE], "mean": [0.0] * 3, "std": [1.0] * 3, "interpolation": "bilinear", "crop_pct": 1.0,
    }  # fmt: skip

    def __init__(self, part: str, labels=CLASSES):
        super().__init__()
        self.part, self.labels, self.head = PARTS[part], list(labels), None
        self.colours = nn.Parameter(torch.tensor(COLOURS / 255, dtype=torch.float32))

    def forward(self, pixel_values):
        colour = pixel_values[(..., *self.part)].mean((2, 3))
        return -10 * (colour[:, None] - self.colours).square().sum(2)


def images(count=18, lies=0.0, seed=0, columns=("mask", "cue_bbox", "group")):
    """Object, place and cue in their class's colour; ``lies`` is the share whose place and cue are another class's."""
    rng, rows = np.random.default_rng(seed), []
    for number in range(count):
        label = number % 3
        other = (label + 1 + rng.integers(2)) % 3 if rng.random() < lies else label
        image = np.broadcast_to(COLOURS[other] * 0.9, (SIDE, SIDE, 3)).copy()
        image[CUE], image[OBJECT] = COLOURS[other], COLOURS[label]
        mask = np.zeros((SIDE, SIDE), np.uint8)
        mask[OBJECT] = 255
        rows.append({
            "image": Image.fromarray(image.astype(np.uint8)), "label": label, "mask": Image.fromarray(mask),
            "bbox": [[12.0, 12.0, 8.0, 8.0]], "cue_bbox": [[26.0, 26.0, 4.0, 4.0]], "group": f"{label}/{other == label}",
        })  # fmt: skip
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=list(CLASSES)), mask=datasets.Image(),
        bbox=datasets.List(datasets.List(datasets.Value("float32"))),
        cue_bbox=datasets.List(datasets.List(datasets.Value("float32"))), group=datasets.Value("string"),
    )  # fmt: skip
    dataset = datasets.Dataset.from_list(rows, features=features)
    return dataset.remove_columns([name for name in ("mask", "bbox", "cue_bbox", "group") if name not in columns])


def audited(part, dataset=None, **options):
    return ar.audit(Rule(part), images() if dataset is None else dataset, map="gradient", progress=False, **options)


def value(cell):
    return cell["value"]


def test_a_model_of_the_object_is_seen_through():
    found = audited("object", images(lies=0.5))
    for name in ("object_alone", "mixed_same", "mixed_rand", "cue_removed", "cue_moved"):
        assert value(found.scenes[name]["accuracy"]) == 1 and value(found.scenes[name]["changed"]) == 0, name
    assert value(found.scenes["mixed_rand"]["difference"]) == 0 == value(found.gaps["place"])
    assert value(found.energy["object"]) == pytest.approx(1, abs=1e-5) and value(found.energy["cue"]) == 0
    assert value(found.area["object"]) == pytest.approx(64 / 1024) and value(found.area["cue"]) == pytest.approx(
        16 / 1024
    )
    assert found.verdict.startswith("This model looks at the object as far as could be seen: of its map lies 100 % on")
    assert found.flips("mixed_rand") == [] and value(found.evaluation.summary["classification"]["group_gap"]) == 0


def test_a_model_of_the_place_is_seen_through():
    found = audited("place")
    assert value(found.evaluation.summary["classification"]["accuracy"]) == 1
    assert value(found.scenes["place_alone"]["accuracy"]) == 1 == value(found.scenes["mixed_same"]["accuracy"])
    rand = [s["scenes"]["mixed_rand"] for s in found.samples]
    labels = [s["label"] for s in found.samples]
    assert all(scene["prediction"] == scene["place"] == labels[scene["partner"]] for scene in rand)
    right = np.mean([scene["prediction"] == label for scene, label in zip(rand, labels)])
    assert value(found.scenes["mixed_rand"]["accuracy"]) == pytest.approx(right) and 0 < right < 1
    assert value(found.gaps["place"]) == pytest.approx(1 - right) and found.gaps["place"]["low"] > 0
    believed = found.gaps["believed"]
    assert (believed["agrees"], believed["lies"], believed["value"]) == (1, 0, 1)
    assert value(found.energy["object"]) == 0 and value(found.energy["rest"]) == pytest.approx(1, abs=1e-5)
    assert found.verdict.startswith(
        "This model leans on the place: on a place that it takes for the object's class 100 %"
    )
    flips = found.flips("mixed_rand")
    assert [flip["position"] for flip in flips] == [i for i, s in enumerate(rand) if s["prediction"] != labels[i]]
    assert all(flip["flipped_to"] == rand[flip["position"]]["prediction"] for flip in flips)


def test_a_lean_on_the_place_shows_where_places_say_nothing():
    """Places mixed as at random: BG-gap says nothing, what the model takes the place for does."""
    mixed = images(60, lies=2 / 3)
    found = audited("place", mixed)
    assert value(found.gaps["believed"]) == 1 and "leans on the place" in found.verdict
    from_train = audited("place", mixed, places=images(seed=1))
    assert value(from_train.scenes["mixed_same"]["accuracy"]) == 1 and from_train.gaps["place"]["low"] > 0
    assert from_train.settings["other_places"]


def test_a_model_of_the_cue_is_seen_through():
    found = audited("cue")
    assert value(found.energy["cue"]) == pytest.approx(1, abs=1e-5)
    assert value(found.scenes["cue_moved"]["accuracy"]) == 0 and value(found.scenes["cue_moved"]["changed"]) == 1
    assert "leans on the cue" in found.verdict and "from 100 % to 0 %" in found.verdict
    assert [s["position"] for s in found.worst(3)] == [0, 1, 2]
    # Another class's cue was put in, and is what the model goes by.
    for sample in found.samples:
        scene = sample["scenes"]["cue_moved"]
        assert scene["prediction"] == found.samples[scene["partner"]]["label"] != sample["label"]


@pytest.mark.parametrize(("lies", "mostly"), [(0.8, False), (0.2, True)])
def test_the_first_picture_is_of_an_image_that_fares_as_most_do(lies, mostly):
    found = examined(Rule("place"), images(60, lies=lies), map="gradient", progress=False)
    (typical, words), _ = Drawer(*found).telling({})
    assert words == "the map, on a typical image"
    assert bool(typical["correct"]) == mostly == (2 * sum(bool(s["correct"]) for s in found[0].samples) >= 60)


def test_a_model_uneven_over_groups():
    found = audited("place", images(60, lies=0.5, columns=("group",)))
    assert found.scenes == {} and found.energy == {} and found.gaps == {}
    assert found.verdict.startswith(
        "Where this model looks could not be held against an object or a cue, but it is uneven"
    )
    assert "accuracy goes from 100 % where group is" in found.verdict
    said = " ".join(found.not_looked_at)
    assert "no image" in said.lower() and "mask_file_name or bbox" in said and "cue_bbox" in said


@pytest.mark.parametrize(
    "columns, made, words",
    [
        (("mask",), {"object_alone", "place_alone", "mixed_same", "mixed_rand"}, "what should not be looked at"),
        (("bbox",), {"object_alone", "place_alone", "mixed_same", "mixed_rand"}, "known as boxes"),
        (("cue_bbox",), {"cue_removed", "cue_moved"}, "No image has a mask"),
        ((), set(), "no column 'group'"),
    ],
)
def test_works_with_whatever_there_is_and_says_what_is_missing(columns, made, words):
    found = audited("object", images(columns=columns))
    assert set(found.scenes) == made and words in " ".join(found.not_looked_at)
    assert ("known as boxes" in " ".join(found.not_looked_at)) == (columns == ("bbox",))


def test_few_annotated_images_are_enough():
    rows = images(9)
    few = [{**row, "mask": row["mask"] if number < 4 else None} for number, row in enumerate(rows)]
    found = audited("object", datasets.Dataset.from_list(few, features=rows.features))
    assert found.scenes["object_alone"]["accuracy"]["count"] == 4
    assert found.scenes["mixed_same"]["accuracy"]["count"] == 2  # red has two of the four, the others one each
    assert "Looked at on 4 of 9 images only: the object" in " ".join(found.not_looked_at)


def test_scenes_to_the_pixel():
    a, b = torch.full((1, 3, 20, 20), 1.0), torch.full((1, 3, 20, 20), 3.0)
    own = torch.zeros(1, 1, 20, 20)
    own[..., 8:12, 8:12] = 1
    made = scenes.object_on(a, own, b)
    assert (made[..., 9:11, 9:11] == 1).all() and (made[..., :7, :] == 3).all() and (made[..., 13:] == 3).all()
    edge = made[0, 0, 9]
    assert edge[8] == pytest.approx(1 + 2 / 3) and edge[7] == pytest.approx(2 + 1 / 3), "soft by a pixel"
    spotted = a + 8 * own
    assert torch.allclose(scenes.place_of(spotted, own.bool()), a), "nothing of the object is left"
    ring = own.clone()
    ring[..., 9:11, 9:11] = 0
    assert torch.allclose(scenes.place_of(spotted, ring.bool()), a), "its whole bounding box is filled"
    assert torch.allclose(scenes.without_cue(spotted, own), a, atol=1e-5)
    other = torch.zeros(1, 1, 20, 20)
    other[..., 0:2, 0:2] = 1
    moved = scenes.with_cue_of(spotted, own, b, other)
    assert moved[0, 0, 0, 0] == 3 and torch.allclose(moved[..., 3:, :], a[..., 3:, :], atol=1e-5)


def test_partners_are_drawn_by_seed_and_row_alone():
    candidates = Candidates.among([0, 0, 1, 1, None, 2], [True, True, True, True, True, False])
    assert candidates.of_class == {0: [0, 1], 1: [2, 3]}
    drawn = [candidates.draw(row, 0, 1, [0, 1], excluding=row) for row in range(200)]
    assert drawn == [candidates.draw(row, 0, 1, [0, 1], excluding=row) for row in range(200)]
    assert drawn != [candidates.draw(row, 1, 1, [0, 1], excluding=row) for row in range(200)]
    assert all(partner != row for row, partner in enumerate(drawn)) and {*drawn} == {0, 1, 2, 3}
    assert 70 < sum(partner in (0, 1) for partner in drawn) < 130, "classes alike"
    assert candidates.draw(0, 0, 1, [2], None) is None and candidates.draw(0, 0, 1, [0], 0) == 1


@pytest.fixture(scope="module")
def data():
    return shapes.make("test", 10, size=64)


def test_batches_do_not_matter_and_the_page_is_whole(data, tmp_path):
    model = made_model("abn", labels=["<script>", *shapes.CLASSES[1:]])
    rows = data.cast_column("label", datasets.ClassLabel(names=model.labels))
    was_training = model.train().training
    found = ar.audit(model, rows, tmp_path, groups="cue", batch_size=3, progress=False)
    assert model.training == was_training
    again = ar.audit(model, prepare(rows, model.preprocessing), groups="cue", batch_size=10, progress=False)
    assert set(found.scenes) == set(SCENES)
    for one, other in zip(found.samples, again.samples):
        assert one["scenes"] == other["scenes"]
        for part in ("object", "cue", "rest"):
            assert one["energy"][part] == pytest.approx(other["energy"][part], abs=1e-5)
    sums = [sum(sample["energy"].values()) for sample in found.samples]
    assert all(0.99 < total < 1.2 for total in sums), "the parts make up the whole, but where they overlap"
    assert ar.Audit.from_json(tmp_path / "audit.json") == found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit.html", "audit.json", "samples.csv"]
    text = (tmp_path / "audit.html").read_text()
    page = Page(text)
    assert found.verdict in page.text and "Worst images" in page.text and "Accuracy by cue" in page.text
    assert "<script>" not in text and "&lt;script&gt;" in text
    first = text[: text.index("<h2>")]
    assert first.count("<img") == 2, "a sentence and two pictures first"
    assert all(attrs["src"].startswith("data:") for tag, attrs in page.tags if tag == "img")
    assert all(line in page.text for line in found.not_looked_at)
    assert "Object on the place of any class" in str(found) and found.verdict in str(found)


def test_limit_spreads_over_the_data(data):
    model = made_model()
    found = ar.audit(model, data, limit=4, progress=False)
    assert [sample["index"] for sample in found.samples] == [0, 2, 5, 7] and found.settings["limit"] == 4
    whole = ar.audit(model, data, limit=99, progress=False)
    assert len(whole.samples) == 10


def test_the_command(data, tmp_path, capsys):
    shapes.write(tmp_path / "own", splits=["test"], n=6, size=64)
    made_model().save_pretrained(tmp_path / "run" / "best")
    out = tmp_path / "out"
    assert main(["audit", str(tmp_path / "run"), str(tmp_path / "own"), "--output", str(out), "--limit", "5"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(json.loads((out / "audit.json").read_text())["verdict"]) and "audit.html" in printed


def test_bad_input_is_refused_in_a_sentence(data, tmp_path):
    model = made_model()
    with pytest.raises(ValueError, match="needs them by number: load the dataset without streaming"):
        ar.audit(model, data.to_iterable_dataset())
    with pytest.raises(ValueError, match="limit must be at least 1, or None for all images, got 0"):
        ar.audit(model, data, limit=0)
    with pytest.raises(ValueError, match="Linear does not say its preprocessing: audit ar.wrap"):
        ar.audit(nn.Linear(2, 2), data)
    with pytest.raises(ValueError, match="scene 'night' is not one of those made: object_alone"):
        ar.audit(model, data, limit=4, progress=False).flips("night")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a\.json is not an audit"):
        ar.Audit.from_json(tmp_path / "a.json")
