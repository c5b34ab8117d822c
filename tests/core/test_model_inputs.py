"""Usual mistakes in calling a model, each with the sentence that mends it; right calls pass without a word."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cases import BY_NAME
from PIL import Image

import attention_refine as ar

CASE = BY_NAME["resnet18"]
LABELS = torch.tensor([0, 3, 1])


@pytest.fixture(scope="module")
def model() -> ar.RefinedModel:
    return CASE.wrap(objectives=[ar.MapSupervision(target="mask")])


def said(call) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    assert all(warning.filename == __file__ for warning in found)
    return [str(warning.message) for warning in found]


@pytest.mark.parametrize(
    "given, kind",
    [
        ("photo.jpg", "str 'photo.jpg'"),
        (Image.new("RGB", (64, 64)), "Image"),
        ([Image.new("RGB", (64, 64))], "list"),
        (["a.jpg", "b.jpg"], r"list \['a.jpg', 'b.jpg'\]"),
        (np.zeros((1, 3, 64, 64), np.float32), "ndarray"),
    ],
    ids=["path", "picture", "pictures", "paths", "array"],
)
def test_photographs_in_place_of_pixels(model, given, kind):
    with pytest.raises(TypeError, match=rf"pixel_values \(B, 3, H, W\), got .*{kind}.*model.preprocess.*model.show"):
        model(given)


def test_whole_numbers_and_a_single_image(model):
    with pytest.raises(TypeError, match="pixel_values are torch.uint8.*model.preprocess"):
        model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"\(3, 64, 64\) are one image without a batch; pass pixel_values\[None\]"):
        model(torch.zeros(3, 64, 64))


@pytest.mark.parametrize(
    "shape, sentence",
    [
        (
            (2, 64, 64, 3),
            r"\(2, 64, 64, 3\), and the model takes \(B, 3, H, W\): put the channels first, pixel_values.movedim",
        ),
        ((2, 1, 64, 64), r"takes \(B, 3, H, W\): model.preprocess\(photo\) makes them"),
        ((2, 1, 3, 64, 64), r"of shape \(2, 1, 3, 64, 64\)"),
        ((64, 64), r"of shape \(64, 64\)"),
    ],
)
def test_pixels_of_another_shape(model, shape, sentence):
    with pytest.raises(ValueError, match=sentence):
        model(torch.zeros(shape))


def test_pixels_of_0_to_255_are_said_once_a_model():
    model, pixels = CASE.wrap(), 255 * torch.rand(2, 3, 64, 64)
    (one,) = said(lambda: model(pixels))
    assert "pixel_values reach 25" in one and "seem to be 0 to 255" in one and "model.preprocess(photo)" in one
    assert said(lambda: model(pixels)) == []
    assert said(lambda: CASE.wrap()(CASE.images() * 3)) == []


def test_labels_that_are_no_tensor(model):
    with pytest.raises(
        TypeError, match=r"list \['Bengal'\]; pass .*model.labels.index.*'Bengal' is none of.*: 0, 1, 2, 3, 4"
    ):
        model(CASE.images(1), labels=["Bengal"])
    with pytest.raises(TypeError, match=r"pass torch.tensor\(\[0, 3, 1\]\)"):
        model(CASE.images(), labels=[0, 3, 1])
    with pytest.raises(TypeError, match=r"got int 3; pass torch.tensor\(\[3\]\)"):
        model(CASE.images(1), labels=3)
    with pytest.raises(TypeError, match="model.labels.index"):
        model(CASE.images(1), labels=["3"])
    with pytest.raises(ValueError, match=r"class indices \(3,\) or multi-hot \(3, 5\), got torch.int64 \(2,\)"):
        model(CASE.images(3), labels=LABELS[:2])


def test_maps_of_0_to_255(model):
    with pytest.raises(ValueError, match=r"maps lie in \[0, 1\], these reach from 0 to 255; divide by 255"):
        model(CASE.images(), maps=torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(3, 1, 2, 2))
    with pytest.raises(ValueError, match=r"from -1 to 1; scale them with ar.maps.normalize"):
        model(CASE.images(), maps=torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2).expand(3, 1, 2, 2))
    ranked = CASE.wrap(ar.BRNPA(parts=2))  # whose maps have no scale
    ranked(CASE.images(), maps=torch.full((3, 1, 2, 2), 255.0))


def test_a_column_that_nothing_reads_is_named_with_the_word_that_was_meant(model):
    images, mask = CASE.images(), torch.ones(3, 1, 64, 64, dtype=torch.uint8)
    (one,) = said(lambda: model(images, labels=LABELS, masks=mask))
    assert "model(..., masks=...) is read by nothing" in one and "did you mean 'mask'?" in one
    (one,) = said(lambda: model(images, label=LABELS))
    assert "did you mean 'labels'?" in one
    (one,) = said(lambda: model(images, weather=mask))
    assert "columns that are read: boxes, cue, edited" in one
    assert said(lambda: model(images, labels=LABELS, mask=mask, index=torch.arange(3), update=0)) == []
    assert said(lambda: model(images, mask=mask)) == []  # of the library's own, in inference


def test_a_column_of_ones_own_that_an_objective_reads_is_no_mistake():
    @dataclass(frozen=True)
    class NightConfig:
        weight: float = 1.0

    class Night(ar.Objective):
        name = "night"
        config_class = NightConfig

        def prepare(self, model, batch):
            return {**batch, "prepared": 1}

        def forward(self, model, batch, output):
            return {"night": output.logits.mean() * batch["weather"].float().mean()}

    model = CASE.wrap(objectives=[Night()])
    assert said(lambda: model(CASE.images(), labels=LABELS, weather=torch.ones(3))) == []
    (one,) = said(lambda: model(CASE.images(), labels=LABELS, weather=torch.ones(3), wether=torch.ones(3)))
    assert "wether" in one


def test_one_image_under_batch_norm_in_training():
    model = CASE.wrap().train()
    with pytest.raises(ValueError, match="a batch of one image .* no statistics in training: take two images or more"):
        model(torch.randn(1, 3, 32, 32), labels=LABELS[:1])  # one location at the end
    assert model(torch.randn(2, 3, 32, 32), labels=LABELS[:2]).loss.isfinite()
    assert model(CASE.images(1), labels=LABELS[:1]).loss.isfinite()
    assert model.eval()(torch.randn(1, 3, 32, 32), labels=LABELS[:1]).loss.isfinite()


@pytest.mark.parametrize("objective", ["map_supervision", "mining", "guided_inference", "consistency"])
def test_objectives_that_take_a_gradient_in_inference_mode(objective):
    model = CASE.wrap(None, objectives=[objective])
    columns = {"labels": LABELS, "mask": torch.ones(3, 1, 64, 64, dtype=torch.uint8)}
    with torch.no_grad():
        wanted = model(CASE.images(), **columns)
    with torch.inference_mode():
        with pytest.raises(RuntimeError, match=r"one of them takes a gradient\. Use torch\.no_grad\(\)"):
            model(CASE.images(), **columns)
        assert torch.equal(model(CASE.images()).logits, wanted.logits)
