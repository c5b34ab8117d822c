"""The map becomes the mask: the cut and its masks by hand, what people drew kept, the cache, and both stages of a recipe."""

from __future__ import annotations

import io
import json
import warnings

import datasets
import numpy as np
import pytest
import torch
from cases import BY_NAME
from PIL import Image

import attention_refine as ar
from attention_refine import shapes
from attention_refine.data import read_mask
from attention_refine.mending import propagation as module
from attention_refine.mending.propagation import CUTS, propagation

SIDE = 64
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model() -> ar.RefinedModel:
    torch.manual_seed(2)
    head = ar.AttentionBranch(fade_in_steps=0, map_init="normal", site="layer2", branch="light")
    size = {"input_size": [3, SIDE, SIDE], "crop_pct": 0.9}
    return ar.wrap(BY_NAME["resnet18"].build(), head, labels=list(shapes.CLASSES), preprocessing=size).eval()


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    """Twelve images, three of them with their masks."""
    made = shapes.make("train", 12, size=SIDE)
    masks = [
        cell if row in (1, 5, 8) else None
        for row, cell in enumerate(made.cast_column("mask", datasets.Image(decode=False))["mask"])
    ]
    keep = [name for name in ("image", "label") if name in made.column_names]
    return made.select_columns(keep).add_column("mask", masks, feature=datasets.Image())


def cells(dataset, column="mask"):
    return list(dataset.cast_column(column, datasets.Image(decode=False))[column])


def by_hand(model, dataset, row: int) -> torch.Tensor:
    """The map of a row at its image's size: the whole image, and its mirror image."""
    whole = {**model.preprocessing, "crop_pct": 1.0, "crop_mode": "squash"}
    pixels = ar.data.Transform(whole)(dataset[row]["image"])["pixel_values"][None]
    with torch.no_grad():
        there, back = model(pixels).maps, model(pixels.flip(-1)).maps.flip(-1)
    return (there + back) / 2


def overlap(values: np.ndarray, truth: np.ndarray, cut: float) -> float:
    found, region = values >= np.float32(cut), truth == 1
    return (found & region).sum() / (found | region).sum()


def test_masks_are_the_maps_cut_where_the_annotated_rows_say(model, rows):
    found = propagation(model, rows, **QUIET)
    best = {}
    for scale in ("none", "minmax"):
        for cut in CUTS:
            each = []
            for row in (1, 5, 8):
                raw = by_hand(model, rows, row)
                raw = ar.maps.normalize(raw) if scale == "minmax" else raw
                values = ar.maps.resize(raw, (SIDE, SIDE))[0, 0].numpy()
                each.append(overlap(values, read_mask(cells(rows)[row]), cut))
            best[scale, cut] = each
    (scale, cut), each = max(best.items(), key=lambda one: np.mean(one[1]))
    assert found.scale == scale and found.cut == pytest.approx(cut)
    assert found.iou == pytest.approx(np.mean(each), abs=1e-6)
    left_out = [max(best.values(), key=lambda one: np.mean(np.delete(one, n)))[n] for n in range(3)]
    assert found.iou_left_out == pytest.approx(np.mean(left_out), abs=1e-6)
    for row in (0, 2, 11):
        raw = by_hand(model, rows, row)
        raw = ar.maps.normalize(raw) if scale == "minmax" else raw
        values = ar.maps.resize(raw, (SIDE, SIDE))[0, 0]
        inside = values >= np.float32(cut)
        made = read_mask(cells(found.dataset)[row])
        assert np.array_equal(made, inside.numpy().astype(np.uint8))
        sure = values[inside].sum() / (inside.sum() + values[~inside].sum())
        assert found.dataset["mask_confidence"][row] == pytest.approx(float(sure), abs=1e-5)


def test_what_people_drew_is_kept_to_the_byte(model, rows):
    found = propagation(model, rows, **QUIET)
    for row in (1, 5, 8):
        assert cells(found.dataset)[row]["bytes"] == cells(rows)[row]["bytes"]
    sources = list(found.dataset["mask_source"])
    assert [row for row, source in enumerate(sources) if source == "person"] == [1, 5, 8]
    assert (found.annotated, found.made, found.empty) == (3, sources.count("model"), sources.count(None))
    assert found.made + found.empty == 9 and found.made > 0
    assert [found.dataset["mask_confidence"][row] for row in (1, 5, 8)] == [1, 1, 1]
    assert rows.column_names == ["image", "label", "mask"]  # the dataset given is as it was


