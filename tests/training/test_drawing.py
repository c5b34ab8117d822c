"""Batches that hold so many annotated images, or classes and groups equally: laws, numbers by hand, bad input."""

from __future__ import annotations

from collections import Counter

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate
from training_runs import TinyImages, TinyModel, assert_same, last_weights

import attention_refine as ar
from attention_refine.data import Prepared, as_canonical
from attention_refine.training import TrainingConfig, TrainingError, finetune
from attention_refine.training.batches import BatchOrder
from attention_refine.training.image_kinds import annotated

HAS = [row % 12 == 5 for row in range(100)]  # 8 of 100


def order(batch_size=12, n=3, processes=1, slots=1, size=100, has=None, **options) -> BatchOrder:
    has = HAS if has is None else has
    return BatchOrder(size, batch_size, processes, slots, 4, annotated=has, annotated_per_batch=n, **options)


def steps_of(made: BatchOrder, epoch: int) -> list[list[int]]:
    rows = made.shuffled(epoch)
    return [rows[at : at + made.whole] for at in range(0, made.steps * made.whole, made.whole)]


# --- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("processes", "slots"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_every_batch_of_every_process_holds_its_share_and_no_image_twice(processes, slots):
    made = order(12 // (processes * slots), 4 // (processes * slots), processes, slots)
    for epoch in range(3):
        parts = [made.batches(epoch, process) for process in range(processes)]
        full = [batch for part in parts for batch in part if len(batch) == made.batch_size]
        assert len(full) == 8 * processes * slots
        assert {sum(HAS[row] for row in batch) for batch in full} == {made.annotated_per_batch}
        for step in steps_of(made, epoch):
            assert len(set(step)) == len(step)
            assert sum(HAS[row] for row in step) >= 1, "a short step, too"


def test_the_global_batches_do_not_depend_on_the_division():
    whole = order(12, 4)
    for processes, slots in [(2, 1), (1, 4), (2, 2)]:
        parts = processes * slots
        assert order(12 // parts, 4 // parts, processes, slots).shuffled(3) == whole.shuffled(3)


def test_another_epoch_and_seed_draw_otherwise():
    assert order().shuffled(0) == order().shuffled(0) != order().shuffled(1)
    other = BatchOrder(100, 12, seed=5, annotated=HAS, annotated_per_batch=3)
    assert other.shuffled(0) != order().shuffled(0)


def test_every_kind_is_gone_through_evenly():
    made = order(12, 3)  # 8 full steps and one of 4: 25 annotated ones in an epoch, of 8; 75 of the 92 others
    counts = Counter(made.shuffled(0))
    assert sorted(counts[row] for row in range(100) if HAS[row]) == [3] * 7 + [4]
    assert {counts[row] for row in range(100) if not HAS[row]} == {0, 1}
    assert made.steps == BatchOrder(100, 12).steps == 9
    over_epochs = Counter(row for epoch in range(6) for row in made.shuffled(epoch))
    assert min(over_epochs.values()) >= 2, "nothing is always left out"


@pytest.mark.parametrize("share", [40, 70, 100])
def test_more_annotated_images_than_asked_for_leave_every_image_once(share):
    made = order(10, 3, has=[row < share for row in range(100)])
    assert sorted(made.shuffled(0)) == list(range(100))
    assert {sum(row < share for row in step) for step in steps_of(made, 0)} == {share // 10}


def test_groups_come_equally_often():
    groups = ["a"] * 90 + ["b"] * 7 + ["c"] * 3
    rows = BatchOrder(100, 12, seed=1, groups=groups).shuffled(0)
    assert sorted(Counter(groups[row] for row in rows).values()) == [33, 33, 34]
    for at in range(0, 96, 12):
        step = rows[at : at + 12]
        assert Counter(groups[row] for row in step) == {"a": 4, "b": 4, "c": 4}
        assert all(number == 1 for row, number in Counter(step).items() if groups[row] != "c"), "only c is too few"
    both = order(12, 3, groups=groups)
    for step in steps_of(both, 0)[:-1]:
        assert sum(HAS[row] for row in step) == 3
        others = Counter(groups[row] for row in step if not HAS[row])
        assert others == {"a": 3, "b": 3, "c": 3}


class Marked(TinyImages):
    """Tiny images of which every fourth has a mask to learn from."""

    @property
    def annotations(self):
        return {"mask": [row % 4 == 1 for row in range(len(self))]}

    groups = property(lambda self: [row % 3 == 0 for row in range(len(self))])


class Stopped(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize(
    "options", [{"annotated_per_batch": 2}, {"balance": "group"}, {"annotated_per_batch": 1, "balance": "group"}]
)
def test_resumed_equals_uninterrupted(options, tmp_path):
    def run(folder, stop_at=None, **more):
        torch.manual_seed(2)
        model, seen = TinyModel("batch", 0.2), []

        def hook(module, arguments):
            seen.append(module.training)
            if sum(seen) == stop_at:
                raise Stopped

        model.register_forward_pre_hook(hook)
        config = TrainingConfig(
            output_dir=str(folder), batch_size=4, epochs=2, save_every_steps=1, progress=False, learning_rate=0.01, **options, **more
        )  # fmt: skip
        return finetune(model, Marked(22), config, collate=default_collate)

    whole = run(tmp_path / "whole")
    with pytest.raises(Stopped):
        run(tmp_path / "cut", stop_at=9)
    assert run(tmp_path / "cut", resume=True).history == whole.history
    assert_same(last_weights(tmp_path / "cut"), last_weights(tmp_path / "whole"))


# --- what a dataset says of its images -------------------------------------------------------------------------------

PREPROCESSING = {
    "input_size": [3, 32, 32],
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "crop_pct": 1.0,
}


def photographs(**columns) -> Prepared:
    image = Image.fromarray(np.zeros((40, 40, 3), np.uint8))
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["class 0", "class 1"])}
    kinds = {"mask": datasets.Image(), "maps": datasets.Image(), "edited": datasets.Value("bool"),
             "bbox": datasets.List(datasets.List(datasets.Value("float32"))), "group": datasets.Value("string")}  # fmt: skip
    kinds["cue_bbox"] = kinds["bbox"]
    rows = {"image": [image] * 4, "label": [0, 1, 0, 1], **columns}
    features |= {name: kinds[name] for name in columns}
    return Prepared(as_canonical(datasets.Dataset.from_dict(rows, features=datasets.Features(features))), PREPROCESSING)


def test_annotations_are_known_without_decoding(monkeypatch):
    grey = Image.fromarray(np.full((40, 40), 255, np.uint8))
    boxes = [[[0.0, 0.0, 9.0, 9.0]], [], None, None]
    items = photographs(
        mask=[None, None, grey, None], bbox=boxes, cue_bbox=boxes[::-1], maps=[grey, grey, None, None],
        edited=[True, False, True, None], group=["x", None, "y", "x"],
    )  # fmt: skip
    monkeypatch.setattr(Image, "open", lambda *arguments: pytest.fail("an image was opened"))
    assert items.annotations == {
        "mask": [True, False, True, False], "boxes": [True, False, False, False], "edited_map": [True, False, False, False],
        "cue": [False, False, False, True],
    }  # fmt: skip
    assert items.groups == ["x", None, "y", "x"]
    assert photographs().annotations == {} and photographs().groups is None


def test_what_counts_is_what_the_objectives_read():
    grey = Image.fromarray(np.full((40, 40), 255, np.uint8))
    items = photographs(mask=[None, None, grey, None], maps=[grey, None, None, None])
    net = "test_resnet.r160_in1k"
    plain = ar.wrap(net, pretrained=False)
    by_mask = ar.wrap(net, head="abn", pretrained=False, objectives=[ar.MapSupervision(target="mask")])
    by_edit = ar.wrap(net, head="abn", pretrained=False, objectives=[ar.MapSupervision(target="edited")])
    assert annotated(plain, items) == [True, False, True, False]
    assert annotated(by_mask, items) == [False, False, True, False]
    assert annotated(by_edit, items) == [True, False, False, False]
    by_box = ar.wrap(net, head="abn", pretrained=False, objectives=[ar.MapSupervision(target="boxes")])
    with pytest.raises(TrainingError, match="map_supervision reads boxes, and the dataset has 1 mask, 1 edited_map"):
        annotated(by_box, items)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_drawn_is_refused(tmp_path):
    def start(data, **options):
        config = TrainingConfig(output_dir=str(tmp_path), progress=False, batch_size=4, **options)
        return finetune(TinyModel(), data, config, collate=default_collate)

    with pytest.raises(TrainingError, match="annotated_per_batch needs a dataset that says .* attribute annotations"):
        start(TinyImages(8), annotated_per_batch=1)
    with pytest.raises(TrainingError, match="balance='group' needs a dataset .* attribute groups"):
        start(TinyImages(8), balance="group")
    with pytest.raises(ValueError, match="annotated_per_batch=3 takes 3 images in a step, and 2 of the 8 .* at most 2"):
        start(Marked(8), annotated_per_batch=3)
    with pytest.raises(ValueError, match="=2 for each of 1 processes x 2 slots takes 4 images .* give at most 1"):
        start(Marked(8), annotated_per_batch=2, gradient_accumulation_steps=2)
    with pytest.raises(TrainingError, match="1 of 4 images have no group, image 1 for one"):
        finetune(TinyModel(), photographs(group=["x", None, "y", "x"]), TrainingConfig(str(tmp_path), balance="group"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"annotated_per_batch": 0}, "annotated_per_batch=0 is not accepted: it must be at least 1"),
        ({"annotated_per_batch": 9, "batch_size": 8}, "annotated_per_batch=9 is more than the batch holds"),
        ({"annotated_per_batch": 2, "images_of_a_class": 2}, "images_of_a_class=2 and annotated_per_batch=2 both say"),
        ({"balance": "groups"}, "balance='groups' is not accepted: it must be one of class, group"),
    ],
)
def test_config_refuses(options, said):
    with pytest.raises(ValueError, match=said):
        TrainingConfig(**options)
