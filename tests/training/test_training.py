"""Laws of training (resumed = uninterrupted, divided = whole, same seed = same bits), then numbers, then bad input."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
import warnings
from pathlib import Path

import pytest
import timm
import torch
from accelerate import Accelerator
from PIL import Image
from processes import die, in_two_processes, server_of
from torch import nn
from training_runs import (
    SHARED,
    TinyImages,
    TinyModel,
    assert_same,
    killed_at_disk_call,
    killed_at_forward,
    largest_difference,
    last_weights,
    train,
)

import attention_refine
from attention_refine.training import TrainingConfig, TrainingError, finetune
from attention_refine.training.batches import BatchOrder, SeededItems, step_batches
from attention_refine.training.checkpoints import atomic_folder, damage, list_checkpoints
from attention_refine.training.parameter_groups import make_optimizer
from attention_refine.training.schedules import learning_rate_factor
from attention_refine.training.stepping import TrainStep

HERE = Path(__file__).parents[1]
collate = torch.utils.data.default_collate

# Everything that a resume could lose: accumulation, a short last step (22 images in steps of 6), dropout, batch
# statistics, augmentation, momentum, the schedule, and the best model so far.
RUN = {
    "batch_size": 3,
    "gradient_accumulation_steps": 2,
    "save_every_steps": 3,
    "warmup_steps": 3,
    "clip_grad_norm": 1.0,
}
FORWARDS = 3 * 4 * 2  # epochs, steps, slots


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    _, result = train(folder, **RUN)
    return last_weights(folder), result


@pytest.fixture(scope="module")
def server():
    return server_of("training_runs")


# --- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5, 6, 8, 9, 13, 16, FORWARDS - 1])
def test_killed_and_resumed_equals_uninterrupted(count, tmp_path, server, uninterrupted):
    assert die(server, killed_at_forward, tmp_path, count, RUN) == -signal.SIGKILL
    _, result = train(tmp_path, resume=True, **RUN)
    weights, expected = uninterrupted
    assert_same(last_weights(tmp_path), weights)
    assert result.history == expected.history
    assert (result.best_metric, result.best_step) == (expected.best_metric, expected.best_step)


def test_killed_while_saving_leaves_whole_checkpoints_and_resumes(tmp_path, server, uninterrupted):
    """At every call to the disk of a save of a checkpoint and of the best model, and at a spread of later ones."""
    weights, expected = uninterrupted
    survived = False
    for count in [*range(12, 32), *range(32, 400, 17)]:
        folder = tmp_path / str(count)
        status = die(server, killed_at_disk_call, folder, count, RUN)
        if status == 0:
            survived = True
            break
        assert status == -signal.SIGKILL
        assert [damage(found) for found in list_checkpoints(folder / "checkpoints")][-1:] in ([], [None])
        if count % 4 == 0 or count > 32:  # a full run for each would take long
            _, result = train(folder, resume=True, **RUN)
            assert_same(last_weights(folder), weights)
            assert json.loads((folder / "history.json").read_text()) == expected.history
            assert result.history == expected.history
        shutil.rmtree(folder, ignore_errors=True)
    assert survived, "the run makes more calls to the disk than were tried: widen the range"


def test_killed_twice(tmp_path, server, uninterrupted):
    assert die(server, killed_at_forward, tmp_path, 9, RUN) == -signal.SIGKILL
    assert die(server, killed_at_forward, tmp_path, 9, {**RUN, "resume": True}) == -signal.SIGKILL
    train(tmp_path, resume=True, **RUN)
    assert_same(last_weights(tmp_path), uninterrupted[0])


def test_same_seed_gives_the_same_bits_and_another_seed_does_not(tmp_path, uninterrupted):
    train(tmp_path / "again", **RUN)
    assert_same(last_weights(tmp_path / "again"), uninterrupted[0])
    train(tmp_path / "other", **RUN, seed=1)
    assert largest_difference(last_weights(tmp_path / "other"), uninterrupted[0]) > 1e-3


def test_a_compiled_run_is_the_eager_one(tmp_path, monkeypatch):
    compiler = torch.compile
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function: asked.append(1) or compiler(function, backend="eager"))
    options = {"epochs": 1, "evaluated": False, "batch_size": 11}
    train(tmp_path / "eager", **options)
    assert not asked
    train(tmp_path / "compiled", compile=True, **options)
    assert asked == [1]
    assert largest_difference(last_weights(tmp_path / "compiled"), last_weights(tmp_path / "eager")) < 1e-6


def test_compile_says_what_runs_eagerly(caplog):
    net = timm.create_model("test_resnet", num_classes=3)
    model = attention_refine.wrap(net, "abn", objectives=["mining"], preprocessing={"input_size": [3, 64, 64]})
    assert TrainStep(model, compiled=True).compiled is None
    assert "compile=True: the passes run eagerly" in caplog.text and "mining" in caplog.text


def test_workers_do_not_change_the_run(tmp_path, uninterrupted):
    train(tmp_path, **RUN, num_workers=2)
    assert_same(last_weights(tmp_path), uninterrupted[0])


@pytest.mark.parametrize("size", [24, 23, 21, 20])
def test_accumulated_equals_whole(size, tmp_path):
    """k slots of b images = one batch of k b images, also in the short last step (its slots have different sizes)."""
    options = {"norm": "layer", "dropout": 0.0, "size": size, "optimizer": "sgd"}
    whole, _ = train(tmp_path / "whole", batch_size=8, **options)
    divided, _ = train(tmp_path / "divided", batch_size=2, gradient_accumulation_steps=4, **options)
    assert largest_difference(divided.state_dict(), whole.state_dict()) < 1e-5


def test_two_processes_equal_one(tmp_path):
    """Weights, history and metrics of 2 processes × 4 images = 1 process × 8, and of a resumed run of 2 processes."""
    in_two_processes(HERE / "training_runs.py", tmp_path)
    train(tmp_path / "one", norm="layer", dropout=0.0, size=37, optimizer="sgd", batch_size=8)
    expected = last_weights(tmp_path / "one")
    history = json.loads((tmp_path / "one" / "history.json").read_text())
    for name in ("two", "slots"):
        assert largest_difference(last_weights(tmp_path / name), expected) < 1e-4
        for entry, wanted in zip(json.loads((tmp_path / name / "history.json").read_text()), history, strict=True):
            assert entry == pytest.approx(wanted, rel=1e-4)
    for name, options in SHARED.items():
        plain = {"norm": "layer", "dropout": 0.0, "size": 37, "optimizer": "sgd", "batch_size": 8}
        train(tmp_path / "one" / name, **{**plain, **options})
        assert largest_difference(last_weights(tmp_path / name), last_weights(tmp_path / "one" / name)) < 1e-4
    assert_same(last_weights(tmp_path / "resumed"), last_weights(tmp_path / "noisy"))
    # a signal to one of them ends both after the same step, with a checkpoint; the rest wrote them in the background
    assert_same(last_weights(tmp_path / "asked"), last_weights(tmp_path / "unasked"))
    newest = [list_checkpoints(tmp_path / name / "checkpoints")[-1] for name in ("asked", "unasked")]
    for ours, theirs in zip(*(sorted(folder.iterdir()) for folder in newest), strict=True):
        assert ours.read_bytes() == theirs.read_bytes()


def test_every_global_batch_is_the_same_however_it_is_divided():
    whole = BatchOrder(37, 12, seed=5)
    rows = whole.shuffled(2)
    for processes, slots in [(1, 1), (2, 1), (3, 2), (1, 4)]:
        order = BatchOrder(37, 12 // (processes * slots), processes, slots, seed=5)
        assert order.shuffled(2) == rows
        parts = [order.batches(2, process) for process in range(processes)]
        for step in range(order.steps):
            together = [row for part in parts for batch in part[step * slots : (step + 1) * slots] for row in batch]
            assert sorted(together) == sorted(rows[step * 12 : (step + 1) * 12])


def test_last_short_batch():
    assert BatchOrder(9, 4).steps == 2, "one image is left out: batch norm cannot normalise it"
    assert BatchOrder(10, 4).steps == 3
    assert BatchOrder(11, 4, processes=2).steps == 1, "3 images are too few for 2 processes"
    assert BatchOrder(12, 4, processes=2).steps == 2
    assert BatchOrder(3, 8).steps == 1
    assert [len(batch) for batch in BatchOrder(22, 4, slots=2).batches(0)] == [4, 4, 4, 4, 3, 3]
    assert [len(batch) for batch in BatchOrder(19, 4, slots=2).batches(0)] == [4, 4, 4, 4, 3]
    assert {row for batch in BatchOrder(22, 4).batches(0) for row in batch} == set(range(22))
    assert BatchOrder(22, 4).shuffled(0) != BatchOrder(22, 4).shuffled(1)


def test_items_depend_on_seed_epoch_and_row_only():
    first = SeededItems(TinyImages(), seed=1, epoch=2)[5]["pixel_values"]
    state = torch.get_rng_state()
    torch.manual_seed(99)
    SeededItems(TinyImages(), seed=1, epoch=2)[4]
    assert torch.equal(SeededItems(TinyImages(), seed=1, epoch=2)[5]["pixel_values"], first)
    torch.set_rng_state(state)
    SeededItems(TinyImages(), seed=1, epoch=2)[5]
    assert torch.equal(torch.get_rng_state(), state), "drawing an item must not move the global generator"
    assert not torch.equal(SeededItems(TinyImages(), seed=1, epoch=3)[5]["pixel_values"], first)
    assert not torch.equal(SeededItems(TinyImages(), seed=2, epoch=2)[5]["pixel_values"], first)


class Stream(torch.utils.data.IterableDataset):
    """The items of a dataset in their order, seeded."""

    def __init__(self, size: int):
        self.items, self.epoch = TinyImages(size), 0

    def set_epoch(self, epoch: int):
        self.epoch = epoch

    def __iter__(self):
        seeded = SeededItems(self.items, 0, self.epoch)
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return (seeded[row] for row in range(first, len(seeded), step))


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_is_divided_and_resumed_exactly(workers):
    def steps(order, process=0, first_step=0):
        made = step_batches(Stream(22), order, 1, process, first_step=first_step, collate=collate, num_workers=workers)
        return [([batch["index"].tolist() for batch in batches], images) for batches, images in made]

    whole = steps(BatchOrder(None, 8))
    assert whole == [([list(range(8))], 8), ([list(range(8, 16))], 8), ([list(range(16, 22))], 6)]
    assert steps(BatchOrder(None, 8), first_step=2) == whole[2:]
    halves = [steps(BatchOrder(None, 4, processes=2), process) for process in range(2)]
    for (one, _), (left, _), (right, _) in zip(whole, *halves, strict=True):
        assert left[0] + right[0] == one[0]


def test_training_on_a_stream(tmp_path):
    config = TrainingConfig(output_dir=str(tmp_path), max_steps=7, batch_size=8, progress=False)
    result = finetune(TinyModel(), Stream(22), config, eval_dataset=Stream(9), collate=collate)
    assert [entry["step"] for entry in result.history] == [3, 6, 7]
    assert result.history[0]["eval/accuracy"] == pytest.approx(round(9 * result.history[0]["eval/accuracy"]) / 9)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_schedules_by_hand():
    def factors(schedule, total=10, **options):
        return [learning_rate_factor(step, total, schedule, **options) for step in range(total)]

    assert factors("constant") == [1.0] * 10
    assert factors("linear") == pytest.approx([1 - k / 10 for k in range(10)])
    assert factors("cosine", 4) == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2])
    assert factors("step", 6, milestones=[2, 4], gamma=0.5) == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert factors("linear", 7, warmup_steps=3) == pytest.approx([0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25])
    assert factors("cosine", 5, floor=0.2, warmup_steps=1) == pytest.approx(
        [0.5, 1, 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2, 0.6, 0.2 + 0.8 * (1 - math.sqrt(0.5)) / 2]
    )
    assert factors("step", 4, milestones=[1, 2, 3], gamma=0.1, floor=0.05) == pytest.approx([1, 0.1, 0.05, 0.05])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for factor in factors("cosine"):
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        oracle.step()


def test_one_epoch_equals_a_loop_by_hand(tmp_path):
    """SGD with momentum, weight decay on matrices only, two rates, warm-up and clipping, written out in plain torch."""
    torch.manual_seed(3)
    model = TinyModel()
    data, order = TinyImages(12, noise=0.0), BatchOrder(12, 4)
    velocity = {}
    for step, rows in enumerate(order.batches(0)):
        batch = collate([data[row] for row in rows])
        model.zero_grad()
        model(batch["pixel_values"], batch["labels"], smoothing=0.1).loss.backward()
        norm = math.sqrt(sum(float(p.grad.double().pow(2).sum()) for p in model.parameters()))
        for name, p in model.named_parameters():
            gradient = p.grad * min(1.0, 0.3 / (norm + 1e-6)) + (0.05 * p.detach() if p.ndim > 1 else 0)
            velocity[name] = 0.9 * velocity[name] + gradient if name in velocity else gradient
            rate = 0.1 * (1 if name.startswith("backbone") else 5) * [1 / 2, 1, 1 / 2][step]
            p.data -= rate * velocity[name]
    torch.manual_seed(3)
    trained = TinyModel()
    config = TrainingConfig(
        output_dir=str(tmp_path), epochs=1, batch_size=4, optimizer="sgd", learning_rate=0.1, weight_decay=0.05,
        head_learning_rate_multiplier=5, clip_grad_norm=0.3, label_smoothing=0.1, schedule="linear", warmup_steps=1,
        progress=False,
    )  # fmt: skip
    finetune(trained, data, config, collate=collate)
    assert largest_difference(trained.state_dict(), model.state_dict()) < 1e-6


def test_metrics_equal_those_by_hand(tmp_path):
    model, result = train(tmp_path, epochs=1, size=12)
    data = TinyImages(10, masks=True)
    batch = collate([SeededItems(data, 0, 0)[row] for row in range(10)])
    with torch.no_grad():
        output = model(batch["pixel_values"])
    guesses, labels = output.logits.argmax(1), batch["labels"]
    found = result.history[0]
    assert found["eval/accuracy"] == pytest.approx((guesses == labels).double().mean().item())
    assert found["eval/loss"] == pytest.approx(nn.functional.cross_entropy(output.logits, labels).item(), rel=1e-5)
    scores = []
    for label in range(3):
        hits = int(((guesses == label) & (labels == label)).sum())
        scores.append(2 * hits / max(int((guesses == label).sum() + (labels == label).sum()), 1))
    assert found["eval/macro_f1"] == pytest.approx(sum(scores) / 3)
    maps = nn.functional.interpolate(output.maps.double(), (8, 8), mode="bilinear", align_corners=False)
    pairs = [
        torch.corrcoef(torch.stack([one.flatten(), mask.flatten().double()]))[0, 1]
        for one, mask in zip(maps, batch["mask"], strict=True)
    ]
    assert found["eval/mask_correlation"] == pytest.approx(sum(pairs).item() / 10, rel=1e-3)


def test_history_holds_every_component(tmp_path):
    _, result = train(tmp_path, epochs=2)
    for entry in result.history:
        assert entry["train/loss"] == pytest.approx(entry["train/task"] + entry["train/sparsity"], rel=1e-5)
    assert json.loads((tmp_path / "history.json").read_text()) == result.history


def test_multi_label(tmp_path):
    class Several(TinyImages):
        def __getitem__(self, row):
            item = super().__getitem__(row)
            hot = torch.zeros(3)
            hot[[int(item["labels"]), (row % 3)]] = 1
            return {**item, "labels": hot}

    class MultiLabel(TinyModel):
        def forward(self, pixel_values, labels=None):
            output = super().forward(pixel_values)
            if labels is not None:
                output.loss = nn.functional.binary_cross_entropy_with_logits(output.logits, labels)
                output.losses = {"task": output.loss}
            return output

    options = {"monitor": "mean_average_precision", "epochs": 2, "batch_size": 8, "progress": False}
    config = TrainingConfig(output_dir=str(tmp_path), **options)
    result = finetune(MultiLabel(), Several(24), config, eval_dataset=Several(12), collate=collate)
    assert 0 < result.best_metric <= 1
    names = {"eval/loss", "eval/accuracy", "eval/macro_f1", "eval/mean_average_precision"}
    assert names <= result.history[0].keys()


# --- the best model, early stopping, freezing ------------------------------------------------------------------------


def given_metrics(name, values):
    values = iter(values)
    return lambda model, accelerator: {name: next(values)}


def run_with(folder, name, values, **options):
    options = {
        "monitor": name,
        "epochs": len(values),
        "batch_size": 8,
        "progress": False,
        "learning_rate": 0.01,
        **options,
    }
    model, config = TinyModel(), TrainingConfig(output_dir=str(folder), **options)
    snapshots = []

    def evaluate(model, accelerator):
        assert not model.training
        snapshots.append({key: value.clone() for key, value in model.state_dict().items()})
        return measured(model, accelerator)

    measured = given_metrics(name, values)
    result = finetune(model, TinyImages(16), config, evaluate=evaluate, collate=collate)
    return model, result, snapshots


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [("accuracy", [0.1, 0.7, 0.7, 0.2], 2), ("loss", [3.0, 2.0, 0.5, 0.9], 2), ("iou", [math.nan, 0.2, math.nan], 1)],
)
def test_best_weights_are_kept_and_end_in_memory(name, values, best, tmp_path):
    model, result, snapshots = run_with(tmp_path, name, values)
    assert (result.best_metric, result.best_step) == (values[best], 2 * (best + 1))
    assert_same(dict(model.state_dict()), snapshots[best])
    assert_same(last_weights(tmp_path), snapshots[-1])
    assert not model.training


def test_early_stopping_and_mode(tmp_path):
    _, result, snapshots = run_with(
        tmp_path, "score", [1.0, 2.0, 3.0, 4.0, 5.0], monitor_mode="min", early_stopping_patience=2
    )
    assert result.stopped_early and len(snapshots) == 3 and result.best_metric == 1.0 and result.steps == 6
    options = {"monitor": "score", "monitor_mode": "min", "early_stopping_patience": 2, "epochs": 5, "batch_size": 8}
    again = TrainingConfig(output_dir=str(tmp_path), progress=False, learning_rate=0.01, resume=True, **options)
    repeated = finetune(TinyModel(), TinyImages(16), again, evaluate=None, eval_dataset=TinyImages(4), collate=collate)
    assert repeated.steps == 6 and repeated.history == result.history, "a finished run has nothing left to do"


def test_eval_every_counts_the_last_epoch(tmp_path):
    _, result, _ = run_with(tmp_path, "accuracy", [0.1, 0.2, 0.3], epochs=5, eval_every=2)
    assert ["eval/accuracy" in entry for entry in result.history] == [False, True, False, True, True]


def test_parameter_groups():
    config = TrainingConfig(learning_rate=0.1, head_learning_rate_multiplier=10, weight_decay=0.2)
    groups = {
        (round(group["lr"], 6), group["weight_decay"]): group["params"]
        for group in make_optimizer(TinyModel(), config).param_groups
    }
    shapes = {key: sorted(tuple(p.shape) for p in parameters) for key, parameters in groups.items()}
    assert shapes == {
        (0.1, 0.2): [(6, 3, 3, 3)],
        (0.1, 0.0): [(6,), (6,), (6,)],
        (1.0, 0.2): [(1, 6, 1, 1), (3, 6)],
        (1.0, 0.0): [(1,), (3,)],
    }


def test_frozen_backbone_keeps_weights_and_statistics(tmp_path):
    torch.manual_seed(3)
    before = TinyModel("batch").state_dict()
    model, _ = train(tmp_path / "frozen", freeze_backbone=True, evaluated=False)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias", "classifier.weight", "classifier.bias"}
    assert all(parameter.requires_grad for parameter in model.parameters()), "as before the run"
    model, _ = train(tmp_path / "statistics", freeze_batch_norm=True, evaluated=False)
    assert torch.equal(model.backbone[1].running_mean, before["backbone.1.running_mean"])
    assert not torch.equal(model.backbone[1].weight, before["backbone.1.weight"])


def test_precision_layout_and_a_second_run_of_one_model(tmp_path):
    model, first = train(tmp_path / "bf16", mixed_precision="bf16", channels_last=True, norm="layer")
    assert "forward" not in vars(model), "the model itself is not patched"
    config = TrainingConfig(output_dir=str(tmp_path / "full"), epochs=1, batch_size=8, progress=False)
    second = finetune(model, TinyImages(16), config, collate=collate)
    assert second.history[0]["train/loss"] < first.history[0]["train/loss"]
    assert model(torch.randn(2, 3, 8, 8)).logits.dtype == torch.float32


def test_tracker(tmp_path):
    pytest.importorskip("tensorboard")
    train(tmp_path, log_with="tensorboard", log_every=1, epochs=1)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {path.parent for path in tmp_path.rglob("events.out*")}
    events = [EventAccumulator(str(folder)).Reload() for folder in found]
    (events,) = [each for each in events if "train/task" in each.Tags()["scalars"]]
    assert len(events.Scalars("train/task")) == 6 and len(events.Scalars("eval/accuracy")) == 1


class Stopped(Exception):
    """Stands for a kill where the run is in this process."""


class Steep(TinyModel):
    """A loss whose gradient is past float32's range at the largest loss scale, and within it some halvings later."""

    def forward(self, pixel_values, labels=None):
        output = super().forward(pixel_values, labels)
        if labels is not None:
            output.loss = 8 * output.loss
        return output


