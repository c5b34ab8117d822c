"""What a tracker sees: a panel of the same images with their maps, the pace; a run with one is the run without."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from PIL import Image
from strategy_runs import Pictures, make_model, train
from training_runs import assert_same, last_weights

import attention_refine as ar
from attention_refine import shapes
from attention_refine.drawing.overlay import denormalize
from attention_refine.training.panel import Pace, Panel, log_picture, panel_for

RUN = {"strategy": "combined", "epochs": 2, "evaluated": True}


def test_a_tracker_gets_pictures_and_pace_and_changes_no_bit(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "plain", **RUN)
    train(tmp_path / "seen", **RUN, log_with="tensorboard", log_images=3, log_every=2, eval_start=True)
    assert_same(last_weights(tmp_path / "seen"), last_weights(tmp_path / "plain"))
    (events,) = [
        each for folder in {path.parent for path in (tmp_path / "seen").rglob("events.out*")}
        if "eval/maps" in (each := EventAccumulator(str(folder)).Reload()).Tags()["images"]
    ]  # fmt: skip
    panels = events.Images("eval/maps")
    assert [panel.step for panel in panels] == [0, 4, 8], "the start and each epoch"
    assert {(panel.width, panel.height) for panel in panels} == {(3 * 34 - 2, 2 * 32)}
    pictures = [as_array(panel.encoded_image_string) for panel in panels]
    assert np.array_equal(pictures[0][:32], pictures[2][:32]), "the same images"
    assert not np.array_equal(pictures[0][32:], pictures[2][32:]), "other maps"
    assert [each.step for each in events.Scalars("images_per_second")] == [2, 4, 6, 8]
    assert all(each.value > 0 for each in events.Scalars("images_per_second"))
    assert {"eval/accuracy", "train/task"} <= set(events.Tags()["scalars"])


def as_array(png: bytes) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_the_images_are_chosen_by_the_seed():
    data = Pictures(20, noise=0.0)
    rows = [[int(item["index"]) for item in Panel(data, 5, seed).items] for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2] and len(set(rows[0])) == 5
    assert len(Panel(data, 50, 0).items) == 20


def test_images_stand_above_their_maps_with_the_edges_of_masks():
    data = shapes.make("test", 4, size=64)
    model = ar.wrap("test_resnet", "abn", pretrained=False, labels=shapes.CLASSES,
                    preprocessing={"input_size": [3, 64, 64]})  # fmt: skip
    prepared = ar.data.prepare(data, model.preprocessing)
    model.train()
    panel = Panel(prepared, 2, 0)
    drawn = np.asarray(panel.draw(model, torch.device("cpu")))
    assert model.training and drawn.shape == (128, 2 * 66 - 2, 3)
    image = np.asarray(denormalize(panel.items[0]["pixel_values"], model.preprocessing))
    mask = panel.items[0]["mask"][0].numpy()
    changed = (drawn[:64, :64] != image).any(2)
    assert changed.any() and not changed[~near(mask == 1)].any(), "only its edge is drawn on"
    assert not np.array_equal(drawn[64:, :64], image)


def near(inside: np.ndarray) -> np.ndarray:
    grown = torch.nn.functional.max_pool2d(torch.tensor(inside)[None].float(), 5, stride=1, padding=2)[0].numpy()
    shrunk = -torch.nn.functional.max_pool2d(-torch.tensor(inside)[None].float(), 5, stride=1, padding=2)[0].numpy()
    return (grown > 0) & (shrunk < 1)


class Kept(GeneralTracker):
    name, requires_logging_directory = "wandb", False

    def __init__(self):
        super().__init__()
        self.seen = []

    tracker = property(lambda self: None)

    def store_init_configuration(self, values):
        pass

    def log(self, values, step=None, **options):
        pass

    def log_images(self, values, step=None):
        self.seen.append((values, step))


def test_trackers_that_take_lists_and_ones_that_take_none():
    accelerator, tracker = Accelerator(cpu=True), Kept()
    accelerator.trackers = [tracker]
    assert panel_for(make_model(), Pictures(6), 2, 0, accelerator) is not None
    log_picture(accelerator, "eval/maps", Image.new("RGB", (4, 2), "red"), 7)
    (values, step), = tracker.seen  # fmt: skip
    assert step == 7 and [each.shape for each in values["eval/maps"]] == [(2, 4, 3)]
    tracker.name = "mlflow"
    assert panel_for(make_model(), Pictures(6), 2, 0, accelerator) is None
    accelerator.trackers = []
    assert panel_for(make_model(), Pictures(6), 2, 0, accelerator) is None


def test_a_map_that_cannot_be_drawn_stops_no_run(tmp_path, monkeypatch, caplog):
    pytest.importorskip("tensorboard")

    def broken(*arguments, **options):
        raise KeyError("no map here")

    monkeypatch.setattr(ar.RefinedModel, "explain", broken)
    train(tmp_path, **RUN, log_with="tensorboard")
    assert caplog.text.count("no maps are drawn for the tracker: 'no map here'") == 1


def test_the_pace_is_of_the_steps_alone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    pace = Pace(10)
    now[0] = 2.0
    pace.step(30)
    now[0] = 50.0  # a checkpoint
    pace.start()
    now[0] = 52.0
    pace.step(50)
    assert pace.read()["images_per_second"] == 10.0
    pace.start()
    now[0] = 53.0
    pace.step(55)
    assert pace.read()["images_per_second"] == 5.0


def test_a_step_that_waits_for_its_images_says_how_long(monkeypatch):
    clock = iter([0.0, 0.0, 3.0, 4.0, 4.0, 4.5, 6.0, 10.0, 10.5, 11.0])
    monkeypatch.setattr("attention_refine.training.panel.time.perf_counter", lambda: next(clock))
    pace = Pace(16)
    for images in (24, 32):
        pace.start()
        pace.loaded()
        pace.step(images)
    assert pace.read() == pytest.approx({"images_per_second": 16 / 6, "data_seconds": 1.75, "data_share": 3.5 / 6})
    pace.start()
    pace.loaded()
    pace.step(36)
    assert pace.read() == pytest.approx({"images_per_second": 4.0, "data_seconds": 0.5, "data_share": 0.5})
    assert pace.data_share == pytest.approx(4.0 / 7.0) and pace.steps == 3
