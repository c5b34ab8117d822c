"""Strategies and unlabelled data: the laws of training hold for each, then loops by hand, then bad input."""

from __future__ import annotations

import json
import signal
import warnings
from pathlib import Path

import pytest
import timm
import torch
from processes import in_two_processes, server_of
from strategy_runs import DIVISIBLE, STRATEGIES, Pictures, killed_at_forward, make_model, train
from torch.utils.data import IterableDataset
from training_runs import TinyModel, assert_same, largest_difference, last_weights

import attention_refine as ar
from attention_refine.data import collate
from attention_refine.objectives._base import objectives
from attention_refine.training import TrainingConfig, TrainingError, finetune
from attention_refine.training.batches import BatchOrder, mixed_seed
from attention_refine.training.checkpoints import list_checkpoints
from attention_refine.training.strategies import Strategy

HERE = Path(__file__).parents[1]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@pytest.fixture(autouse=True)
def _names(monkeypatch):
    """The toys' names are taken for one test only."""
    monkeypatch.setattr(objectives, "entries", dict(objectives.entries))


@pytest.fixture(autouse=True)
def _quietly_without_margin():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "strategy='finetune' uses no labels", UserWarning)
        yield


@pytest.fixture(scope="module")
def server():
    return server_of("strategy_runs")


# --- laws ------------------------------------------------------------------------------------------------------------


@every_strategy
@pytest.mark.parametrize("separate", [True, False], ids=["unlabeled", "same-images"])
def test_killed_and_resumed_equals_uninterrupted(strategy, separate, tmp_path, server):
    options = {"save_every_steps": 1, "separate": separate, "gradient_accumulation_steps": 1 + separate}
    options |= {"batch_size": 3, "clip_grad_norm": 1.0}
    _, expected = train(tmp_path / "whole", strategy, **options)
    process = server.Process(target=killed_at_forward, args=(tmp_path / "cut", strategy, 6 if separate else 4, options))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert list_checkpoints(tmp_path / "cut" / "checkpoints"), "killed in the middle"
    _, result = train(tmp_path / "cut", strategy, resume=True, **options)
    assert result.history == expected.history
    assert_same(last_weights(tmp_path / "cut"), last_weights(tmp_path / "whole"))


def test_workers_do_not_change_the_run(tmp_path):
    train(tmp_path / "plain", "alternated", epochs=1)
    train(tmp_path / "workers", "alternated", epochs=1, num_workers=2)
    assert_same(last_weights(tmp_path / "workers"), last_weights(tmp_path / "plain"))


def test_two_processes_equal_one(tmp_path):
    """Weights and history of 2 processes × 3 images = 1 process × 6 for each strategy, and of a resumed run of 2."""
    in_two_processes(HERE / "strategy_runs.py", tmp_path)
    for strategy in STRATEGIES:
        _, one = train(tmp_path / "one" / strategy, strategy, batch_size=6, **DIVISIBLE)
        assert largest_difference(last_weights(tmp_path / strategy), last_weights(tmp_path / "one" / strategy)) < 1e-4
        history = json.loads((tmp_path / strategy / "history.json").read_text())
        for entry, wanted in zip(history, one.history, strict=True):
            assert entry == pytest.approx(wanted, rel=1e-4)
    assert_same(last_weights(tmp_path / "resumed"), last_weights(tmp_path / "noisy"))


class Relabelled(Pictures):
    """The same images under other labels."""

    def __getitem__(self, row):
        item = super().__getitem__(row)
        return {**item, "labels": (item["labels"] + 1) % 3}


@pytest.mark.parametrize("data", [Relabelled(10), Pictures(10, labeled=False)], ids=["relabelled", "unlabelled"])
def test_finetune_does_not_see_labels(data, tmp_path):
    def run(folder, dataset, **options):
        config = TrainingConfig(output_dir=str(tmp_path / folder), epochs=1, batch_size=4, progress=False, **options)
        return finetune(make_model(noise=0.2), dataset, config)

    result = run("labelled", Pictures(10), strategy="finetune")
    assert {name for name in result.history[0] if name.startswith("train/")} == {"train/loss", "train/toy_entropy"}
    assert run("other", data, strategy="finetune").history == result.history
    assert_same(last_weights(tmp_path / "other"), last_weights(tmp_path / "labelled"))
    # A dataset without labels says the same under the default strategy.
    assert run("default", Pictures(10, labeled=False)).history == result.history
    assert_same(last_weights(tmp_path / "default"), last_weights(tmp_path / "labelled"))