def test_loss_scale_is_counted_and_resumed(tmp_path):
    """fp16's loss scale, on the CPU: too large at first, so steps are skipped; a resumed run must know the scale."""

    def scaled(folder, stop_at=None, **options):
        accelerator = Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=4)
        torch.manual_seed(0)
        model, steps = Steep(), []

        def hook(module, arguments):
            steps.append(module.training)
            if sum(steps) == stop_at:
                raise Stopped

        model.register_forward_pre_hook(hook)
        config = TrainingConfig(
            output_dir=str(folder),
            batch_size=4,
            epochs=3,
            save_every_steps=1,
            progress=False,
            learning_rate=0.01,
            **options,
        )
        return finetune(model, TinyImages(16), config, accelerator=accelerator, collate=collate)

    whole = scaled(tmp_path / "whole")
    assert 0 < whole.skipped_steps < whole.steps
    with pytest.raises(Stopped):
        scaled(tmp_path / "cut", stop_at=5)
    resumed = scaled(tmp_path / "cut", resume=True)
    assert resumed.skipped_steps == whole.skipped_steps and resumed.history == whole.history
    assert_same(last_weights(tmp_path / "cut"), last_weights(tmp_path / "whole"))


def test_gradient_that_always_overflows_is_stopped(tmp_path):
    accelerator = Accelerator(cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=0.9999)
    config = TrainingConfig(output_dir=str(tmp_path), batch_size=4, epochs=30, progress=False)
    with pytest.raises(TrainingError, match="step 25: the fp16 gradient was not finite in 25 steps in a row"):
        finetune(Steep(), TinyImages(16), config, accelerator=accelerator, collate=collate)


