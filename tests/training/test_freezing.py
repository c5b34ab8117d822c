"""Freezing for the first epochs: frozen as for good until then, learning from there on, resumed to the bit."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file
from training_runs import TinyImages, TinyModel, assert_same, last_weights, train

from attention_refine.training import TrainingConfig, TrainingError, finetune

STEPS = 6  # of an epoch: 22 images in batches of 4
RUN = {"freeze_backbone": True, "evaluated": False, "ema_decay": 0.9, "save_every_steps": 2, "keep_last": 99}


def checkpoint(folder, step, file="model"):
    return load_file(str(folder / "checkpoints" / f"step-{step:08d}" / f"{file}.safetensors"))


@pytest.fixture(scope="module")
def thawed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thawed")
    train(folder, unfreeze_after_epochs=1, **RUN)
    return folder


def test_until_then_it_is_the_frozen_run_and_afterwards_all_learns(thawed, tmp_path):
    train(tmp_path, **RUN)
    assert_same(checkpoint(thawed, STEPS), checkpoint(tmp_path, STEPS))
    before, after = checkpoint(thawed, STEPS), checkpoint(thawed, 2 * STEPS)
    assert {name for name in before if torch.equal(before[name], after[name])} == set()
    frozen = checkpoint(tmp_path, 2 * STEPS)
    assert torch.equal(frozen["backbone.0.weight"], before["backbone.0.weight"])
    average = checkpoint(thawed, 3 * STEPS, "average")
    assert average.keys() >= {"backbone.0.weight", "head.weight"}
    assert not torch.equal(average["backbone.0.weight"], before["backbone.0.weight"])


def test_the_optimiser_counts_from_the_thaw(thawed):
    steps = {name: int(value) for name, value in checkpoint(thawed, 2 * STEPS, "optimizer").items() if ".step" in name}
    assert sorted(steps.values()) == [STEPS] * 4 + [2 * STEPS] * 4  # the backbone's four, head and classifier
    assert len([name for name in checkpoint(thawed, STEPS, "optimizer") if ".step" in name]) == 4


@pytest.mark.parametrize("step", [2, STEPS, 10])  # frozen, at the thaw, after it
def test_resumed_it_is_the_same_to_the_bit(step, thawed, tmp_path):
    name = f"step-{step:08d}"
    shutil.copytree(thawed / "checkpoints" / name, tmp_path / "checkpoints" / name)
    train(tmp_path, unfreeze_after_epochs=1, resume=True, **RUN)
    assert_same(last_weights(tmp_path), last_weights(thawed))
    assert_same(checkpoint(tmp_path, 3 * STEPS, "optimizer"), checkpoint(thawed, 3 * STEPS, "optimizer"))


def test_batch_statistics_stay_where_that_is_asked_for_by_itself(tmp_path):
    torch.manual_seed(3)
    start = TinyModel("batch").backbone[1].running_mean.clone()
    model, _ = train(tmp_path / "kept", unfreeze_after_epochs=1, freeze_batch_norm=True, **RUN)
    assert torch.equal(model.backbone[1].running_mean, start)
    assert all(parameter.requires_grad for parameter in model.parameters()), "as before the run"


def test_what_has_no_meaning_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unfreeze_after_epochs=1 ends what nothing begins"):
        TrainingConfig(unfreeze_after_epochs=1)
    with pytest.raises(ValueError, match="unfreeze_after_epochs=3 is not before the end, epochs=3"):
        TrainingConfig(freeze_backbone=True, unfreeze_after_epochs=3, epochs=3)
    model = TinyModel()
    model.head.requires_grad_(False)
    model.classifier.requires_grad_(False)
    config = TrainingConfig(output_dir=str(tmp_path), freeze_backbone=True, unfreeze_after_epochs=1, progress=False)
    with pytest.raises(TrainingError, match="no parameter to train: with freeze_backbone=True"):
        finetune(model, TinyImages(8), config, collate=torch.utils.data.default_collate)
    assert all(parameter.requires_grad for parameter in model.backbone.parameters())
