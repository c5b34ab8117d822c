"""A run that is resumed on other processes than it began with: the law, what it says, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import in_two_processes
from sharing_runs import PLAIN
from training_runs import TinyModel, asked_to_end, largest_difference, last_weights, train

from attention_refine.training import TrainingConfig, TrainingError
from attention_refine.training.batches import BatchOrder
from attention_refine.training.checkpoints import load_progress
from attention_refine.training.drift import StartingPredictions
from attention_refine.training.interruption import Interrupted
from attention_refine.training.parameter_groups import make_optimizer
from attention_refine.training.sharing_out import shared_line, shared_out

SCRIPT = Path(__file__).parents[1] / "sharing_runs.py"
BEGAN = {"num_processes": 2, "gradient_accumulation_steps": 1, "batch_size": 4, "unlabeled_batch_size": None}


def given(processes, model=None, began=BEGAN, **options):
    return shared_out(model or TinyModel(), TrainingConfig(**{"batch_size": 4, **options}), processes, began)


def test_two_one_and_two_processes_equal_the_uninterrupted_run(tmp_path, capsys):
    """A signal ends it in mid-epoch each time. 35 images leave three over, which are a step for one process alone."""
    in_two_processes(SCRIPT, tmp_path, "begin")
    with pytest.raises(Interrupted), asked_to_end(8):  # two passes a step
        train(tmp_path / "parts", resume=True, **{**PLAIN, "progress": True})
    said = "resumed with num_processes=1 x gradient_accumulation_steps=2 x batch_size=4, begun with num_processes=2 x"
    assert said in capsys.readouterr().out
    in_two_processes(SCRIPT, tmp_path, "end")
    assert largest_difference(last_weights(tmp_path / "parts"), last_weights(tmp_path / "whole")) < 1e-4
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("parts", "whole")]
    for ours, theirs in zip(*histories, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert "eval/prediction_kl" in histories[0][-1] and histories[0][-1]["step"] == 12


def test_one_process_with_other_factors_equals_the_uninterrupted_run(tmp_path):
    options = {"norm": "layer", "dropout": 0.0, "size": 21, "batch_size": 6}
    train(tmp_path / "whole", **options)
    with pytest.raises(Interrupted), asked_to_end(6):
        train(tmp_path / "parts", **options)
    options |= {"batch_size": 2, "gradient_accumulation_steps": 3}
    train(tmp_path / "parts", resume=True, **options)
    assert largest_difference(last_weights(tmp_path / "parts"), last_weights(tmp_path / "whole")) < 1e-4


@pytest.mark.parametrize(
    ("processes", "options", "slots"),
    [(2, {}, 1), (1, {}, 2), (1, {"batch_size": 8}, 1), (4, {"batch_size": 2}, 1), (2, {"batch_size": 2, "gradient_accumulation_steps": 2}, 2)],
)  # fmt: skip
def test_the_accumulation_is_made_to_fit(processes, options, slots):
    config = given(processes, **options)
    assert config.gradient_accumulation_steps == slots
    assert processes * slots * config.batch_size == 8
    assert (shared_line(config, processes, BEGAN) is None) == (processes == 2 and not options)


def batch_norms():
    model = TinyModel("batch")
    model.objectives = {}
    return model


def comparing():
    model = TinyModel()
    model.objectives = {"triplet": SimpleNamespace(compares_images=True)}
    return model


@pytest.mark.parametrize(
    ("processes", "options", "model", "said"),
    [
        (3, {}, TinyModel, r"takes 8 images, num_processes=2 x .* start 1 or 2 processes with batch_size=4$"),
        (4, {}, TinyModel, r"=4 x .* would .*: give a batch_size that divides 2, or start 1 or 2 processes"),
        (2, {"batch_size": 8}, TinyModel, r"resume with batch_size=4 and gradient_accumulation_steps=1, or others"),
        (2, {"gradient_accumulation_steps": 2}, TinyModel, r"=2 x gradient_accumulation_steps=2 x batch_size=4 would change its outcome"),
        (1, {"batch_size": 8}, batch_norms, r"the batch norm backbone\.1 takes the .*: the run began with batch_size=4"),
        (1, {}, comparing, r"triplet puts together .*: the run began with num_processes x batch_size=8, and 4 would"),
        (4, {"batch_size": 2, "annotated_per_batch": 1}, TinyModel, "annotated_per_batch fills each batch"),
        (1, {"unlabeled_batch_size": 3}, TinyModel, "unlabeled_batch_size=3 would .*: give unlabeled_batch_size=4"),
    ],
)  # fmt: skip
def test_what_would_change_the_outcome_is_refused_with_the_remedy(processes, options, model, said):
    with pytest.raises(TrainingError, match=said):
        given(processes, model(), **options)


def test_what_must_stay_together_may_move_whole():
    assert given(1, batch_norms()).gradient_accumulation_steps == 2
    assert given(1, batch_norms(), batch_size=8, freeze_batch_norm=True).gradient_accumulation_steps == 1
    assert given(1, batch_norms(), batch_size=8, sync_batch_norm=True).gradient_accumulation_steps == 1
    assert given(1, comparing(), batch_size=8).gradient_accumulation_steps == 1


def test_the_last_short_step_is_what_it_was():
    assert BatchOrder(35, 4, 1, 2).steps == 5
    assert BatchOrder(35, 4, 1, 2, fewest=4).steps == BatchOrder(35, 4, 2).steps == 4
    for processes, slots in ((2, 1), (1, 2)):
        order = BatchOrder(37, 4, processes, slots, fewest=4)
        assert sum(len(batch) for each in range(processes) for batch in order.batches(0, each)) == 37
    with pytest.raises(
        ValueError, match=r"the last 3 images of an epoch were a step .* and 2 processes need 4 .*most 1$"
    ):
        BatchOrder(35, 4, 2, fewest=2)


def test_a_stream_that_ends_in_a_step_too_short_for_these_processes():
    order = BatchOrder(None, 4, 2, fewest=2)
    assert order.divide(list(range(5)), 1) == [[3, 4]]
    with pytest.raises(ValueError, match="the last 3 images of an epoch were a step"):
        order.divide(list(range(3)), 0)


def test_starting_predictions_are_dealt_out_anew(tmp_path):
    everything = torch.arange(14.0).reshape(7, 2)
    for process in range(3):
        StartingPredictions(tmp_path, process, 3).keep(everything[process::3])
    for processes in (1, 2, 3):
        for process in range(processes):
            found = StartingPredictions(tmp_path, process, processes, began=3)
            found.check()
            assert torch.equal(found._read(), everything[process::processes])


def test_random_numbers_of_other_processes_are_drawn_anew_from_seed_step_and_process(tmp_path):
    model, _ = train(tmp_path, epochs=1, norm="layer")
    optimizer = make_optimizer(model, TrainingConfig())
    folder = tmp_path / "checkpoints" / "step-00000006"

    def draws(process, processes, seed=0):
        load_progress(folder, optimizer=optimizer, process=process, processes=processes, seed=seed)
        return torch.rand(3)

    assert torch.equal(draws(0, 1), draws(0, 1))
    assert torch.equal(draws(1, 2), draws(1, 2))
    others = [draws(0, 1), draws(0, 2), draws(1, 2), draws(0, 2, seed=1)]
    assert len({tuple(each.tolist()) for each in others}) == 4


class Coming(TinyModel):
    """With a count of the kind that fades a head in."""

    def __init__(self):
        super().__init__()
        self.register_buffer("begun_steps", torch.zeros((), dtype=torch.long))

    def forward(self, pixel_values, labels=None, smoothing=0.0):
        self.begun_steps += self.training
        output = super().forward(pixel_values, labels, smoothing)
        if labels is not None:
            output.loss = output.loss * self.begun_steps
        return output


def test_a_step_counts_once_however_many_batches_it_is_made_of(tmp_path, monkeypatch):
    monkeypatch.setattr("training_runs.TinyModel", lambda *args, **options: Coming())
    plain = {"size": 24, "epochs": 1, "optimizer": "sgd"}
    whole, _ = train(tmp_path / "whole", batch_size=8, **plain)
    parts, _ = train(tmp_path / "parts", batch_size=2, gradient_accumulation_steps=4, **plain)
    assert int(parts.begun_steps) == int(whole.begun_steps) == 3
    assert largest_difference(parts.state_dict(), whole.state_dict()) < 1e-5