# --- a real model ----------------------------------------------------------------------------------------------------


class Photographs(TinyImages):
    """The tiny images at a size that a network with five strides can read."""

    def __getitem__(self, row):
        item = super().__getitem__(row)
        item["pixel_values"] = nn.functional.interpolate(item["pixel_values"][None], (64, 64))[0]
        if self.masks:
            item["mask"] = nn.functional.interpolate(item["mask"][None].float(), (64, 64))[0].to(torch.uint8)
        return item


def refined(**options):
    torch.manual_seed(5)
    net = timm.create_model("test_resnet", num_classes=3)
    return attention_refine.wrap(net, **options)


def test_attention_branch_network_is_trained_resumed_and_loaded(tmp_path):
    options = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "save_every_steps": 2, "label_smoothing": 0.1}
    options |= {"monitor": "mask_correlation", "progress": False}
    data, masked = Photographs(24), Photographs(8, masks=True)

    def run(folder, model, **more):
        config = TrainingConfig(output_dir=str(folder), **options, **more)
        return finetune(model, data, config, eval_dataset=masked)

    model = refined(head="abn")
    result = run(tmp_path / "whole", model)
    names = {"train/loss", "train/task", "train/attention", "eval/accuracy", "eval/mask_correlation"}
    assert names <= result.history[0].keys()
    loaded, pixels = attention_refine.load(result.best_path), torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(pixels).logits, model(pixels).logits)

    cut, steps = refined(head="abn"), []

    def hook(module, arguments, keywords):
        steps.append(module.training)
        if sum(steps) == 5:
            raise Stopped

    cut.register_forward_pre_hook(hook, with_kwargs=True)
    with pytest.raises(Stopped):
        run(tmp_path / "cut", cut)
    again = run(tmp_path / "cut", refined(head="abn"), resume=True)
    assert again.history == result.history
    assert_same(last_weights(tmp_path / "cut"), last_weights(tmp_path / "whole"))