def test_a_further_round_begins_from_the_people_alone(model, rows):
    first = ar.propagate(model, rows, cut=0.4, **QUIET)
    again = propagation(model, first, cut=0.4, **QUIET)
    assert again.annotated == 3
    assert [cell and cell["bytes"] for cell in cells(again.dataset)] == [
        cell and cell["bytes"] for cell in cells(first)
    ]
    fresh = propagation(model, rows, **QUIET)
    assert propagation(model, first, **QUIET).cut == fresh.cut


def test_the_rows_train_and_doubtful_masks_are_left_out(model, rows):
    dataset = ar.propagate(model, rows, cut=0.5, **QUIET)
    batch = ar.data.collate([ar.data.prepare(dataset, model.preprocessing)[row] for row in range(12)])
    assert batch["mask"].shape == (12, 1, SIDE, SIDE) and batch["mask_confidence"][5] == 1
    torch.manual_seed(0)
    net = BY_NAME["resnet18"].build()
    trained = ar.wrap(net, None, [ar.Transplant(min_confidence=0.99)], labels=model.labels,
                      preprocessing=model.preprocessing)  # fmt: skip
    output = trained(**{k: v for k, v in batch.items() if k not in ("index",)})
    assert output.measures["transplant_copies"] == pytest.approx(3 / 12)
    sure = propagation(model, rows, cut=0.5, min_confidence=0.999, **QUIET)
    assert sure.made == 0 and sure.empty == 9 and set(sure.dataset["mask_source"]) == {"person", None}


def test_boxes_and_edited_maps_are_annotations_too(model, rows):
    plain = rows.remove_columns("mask")
    boxes = plain.add_column("bbox", [[[8.0, 8, 30, 30]] if row in (0, 3) else None for row in range(12)])
    found = propagation(model, boxes, **QUIET)
    assert found.annotated == 2 and found.iou > 0
    item = ar.data.prepare(found.dataset, {**model.preprocessing, "crop_pct": 1.0})[0]
    assert item["mask"].sum() == 30 * 30  # the box, filled
    assert found.dataset["mask_source"][0] == "person" and cells(found.dataset)[0] is None
    drawn = np.zeros((16, 16), np.float32)
    drawn[4:12, 4:12] = 1
    edited = ar.data.save_edits(plain, [2, 7], [drawn, drawn])
    found = propagation(model, edited, **QUIET)
    assert found.annotated == 2 and [found.dataset["mask_source"][row] for row in (2, 7)] == ["person"] * 2


def test_masks_have_the_size_of_their_images_as_they_are_looked_at(model, rows):
    pictures = []
    for size, turned in (((50, 80), False), ((90, 40), True)):
        out = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6 if turned else 1
        Image.new("RGB", size, (200, 30, 90)).save(out, "JPEG", exif=exif)
        pictures.append({"path": None, "bytes": out.getvalue()})
    features = datasets.Features({"image": datasets.Image(), "label": rows.features["label"]})
    dataset = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1]}, features=features)
    found = ar.propagate(model, dataset, cut=0.02, **QUIET)
    assert [read_mask(cell).shape for cell in cells(found)] == [(80, 50), (90, 40)]
    ar.data.prepare(found, model.preprocessing)[1]


def test_several_labels_and_maps_by_name(model, rows):
    for options in ({"method": "grad_cam"}, {"method": "eigen_cam"}, {"method": "input_x_gradient", "flip": False}):
        found = propagation(model, rows, **options, **QUIET)
        assert found.scale == "minmax" and 0 < found.iou <= 1
        assert found.made > 0 and found.made + found.empty == 9  # a class may have no positive evidence anywhere
    several = rows.remove_columns("label").add_column(
        "labels", [[n % 6, (n + 1) % 6] for n in range(12)], feature=datasets.List(rows.features["label"])
    )
    headless = ar.wrap(BY_NAME["resnet18"].build(), None, labels=model.labels, preprocessing=model.preprocessing).eval()
    assert propagation(headless, several, **QUIET).annotated == 3


