"""Measures over the volume of a clip: those of a picture, of all frames at once; no frame is near another."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from attention_refine import metrics
from attention_refine.evaluation.measures import chosen_measures, measure_maps
from attention_refine.evaluation.perturbation import perturb
from attention_refine.metrics._fills import blur
from attention_refine.metrics._volume import laid_out


def masks(frames=4, size=20):
    found = torch.zeros(2, 1, frames, size, size, dtype=torch.uint8)
    for frame in range(frames):
        found[0, 0, frame, 4:9, 2 + 3 * frame : 8 + 3 * frame] = 1
        found[1, 0, frame, 8:16, 5:12] = frame % 2
    found[1, 0, 0, :3] = 255
    return found


def test_correlation_and_overlap_are_those_of_all_voxels():
    truth = masks()
    maps = torch.rand(2, 1, 4, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sheets, laid = laid_out(maps, truth)
    assert torch.equal(metrics.mask_correlation(*laid_out(truth[:1].float(), truth[:1])), torch.ones(1))
    for i in range(2):
        known = truth[i, 0] != 255
        both = torch.stack([maps[i, 0][known], (truth[i, 0] == 1)[known].double()])
        assert metrics.mask_correlation(sheets, laid)[i].item() == pytest.approx(
            torch.corrcoef(both)[0, 1].item(), abs=1e-5
        )
        low, high = maps[i].min(), maps[i].max()
        bright = ((maps[i, 0] - low) / (high - low) > 0.5) & known
        wanted = (bright & (truth[i, 0] == 1)).sum() / (bright | (truth[i, 0] == 1)).sum()
        assert metrics.iou(sheets, laid)[i].item() == pytest.approx(wanted.item(), abs=1e-6)
        inside = maps[i, 0][truth[i, 0] == 1].sum() / maps[i, 0][known].sum()
        assert metrics.energy_inside(sheets, laid)[i].item() == pytest.approx(inside.item(), abs=1e-6)


def test_a_map_that_is_right_in_place_and_wrong_in_time_is_wrong():
    truth = masks()[1:]
    truth[truth == 255] = 0
    right, wrong = truth.float(), truth.float().flip(2)
    chosen = chosen_measures(["mask_correlation", "iou", "pointing_game", "sparsity"], 5, False)
    good, bad = (measure_maps(chosen, each, truth, None, torch.tensor([True])) for each in (right, wrong))
    assert good["iou"] == 1 and bad["iou"] == 0 and good["pointing_game"] == 1 and bad["pointing_game"] == 0
    assert bad["mask_correlation"] < 0 and good["sparsity"] == bad["sparsity"]


def test_a_peak_at_the_edge_of_a_frame_is_not_near_the_next_frame():
    truth = torch.zeros(1, 1, 2, 20, 20, dtype=torch.uint8)
    truth[0, 0, 1, :3] = 1  # the top of the second frame
    maps = torch.zeros(1, 1, 2, 20, 20)
    maps[0, 0, 0, 19, 5] = 1  # the bottom of the first
    measured = measure_maps({"pointing_game": {}}, maps, truth, None, torch.tensor([True]))
    assert measured["pointing_game"] == 0
    maps[0, 0, 1, 3, 5] = 2  # a pixel beside it in its own frame counts as a hit
    assert measure_maps({"pointing_game": {}}, maps, truth, None, torch.tensor([True]))["pointing_game"] == 1


class Mean(nn.Module):
    """Logits: the mean of the first frame's square, and of the rest, of clips (B, C, T, H, W)."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, clips):
        assert clips.ndim == 5
        square = clips[:, :, 0, :4, :4].mean((1, 2, 3))
        return self.scale * torch.stack([square, clips.mean((1, 2, 3, 4))], 1)