def test_frozen_real_backbone_still_learns_its_classifier(tmp_path):
    model = refined()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = TrainingConfig(output_dir=str(tmp_path), epochs=1, batch_size=8, freeze_backbone=True, progress=False)
    finetune(model, Photographs(16), config)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"backbone.net.fc.weight", "backbone.net.fc.bias"}


# --- damaged and foreign checkpoints ---------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["cut", "changed", "missing", "manifest"])
def test_damaged_checkpoint_is_named_and_passed_over(harm, tmp_path, uninterrupted):
    train(tmp_path, **RUN)
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    file = newest / ("manifest.json" if harm == "manifest" else "optimizer.safetensors")
    content = file.read_bytes()
    if harm == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-7] if harm in ("cut", "manifest") else content[:-1] + bytes([content[-1] ^ 1]))
    shutil.rmtree(tmp_path / "last")
    with pytest.warns(UserWarning, match=file.name):
        train(tmp_path, resume=True, **RUN)
    assert_same(last_weights(tmp_path), uninterrupted[0])
    assert damage(list_checkpoints(tmp_path / "checkpoints")[-1]) is None


def test_only_damaged_checkpoints_are_refused(tmp_path):
    train(tmp_path, epochs=1)
    for folder in list_checkpoints(tmp_path / "checkpoints"):
        (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"no checkpoint in .* is intact .*model\.safetensors has 0 bytes"):
        train(tmp_path, epochs=1, resume=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"batch_size": 8}, "a step of this run takes 4 images"), ({"learning_rate": 0.5}, "learning_rate"),
     ({"size": 21}, "images=22"), ({"epochs": 9}, "epochs=1")],
)  # fmt: skip
def test_resuming_another_run_is_refused(change, said, tmp_path):
    train(tmp_path, epochs=1)
    with pytest.raises(TrainingError, match=said):
        train(tmp_path, **{"epochs": 1, **change}, resume=True)


