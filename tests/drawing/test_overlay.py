"""Overlays: sizes, scaling, colours and outlines, against values worked out by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from attention_refine.overlay import (
    COLORMAPS,
    SHADE,
    as_image,
    colours,
    contour,
    denormalize,
    legend,
    outline,
    overlay,
    scaled,
)

GREY = Image.new("RGB", (6, 4), (100, 100, 100))


def test_overlay_has_the_images_size_and_mixes_as_told():
    ramp = torch.linspace(-3, 5, 24).view(4, 6)
    whole = np.asarray(overlay(GREY, ramp, alpha=1))
    assert whole.shape == (4, 6, 3)
    expected = (colours(np.linspace(0, 1, 24).reshape(4, 6)) * 255 + 0.5).astype(np.uint8)
    assert np.abs(whole.astype(int) - expected).max() <= 1
    half = np.asarray(overlay(GREY, ramp, alpha=0.5)).astype(int)
    assert np.abs(half - (expected.astype(int) + 100) / 2).max() <= 1
    assert np.array_equal(np.asarray(overlay(GREY, ramp, alpha=0)), np.asarray(GREY))
    assert overlay(GREY, torch.rand(1, 2, 3)).size == (6, 4)


def test_scaling_is_each_maps_own_or_fixed():
    ramp = np.linspace(0.2, 0.6, 24).reshape(4, 6)
    assert scaled(ramp, (4, 6)).min() == 0 and scaled(ramp, (4, 6)).max() == 1
    np.testing.assert_allclose(scaled(ramp, (4, 6)), scaled(7 * ramp - 3, (4, 6)), atol=1e-12)
    np.testing.assert_allclose(scaled(ramp, (4, 6), "unit"), ramp)
    np.testing.assert_allclose(scaled(2 * ramp, (4, 6), "unit"), (2 * ramp).clip(0, 1))
    assert not scaled(torch.full((2, 2), 0.7), (4, 6)).any()  # constant: dark all over
    upsampled = scaled(torch.tensor([[0.0, 1.0]]), (2, 4))
    np.testing.assert_allclose(upsampled, [[0, 0.25, 0.75, 1]] * 2)


def test_colour_maps_grow_lighter():
    for name in COLORMAPS:
        luminance = colours(np.linspace(0, 1, 64), name) @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(luminance) > 0).all(), name
    assert legend().size == (256, 12)
    assert np.asarray(legend())[0, 0].sum() < np.asarray(legend())[0, -1].sum()


def test_denormalize_inverts_the_preprocessing():
    preprocessing = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    pixels = torch.randint(0, 256, (3, 5, 7)).float() / 255
    mean, std = (torch.tensor(preprocessing[key]).view(3, 1, 1) for key in ("mean", "std"))
    picture = denormalize(((pixels - mean) / std)[None], preprocessing)
    assert np.array_equal(np.asarray(picture), (pixels * 255).round().byte().permute(1, 2, 0).numpy())
    with pytest.raises(ValueError, match=r"one image \(3, H, W\), got \(2, 3, 4, 4\)"):
        denormalize(torch.zeros(2, 3, 4, 4), preprocessing)


def test_contour_is_the_rim_of_the_object():
    mask = torch.zeros(1, 8, 9, dtype=torch.uint8)
    mask[0, 2:7, 2:7] = 1
    mask[0, 0, 0] = 255  # void is no object
    rim = contour(mask, width=1)
    expected = np.zeros((8, 9), dtype=bool)
    expected[2:7, 2:7] = True
    expected[3:6, 3:6] = False
    assert np.array_equal(rim, expected)
    assert not contour(torch.ones(8, 9)).any()  # the image's border is no edge
    assert not contour(torch.zeros(8, 9)).any()
    edge = torch.zeros(6, 6)
    edge[:, :3] = 1
    assert np.array_equal(contour(edge, width=1), np.arange(6)[None].repeat(6, 0) == 2)


def test_outline_draws_on_a_copy():
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1:3, 1:4] = True
    drawn = np.asarray(outline(GREY, mask, colour=(255, 0, 0)))
    assert (drawn[1:3, 1:4] == (255, 0, 0)).all()
    assert (drawn[0, 1:4] == (20, 20, 20)).all() and (drawn[:, 5] == 100).all()
    assert (np.asarray(GREY) == 100).all()
    assert np.array_equal(np.asarray(outline(GREY, None)), np.asarray(GREY))


def test_images_in_every_form():
    array = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    for form in (array, tensor, Image.fromarray(array)):
        assert np.array_equal(np.asarray(as_image(form)), array)
    assert as_image(Image.new("L", (3, 2), 7)).mode == "RGB"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: overlay(GREY, torch.rand(2, 3), alpha=2), "alpha must be between 0 and 1, got 2"),
        (lambda: overlay(GREY, torch.rand(2, 3), colormap="jet"), "colour map 'jet' is not one of inferno"),
        (lambda: overlay(GREY, torch.rand(2, 3), scale="max"), "scale 'max' is not one of minmax, unit"),
        (lambda: overlay(GREY, torch.rand(3, 2, 3)), r"must be \(h, w\) or \(1, h, w\), got \(3, 2, 3\)"),
        (lambda: overlay(GREY, torch.tensor([[1.0, float("nan")]])), "must be finite"),
        (lambda: outline(GREY, torch.ones(6, 4)), r"a mask of \(6, 4\) does not fit an image of \(4, 6\)"),
        (lambda: as_image(np.zeros((4, 6))), r"must be \(H, W, 3\) uint8"),
        (lambda: as_image(torch.zeros(3, 4, 6, dtype=torch.uint8)), r"must be \(3, H, W\) in \[0, 1\]"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_box_holds_the_map_and_the_rest_is_shaded():
    ramp = torch.linspace(0, 1, 4).view(2, 2)
    drawn = np.asarray(overlay(GREY, ramp, box=(1.2, 0, 2.9, 3))).astype(int)
    alone = np.asarray(overlay(GREY.crop((1, 0, 3, 3)), ramp, box=(0, 0, 2, 3)))
    assert np.array_equal(drawn[0:3, 1:3], alone)
    outside = np.ones((4, 6), bool)
    outside[0:3, 1:3] = False
    assert (drawn[outside] == round(100 * SHADE)).all()
    for box in ((0, 0, 7, 4), (2, 0, 2, 4), (-1, 0, 2, 2)):
        with pytest.raises(ValueError, match="is no part of an image 6 wide and 4 high"):
            overlay(GREY, ramp, box=box)


def test_a_map_in_another_proportion_is_stretched_with_a_warning():
    photograph = Image.new("RGB", (500, 375))
    for shape in ((224, 224), (14, 14), (1, 224, 224)):
        with pytest.warns(
            UserWarning, match=r"a map of .* is stretched over an image of 500x375.*model.show\(photo\)"
        ) as said:
            overlay(photograph, torch.rand(shape))
        assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        overlay(photograph, torch.rand(7, 10))  # a grid of whole cells
        overlay(photograph, torch.rand(150, 200))
        overlay(photograph, torch.rand(14, 14), box=(60, 0, 435, 375))
