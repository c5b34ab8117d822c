"""Choosing and stopping without labels: the objectives' own curve on the validation images, and prediction drift."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from strategy_runs import Pictures, make_model
from training_runs import TinyImages, TinyModel, last_weights

import attention_refine as ar
from attention_refine.data import collate
from attention_refine.objectives._base import objectives
from attention_refine.training import TrainingConfig, TrainingError, finetune
from attention_refine.training.batches import evaluation_batches
from attention_refine.training.drift import StartingPredictions
from attention_refine.training.validation import validate


@pytest.fixture(autouse=True)
def _names(monkeypatch):
    """The toys' names are taken for one test only."""
    monkeypatch.setattr(objectives, "entries", dict(objectives.entries))


def run(folder, model=None, data=None, eval_dataset=None, **options):
    defaults = {"strategy": "finetune", "epochs": 3, "batch_size": 4, "learning_rate": 0.01, "progress": False}
    config = TrainingConfig(output_dir=str(folder), **{**defaults, **options})
    model = model or make_model(given=["toy_entropy"])
    return finetune(model, data or Pictures(10), config, eval_dataset=eval_dataset or Pictures(7, labeled=False))


def measured(model, data, **options):
    loader = evaluation_batches(data, 3, 0, 1, seed=0, collate=collate, num_workers=0)
    return validate(loader, model.eval(), Accelerator(cpu=True), **options)


# --- laws ------------------------------------------------------------------------------------------------------------


def test_measuring_more_changes_neither_the_run_nor_the_other_measures(tmp_path):
    more = {"eval_objectives": True, "max_prediction_drift": 1.0}
    plain = run(tmp_path / "plain", make_model(noise=0.2, dropout=0.2), eval_dataset=Pictures(7))
    full = run(tmp_path / "full", make_model(noise=0.2, dropout=0.2), eval_dataset=Pictures(7), **more)
    start, *entries = full.history
    assert start["epoch"] == start["step"] == 0 and start["eval/prediction_drift"] == start["eval/prediction_kl"] == 0
    added = {"eval/loss/toy_entropy", "eval/prediction_drift", "eval/prediction_kl"}
    for entry, expected in zip(entries, plain.history, strict=True):
        assert entry.keys() - expected.keys() == added
        assert {name: entry[name] for name in expected} == expected
    weights = last_weights(tmp_path / "plain")
    assert all(torch.equal(value, weights[name]) for name, value in last_weights(tmp_path / "full").items())


def test_random_objectives_are_measured_alike_each_time():
    model, data = make_model(noise=1.0), Pictures(7)
    state = torch.get_rng_state()
    first = measured(model, data, objectives=True)
    torch.manual_seed(99)
    assert measured(model, data, objectives=True) == first
    torch.set_rng_state(state)
    measured(model, data, objectives=True)
    assert torch.equal(torch.get_rng_state(), state), "an evaluation must not move the global generator"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_resumed_equals_uninterrupted(tmp_path):
    class Stopped(Exception):
        pass

    def stop(module, arguments, keywords):
        module.seen = getattr(module, "seen", 0) + module.training
        if module.seen == 8:
            raise Stopped

    options = {"max_prediction_drift": 1.0, "monitor": "loss/toy_entropy", "save_every_steps": 1}
    whole = run(tmp_path / "whole", make_model(noise=0.2, dropout=0.2), **options)
    cut = make_model(noise=0.2, dropout=0.2)
    cut.register_forward_pre_hook(stop, with_kwargs=True)
    with pytest.raises(Stopped):
        run(tmp_path / "cut", cut, **options)
    other = make_model(noise=0.2, dropout=0.2)  # the starting predictions are not those of the weights it is given
    for parameter in other.parameters():
        torch.nn.init.zeros_(parameter)
    again = run(tmp_path / "cut", other, resume=True, **options)
    assert again.history == whole.history and again.best_step == whole.best_step


def test_lost_starting_predictions_are_said_before_training(tmp_path):
    options = {"max_prediction_drift": 0.9, "monitor": "prediction_drift", "epochs": 1}
    run(tmp_path, **options)
    (file,) = (tmp_path / "start").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(TrainingError, match=r"predictions-0\.safetensors cannot be read .* overwrite=True"):
        run(tmp_path, **options, resume=True)
    run(tmp_path, **options, overwrite=True)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_the_objectives_loss_is_its_mean_over_the_images():
    model, data = make_model().eval(), Pictures(7, noise=0.0, labeled=False)
    found = measured(model, data, objectives=True)
    assert set(found) == {"loss/toy_entropy", "images"}, "nothing that needs labels"
    assert found["images"] == 7
    total = 0.0
    for row in range(7):
        with torch.no_grad():
            logits = model.objectives["toy_entropy"].layer(model(data[row]["pixel_values"][None]).logits)[0].double()
        p = logits.softmax(0)
        total -= float((p * p.log()).sum())
    assert found["loss/toy_entropy"] == pytest.approx(total / 7, rel=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_drift_equals_a_loop(multi_label, tmp_path):
    start = 2 * torch.randn(40, 4)
    now = start + 0.5 * torch.randn(40, 4)
    kept = StartingPredictions(tmp_path / "start")
    kept.keep(start)
    changed, divergence = 0, 0.0
    for p, q in zip(start.double(), now.double()):
        if multi_label:
            changed += (p > 0).tolist() != (q > 0).tolist()
            for a, b in zip(p.sigmoid().tolist(), q.sigmoid().tolist()):
                divergence += a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))
        else:
            changed += int(p.argmax()) != int(q.argmax())
            divergence += sum(a * math.log(a / b) for a, b in zip(p.softmax(0).tolist(), q.softmax(0).tolist()))
    again = StartingPredictions(tmp_path / "start")
    for each in (kept, again):
        assert each.drift(now, multi_label).tolist() == pytest.approx([changed, divergence], rel=1e-6)
    assert 0 < changed < 40 and kept.drift(start, multi_label).tolist() == pytest.approx([0, 0], abs=1e-12)