def test_lost_best_model_is_said_before_training(tmp_path):
    train(tmp_path, epochs=1)
    weights = tmp_path / "best" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(TrainingError, match=r"best/model\.safetensors cannot be read .* put it back"):
        train(tmp_path, epochs=1, resume=True)


def test_resuming_another_model_is_refused(tmp_path):
    train(tmp_path, epochs=1, norm="batch")
    with pytest.raises(TrainingError, match=r"step-00000006 is a checkpoint of another model"):
        train(tmp_path, epochs=1, norm="layer", resume=True)


def test_output_folder_in_use(tmp_path):
    train(tmp_path, epochs=1)
    kept = last_weights(tmp_path)
    with pytest.raises(TrainingError, match="holds the checkpoints of an earlier run"):
        train(tmp_path, epochs=2)
    assert_same(last_weights(tmp_path), kept)
    _, result = train(tmp_path, epochs=2, overwrite=True)
    assert result.steps == 12


def test_checkpoints_are_limited_and_the_pointer_follows(tmp_path):
    train(tmp_path, keep_last=2, save_every_steps=1)
    folder = tmp_path / "checkpoints"
    assert [path.name for path in list_checkpoints(folder)] == ["step-00000017", "step-00000018"]
    assert (folder / "latest").read_text() == "step-00000018"
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith((".tmp", ".old"))]
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pt", ".pth", ".bin", ".pkl")], "no pickle"