def test_insertion_and_deletion_take_voxels_of_all_frames_in_one_order():
    clips = torch.randn(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(1)) + 3
    maps = torch.zeros(2, 1, 3, 8, 8)
    maps[:, :, 0, :4, :4] = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(2)) + 1
    target = torch.zeros(2, dtype=torch.long)
    chosen = chosen_measures(["insertion", "deletion"], 2, False)
    _, curves = perturb(chosen, Mean().eval(), clips, maps, target, target, n_steps=12, score="logit", batch_size=4)
    removed, fractions = curves["deletion"]
    after = fractions >= 16 / (3 * 64)  # the square is the sixteen voxels that the map marks most
    assert removed[:, after].abs().max() < 1e-6 and (removed[:, 0] > 2).all()
    shown, _ = curves["insertion"]
    frames = clips.movedim(2, 1).flatten(0, 1)
    start = Mean()(blur(frames).unflatten(0, (2, 3)).movedim(1, 2))[:, 0]
    assert torch.allclose(shown[:, 0], start, atol=1e-5)
    assert torch.allclose(shown[:, -1], Mean()(clips)[:, 0], atol=1e-5)


class Moments(nn.Module):
    """Logits of clips that depend on place and moment."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(3)) / 20)

    def forward(self, clips):
        assert clips.shape[1:] == (3, 3, 8, 8)
        return torch.einsum("bcthw,kcthw->bk", clips, self.weights).sin()


def test_tubes_are_taken_out_and_put_back_in_all_frames_at_once():
    net = Moments().eval()
    clips = torch.randn(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    maps = torch.rand(2, 1, 2, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64).float()
    blurred = torch.stack([blur(clip.movedim(1, 0)).movedim(0, 1) for clip in clips])
    cases = (
        (metrics.tube_deletion, torch.zeros_like(clips), False), (metrics.tube_insertion, blurred, True),
    )  # fmt: skip
    for function, fill, shown in cases:
        found = function(net, clips, maps, target=0, n_steps=16, score="logit", batch_size=8)
        for i in range(2):  # one by one, from the definition
            order = maps[i, 0].mean(0).flatten().argsort(descending=True, stable=True)
            for point in range(17):
                chosen = torch.zeros(64, dtype=torch.bool)
                chosen[order[: 4 * point]] = True
                made = torch.where(chosen.view(8, 8) == shown, clips[i], fill[i])
                assert found.curve[i, point].item() == pytest.approx(net(made[None])[0, 0].item(), abs=1e-5)


def test_a_tube_of_a_picture_is_a_pixel_and_a_fill_of_clips_is_one_of_clips():
    images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 8, 8)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    pairs = ((metrics.tube_deletion, metrics.deletion), (metrics.tube_insertion, metrics.insertion))
    for tubes, pixels in pairs:
        found, wanted = (each(net, images, maps, n_steps=4, batch_size=4) for each in (tubes, pixels))
        assert torch.equal(found.curve, wanted.curve)
    clips, maps = torch.rand(2, 3, 3, 8, 8), torch.rand(2, 1, 1, 8, 8)
    colour = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1, 1)
    by_colour, by_clip = (
        metrics.tube_deletion(Moments(), clips, maps, baseline=fill, n_steps=4, batch_size=4).curve
        for fill in (colour, colour.expand_as(clips))
    )
    assert torch.equal(by_colour, by_clip)
    with pytest.raises(ValueError, match=r"give a colour as \(1, C, 1, 1, 1\)"):
        metrics.tube_deletion(Moments(), clips, maps, baseline=colour[..., 0])
    with pytest.raises(ValueError, match=r"maps of clips must have shape \(B, 1, t, h, w\)"):
        metrics.tube_insertion(Moments(), clips, maps[:, :, 0])


def test_an_evaluation_of_clips_takes_tubes_beside_voxels():
    clips = torch.randn(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    maps = torch.rand(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    target = torch.zeros(2, dtype=torch.long)
    net, options = Moments().eval(), {"n_steps": 8, "score": "logit", "batch_size": 4}
    chosen = chosen_measures(["tube_deletion", "tube_insertion", "deletion", "insertion"], 2, False)
    values, curves = perturb(chosen, net, clips, maps, target, target, **options)
    for name in ("tube_deletion", "tube_insertion"):
        alone = getattr(metrics, name)(net, clips, maps, target, **options)
        assert torch.equal(values[name], alone.auc) and torch.equal(curves[name][0], alone.curve)
        assert not torch.equal(values[name], values[name.removeprefix("tube_")])