def test_the_cache_is_taken_up_where_a_call_broke_off(model, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 4)
    seen = []
    real = module._map_of

    def counted(model, batch, method, flip):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(batch["labels"]))
        return real(model, batch, method, flip)

    monkeypatch.setattr(module, "_map_of", counted)
    with pytest.raises(KeyboardInterrupt):
        propagation(model, rows, cache=tmp_path, **QUIET)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["maps-00000000.npy", "maps-00000004.npy", "maps.json"]
    seen[:] = [0]
    found = propagation(model, rows, cache=tmp_path, **QUIET)
    assert seen == [0, 4]  # the last four alone
    monkeypatch.setattr(module, "_map_of", real)
    plain = propagation(model, rows, **QUIET)
    assert [a and a["bytes"] for a in cells(found.dataset)] == [b and b["bytes"] for b in cells(plain.dataset)]
    seen[:] = [0]
    monkeypatch.setattr(module, "_map_of", counted)
    propagation(model, rows, cut=0.3, cache=tmp_path, **QUIET)
    assert seen == [0]  # another cut costs nothing


def test_a_cache_of_other_weights_rows_or_options_is_made_anew(model, rows, tmp_path):
    import copy

    propagation(model, rows, cache=tmp_path, **QUIET)
    facts = [json.loads((tmp_path / "maps.json").read_text())]
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).mul_(1.5)
    for changed, dataset, options in (
        (other, rows, {}),
        (model, rows.select(range(11)), {}),
        (model, rows, {"flip": False}),
    ):
        found = propagation(changed, dataset, cache=tmp_path, **options, **QUIET)
        facts.append(json.loads((tmp_path / "maps.json").read_text()))
        assert facts[-1] != facts[-2]
        plain = propagation(changed, dataset, **options, **QUIET)
        assert found.cut == plain.cut and found.iou == plain.iou


def test_what_cannot_be_is_refused_in_a_sentence(model, rows):
    with pytest.raises(ar.data.DataError, match="no row has a mask, boxes or an edited map to choose the cut by"):
        ar.propagate(model, rows.remove_columns("mask"), **QUIET)
    with pytest.raises(ar.data.DataError, match="a stream has no rows"):
        ar.propagate(model, rows.to_iterable_dataset(), **QUIET)
    with pytest.raises(ValueError, match="cut must be between 0 and 1, both excluded, or 'auto', got 1.5"):
        ar.propagate(model, rows, cut=1.5, **QUIET)
    with pytest.raises(ValueError, match="map 'grad_camm' is not one of"):
        ar.propagate(model, rows, method="grad_camm", **QUIET)
    with pytest.raises(ValueError, match="min_confidence must be between 0 and 1, got 2"):
        ar.propagate(model, rows, min_confidence=2, **QUIET)


def recipe(folder, **propagate):
    from attention_refine.recipe import Recipe

    small = {"max_steps": 2, "batch_size": 6, "progress": False, "save_every_epochs": None}
    return Recipe.from_dict(
        {
            "model": {"backbone": "test_resnet", "pretrained": False, "image_size": SIDE, "objectives": ["transplant"]},
            "data": {
                "source": "shapes", "validation": "validation", "test_split": None,
                "propagate": {
                    "model": {"head": {"name": "abn", "fade_in_steps": 0, "map_init": "normal"},
                              "objectives": [{"name": "map_supervision", "norm": "bce"}]},
                    "training": {"head_learning_rate_multiplier": 10.0},
                    **propagate,
                },
            },
            "training": {"output_dir": str(folder), **small},
        }
    )  # fmt: skip