def test_atomic_folder_leaves_the_old_one_on_error(tmp_path):
    target = tmp_path / "model"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("first")
    with pytest.raises(RuntimeError), atomic_folder(target) as folder:
        (folder / "a").write_text("second")
        raise RuntimeError
    assert (target / "a").read_text() == "first" and len(list(tmp_path.iterdir())) == 1


# --- bad input -------------------------------------------------------------------------------------------------------


class Broken(TinyModel):
    """One loss that is not finite from a given step on."""

    def forward(self, pixel_values, labels=None, smoothing=0.0):
        output = super().forward(pixel_values, labels, smoothing)
        if self.training:
            self.seen = getattr(self, "seen", 0) + 1
            if self.seen > 4:
                output.losses["sparsity"] = output.losses["sparsity"] * math.nan
                output.loss = sum(output.losses.values())
        return output


def test_nan_names_step_and_component_and_spares_checkpoints(tmp_path):
    config = TrainingConfig(output_dir=str(tmp_path), batch_size=4, save_every_steps=2, progress=False)
    model = Broken()
    with pytest.raises(TrainingError, match=r"step 5 \(epoch 2\): sparsity is nan; .*learning_rate below 0.0001"):
        finetune(model, TinyImages(12), config, collate=collate)
    found = list_checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in found] == ["step-00000003", "step-00000004"] and not any(map(damage, found))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    class Exploding(TinyModel):
        def forward(self, pixel_values, labels=None, smoothing=0.0):
            output = super().forward(pixel_values, labels, smoothing)
            if output.loss is not None:  # finite, with a gradient that is not
                output.loss = output.loss + (self.head.weight.sum() * 0).sqrt()
            return output

    config = TrainingConfig(output_dir=str(tmp_path), batch_size=4, save_every_steps=1, progress=False)
    with pytest.raises(TrainingError, match=r"after step 1 the weights head\.weight are not finite"):
        finetune(Exploding(), TinyImages(12), config, collate=collate)
    assert list_checkpoints(tmp_path / "checkpoints") == []
    config = dataclasses.replace(config, clip_grad_norm=1.0)
    with pytest.raises(TrainingError, match=r"step 1 \(epoch 1\): gradient norm is nan"):
        finetune(Exploding(), TinyImages(12), config, collate=collate)


