"""DARC in training: the paper's loop, with an update in every iteration, and a run broken off in it."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from refining_runs import Clicked, keep_statistics, model, train, weights
from torch import nn

import attention_refine as ar

RATE = 1e-4


def made(head: bool = True, **options) -> ar.RefinedModel:
    """A small ResNet in which no norm looks at other images."""
    trained = model("darc", head, **options)
    if head:
        trained.head.register_forward_pre_hook(keep_statistics)
    return trained


def a_copy(trained: ar.RefinedModel) -> ar.RefinedModel:
    """As ``finetune`` trains it."""
    other = copy.deepcopy(trained).train()
    for module in other.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return other


def pixels_and_labels(count: int):
    items = [Clicked(count, noise=0.0)[row] for row in range(count)]
    return torch.stack([item["pixel_values"] for item in items]), torch.stack([item["labels"] for item in items])


def finetune(trained, folder, **config):
    given = dict(batch_size=4, max_steps=1, learning_rate=RATE, optimizer="sgd", momentum=0.0, weight_decay=0.0,
                 schedule="constant", freeze_batch_norm=True, progress=False)  # fmt: skip
    return ar.finetune(trained, Clicked(4, noise=0.0), ar.TrainingConfig(output_dir=str(folder), **{**given, **config}))


@pytest.mark.parametrize("head", [True, False], ids=["abn", "headless"])
def test_the_loop_as_written(head, tmp_path):
    """theta_{i+1} = theta_i - eta grad L_i, and a_{i+1} from the updated weights and a_i, for three updates."""
    trained = made(head, iterations=1, momentum=0.25)
    byhand = a_copy(trained)
    finetune(trained, tmp_path, updates_per_batch=3)
    pixels, labels = pixels_and_labels(4)
    columns, losses = {}, []
    for update in range(3):
        output = byhand(pixels, labels=labels, **columns)
        gradients = torch.autograd.grad(output.loss, list(byhand.parameters()), allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(byhand.parameters(), gradients):
                if gradient is not None:
                    parameter -= RATE * gradient
        losses.append(float(output.loss.detach()))
        columns = {**output.carried, "update": update + 1}
    expected, found = byhand.state_dict(), trained.state_dict()
    for key, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-5)
    history = json.loads((tmp_path / "history.json").read_text())
    assert history[0]["step"] == 1 and history[0]["train/loss"] == pytest.approx(losses[-1], rel=1e-4)
    assert history[0]["train/first_update/loss"] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0] > losses[1] > losses[2]  # else the rate would have been halved


def test_a_loss_that_rises_halves_the_rate_of_what_is_left(tmp_path, monkeypatch):
    rates = []
    step = torch.optim.SGD.step

    def watched(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    finetune(made(), tmp_path / "calm", updates_per_batch=4, max_steps=2)
    assert rates == [RATE] * 8
    rates.clear()
    finetune(made(), tmp_path / "wild", updates_per_batch=4, learning_rate=1.0, max_steps=2, clip_grad_norm=3.0)
    assert rates[0] == rates[4] == 1.0 and min(rates) < 1.0
    assert all(after in (before, before / 2) for before, after in zip(rates[:4], rates[1:4]))


def test_updates_that_no_longer_help_are_left_out(tmp_path, monkeypatch):
    taken = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *a, **k: (taken.append(1), step(self, *a, **k))[1])
    finetune(made(), tmp_path / "all", updates_per_batch=5, learning_rate=1e-9)
    assert len(taken) == 5  # a tolerance of 0 leaves nothing out, also where nothing falls
    finetune(made(), tmp_path / "few", updates_per_batch=5, learning_rate=1e-9, update_tolerance=0.5)
    assert len(taken) == 7


def test_a_resumed_run_is_the_run_to_the_bit(tmp_path):
    """With rectangles from torch's generator, batch statistics, and several updates on a batch."""
    options = {"alone": False, "options": {"seed": None}, "size": 16, "save_every_steps": 1, "keep_last": 9,
               "updates_per_batch": 2}  # fmt: skip
    full = train(tmp_path / "full", "darc", True, **options)
    shutil.copytree(full / "checkpoints/step-00000003", tmp_path / "resumed/checkpoints/step-00000003")
    resumed = train(tmp_path / "resumed", "darc", True, resume=True, **options)
    found, expected = weights(resumed), weights(full)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert json.loads((full / "history.json").read_text()) == json.loads((resumed / "history.json").read_text())


def test_a_model_without_objectives_takes_the_same_updates(tmp_path):
    """What DARC is to be compared with: a plain fine-tune given as many updates."""
    trained = made()
    trained.objectives.clear()
    byhand = a_copy(trained)
    finetune(trained, tmp_path, updates_per_batch=2)
    pixels, labels = pixels_and_labels(4)
    optimizer = torch.optim.SGD(byhand.parameters(), RATE)
    for _ in range(2):
        byhand(pixels, labels=labels).loss.backward()
        optimizer.step(), optimizer.zero_grad()
    for key, value in byhand.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(trained.state_dict()[key], value, rtol=0, atol=1e-5)
