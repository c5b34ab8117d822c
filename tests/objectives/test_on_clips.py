"""DARC and transplanted objects on clips: tubes are hidden, and objects stand on other clips, frame by frame."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

import attention_refine as ar
from attention_refine.objectives.darc.rectangles import drawn_from_pixels, rectangles
from attention_refine.objectives.darc.refinement import refine
from attention_refine.objectives.transplant import Transplant, regions

LABELS = torch.tensor([1, 2])
FRAMES, SIDE = 8, 32


class SmallVideo(nn.Module):
    """``(B, 3, T, H, W)`` to logits; the site's cells stand for 2 frames and 2 pixels a side."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(3, 6, 3, stride=2, padding=1), nn.BatchNorm3d(6), nn.GELU())
        self.last = nn.Sequential(nn.Conv3d(6, 8, 3, padding=1), nn.GELU())
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.last(self.first(x)).mean((2, 3, 4)))


@functools.cache
def base(head: bool) -> ar.RefinedModel:
    torch.manual_seed(0)
    branch = ar.AttentionBranch(fade_in_steps=0, branch="light", map_init="normal", site="first") if head else None
    return ar.wrap(SmallVideo().eval(), branch, preprocessing={"input_size": [3, FRAMES, SIDE, SIDE]}).eval()


def wrap(objective: ar.objectives.Objective, head: bool = True) -> ar.RefinedModel:
    model = copy.deepcopy(base(head))
    model.add_objective(objective)
    return model


def clips(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def darc(**options) -> ar.DARC:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return ar.DARC(**{"width": 16, "min_cells": 1.0, "iterations": 2, **options})


def rounds(model: ar.RefinedModel, pixels: torch.Tensor, labels: torch.Tensor = LABELS):
    batch = {"pixel_values": pixels, "labels": labels}
    return model.objectives["darc"].rounds(model, batch, model.resume(model.backbone.features(pixels)))


# a tube is hidden ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["random", "strong"])
@pytest.mark.parametrize("decoder", ["transposed", "shuffle"])
def test_darc_is_its_equations_frame_by_frame_in_float64(sampling, decoder):
    model = wrap(darc(sampling=sampling, decoder=decoder)).double()
    objective, net, pixels = model.objectives["darc"], model.backbone.net, clips().double()
    total = 0.0
    for x in pixels:
        a = model.head(net.first(x[None]))[1][0]
        for i in range(2):
            numbers = drawn_from_pixels(x[None], 1, 0, 0, i)
            still = sum(a.detach()[None, :, moment] for moment in range(4)) / 4
            sides = objective.occlusion.sides((SIDE, SIDE))
            ((left, top, right, bottom),) = rectangles(
                numbers, (SIDE, SIDE), *sides, maps=still, sampling=sampling
            )[0].tolist()  # fmt: skip
            seen = x.clone()
            for frame in range(FRAMES):
                seen[:, frame, top:bottom, left:right] = 0
            feature = net.first(seen[None])[0]
            a = 0.5 * a.detach() + 0.5 * model.head(feature[None])[1][0]
            for frame in range(FRAMES):
                moment, which = divmod(frame, 2)
                pictures = objective.decoder.decoder((feature * (1 + a))[None, :, moment], (SIDE, SIDE))[0]
                hidden = slice(top, bottom), slice(left, right)
                for colour in range(3):
                    apart = pictures[2 * colour + which][hidden] - x[colour, frame][hidden]
                    total = total + apart.square().mean() / (3 * FRAMES * 2 * 2)
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(total, parameters, allow_unused=True)
    loss = model(pixels, labels=LABELS).losses["darc"]
    torch.testing.assert_close(loss, total, rtol=0, atol=1e-12)
    for mine, theirs in zip(torch.autograd.grad(loss, parameters, allow_unused=True), wanted):
        assert (mine is None) == (theirs is None)
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("head", [True, False], ids=["abn", "headless"])
def test_what_a_tube_hides_is_hidden_in_every_frame_and_not_seen(head):
    model, pixels = wrap(darc(seed=3), head), clips()
    found = rounds(model, pixels)
    assert found.hidden.shape == (2, 2, 1, FRAMES, SIDE, SIDE) and found.reconstruction.shape == (
        2,
        2,
        *pixels.shape[1:],
    )
    assert (found.hidden == found.hidden[:, :, :, :1]).all() and found.hidden.any() and not found.hidden.all()
    assert not torch.equal(found.hidden[0], found.hidden[1])
    hidden, other = found.hidden[0], pixels.clone()
    other[hidden.expand_as(pixels)] = 7.0
    batch = {"labels": LABELS, "darc_holes": found.hidden.transpose(0, 1), "darc_map": found.maps[0]}
    whole, changed = (
        model.objectives["darc"].rounds(
            model, {**batch, "pixel_values": each}, model.resume(model.backbone.features(each))
        )
        for each in (pixels, other)
    )
    assert torch.equal(whole.reconstruction[0], changed.reconstruction[0])
    assert not torch.equal(whole.errors[0], changed.errors[0])


@torch.no_grad()
@pytest.mark.parametrize("head", [True, False], ids=["abn", "headless"])
@pytest.mark.parametrize("options", [{}, {"sampling": "weak"}, {"perceptual_weight": 1.0}], ids=str)
def test_clips_of_a_batch_do_not_know_of_each_other(head, options):
    model, pixels = wrap(darc(**options), head), clips()
    batched = model(pixels, labels=LABELS).losses
    single = [model(x[None], labels=y[None]).losses for x, y in zip(pixels, LABELS)]
    for name in ("darc", *(["darc_perceptual"] if "perceptual_weight" in options else [])):
        torch.testing.assert_close(batched[name], torch.stack([each[name] for each in single]).mean())


def test_a_class_for_each_map_and_regions_of_clips_told_apart():
    branch = ar.AttentionBranch(fade_in_steps=0, branch="light", maps="per_class", map_init="normal", site="first")
    torch.manual_seed(0)
    model = ar.wrap(SmallVideo().eval(), branch, preprocessing={"input_size": [3, FRAMES, SIDE, SIDE]})
    model.add_objective(darc(contrast_weight=1.0))
    losses = model.train()(clips(), labels=LABELS).losses
    (losses["darc"] + losses["darc_contrast"]).backward()
    assert losses["darc_contrast"] > 0 and all(p.grad.isfinite().all() for p in model.objectives.parameters())


def test_the_first_tube_may_be_in_the_tasks_own_pass_and_a_clip_is_refined_at_test_time():
    model = wrap(darc(task="occluded"))
    assert model.train()(clips(), labels=LABELS).losses["darc"] > 0
    refined = refine(wrap(darc()), clips(), steps=1)
    assert refined.maps.shape == (2, 1, 4, 16, 16) and all(after <= before for before, after in refined.losses)


def test_class_attention_of_clips_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"source='class_attention' is of images.*use source='grad_cam' or a head"):
        wrap(darc(source="class_attention"))