def test_label_outside_the_classes(tmp_path):
    data = TinyImages(12)
    data.labels[7] = 3
    with pytest.raises(TrainingError, match=r"image 7 of the dataset has label 3, and the model's 3 classes"):
        finetune(TinyModel(), data, TrainingConfig(output_dir=str(tmp_path), progress=False), collate=collate)


def test_no_loss(tmp_path):
    def unlabelled(items):
        return {"pixel_values": collate(items)["pixel_values"]}

    with pytest.raises(TrainingError, match="the model returned no loss"):
        finetune(
            TinyModel(), TinyImages(), TrainingConfig(output_dir=str(tmp_path), progress=False), collate=unlabelled
        )


@pytest.mark.parametrize(
    "makes, sentence",
    [
        (lambda items: None, "collate=<lambda> makes None of items; it must make a dict with pixel_values, labels"),
        (lambda items: tuple(items), "makes a tuple of items"),
        (lambda items: {"images": items}, "makes a batch that has images; it must have a tensor pixel_values"),
        (lambda items: {"pixel_values": items}, "has pixel_values a list; it must have a tensor"),
        (
            lambda items: collate(items[:1]),
            r"has pixel_values \(1, 3, .*; it must have a tensor pixel_values \(2, 3, H, W\)",
        ),
        (lambda items: items["pixel_values"], "fails on 2 items of TinyImages, whose items are a dict of pixel_values"),
    ],
)
def test_a_collate_function_is_tried_before_training(tmp_path, makes, sentence):
    with pytest.raises(TrainingError, match=sentence):
        finetune(
            TinyModel(), TinyImages(), TrainingConfig(output_dir=str(tmp_path / "run"), progress=False), collate=makes
        )
    assert not (tmp_path / "run").exists()


def test_labels_of_floats_are_no_classes(tmp_path):
    items = [{"pixel_values": torch.zeros(3, 8, 8), "labels": torch.tensor(1.0)}] * 8
    with pytest.raises(
        TrainingError, match=r"labels are float32 of shape \(8,\): the classes of images are whole numbers"
    ):
        finetune(TinyModel(), items, TrainingConfig(output_dir=str(tmp_path), progress=False, batch_size=8))


def test_an_evaluation_that_returns_no_numbers_by_name(tmp_path):
    config = TrainingConfig(output_dir=str(tmp_path), progress=False, epochs=1)
    with pytest.raises(TrainingError, match="evaluate returned 0.5, and must return a dict of numbers by name"):
        finetune(TinyModel(), TinyImages(8), config, collate=collate, evaluate=lambda model, accelerator: 0.5)


def test_settings_that_cannot_work(tmp_path):
    def start(dataset=None, model=None, **options):
        evaluated = options.pop("eval_dataset", None)
        config = TrainingConfig(output_dir=str(tmp_path), progress=False, **options)
        return finetune(model or TinyModel(), dataset or TinyImages(8), config, eval_dataset=evaluated, collate=collate)

    with pytest.raises(TrainingError, match="fp16' needs a GPU"):
        start(mixed_precision="fp16")
    with pytest.raises(TrainingError, match="early_stopping_patience=2 watches 'accuracy', which nothing measures"):
        start(early_stopping_patience=2)
    with pytest.raises(TrainingError, match="has no save_pretrained"):
        start(model=nn.Linear(2, 2))
    with pytest.raises(TrainingError, match="monitor='iou' was not measured; measured are accuracy, loss, macro_f1"):
        start(monitor="iou", eval_dataset=TinyImages(4), epochs=1)
    with pytest.raises(TrainingError, match="give max_steps"):
        start(Stream(8))
    with pytest.raises(TrainingError, match="object is no dataset: give a folder"):
        start(dataset=object())
    with pytest.raises(ValueError, match="does not fit in a run of 1 steps"):
        start(warmup_steps=4, max_steps=1)
    with pytest.raises(ValueError, match="training dataset is empty"):
        BatchOrder(0, 4)
    with pytest.raises(ValueError, match="5 images are too few for 3 processes, 2 for each"):
        BatchOrder(5, 4, processes=3)
    with pytest.raises(TrainingError, match="no parameter to train"):
        frozen = TinyModel()
        frozen.requires_grad_(False)
        make_optimizer(frozen, TrainingConfig())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"learning_rate": 0}, "learning_rate=0.0 is not accepted: it must be above 0"),
        ({"learning_rate": "1e-3"}, r"learning_rate='1e-3' is not accepted: .*in YAML write 0\.001"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"epochs": 2.5}, "epochs=2.5 is not accepted: it must be a whole number"),
        ({"epochs": True}, "epochs=True"),
        ({"batch_size": 0}, "batch_size=0 is not accepted: it must be at least 1"),
        ({"optimizer": "adamx"}, "optimizer='adamx' is not accepted: it must be one of adamw, adam, sgd"),
        ({"schedule": "cosin"}, "one of constant, linear, cosine, step"),
        ({"mixed_precision": "fp8"}, "one of no, bf16, fp16, auto"),
        ({"label_smoothing": 1.0}, "at least 0 and below 1"),
        ({"schedule": "step"}, "needs milestones"),
        ({"milestones": [3]}, "have no effect with schedule 'cosine'"),
        ({"schedule": "step", "milestones": [8, 6]}, "milestones must rise"),
        ({"warmup_steps": 2, "warmup_ratio": 0.1}, "give one of them"),
        ({"resume": True, "overwrite": True}, "resume=True continues"),
        ({"output_dir": ""}, "output_dir is empty"),
        ({"freeze_backbone": 1}, "true or false"),
    ],
)
def test_config_refuses(options, said):
    with pytest.raises(ValueError, match=said):
        TrainingConfig(**options)


