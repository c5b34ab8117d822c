"""The moving average of the weights: against a loop in float64, what is judged and saved, killed and resumed."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file
from training_runs import TinyImages, TinyModel, assert_same, last_weights, train

from attention_refine.training import TrainingConfig, finetune
from attention_refine.training.averaging import AveragedWeights

PLAIN = {"evaluated": False, "save_every_steps": 1, "keep_last": 100}


def trained_weights(folder, step):
    return load_file(str(folder / "checkpoints" / f"step-{step:08d}" / "model.safetensors"))


def test_a_decay_of_zero_is_the_weights_themselves(tmp_path):
    model, _ = train(tmp_path / "with", ema_decay=0.0)
    plain, _ = train(tmp_path / "without")
    assert_same(last_weights(tmp_path / "with"), last_weights(tmp_path / "without"))
    assert_same(model.state_dict(), plain.state_dict())


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_equals_a_loop_in_float64(tmp_path, decay):
    model, done = train(tmp_path, ema_decay=decay, **PLAIN)
    torch.manual_seed(3)
    start = TinyModel("batch", 0.2)
    expected = {name: value.detach().double() for name, value in start.named_parameters()}
    for step in range(1, done.steps + 1):
        weights, d = trained_weights(tmp_path, step), min(decay, (1 + step) / (10 + step))
        expected = {name: d * value + (1 - d) * weights[name].double() for name, value in expected.items()}
    saved = last_weights(tmp_path)
    for name, value in expected.items():
        torch.testing.assert_close(saved[name].double(), value, rtol=1e-5, atol=1e-6)
        assert not torch.equal(saved[name], weights[name])
    for name in saved.keys() - expected.keys():  # statistics are the model's own
        assert torch.equal(saved[name], weights[name]), name
    assert_same(model.state_dict(), saved)


def test_training_goes_on_from_the_weights_and_not_from_their_average(tmp_path):
    train(tmp_path / "with", ema_decay=0.9)
    train(tmp_path / "without")
    for step in (6, 12, 18):  # an evaluation was made after each
        assert_same(trained_weights(tmp_path / "with", step), trained_weights(tmp_path / "without", step))


def test_the_average_is_what_is_judged_and_kept_as_the_best(tmp_path):
    judged = []

    def evaluate(model, accelerator):
        judged.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"accuracy": len(judged)}

    torch.manual_seed(3)
    model = TinyModel("batch", 0.2)
    config = TrainingConfig(
        output_dir=str(tmp_path), ema_decay=0.9, epochs=2, batch_size=4, learning_rate=0.02, progress=False
    )
    finetune(model, TinyImages(22), config, evaluate=evaluate, collate=torch.utils.data.default_collate)
    assert_same(last_weights(tmp_path), judged[-1])
    assert not torch.equal(judged[-1]["head.weight"], trained_weights(tmp_path, 12)["head.weight"])


def test_stopped_and_resumed_it_is_the_same_to_the_bit(tmp_path):
    train(tmp_path / "whole", ema_decay=0.9)
    shutil.copytree(
        tmp_path / "whole" / "checkpoints" / "step-00000012", tmp_path / "again" / "checkpoints" / "step-00000012"
    )
    shutil.copytree(tmp_path / "whole" / "best", tmp_path / "again" / "best")
    train(tmp_path / "again", ema_decay=0.9, resume=True)
    assert_same(last_weights(tmp_path / "again"), last_weights(tmp_path / "whole"))


def test_what_is_frozen_is_not_averaged():
    model = TinyModel()
    model.backbone.requires_grad_(False)
    assert {name.split(".")[0] for name in AveragedWeights(model, 0.9).weights} == {"head", "classifier"}


@pytest.mark.parametrize("decay", [1.0, -0.1, "much"])
def test_no_decay_is_refused(tmp_path, decay):
    with pytest.raises(ValueError, match="ema_decay"):
        train(tmp_path, ema_decay=decay)
