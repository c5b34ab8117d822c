"""The sweep of the learning rate: the model stays to the bit, the steps are those of a loop by hand, what it suggests."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
import yaml
from strategy_runs import Pictures, make_model
from torch import nn
from training_runs import Output, TinyImages, TinyModel, assert_same, last_weights, train

import attention_refine as ar
from attention_refine import shapes
from attention_refine.cli import main
from attention_refine.training import RateCurve, TrainingConfig, TrainingError, find_learning_rate
from attention_refine.training.rate_finder import steepest

collate = torch.utils.data.default_collate


class Bowl(nn.Module):
    """Loss w² k / 2, whatever the images: a step of rate r multiplies w by 1 - r k, and diverges from r = 2 / k on."""

    K = 5.0

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))

    def forward(self, pixel_values, labels=None):
        loss = 0.5 * self.K * self.weight.square().sum()
        return Output(self.weight.expand(len(pixel_values), 2), loss, {"task": loss})

    def save_pretrained(self, folder):
        pass


def sweep(model, data, **options):
    sweeping = {name: options.pop(name) for name in ("lowest", "highest", "steps") if name in options}
    config = TrainingConfig(**{"batch_size": 4, "progress": False, "optimizer": "sgd", **options})
    return find_learning_rate(model, data, config, collate=collate, **sweeping)


def test_the_steps_are_those_of_a_loop_by_hand():
    found = sweep(Bowl(), TinyImages(8), momentum=0.0, weight_decay=0.0, lowest=1e-3, highest=10.0, steps=60)
    weight = 1.0
    for i, (rate, loss) in enumerate(zip(found.rates, found.losses, strict=True)):
        assert rate == pytest.approx(1e-3 * 1e4 ** (i / 59), rel=1e-9)
        assert loss == pytest.approx(2.5 * weight**2, rel=1e-4)
        weight *= 1 - rate * 5
    at = np.arange(len(found.losses))
    for i in (16, 20):  # away from the ends
        weights = np.exp(-0.5 * ((at - i) / 3.6) ** 2) * (abs(at - i) <= 4 * 3.6 + 0.5)
        assert found.smoothed[i] == pytest.approx((weights * found.losses).sum() / weights.sum(), rel=1e-6)
    assert len(found.rates) < 60 and found.rates[-1] > 2 / 5, "it ended early, having diverged"
    assert 1e-3 < found.suggestion < 2 / 5


def test_the_model_and_what_is_random_stay_as_they_were(tmp_path):
    model = make_model(noise=0.2, dropout=0.2).train()
    model.backbone.net.fc.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state(), np.random.get_state()[1].copy()
    config = TrainingConfig(batch_size=4, progress=False, schedule="step", milestones=[3], ema_decay=0.9,
                            monitor="prediction_drift", max_prediction_drift=0.1, warmup_steps=500,
                            output_dir=str(tmp_path / "none"))  # fmt: skip
    found = find_learning_rate(model, Pictures(12), config, steps=12)
    assert_same(model.state_dict(), state)
    assert model.training and not model.backbone.net.fc.weight.requires_grad
    assert torch.equal(torch.get_rng_state(), random[0]) and np.array_equal(np.random.get_state()[1], random[1])
    assert found == find_learning_rate(model, Pictures(12), config, steps=12), "the same sweep at each call"
    assert not (tmp_path / "none").exists()


def test_a_run_after_a_sweep_is_the_run_without(tmp_path):
    train(tmp_path / "without", epochs=1)
    sweep(TinyModel(), TinyImages(), steps=10)
    train(tmp_path / "with", epochs=1)
    assert_same(last_weights(tmp_path / "with"), last_weights(tmp_path / "without"))


def test_the_suggestion_is_a_rate_that_learns(tmp_path):
    torch.manual_seed(3)
    found = sweep(TinyModel("batch"), TinyImages(64), lowest=1e-5, highest=100.0, steps=80)
    losses = {}
    for times in (0.001, 1.0):
        name = str(times)
        _, done = train(tmp_path / name, optimizer="sgd", epochs=2, size=64, learning_rate=times * found.suggestion)
        losses[times] = done.history[-1]["train/loss"]
    assert losses[1.0] < 0.8 * losses[0.001]


def test_steepest():
    rates = np.logspace(-4, 0, 41)
    falling = 1 - 1 / (1 + np.exp(-4 * (np.log10(rates) + 2)))  # steepest at 10 ** -2
    assert steepest(rates, falling) == pytest.approx(1e-2)
    assert steepest(rates, np.linspace(1, 2, 41)) is None
    again = np.concatenate([falling[:30], 5 - 0.1 * np.arange(11)])  # what falls after the lowest point does not count
    assert steepest(rates, again) == pytest.approx(1e-2)


def test_curve_as_picture_and_data(tmp_path):
    curve = RateCurve([0.1, 0.2], [1.0, 0.5], [1.0, 0.75], 0.2)
    assert curve.save(tmp_path / "new").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.reader((tmp_path / "new" / "lr_find.csv").open()))
    assert rows == [["learning_rate", "loss", "smoothed"], ["0.1", "1.0", "1.0"], ["0.2", "0.5", "0.75"]]


def test_the_command(tmp_path, capsys):
    shapes.write(tmp_path / "data", ("train", "test"), 12, size=64)
    values = {
        "model": {"backbone": "test_resnet", "pretrained": False, "image_size": 64, "head": "abn"},
        "data": {"source": str(tmp_path / "data"), "validation": "test"},
        "training": {"output_dir": str(tmp_path / "run"), "batch_size": 4, "progress": False},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    assert main(["lr-find", str(tmp_path / "run.yaml"), "--steps", "12"]) == 0
    said = capsys.readouterr().out
    assert "--training.learning_rate" in said or "never fell" in said
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["lr_find.csv", "lr_find.png"]
    assert main(["lr-find", str(tmp_path / "run.yaml"), "--model.teacher", "{head: abn}"]) == 1
    assert "model.teacher trains another model before the run" in capsys.readouterr().err


def test_what_cannot_be_swept_is_refused():
    with pytest.raises(ValueError, match="ten steps or more with rates that rise from above 0: got steps=3"):
        sweep(Bowl(), TinyImages(8), steps=3)
    with pytest.raises(ValueError, match=r"lowest=1\.0, highest=0\.1"):
        sweep(Bowl(), TinyImages(8), lowest=1.0, highest=0.1)
    with pytest.raises(TrainingError, match="object is no dataset"):
        ar.find_learning_rate(TinyModel(), object())