def test_a_recipe_runs_both_stages_and_further_rounds(rows, tmp_path):
    from attention_refine.recipe import run

    splits = {"train": rows, "validation": shapes.make("validation", 8, size=SIDE)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = run(recipe(tmp_path, rounds=2, cut=0.3), splits)
    for number in (1, 2):
        folder = tmp_path / "propagate" / f"round-{number}"
        found = json.loads((folder / "propagation.json").read_text())
        assert found["annotated"] == 3 and found["cut"] == 0.3 and found["made"] > 0 and (folder / "last").is_dir()
        assert ar.load(folder / "last").head is not None
    assert done.model.head is None and done.history[-1]["train/transplant_copies"] > 3 / 12
    first, second = (
        json.loads((tmp_path / "propagate" / f"round-{n}" / "history.json").read_text())[-1][
            "train/map_supervision_images"
        ]
        for n in (1, 2)
    )
    assert first == pytest.approx(0.25) and second > 0.3  # the second round learns from the masks of the first


def test_keys_of_the_first_stage_are_checked(rows, tmp_path):
    from attention_refine.recipe import run

    splits = {"train": rows, "validation": rows}
    for keys, said in (
        (dict(threshold=0.5), "data.propagate: key 'threshold' is not one of model, training, rounds, cut"),
        (dict(rounds=0), "rounds must be a whole number of 1 or more, got 0"),
        (dict(training={"epoch": 3}), "epoch"),
    ):
        with pytest.raises(ValueError, match=said):
            run(recipe(tmp_path, **keys), splits)
    assert not (tmp_path / "propagate").exists()


# A segmenter's masks -----------------------------------------------------------------------------------------------------


def plain() -> ar.RefinedModel:
    torch.manual_seed(2)
    size = {"input_size": [3, SIDE, SIDE], "crop_pct": 0.9}
    return ar.wrap(BY_NAME["resnet18"].make(), labels=list(shapes.CLASSES), preprocessing=size).eval()


FEW = {"segmenter": {"steps": 20, "batch_size": 6}, "method": "segmenter", **QUIET}


@pytest.fixture(scope="module")
def six() -> datasets.Dataset:
    """Twelve images, every other one with its mask and its box."""
    made = shapes.make("train", 12, size=SIDE)
    keep = made.select_columns(["image", "label"])
    masks = made.cast_column("mask", datasets.Image(decode=False))["mask"]
    masks = [cell if row % 2 else None for row, cell in enumerate(masks)]
    boxes = [box if row % 2 else None for row, box in enumerate(made["bbox"])]
    return keep.add_column("mask", masks, feature=datasets.Image()).add_column(
        "bbox", boxes, feature=made.features["bbox"]
    )


def test_a_segmenter_makes_masks_and_chooses_its_cut_on_rows_it_did_not_see(six):
    model, masked = plain(), six.remove_columns("bbox")
    found = propagation(model, masked, **FEW)
    assert (found.annotated, found.made + found.empty) == (6, 6) and found.scale == "none"
    rows = [row for row in range(12) if row % 2]
    items = ar.data.prepare(masked, {**model.preprocessing, "crop_pct": 1.0, "crop_mode": "squash"})
    config = module.SegmenterConfig(steps=20, batch_size=6)
    tables = []
    for half, other in ((rows[::2], rows[1::2]), (rows[1::2], rows[::2])):
        batch = ar.data.collate([items[row] for row in half])
        target, known, _ = ar.objectives.map_targets(batch, "mask")
        fitted = module.fit_segmenter(
            model.backbone.net, [(batch["pixel_values"], target, known, torch.zeros(len(half)).bool())], config, seed=0
        )
        for row in other:
            pixels = items[row]["pixel_values"][None]
            one, mirrored = (fitted.predict(model.backbone.net, each) for each in (pixels, pixels.flip(-1)))
            values = ar.maps.resize((one + mirrored.flip(-1)) / 2, (SIDE, SIDE))[0, 0].numpy()
            tables.append([overlap(values, read_mask(cells(masked)[row]), cut) for cut in CUTS])
    means = np.array(tables).mean(0)
    assert found.iou == pytest.approx(means.max(), abs=1e-4) and found.cut == pytest.approx(CUTS[means.argmax()])


def test_the_same_call_gives_the_same_masks_and_the_cache_none_anew(six, tmp_path, monkeypatch):
    model, masked = plain(), six.remove_columns("bbox")
    first = propagation(model, masked, cache=tmp_path, **FEW)
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("maps-*")}
    again = propagation(model, masked, cache=tmp_path, **FEW)
    assert stamps and {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("maps-*")} == stamps
    assert [cell and cell["bytes"] for cell in cells(first.dataset)] == [
        cell and cell["bytes"] for cell in cells(again.dataset)
    ]
    propagation(model, masked, cache=tmp_path, **{**FEW, "seed": 1})
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("maps-*")} != stamps


