"""Which epoch is the best: the rule by hand, the folders it leaves, resuming, what is said."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import default_collate
from training_runs import TinyImages, TinyModel, assert_same, train

from attention_refine.training import TrainingConfig, TrainingError, finetune
from attention_refine.training.choosing import check_measured, choose, sentence, since_best
from attention_refine.training.keeping import BestModels


def history(**columns):
    """An entry an epoch of two steps, from columns of metrics."""
    rows = [dict(zip(columns, values)) for values in zip(*columns.values(), strict=True)]
    return [
        {"epoch": n, "step": 2 * n, **{f"eval/{k}": v for k, v in row.items()}} for n, row in enumerate(rows, start=1)
    ]


def chosen(entries, supervised=False, **options):
    """The choices after each epoch, with what the one before kept."""
    config, held, found = TrainingConfig(**options), [], []
    for end in range(1, len(entries) + 1):
        found.append(choose(entries[:end], config, {*held, entries[end - 1]["step"]}, supervised))
        held = found[-1].kept
    return found


# --- the rule --------------------------------------------------------------------------------------------------------


def test_ties_go_to_the_better_loss_and_then_to_the_later_epoch():
    assert chosen(history(accuracy=[0.9, 0.9, 0.8]))[-1].step == 4
    assert chosen(history(accuracy=[0.9, 0.9, 0.9], loss=[0.4, 0.2, 0.3]))[-1].step == 4
    assert chosen(history(accuracy=[0.9, 0.9, 0.9], loss=[0.4, 0.2, 0.2]))[-1].step == 6
    assert chosen(history(loss=[0.4, 0.2, 0.2]), monitor="loss")[-1].step == 6
    assert chosen(history(accuracy=[0.7, 0.9, math.nan]))[-1].step == 4
    assert chosen(history(accuracy=[math.nan]))[-1].step is None


@pytest.mark.parametrize(("images", "best"), [(6, 8), (49, 8), (50, 2), (500, 2)])
def test_few_images_keep_the_last(images, best):
    choice = chosen(history(accuracy=[0.9, 0.5, 0.6, 0.6], images=[images] * 4))[-1]
    assert choice.step == best
    if images == 6:
        assert sentence(choice, 4) == (
            "best: epoch 4 of 4, the last: 6 validation images are too few to choose by accuracy, one is 16.7 points"
        )
    if images == 500:
        assert sentence(choice, 4) == "best: epoch 1 of 4, chosen by accuracy on 500 images"


def test_few_images_choose_where_they_are_told_to_or_where_the_measure_is_no_count():
    entries = history(accuracy=[0.9, 0.5], loss=[0.3, 0.9], images=[6, 6])
    assert chosen(entries, monitor_images=0)[-1].step == 2
    assert chosen(entries, monitor="loss")[-1].step == 2


def test_the_map_chooses_among_epochs_that_are_nearly_as_good():
    measures = {"accuracy": [0.90, 0.95, 0.94, 0.93, 0.80], "mask_correlation": [0.8, 0.3, 0.5, 0.4, 0.9]}
    entries = history(**measures, images=[200] * 5, mask_correlation_images=[20] * 5)
    assert chosen(entries)[-1].step == 4, "without supervision the map has no say"
    assert [choice.step for choice in chosen(entries, supervised=True)] == [2, 4, 6, 6, 6]
    assert chosen(entries, supervised=True)[-1].reason == (
        "chosen by mask_correlation on 20 images among those within 0.02 of the best accuracy on 200 images"
    )
    assert [choice.step for choice in chosen(entries, supervised=True, monitor_tolerance=0.05)][-1] == 2
    assert chosen(entries, supervised=True, second_monitor=None)[-1].step == 4
    assert chosen(entries, second_monitor="mask_correlation")[-1].step == 6
    few = history(**measures, images=[200] * 5, mask_correlation_images=[9] * 5)
    assert chosen(few, supervised=True)[-1].step == 4, "nine masks are too few to have a say unasked"


def test_an_epoch_that_leaves_the_tolerance_hands_on_to_one_that_was_kept():
    entries = history(accuracy=[0.90, 0.88, 0.92], mask_correlation=[0.5, 0.8, 0.1])
    steps = chosen(entries, second_monitor="mask_correlation", monitor_tolerance=0.02)
    assert [choice.step for choice in steps] == [2, 4, 2], "0.88 is too far from 0.92"
    assert [choice.kept for choice in steps] == [[2], [2, 4], [2, 6]]


@pytest.mark.parametrize("seed", range(20))
def test_what_is_kept_is_enough(seed):
    """Choosing with the weights that were kept gives what choosing with all of them would."""
    generator = torch.Generator().manual_seed(seed)
    accuracy, maps = (torch.randint(0, 8, (2, 30), generator=generator) / 8).tolist()
    entries = history(accuracy=accuracy, mask_correlation=maps)
    options = {"second_monitor": "mask_correlation", "monitor_tolerance": 0.25}
    for end, choice in enumerate(chosen(entries, **options), start=1):
        everything = choose(entries[:end], TrainingConfig(**options), range(100), False)
        assert choice == everything
        best = max(accuracy[:end])
        assert choice.entry["eval/mask_correlation"] == max(m for a, m in zip(accuracy[:end], maps) if a >= best - 0.25)


def test_patience_counts_from_the_last_rise_of_the_monitor():
    config = TrainingConfig()
    rising = [since_best(history(accuracy=[0.5, 0.7, 0.7, 0.6, 0.8][:n]), config) for n in range(1, 6)]
    assert rising == [0, 0, 1, 2, 0]
    assert since_best(history(loss=[0.5, 0.7, math.nan]), TrainingConfig(monitor="loss")) == 2


# --- what a run leaves -----------------------------------------------------------------------------------------------


class Stopped(Exception):
    """Stands for a kill."""


def run(folder, accuracy, maps, stop_at=None, **options):
    """A run whose evaluation gives the numbers; the weights after each epoch."""
    torch.manual_seed(1)
    snapshots = []

    def evaluate(model, accelerator):
        epoch = int(model.epoch_of_test)
        if epoch + 1 == stop_at:
            raise Stopped
        model.epoch_of_test += 1
        snapshots.append({key: value.clone() for key, value in model.state_dict().items()})
        return {"accuracy": accuracy[epoch], "mask_correlation": maps[epoch]}

    model = TinyModel()
    model.register_buffer("epoch_of_test", torch.zeros((), dtype=torch.int64))
    config = TrainingConfig(output_dir=str(folder), epochs=len(accuracy), batch_size=8, progress=False,
                            second_monitor="mask_correlation", learning_rate=0.01, **options)  # fmt: skip
    return finetune(model, TinyImages(16), config, evaluate=evaluate, collate=default_collate), snapshots


MEASURES = ([0.90, 0.88, 0.92, 0.91, 0.50], [0.5, 0.8, 0.1, 0.45, 0.9])


def test_best_is_the_chosen_epoch_and_candidates_go(tmp_path):
    result, snapshots = run(tmp_path, *MEASURES)
    assert (result.best_step, result.best_metric) == (2, 0.90)
    assert_same(load_file(f"{result.best_path}/model.safetensors"), snapshots[0])
    assert not (tmp_path / "candidates").exists()
    assert (
        result.verdict == "best: epoch 1 of 5, chosen by mask_correlation among those within 0.02 of the best accuracy"
    )


@pytest.mark.parametrize("stop_at", [2, 3, 4, 5])
@pytest.mark.parametrize("every", [1, 2])
def test_resumed_chooses_what_an_uninterrupted_run_does(stop_at, every, tmp_path):
    whole, _ = run(tmp_path / "whole", *MEASURES)
    with pytest.raises(Stopped):
        run(tmp_path / "cut", *MEASURES, stop_at=stop_at, save_every_epochs=every)
    again, _ = run(tmp_path / "cut", *MEASURES, resume=True)
    assert (again.best_step, again.verdict) == (whole.best_step, whole.verdict)
    assert_same(load_file(f"{again.best_path}/model.safetensors"), load_file(f"{whole.best_path}/model.safetensors"))


def test_candidates_whose_weights_are_lost_are_not_chosen(tmp_path):
    models = BestModels(tmp_path)
    (tmp_path / "candidates" / "step-00000004").mkdir(parents=True)
    assert models.held(2, [2, 4]) == [2], "the best is in best/, the other has no weights"


def test_a_real_evaluation_of_few_images_keeps_the_last(tmp_path):
    model, result = train(tmp_path)
    assert result.history[-1]["eval/images"] == result.history[-1]["eval/mask_correlation_images"] == 10
    assert result.best_step == result.steps
    assert result.verdict == (
        "best: epoch 3 of 3, the last: 10 validation images are too few to choose by accuracy, one is 10.0 points"
    )


class Grouped(TinyImages):
    """Two groups in turn, every third image of none."""

    def __getitem__(self, row):
        return super().__getitem__(row) | {"group": torch.tensor((0, 1, -1)[row % 3])}


def test_the_worst_group_chooses(tmp_path):
    data = Grouped(40, noise=0.0)
    config = TrainingConfig(
        output_dir=str(tmp_path), epochs=3, monitor="worst_group_accuracy", monitor_images=0, progress=False
    )
    result = finetune(TinyModel(), data, config, eval_dataset=data, collate=default_collate)
    found = [entry["eval/worst_group_accuracy"] for entry in result.history]
    assert result.best_metric == max(found) and result.verdict.endswith("chosen by worst_group_accuracy on 40 images")
    config = TrainingConfig(
        output_dir=str(tmp_path), epochs=3, monitor="worst_group_accuracy", progress=False, overwrite=True
    )
    few = finetune(TinyModel(), data, config, eval_dataset=data, collate=default_collate)
    assert few.best_step == few.steps


# --- bad input -------------------------------------------------------------------------------------------------------


def test_a_monitor_that_is_not_measured_is_refused_before_training(tmp_path):
    data = TinyImages(60)
    with pytest.raises(
        TrainingError, match=r"monitor='f1' was not measured; measured are .*; did you mean 'macro_f1'\?"
    ):
        train(tmp_path, monitor="f1")
    assert not list(tmp_path.rglob("*.safetensors")), "nothing was trained"
    for word, meant in {
        "val_acc": "accuracy",
        "eval/accuracy": "accuracy",
        "val_loss": "loss",
        "Accuracy": "accuracy",
    }.items():
        with pytest.raises(TrainingError, match=f"did you mean '{meant}'"):
            check_measured(["accuracy", "loss", "macro_f1"], TrainingConfig(monitor=word))
    with pytest.raises(TrainingError, match="second_monitor='iou' was not measured"):
        train(tmp_path, second_monitor="iou")
    config = TrainingConfig(output_dir=str(tmp_path), monitor="worst_group_accuracy", epochs=1, progress=False)
    with pytest.raises(TrainingError, match="monitor='worst_group_accuracy' was not measured"):
        finetune(TinyModel(), data, config, eval_dataset=data, collate=default_collate)