def test_finetune_takes_the_unlabelled_images_where_there_are_any():
    parts = next(made_strategy("finetune", labeled=4, unlabeled=40, batch_size=40).epoch(0, 0))
    assert sorted(rows(parts)) == list(range(40))


def made_strategy(strategy, labeled=24, unlabeled=None, **options):
    config = TrainingConfig(strategy=strategy, **{"batch_size": 4, **options})
    other = Pictures(unlabeled) if unlabeled else None
    return Strategy(make_model(), Pictures(labeled), other, config, 0, 1, {"num_workers": 0, "collate": collate})


def rows(parts):
    return [row for part in parts for batch in part.batches for row in batch["index"].tolist()]


def test_steps_in_an_epoch_by_hand():
    """alpha S / b_S + U / b_U, with the batch sizes of a whole step."""
    assert made_strategy("combined").steps == made_strategy("finetune").steps == 6
    assert made_strategy("combined", unlabeled=40).steps == 6
    assert made_strategy("finetune", unlabeled=40).steps == 10
    assert made_strategy("finetune", unlabeled=40, unlabeled_batch_size=8).steps == 5
    assert made_strategy("alternated", alternated_alpha=2.0).steps == 2 * 6 + 6
    assert made_strategy("alternated", unlabeled=40, alternated_alpha=8.0).steps == 8 * 6 + 10
    assert made_strategy("alternated", unlabeled=40, alternated_alpha=8.0, unlabeled_batch_size=20).steps == 8 * 6 + 2
    slots = made_strategy("alternated", unlabeled=40, alternated_alpha=2.0, gradient_accumulation_steps=2)
    assert slots.steps == 2 * 3 + 5


def test_alternated_draws_with_the_papers_probability():
    strategy = made_strategy("alternated", labeled=40, unlabeled=80, alternated_alpha=3.0)
    draws = [draw for epoch in range(150) for draw in strategy.draws(epoch)]
    share, wanted = sum(draws) / len(draws), 3 * 40 / (3 * 40 + 80)
    assert abs(share - wanted) < 4 * (wanted * (1 - wanted) / len(draws)) ** 0.5, "four standard deviations"
    assert strategy.draws(0) == strategy.draws(0) != strategy.draws(1)
    state = torch.get_rng_state()
    strategy.draws(2)
    assert torch.equal(torch.get_rng_state(), state), "the draws must not move the global generator"


@pytest.mark.parametrize("unlabeled", [None, 17])
def test_alternated_goes_through_all_images_again_and_again(unlabeled):
    """In whole passes over each dataset, whatever the draws, and from any step on as from the first."""
    strategy = made_strategy("alternated", labeled=12, unlabeled=unlabeled, alternated_alpha=2.0)
    epochs = [list(strategy.epoch(number, 0)) for number in range(3)]
    taken = [parts for epoch in epochs for parts in epoch]
    assert [len(epoch) for epoch in epochs] == [strategy.steps] * 3
    draws = [draw for number in range(3) for draw in strategy.draws(number)]
    for parts, draw in zip(taken, draws, strict=True):
        assert ("labels" in parts[0].batches[0]) == draw
        assert parts[0].objectives == (["toy_margin"] if draw else None)
    if unlabeled is None:
        passes = [row for parts in taken for row in rows(parts)]
        assert passes[:24] == [*BatchOrder(12, 4).shuffled(0), *BatchOrder(12, 4).shuffled(1)]
    else:
        labeled = [row for parts, draw in zip(taken, draws) if draw for row in rows(parts)]
        assert labeled[:24] == [*BatchOrder(12, 4).shuffled(0), *BatchOrder(12, 4).shuffled(1)]
        others = [row for parts, draw in zip(taken, draws) if not draw for row in rows(parts)]
        order = BatchOrder(17, 4, seed=mixed_seed(0, 2))
        assert others[:16] == order.shuffled(0)[:16], "one image is left out of each pass: batch norm wants two"
        assert others[16:20] == order.shuffled(1)[:4]
    for number, first in [(0, 1), (1, 0), (1, strategy.steps - 1), (2, 3)]:
        assert list(map(rows, strategy.epoch(number, first))) == list(map(rows, epochs[number][first:]))