def test_drift_is_that_of_the_run(tmp_path):
    """The last entry, against the predictions of the model before and after."""
    before, after, data = make_model(), make_model(given=["toy_entropy"]), Pictures(7, noise=0.0)
    result = run(tmp_path, after, eval_dataset=data, max_prediction_drift=1.0, monitor="loss/toy_entropy",
                 learning_rate=0.05)  # fmt: skip
    last = ar.load(result.last_path)
    pixels = torch.stack([data[row]["pixel_values"] for row in range(7)])
    with torch.no_grad():
        start, now = before.eval()(pixels).logits.log_softmax(1), last(pixels).logits.log_softmax(1)
    entry = result.history[-1]
    assert entry["eval/prediction_drift"] == pytest.approx((start.argmax(1) != now.argmax(1)).double().mean().item())
    assert entry["eval/prediction_kl"] == pytest.approx((start.exp() * (start - now)).sum(1).mean().item(), rel=1e-4)
    assert entry["eval/prediction_kl"] > 0


# --- choosing and stopping -------------------------------------------------------------------------------------------


def with_drifts(folder, drifts, scores=None, **options):
    """A run whose evaluations report these, the start's included."""
    values = iter(zip(drifts, scores or [0.5] * len(drifts)))

    def evaluate(model, accelerator):
        drift, score = next(values)
        return {"prediction_drift": drift, "accuracy": score}

    config = TrainingConfig(
        output_dir=str(folder),
        epochs=len(drifts) - 1,
        batch_size=8,
        progress=False,
        max_prediction_drift=0.2,
        **options,
    )
    return finetune(TinyModel(), TinyImages(16), config, evaluate=evaluate, collate=torch.utils.data.default_collate)


def test_it_stops_once_the_predictions_have_moved_too_far(tmp_path):
    result = with_drifts(tmp_path, [0, 0.1, 0.2, 0.3, 0.1], [0.1, 0.4, 0.5, 0.9, 0.9])
    assert result.stopped_early and [entry["epoch"] for entry in result.history] == [0, 1, 2, 3]
    assert (result.best_metric, result.best_step) == (0.5, 4), "what lies beyond is never the best"
    assert json.loads((tmp_path / "history.json").read_text()) == result.history


def test_the_starting_model_can_be_the_best(tmp_path):
    result = with_drifts(tmp_path, [0, 0.1, 0.3], [0.9, 0.4, 0.5])
    assert (result.best_metric, result.best_step) == (0.9, 0) and Path(result.best_path).is_dir()


def test_the_furthest_within_the_bound(tmp_path):
    result = with_drifts(tmp_path, [0, 0.05, 0.15, 0.1, 0.4], monitor="prediction_drift")
    assert (result.best_metric, result.best_step) == (0.15, 4)


def test_the_objectives_own_curve_chooses_the_model_and_ends_the_run(tmp_path):
    result = run(tmp_path, monitor="loss/toy_entropy", learning_rate=0.05, epochs=4)
    curve = [entry["eval/loss/toy_entropy"] for entry in result.history]
    latest = max(epoch for epoch, value in enumerate(curve, start=1) if value == min(curve))
    assert result.best_metric == min(curve) and result.best_step == 3 * latest
    rising = run(tmp_path / "stopped", monitor="loss/toy_entropy", monitor_mode="max", early_stopping_patience=1,
                 learning_rate=0.05, epochs=9)  # fmt: skip
    assert rising.stopped_early and rising.steps < 27


def test_eval_start_alone(tmp_path):
    result = run(tmp_path, eval_dataset=Pictures(7), eval_start=True, epochs=1)
    assert [entry["epoch"] for entry in result.history] == [0, 1]
    assert {"eval/accuracy", "eval/loss"} <= result.history[0].keys() and "train/loss" not in result.history[0]


# --- bad input -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_measured_is_said(tmp_path):
    with pytest.raises(TrainingError, match="monitor='accuracy' was not measured; measured are loss/toy_entropy"):
        run(tmp_path, eval_objectives=True)
    with pytest.raises(TrainingError, match="monitor='loss/consistent' was not measured; measured are .*toy_entropy"):
        run(tmp_path, monitor="loss/consistent", overwrite=True)
    with pytest.raises(TrainingError, match="monitor='loss/x' measures the label-free objectives, .* none"):
        run(tmp_path, make_model(given=[]), strategy="combined", monitor="loss/x", overwrite=True)
    config = TrainingConfig(output_dir=str(tmp_path), max_prediction_drift=0.2, progress=False, overwrite=True)
    with pytest.raises(TrainingError, match=r"max_prediction_drift=0.2 evaluates the starting model, and nothing does"):
        finetune(make_model(), Pictures(8), config)
    with pytest.raises(TrainingError, match="watches prediction_drift, which nothing measures"):
        finetune(make_model(), Pictures(8), config, evaluate=lambda model, accelerator: {"accuracy": 1.0})
    with pytest.raises(ValueError, match="monitor='prediction_drift' keeps the model that has moved furthest within"):
        TrainingConfig(monitor="prediction_drift")
    with pytest.raises(ValueError, match="max_prediction_drift=1.5 is not accepted"):
        TrainingConfig(max_prediction_drift=1.5)
