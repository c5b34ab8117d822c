"""Masks of 0 and 255: refused where 255 would silently be void, NaN where an image's object was cut off."""

from __future__ import annotations

import pytest
import torch

from attention_refine import metrics
from attention_refine.evaluation.measures import chosen_measures, measure_maps
from attention_refine.metrics.ground_truth import measurable

MEASURES = ("iou", "mask_correlation", "energy_inside", "pointing_game")


def maps_and_masks():
    torch.manual_seed(0)
    mask = torch.zeros(3, 1, 16, 16, dtype=torch.uint8)
    mask[:, :, 4:9, 5:12] = 1
    return torch.rand(3, 1, 4, 4), mask


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
def test_masks_of_0_and_255_are_refused_and_others_mean_the_same_in_every_type(name, dtype):
    maps, mask = maps_and_masks()
    measure = getattr(metrics, name)
    with pytest.raises(ValueError, match="hold 0 and 255 alone.*give mask == 255"):
        measure(maps, (mask.long() * 255).to(dtype))
    expected = measure(maps, mask)
    assert expected.isfinite().all()
    assert torch.equal(measure(maps, mask.to(dtype)), expected)
    assert torch.equal(measure(maps, mask == 1), expected) and torch.equal(measure(maps, mask * 255 == 255), expected)


def test_void_stays_possible():
    maps, mask = maps_and_masks()
    mask[0, :, 0] = 255
    assert metrics.iou(maps, mask).isfinite().all()
    mask[1] = 255
    mask[2] = 0
    mask[2, :, 3] = 255  # no object, and another image of the batch has one
    assert metrics.iou(maps, mask).isfinite().tolist() == [True, False, False]
    assert metrics.iou(maps, torch.full_like(mask, 255)).isnan().all()


def test_an_object_that_a_crop_cut_off_leaves_no_truth_and_no_error():
    maps, mask = maps_and_masks()
    mask[:] = 0
    mask[:, :, 3] = 255
    assert not measurable(mask).any()
    chosen = chosen_measures(["iou", "mask_correlation"], 3, False)
    found = measure_maps(chosen, maps, mask, None, torch.ones(3, dtype=torch.bool))
    assert all(values.isnan().all() for values in found.values())