# --- numbers ---------------------------------------------------------------------------------------------------------


def by_hand(strategy, plan, rate):
    """The run in plain torch: what each step takes comes from the plan, what it does with it is written out here."""
    model = make_model().train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    means: dict[str, list] = {}
    for parts in plan.epoch(0, 0):
        model.zero_grad()
        total = 0
        for part in parts:
            (batch,) = part.batches
            logits = model.backbone(batch["pixel_values"])
            free = model.objectives["toy_entropy"].layer(logits)
            entropy = -(free.softmax(1) * free.log_softmax(1)).sum(1).mean()
            if "labels" not in batch:
                total = total + 0.5 * entropy
                continue
            own = logits.gather(1, batch["labels"][:, None])[:, 0] - logits.mean(1)
            task = torch.nn.functional.cross_entropy(logits, batch["labels"])
            total = total + task + 0.5 * torch.nn.functional.softplus(-own).mean()
            means.setdefault("train/task", []).extend([float(task.detach())] * len(logits))
            if strategy == "combined":
                total = total + 0.5 * entropy
        total.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= rate * parameter.grad
    return model, {name: sum(values) / len(values) for name, values in means.items()}


@every_strategy
def test_one_epoch_equals_a_loop_by_hand(strategy, tmp_path):
    options = {**STRATEGIES[strategy], "batch_size": 4, "epochs": 1, "learning_rate": 0.05, "optimizer": "sgd"}
    options |= {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "freeze_batch_norm": True}
    config = TrainingConfig(output_dir=str(tmp_path), progress=False, unlabeled_batch_size=5, **options)
    data, unlabeled = Pictures(14, noise=0.0), Pictures(13, noise=0.0, labeled=False, first=14)
    plan = Strategy(make_model(), data, unlabeled, config, 0, 1, {"num_workers": 0, "collate": collate})
    expected, means = by_hand(strategy, plan, 0.05)
    model = make_model()
    result = finetune(model, data, config, unlabeled=unlabeled)
    assert largest_difference(model.state_dict(), expected.state_dict()) < 1e-6
    assert result.steps == plan.steps
    for name, value in means.items():
        assert result.history[0][name] == pytest.approx(value, rel=1e-5), "over the images that had this loss"


def test_combined_takes_every_labelled_image_and_goes_round_the_others():
    strategy = made_strategy("combined", labeled=12, unlabeled=6, unlabeled_batch_size=3)
    steps = [parts for number in range(2) for parts in strategy.epoch(number, 0)]
    assert sorted(row for parts in steps[:3] for row in rows(parts[:1])) == list(range(12))
    others = [rows(parts[1:]) for parts in steps]
    for pair in (others[0:2], others[2:4], others[4:6]):
        assert sorted(row for batch in pair for row in batch) == list(range(6))
    assert all("labels" in parts[0].batches[0] and "labels" not in parts[1].batches[0] for parts in steps)


def test_names_in_the_history(tmp_path):
    _, result = train(tmp_path / "combined", "combined", epochs=1)
    names = {"train/loss", "train/task", "train/toy_entropy", "train/toy_margin", "train/unlabeled/toy_entropy"}
    assert {name for name in result.history[0] if name.startswith("train/")} == names
    entry = result.history[0]
    assert entry["train/task"] > 0 and entry["train/unlabeled/toy_entropy"] > 0


