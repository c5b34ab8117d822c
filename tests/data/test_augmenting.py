"""An augmentation of one's own: what comes back as it should, and what it loses or does twice."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from attention_refine import shapes
from attention_refine.data import DataError, Transform, prepare

RECIPE = {
    "input_size": [3, 32, 32],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bilinear",
    "crop_pct": 1.0,
}
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
MASK = np.zeros((32, 32), np.uint8)
MASK[4:12, 6:20] = 1
BOX = [[6, 4, 14, 8]]


def made(augment, **more):
    return Transform(RECIPE, True, augment)(IMAGE, MASK, BOX, np.full((32, 32), 0.5, np.float32), **more)


# --- laws


@pytest.mark.parametrize(
    "augment",
    [
        v2.Identity(),
        v2.ToImage(),
        v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
        lambda sample: {**sample, "image": F.to_image(sample["image"]).as_subclass(torch.Tensor)},
        lambda sample: {**sample, "mask": sample["mask"].long() + 0, "boxes": sample["boxes"] + 0, "more": None},
        v2.ConvertBoundingBoxFormat("CXCYWH"),
    ],
    ids=["as it is", "tensor", "floats", "plain tensor", "types lost", "other boxes"],
)
def test_what_changes_nothing_gives_the_same_item(augment):
    plain, found = made("none"), made(augment)
    assert plain.keys() == found.keys()
    for name, value in plain.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value)


def test_a_mask_that_lost_its_type_is_still_one_when_it_is_resized():
    def larger(sample):
        pad = {name: F.pad(sample[name], [16]) for name in sample}
        return {**pad, "mask": pad["mask"].as_subclass(torch.Tensor)}

    found = made(larger)
    assert found["mask"].unique().tolist() == [0, 1] and found["mask"].shape == (1, 32, 32)


def test_an_augmentation_is_tried_once_and_leaves_the_generators_alone():
    calls = []

    def noisy(sample):
        calls.append(random.random() + np.random.rand() + torch.rand(()).item())
        return sample

    data = shapes.make("train", 6, size=64)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    prepare(data, RECIPE, train=True, augment=noisy)
    assert 1 <= len(calls) <= 2
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    prepare(data, RECIPE, train=False, augment=noisy)
    assert len(calls) <= 2, "not in evaluation"


# --- bad input


def nothing(sample):
    sample["image"] = F.hflip(sample["image"])


def as_array(sample):
    return {**sample, "image": np.asarray(sample["image"])}


def turned(sample):
    return {**sample, "image": sample["image"].rotate(90, expand=True).resize((20, 40))}


def other_canvas(sample):
    return {**sample, "boxes": tv_tensors.BoundingBoxes(sample["boxes"], format="XYXY", canvas_size=(64, 64))}


normalised = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.2] * 3)])
FAULTY = [
    (nothing, "the augmentation nothing returns None; it is given a dict with image, mask, boxes, edited_map"),
    (lambda sample: sample["image"], "<lambda> returns a Image; it is given a dict"),
    (lambda sample: (sample["image"], sample["mask"]), "returns a tuple"),
    (
        lambda sample: {"image": sample["image"]},
        "returns no mask, boxes, edited_map; all of image, mask, boxes, edited",
    ),
    (lambda sample: {**sample, "mask": None}, "returns no mask;"),
    (
        normalised,
        r"the augmentation Compose returns pixels from -2\.\d* to 2\.\d*; .*leave Normalize out, as it is done",
    ),
    (lambda sample: {**sample, "image": F.to_image(sample["image"]).float()}, "pixels from 0 to 255; .*divide by 255"),
    (lambda sample: {**sample, "image": F.to_image(sample["image"]).float() * torch.nan}, "pixels from nan to nan"),
    (lambda sample: {**sample, "image": F.to_image(sample["image"]).long()}, "an image of int64; it must be uint8, or"),
    (
        lambda sample: {**sample, "image": F.to_image(sample["image"]).movedim(0, -1)},
        r"shape \(32, 32, 3\); it must be \(3",
    ),
    (lambda sample: {**sample, "image": F.to_image(sample["image"])[None]}, r"shape \(1, 3, 32, 32\)"),
    (as_array, "as_array returns ndarray as image; it must be a PIL image or a tensor"),
    (lambda sample: {**sample, "mask": np.asarray(sample["mask"])}, "returns ndarray as mask; it was given a tensor"),
    (
        lambda sample: {**sample, "mask": sample["mask"] / 255},
        "returns mask of float32; it was uint8, and must stay so",
    ),
    (
        lambda sample: {**sample, "edited_map": (sample["edited_map"] * 255).byte()},
        "edited_map of uint8; it was float32",
    ),
    (turned, "turned returns mask of 32 x 32 for an image of 20 x 40: move both together"),
    (other_canvas, "boxes of a picture of 64 x 64 for an image of 32 x 32"),
]


@pytest.mark.parametrize("augment, sentence", FAULTY, ids=range(len(FAULTY)))
def test_what_an_augmentation_does_wrong_is_said(augment, sentence):
    with pytest.raises(DataError, match=sentence):
        made(augment)


@pytest.mark.parametrize("augment, sentence", [FAULTY[0], (normalised, "leave Normalize out")], ids=["None", "twice"])
def test_it_is_said_before_training_with_the_row(augment, sentence):
    sentence = sentence.replace("image, mask, boxes, edited_map", "image")
    with pytest.raises(DataError, match=f"^row 0.*{sentence}"):
        prepare(shapes.make("train", 6, size=64), RECIPE, train=True, augment=augment)


def test_an_augmentation_that_fails_is_named():
    def grey(sample):
        return sample["picture"]

    with pytest.raises(DataError, match="row 0.*: the augmentation test_.*grey fails: 'picture'"):
        prepare(shapes.make("train", 6, size=64), RECIPE, train=True, augment=grey)
    with pytest.raises(ValueError, match=r"augment is the class Identity; pass an object of it, Identity\(...\)"):
        Transform(RECIPE, True, v2.Identity)
    with pytest.raises(ValueError, match=r"is not one of default, .* a list of transforms is torchvision.*Compose"):
        Transform(RECIPE, True, [v2.RandomHorizontalFlip()])