def test_config_from_dict():
    config = TrainingConfig(learning_rate=1, schedule="step", milestones=(2, 4), clip_grad_norm=None)
    assert config.learning_rate == 1.0 and isinstance(config.learning_rate, float) and config.milestones == [2.0, 4.0]
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="unknown option 'learning_rat': did you mean 'learning_rate'"):
        TrainingConfig.from_dict({"learning_rat": 1})
    with pytest.raises(ValueError, match="unknown option 'zzz': known are output_dir"):
        TrainingConfig.from_dict({"zzz": 1})
    assert all(each.metadata["help"] for each in dataclasses.fields(TrainingConfig))
    assert TrainingConfig(monitor="eval_loss").larger_is_better is False
    assert TrainingConfig(monitor="mask_correlation").larger_is_better is True


def test_auto_precision_is_bf16_only_where_the_device_is_fast_at_it(tmp_path, monkeypatch):
    from attention_refine.training.starting import resolved_precision

    for fast, expected in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda fast=fast: fast)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert resolved_precision("auto") == expected and resolved_precision("fp16") == "fp16"
    train(tmp_path, mixed_precision="auto", epochs=1)
    state = json.loads((list_checkpoints(tmp_path / "checkpoints")[-1] / "state.json").read_text())
    assert state["identity"]["mixed_precision"] == "no", "a run on a machine that is fast at bf16 is another run"
    train(tmp_path, mixed_precision="no", epochs=1, resume=True)


def test_a_monitor_that_an_evaluate_of_ones_own_does_not_measure_costs_no_epoch(tmp_path):
    def run(monitor, **options):
        config = TrainingConfig(
            output_dir=str(tmp_path), progress=False, epochs=2, monitor=monitor, batch_size=4, **options
        )
        return finetune(
            TinyModel(), TinyImages(8), config, collate=collate, evaluate=lambda model, accelerator: {"dice": 0.5}
        )

    with pytest.raises(TrainingError, match="monitor='f1' was not measured; measured are dice. The epoch is kept: put"):
        run("f1")
    result = run("dice", resume=True)
    assert [entry["epoch"] for entry in result.history] == [1, 2] and result.best_metric == 0.5
    with pytest.raises(TrainingError, match="monitor='dice' and this run has monitor='f1'"):
        run("f1", resume=True)


def test_an_evaluate_of_ones_own_that_fails_costs_no_epoch(tmp_path):
    def run(evaluate, **options):
        config = TrainingConfig(output_dir=str(tmp_path), progress=False, epochs=1, batch_size=4, **options)
        return finetune(TinyModel(), TinyImages(8), config, collate=collate, evaluate=evaluate)

    with pytest.raises(KeyError, match="column"):
        run(lambda model, accelerator: {}["column"])
    with pytest.raises(TrainingError, match="monitor='accuracy' was not measured; measured are dice"):
        run(lambda model, accelerator: {"dice": 0.5}, resume=True)
    result = run(lambda model, accelerator: {"dice": 0.5}, resume=True, monitor="dice")
    assert (result.steps, result.best_step, len(result.history)) == (2, 2, 1)


def test_validation_images_that_are_training_images_are_said_once(tmp_path):
    for part in ("train", "copy"):
        for i in range(8):
            (tmp_path / part / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (30 * i, 0, 0)).save(tmp_path / part / "ab"[i % 2] / f"{i}.png")
    net = timm.create_model("test_resnet", num_classes=2)
    model = attention_refine.wrap(net, labels=["a", "b"], preprocessing={"input_size": [3, 32, 32]})
    folder = attention_refine.data.load_dataset(tmp_path / "train")

    def warned(evaluated):
        config = TrainingConfig(
            output_dir=str(tmp_path / "run"), progress=False, max_steps=1, batch_size=4, overwrite=True
        )
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            finetune(model, folder, config, eval_dataset=evaluated)
        return [str(each.message) for each in found if "are training images" in str(each.message)]

    for same in (folder, str(tmp_path / "train"), str(tmp_path / "copy"), folder.select([2, 3, 4])):
        (said,) = warned(same)
        count = 3 if same is not folder and not isinstance(same, str) else 8
        assert said.startswith(f"{count} of the {count} validation images are training images")
    for i in range(8):
        Image.new("RGB", (16, 16), (0, 30 * i, 0)).save(tmp_path / "copy" / "ab"[i % 2] / f"{i}.png")
    assert warned(str(tmp_path / "copy")) == []