@every_strategy
def test_attention_consistency(strategy, tmp_path):
    """The objective that the strategies are for: it is trained, measured without labels, and gives finite weights."""
    torch.manual_seed(3)
    net = timm.create_model("test_resnet", num_classes=3)
    model = ar.wrap(net, objectives=["consistency"], preprocessing={"input_size": [3, 32, 32]})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = TrainingConfig(output_dir=str(tmp_path), max_steps=4, batch_size=4, monitor="loss/consistency",
                            learning_rate=1e-3, progress=False, **STRATEGIES[strategy])  # fmt: skip
    result = finetune(model, Pictures(8), config, eval_dataset=Pictures(5, labeled=False))
    names = {name for entry in result.history for name in entry}
    assert ("train/task" in names) == (strategy != "finetune")
    assert {"train/consistency", "eval/loss/consistency"} <= names
    assert -1 <= result.best_metric <= 1
    weights = last_weights(tmp_path)
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert any(not torch.equal(weights[name], value) for name, value in before.items() if name.endswith("conv1.weight"))


# --- bad input -------------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __iter__(self):
        return iter(Pictures(8)[row] for row in range(8))


def test_what_cannot_work_is_refused(tmp_path):
    def start(model=None, dataset=None, unlabeled=None, **options):
        config = TrainingConfig(output_dir=str(tmp_path), progress=False, **options)
        return finetune(model or make_model(), dataset or Pictures(8), config, unlabeled=unlabeled)

    with pytest.raises(TrainingError, match=r"strategy='finetune' needs an objective that does without labels, .*none"):
        start(make_model(given=()), strategy="finetune")
    with pytest.raises(TrainingError, match=r"without labels, and the model's objectives are toy_margin: wrap it"):
        start(make_model(given=["toy_margin"]), strategy="alternated")
    with pytest.raises(TrainingError, match="an unlabelled dataset needs an objective"):
        start(make_model(given=["toy_margin"]), unlabeled=Pictures(8))
    with pytest.raises(TrainingError, match="strategy='finetune' needs an objective .* none"):
        start(TinyModel(), strategy="finetune")
    with pytest.raises(TrainingError, match="unlabeled_batch_size=4 is of a separate unlabelled dataset"):
        start(unlabeled_batch_size=4)
    data = Pictures(8)
    with pytest.raises(TrainingError, match="unlabeled is the labelled dataset itself"):
        start(dataset=data, unlabeled=data)
    with pytest.raises(TrainingError, match="unlabeled is a stream"):
        start(unlabeled=Stream())
    with pytest.raises(TrainingError, match="dataset is a stream, and strategy='alternated'"):
        start(dataset=Stream(), strategy="alternated", max_steps=3)
    with pytest.raises(TrainingError, match="is no dataset"):
        start(unlabeled=object())
    with pytest.raises(ValueError, match="training dataset is empty"):
        start(unlabeled=Pictures(0))
    with pytest.raises(ValueError, match="strategy='together' is not accepted: it must be one of combined, finetune"):
        start(strategy="together")
    with pytest.raises(ValueError, match="alternated_alpha=0.0 is not accepted: it must be above 0"):
        start(alternated_alpha=0)
    with pytest.warns(UserWarning, match="these objectives are left out: toy_margin"):
        start(strategy="finetune", epochs=1)


def test_resuming_with_other_unlabelled_images_is_refused(tmp_path):
    def start(size, **options):
        config = TrainingConfig(output_dir=str(tmp_path), progress=False, max_steps=2, batch_size=4, **options)
        return finetune(make_model(), Pictures(8), config, unlabeled=Pictures(size) if size else None)

    start(8)
    for size, said in [(9, "unlabeled_images=8 and this run has unlabeled_images=9"), (None, "unlabeled_images=None")]:
        with pytest.raises(TrainingError, match=said):
            start(size, resume=True)
    with pytest.raises(TrainingError, match="strategy='combined' and this run has strategy='finetune'"):
        start(8, resume=True, strategy="finetune")


def test_a_model_refuses_objectives_it_has_not():
    with pytest.raises(ValueError, match="objective 'consistent' is not one of this model's: toy_entropy, toy_margin"):
        make_model()(torch.zeros(2, 3, 32, 32), compute_losses=True, objectives=["consistent"])
