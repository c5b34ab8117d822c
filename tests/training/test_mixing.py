"""Mixup and cutmix: off to the bit, masks cut by hand, timm's boxes and soft labels, resumed, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import timm.data.mixup
import torch
from strategy_runs import make_model
from torch.nn import functional
from training_runs import TinyModel, assert_same, largest_difference, last_weights, train

import attention_refine as ar
from attention_refine.training import TrainingConfig, TrainingError
from attention_refine.training.mixing import Mix, check_mixing, cut_box, draw, mixed, mixed_parts
from attention_refine.training.strategies import Part

BOTH = {"mixup_alpha": 0.4, "cutmix_alpha": 1.0, "evaluated": False}


def batch_of(count: int = 3) -> dict:
    """Of image n every pixel, mask and cue says n; maps say n / 10."""
    rows = torch.arange(count)
    plane = rows.reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    return {
        "pixel_values": plane.expand(-1, 3, -1, -1).float(), "labels": rows, "index": rows,
        "mask": plane.to(torch.uint8).clone(), "cue": plane.to(torch.uint8).clone(), "edited_map": plane / 10,
        "edited": torch.tensor([True, True, True, False][:count]), "boxes": [torch.zeros(1, 4)] * count,
        "mask_confidence": rows.float(),
    }  # fmt: skip


# --- laws ------------------------------------------------------------------------------------------------------------


def test_off_is_off_to_the_bit(tmp_path):
    train(tmp_path / "plain", evaluated=False)
    train(tmp_path / "never", **BOTH, mixup_prob=0.0)
    train(tmp_path / "mixed", **BOTH)
    assert_same(last_weights(tmp_path / "never"), last_weights(tmp_path / "plain"))
    assert largest_difference(last_weights(tmp_path / "mixed"), last_weights(tmp_path / "plain")) > 1e-3
    part = Part([batch_of()], 3)
    assert mixed_parts([part], TrainingConfig(), 0, 0) == [part]


def test_resumed_it_is_the_same_to_the_bit(tmp_path):
    train(tmp_path / "whole", **BOTH, save_every_steps=4, keep_last=9)
    shutil.copytree(
        tmp_path / "whole" / "checkpoints" / "step-00000008", tmp_path / "again" / "checkpoints" / "step-00000008"
    )
    train(tmp_path / "again", **BOTH, save_every_steps=4, keep_last=9, resume=True)
    assert_same(last_weights(tmp_path / "again"), last_weights(tmp_path / "whole"))


@pytest.mark.parametrize("clips", [False, True])
def test_everything_that_is_of_places_is_cut_alike(clips):
    batch = batch_of(4)
    if clips:
        for name in ("pixel_values", "mask", "cue", "edited_map"):
            batch[name] = batch[name][:, :, None].expand(-1, -1, 2, -1, -1)
    made = mixed(batch, Mix(2 / 16, (1, 2, 1, 3)))
    plane = torch.tensor([[0, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    by_hand = torch.stack([plane, 1 - plane, 2 + plane, 3 - plane])
    for name, scale in (("pixel_values", 1), ("mask", 1), ("cue", 1), ("edited_map", 0.1)):
        expected = (by_hand * scale).reshape(4, 1, *([1] if clips else []), 4, 4).expand_as(batch[name])
        torch.testing.assert_close(made[name], expected.to(batch[name].dtype))
    assert made["edited"].tolist() == [True, True, False, False]
    torch.testing.assert_close(made["mask_confidence"], torch.tensor([0.125, 0.875, 2.125, 2.875]))
    assert made["mixed_classes"].tolist() == [1, 0, 3, 2] and made["mixed_share"] == 0.125
    assert "boxes" not in made and torch.equal(made["index"], batch["index"])
    assert torch.equal(batch["mask"][0], torch.zeros_like(batch["mask"][0])), "the batch itself stays as it was"


def test_mixup_lays_one_over_the_other_and_the_last_of_an_odd_number_stays():
    made = mixed(batch_of(3), Mix(0.25))
    assert made["pixel_values"][:, 0, 0, 0].tolist() == [0.25, 0.75, 2.0]
    assert made["mixed_classes"].tolist() == [1, 0, 2]
    assert made.keys() == {"pixel_values", "labels", "index", "mixed_classes", "mixed_share"}


# --- oracles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.97, 1.0])
def test_the_box_is_timms(share, monkeypatch):
    for centre in ((0, 0), (13, 2), (6, 19), (3, 10)):
        drawn = iter(centre)
        monkeypatch.setattr(np.random, "randint", lambda low, high, size=None, drawn=drawn: next(drawn))
        assert cut_box((14, 20), share, centre) == timm.data.mixup.rand_bbox((3, 14, 20), 1 - share)


@pytest.mark.parametrize("several", [False, True])
def test_the_loss_is_that_of_timms_soft_labels(several):
    model = ar.wrap(make_model(given=()).backbone.net, "abn", preprocessing={"input_size": [3, 32, 32]}).eval()
    labels = torch.tensor([0, 2, 1, 1])
    if several:
        labels = functional.one_hot(labels, 3).float()
    batch = mixed({"pixel_values": torch.randn(4, 3, 32, 32), "labels": labels}, Mix(0.3))
    output = model(**batch, smoothing=0.1)
    pairs = {"num_classes": 3, "lam": 0.7, "smoothing": 0.1}
    order = torch.tensor([0, 2, 3, 1])  # timm's neighbour is the image as far from the end
    soft = timm.data.mixup.mixup_target(labels[order], **pairs, multi_label=several)[order.argsort()]
    task = functional.binary_cross_entropy_with_logits if several else functional.cross_entropy
    expected = {"task": task(output.logits, soft)}
    expected |= {name: task(logits, soft) for name, logits in output.aux_logits.items()}
    assert len(expected) == 2
    for name, value in expected.items():
        torch.testing.assert_close(output.losses[name], value)


def test_what_is_drawn():
    """The mean of Beta(a, a) is a half, its variance 1 / (4 (2 a + 1)); a box has the share of what of it is inside."""
    config = TrainingConfig(mixup_alpha=0.4, cutmix_alpha=1.0, mixup_prob=0.8, mixup_switch_prob=0.3)
    drawn = [draw(config, 0, step, (16, 16)) for step in range(4000)]
    there = [mix for mix in drawn if mix is not None]
    cut = [mix for mix in there if mix.box]
    assert len(there) / 4000 == pytest.approx(0.8, abs=0.03) and len(cut) / len(there) == pytest.approx(0.3, abs=0.03)
    shares = np.array([mix.share for mix in there if not mix.box])
    assert (shares.mean(), shares.var()) == (pytest.approx(0.5, abs=0.03), pytest.approx(1 / 7.2, abs=0.01))
    for top, bottom, left, right in (mix.box for mix in cut):
        assert 0 <= top <= bottom <= 16 and 0 <= left <= right <= 16
    assert all(mix.share == (mix.box[1] - mix.box[0]) * (mix.box[3] - mix.box[2]) / 256 for mix in cut)
    assert drawn[7] == draw(config, 0, 7, (16, 16)) != draw(config, 1, 7, (16, 16))


def test_a_supervised_map_sees_the_cut_mask():
    model = ar.wrap("test_resnet", "abn", [ar.MapSupervision(norm="l2")], pretrained=False, num_labels=3,
                    preprocessing={"input_size": [3, 64, 64]}).eval()  # fmt: skip
    mask = torch.zeros(2, 1, 64, 64, dtype=torch.uint8)
    mask[0] = 255  # nobody said where this image's object is
    mask[1, :, :32] = 1
    batch = {"pixel_values": torch.randn(2, 3, 64, 64), "labels": torch.tensor([0, 1]), "mask": mask}
    made = mixed(batch, Mix(0.5, (0, 32, 0, 64)))
    output = model(**made)
    maps = output.maps.double()
    known = maps.shape[2] // 2
    first, second = (maps[0, 0, :known] - 1).square().sum().sqrt(), maps[1, 0, known:].square().sum().sqrt()
    torch.testing.assert_close(output.losses["map_supervision"].double(), (first + second) / 2, rtol=1e-4, atol=1e-5)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_what_has_no_meaning_is_refused(tmp_path):
    def wrapped(*objectives):
        options = {"pretrained": False, "num_labels": 3, "preprocessing": {"input_size": [3, 64, 64]}}
        return ar.wrap("test_resnet", "abn", objectives, **options)

    mixup, cutmix = TrainingConfig(mixup_alpha=0.2), TrainingConfig(cutmix_alpha=1.0)
    supervised = wrapped(ar.MapSupervision())
    with pytest.raises(
        TrainingError, match=r"mixup_alpha=0\.2 does not go with map_supervision: it reads mask, .* Use cutmix"
    ):
        check_mixing(supervised, mixup)
    check_mixing(supervised, cutmix)
    check_mixing(wrapped(ar.AttentionConsistency()), mixup)
    with pytest.raises(TrainingError, match="it reads boxes, .* Use target='mask'"):
        check_mixing(wrapped(ar.MapSupervision(target="boxes")), cutmix)
    for objective, reads in ((ar.AttentionMining(), "the class of an image"), (ar.ContrastivePretraining(), "views")):
        with pytest.raises(
            TrainingError, match=f"cutmix_alpha=1.0 does not go with {objective.name}: it reads {reads}"
        ):
            check_mixing(wrapped(objective), cutmix)
    with pytest.raises(TrainingError, match="strategy='finetune' takes no labels"):
        check_mixing(wrapped(ar.AttentionConsistency()), TrainingConfig(mixup_alpha=0.2, strategy="finetune"))

    class Plain(TinyModel):
        def forward(self, pixel_values, labels=None):
            return super().forward(pixel_values, labels)

    with pytest.raises(TrainingError, match=r"Plain\.forward takes no mixed_classes"):
        check_mixing(Plain(), mixup)
    coarse = batch_of(2) | {"mask": torch.zeros(2, 1, 2, 2, dtype=torch.uint8)}
    with pytest.raises(TrainingError, match=r"masks, and these are \(2, 2\) beside images of \(4, 4\)"):
        mixed(coarse, Mix(0.5, (0, 2, 0, 4)))
    for bad in ({"mixup_alpha": -1.0}, {"mixup_prob": 1.5}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            TrainingConfig(**bad)
    with pytest.raises(ValueError, match="with batch_size=1 it has none of another class"):
        TrainingConfig(mixup_alpha=0.2, batch_size=1)
    with pytest.raises(ValueError, match="with images_of_a_class=2 it has none"):
        TrainingConfig(cutmix_alpha=0.2, images_of_a_class=2)