def test_from_boxes_the_cut_is_given_and_boxes_are_compared(six):
    found = propagation(plain(), six.remove_columns("mask"), **FEW)
    assert found.annotated == 6 and found.iou is not None and 0 < found.iou <= 1
    assert 0.02 <= found.cut <= module.SURE and found.empty <= 2, "of ten maps nine have a mask"
    bright = torch.linspace(0, 1, 21)[:, None, None, None].expand(21, 1, 4, 4)
    assert module._unguided_cut(bright) == pytest.approx(0.09)
    assert module._unguided_cut(bright / 2 + 0.5) == pytest.approx(0.9 * 0.55)
    assert module._unguided_cut(bright / 5 + 0.8) == module.SURE
    values = torch.zeros(8, 8)
    values[2:4, 1:6] = 0.5
    values[3, 3] = 0.9
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[2:4, 1:6] = True
    by_cut = module._box_overlaps(values, region, torch.ones_like(region), np.array([0.4, 0.8, 0.95]))
    assert by_cut.tolist() == pytest.approx([1.0, 1 / 10, 0.0])


def test_the_network_may_see_larger_images_than_it_is_used_with(six):
    small = propagation(plain(), six.remove_columns("bbox"), **FEW)
    large = propagation(plain(), six.remove_columns("bbox"), image_size=128, **FEW)
    made = [cell for cell in cells(large.dataset) if cell]
    assert read_mask(made[0]).shape == (SIDE, SIDE) and large.to_dict() != small.to_dict()


def test_a_segmenter_needs_annotated_rows(six):
    with pytest.raises(ar.data.DataError, match="no row has a mask, boxes or an edited map to fit"):
        propagation(plain(), six.select_columns(["image", "label"]), cut=0.5, **FEW)


def test_masks_of_what_stands_out_need_no_annotation_and_look_at_none(six):
    bare = six.select_columns(["image", "label"])
    options = {**FEW, "method": "unsupervised", "image_size": 192}
    found = propagation(plain(), bare, **options)
    assert (found.annotated, found.made + found.empty, found.iou) == (0, 12, None) and found.cut <= module.SURE
    assert set(found.dataset["mask_source"]) <= {"model", None} and found.made > 6
    beside = propagation(plain(), six, **options)  # a person's masks stay, and teach nothing
    assert beside.annotated == 6 and beside.iou is not None and beside.cut == found.cut
    for row in range(0, 12, 2):
        one, other = cells(found.dataset)[row], cells(beside.dataset)[row]
        assert (one and one["bytes"]) == (other and other["bytes"])
    chosen = propagation(plain(), six, cut=0.4, **options)
    assert chosen.cut == 0.4
    with pytest.raises(ValueError, match="give larger images"):
        propagation(plain(), bare, **{**options, "image_size": None})


def test_masks_of_what_stands_out_come_from_the_cache(six, tmp_path):
    bare = six.select_columns(["image", "label"])
    options = {**FEW, "method": "unsupervised", "image_size": 192, "cache": tmp_path}
    first = propagation(plain(), bare, **options)
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("maps-*")}
    again = propagation(plain(), bare, **options)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("maps-*")} == stamps
    assert first.to_dict() == again.to_dict()


def test_a_recipe_with_a_segmenter_trains_once(tmp_path):
    from attention_refine.recipe import Recipe, run

    folder = shapes.write(tmp_path / "data", ("train", "test"), n=18, size=SIDE)
    values = {
        "model": {
            "backbone": "test_resnet", "pretrained": False, "image_size": SIDE,
            "objectives": [{"name": "transplant", "replace": True, "copies": 0.75}],
        },
        "data": {"source": str(folder), "validation": 0.34, "propagate": {"method": "segmenter", "segmenter": {"steps": 3}}},
        "training": {"output_dir": str(tmp_path / "run"), "max_steps": 2, "batch_size": 6, "progress": False},
        "evaluation": {"perturbation_images": 0},
    }  # fmt: skip
    done = run(Recipe.from_dict(values))
    found = json.loads((tmp_path / "run" / "propagate" / "propagation.json").read_text())
    assert found["annotated"] > 0 and done.evaluation is not None
    assert not (tmp_path / "run" / "propagate" / "round-1").exists()
    values["data"]["propagate"]["rounds"] = 2
    with pytest.raises(ValueError, match="method 'segmenter' trains no model: leave 'rounds' out"):
        run(Recipe.from_dict(values))