# an object on another clip -------------------------------------------------------------------------------------------


def masks() -> torch.Tensor:
    """A rectangle that moves, of another size in each clip."""
    made = torch.zeros(2, 1, FRAMES, SIDE, SIDE, dtype=torch.uint8)
    for frame in range(FRAMES):
        made[0, 0, frame, 3:14, 2 + frame : 12 + frame] = 1
        made[1, 0, frame, 20 - frame : 28 - frame, 16:30] = 1
    return made


def copies(batch: dict, **options):
    made = Transplant(**options)
    region = regions(batch, made.config.target, made.config.threshold, made.config.cues != "left")
    return made._copies(batch, region, torch.tensor([0, 1]), torch.tensor([1, 0]))


@pytest.mark.parametrize("cover", ["smooth", "mirror"])
def test_a_copy_of_a_clip_is_that_of_its_frames(cover):
    """Object, soft edge, covered object and exchanged cue: every frame is what an image of its own would be."""
    cue = torch.zeros(2, 1, FRAMES, SIDE, SIDE, dtype=torch.uint8)
    cue[0, 0, :, 26:30, 4:8], cue[1, 0, :, 2:5, 26:30] = 1, 1
    batch = {"pixel_values": clips(), "labels": LABELS, "mask": masks(), "cue": cue}
    made, _ = copies(batch, cover=cover)
    for frame in range(FRAMES):
        alone = {name: value[:, :, frame] if value.ndim == 5 else value for name, value in batch.items()}
        wanted, _ = copies(alone, cover=cover)
        for name in ("pixel_values", "mask", "cue"):
            assert torch.equal(made[name][:, :, frame], wanted[name]), (name, frame)
    assert torch.equal(made["labels"], LABELS)


def test_where_the_object_is_away_the_place_is_all_there_is():
    mask = masks()
    mask[0, 0, 3] = 0
    made, _ = copies({"pixel_values": clips(), "labels": LABELS, "mask": mask}, cover="none", feather=0)
    pixels = clips()
    assert torch.equal(made["pixel_values"][0], torch.where(mask[0] == 1, pixels[0], pixels[1]))
    assert torch.equal(made["pixel_values"][0, :, 3], pixels[1, :, 3])


def test_all_frames_move_alike_and_the_object_stays_inside():
    torch.manual_seed(0)
    seen = set()
    for _ in range(20):
        made, by = copies(
            {"pixel_values": clips(), "labels": LABELS, "mask": masks()}, move=1.0, cover="none", feather=0
        )
        seen.add(tuple(by[0].tolist()))
        for i in range(2):
            assert torch.equal(made["mask"][i], masks()[i].roll(by[i].tolist(), (2, 3)))
            assert made["mask"][i].sum() == masks()[i].sum()
            moved = clips()[i].roll(by[i].tolist(), (2, 3))
            there = (made["mask"][i] == 1).expand_as(moved)
            assert torch.equal(made["pixel_values"][i][there], moved[there])
    assert len(seen) > 10


def test_one_drawing_serves_all_frames():
    drawn = torch.zeros(2, 1, SIDE, SIDE)
    drawn[:, :, 5:15, 5:20] = 1
    still, _ = copies({"pixel_values": clips(), "labels": LABELS, "edited_map": drawn})
    moving = drawn[:, :, None].expand(-1, -1, FRAMES, -1, -1)
    every, _ = copies({"pixel_values": clips(), "labels": LABELS, "edited_map": moving})
    assert torch.equal(still["pixel_values"], every["pixel_values"])
    assert still["edited_map"].shape == drawn.shape and every["edited_map"].shape == moving.shape


@pytest.mark.parametrize(
    "options", [{}, {"replace": True}, {"map_agreement": 1.0, "prediction_agreement": 1.0}], ids=str
)
@pytest.mark.parametrize("head", [True, False], ids=["abn", "headless"])
def test_clips_with_masks_train(head, options):
    model = wrap(Transplant(**options), head).train()
    torch.manual_seed(0)
    output = model(clips(), labels=LABELS, mask=masks())
    output.loss.backward()
    assert output.measures["transplant_copies"] == 1
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    if not options:
        assert output.losses["transplant"] > 0
