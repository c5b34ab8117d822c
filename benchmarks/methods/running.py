"""A cell, trained and judged: what its line says."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import attention_refine as ar
from attention_refine import data

from .protocol import BATCH, Cell, Places, annotated, fit, segmented, test_rows, training_rows, true_iou, wrapped
from .registry import METHODS, Method

ON_MAP = (
    "mask_correlation", "energy_inside", "max_box_acc", "pxap", "map_average_precision", "pointing_game", "sparsity",
    "insertion", "deletion", "road",
)  # fmt: skip
PERTURBED, PERTURBATIONS = 32, 10


def run(cell: Cell, places: Places) -> dict[str, Any]:
    """Train and judge; the random numbers are those of the cell's seed, whatever was run before."""
    method = METHODS[cell.method]
    began = time.process_time()
    full = training_rows(cell, places)
    rows, said = annotated(full, cell.annotation, cell.seed), {}
    labels = data.class_names(rows)
    if method.propagate and cell.annotation != "masks 100 %":
        rows, said = segmented(cell, places, rows)
        if "mask" in full.column_names:
            said["true_iou"] = true_iou(rows, full)
    model = make(cell, method, places, labels, rows)
    prepared = time.process_time() - began
    train(cell, method, model, rows)
    trained = time.process_time() - began - prepared
    cost = {
        "cpu_prepare": round(prepared, 1),
        "cpu_train": round(trained, 1),
        **_relative(cell, places, labels, min(BATCH, len(rows)), trained),
    }
    found = judge(model, cell, places)
    versions = {"torch": torch.__version__.split("+")[0], "version": ar.__version__}
    return {**said, **found, **cost, "gmacs": _multiply_adds(model, cell), **versions}


def make(cell: Cell, method: Method, places: Places, labels: list[str], rows: Any) -> ar.RefinedModel:
    """The network with what the method puts on it; a teacher is trained first."""
    head = method.head(cell) if method.head else None
    objectives = method.objectives(cell) if method.objectives else []
    model = wrapped(cell, places, labels, head, objectives, method.resolution, method.network)
    if method.taught:
        teacher = wrapped(cell, places, labels, method.head(cell) if method.head else None)
        fit(teacher, rows, cell, cell.steps)
        model.add_objective(ar.Distillation(teacher=teacher.eval()))
    return model


def train(cell: Cell, method: Method, model: ar.RefinedModel, rows: Any) -> None:
    """All of a method's training, its second part included."""
    first = cell.steps if method.then is None else cell.steps - cell.steps // 3
    augment = "default" if method.augment is None else method.augment(cell.image_size)
    fit(model, rows, cell, first, augment, **method.training)
    if method.then is not None:
        for made in method.then.objectives():
            model.add_objective(made)
        slow = {
            "optimizer": "adam",
            "learning_rate": 2e-5,
            "weight_decay": 0.0,
            "freeze_batch_norm": True,
            "warmup_ratio": 0.0,
        }
        fit(model, rows, cell, cell.steps - first, **slow, strategy=method.then.strategy)
    if method.retrain:
        ar.retrain_classifier(model, rows, balance="group", seed=cell.seed, progress=False)


def _relative(cell: Cell, places: Places, labels: list[str], batch: int, trained: float) -> dict[str, float]:
    """CPU seconds of an update over those of the plain network's on as many images, in the same precision and process."""
    plain = wrapped(cell, places, labels).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.0)
    images = torch.randn(batch, 3, cell.image_size, cell.image_size).contiguous(memory_format=torch.channels_last)
    wanted = torch.zeros(batch, dtype=torch.long)
    seconds = []
    for _ in range(4):
        began = time.process_time()
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=cell.mixed_precision == "bf16"):
            loss = plain(images, labels=wanted).loss
        loss.backward()
        optimizer.step()
        seconds.append(time.process_time() - began)
    return {
        "cpu_plain_step": round(statistics.median(seconds[1:]), 3),
        "relative": round(trained / cell.steps / statistics.median(seconds[1:]), 2),
    }


def _multiply_adds(model: ar.RefinedModel, cell: Cell) -> float:
    """Of one image's prediction, in billions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, cell.image_size, cell.image_size))
    return round(counter.get_total_flops() / 2e9, 3)


def judge(model: ar.RefinedModel, cell: Cell, places: Places) -> dict[str, Any]:
    """Of the test images, once: the prediction, the model's own map, and Grad-CAM where that is another (of a token
    transformer it is no better than chance). Of the plain network with seed 0 also maps that look at nothing."""
    test = test_rows(cell, places)
    grouped = cell.dataset == "places3"
    controls = ["random", "centre"] if (cell.method, cell.seed) == ("plain", 0) else []
    maps = ["model", *(["grad_cam"] if model.head is not None and not cell.transformer else []), *controls]
    measures = ["accuracy", "macro_f1", *ON_MAP, *(["energy_on_cue"] if cell.dataset == "shapes" else [])]
    judged = ar.evaluate(
        model, test, measures=measures, maps=maps, groups=["group", "aligned"] if grouped else [],
        perturbation_images=PERTURBED, perturbation_steps=PERTURBATIONS, progress=False,
    )  # fmt: skip
    correct = judged.values("correct").double()
    found = {"overall": float(correct.mean()), "macro_f1": judged.summary["classification"]["macro_f1"]["value"]}
    for name, cells in judged.summary["maps"].items():
        prefix = "map" if name == "model" else name
        found |= {f"{prefix}_{key}": _rounded(value["value"]) for key, value in cells.items()}
    if grouped:
        agrees = np.array([sample["aligned"] == "True" for sample in judged.samples])
        found["agrees"], found["lies"] = (float(correct[which].mean()) for which in (agrees, ~agrees))
        worst = judged.summary["groups"]["group"]["worst_group_accuracy"]
        found |= {"worst_group": worst["value"], "worst_group_interval": [worst["low"], worst["high"]]}
    if cell.dataset == "shapes":
        agrees = np.array(test["cue"]) == np.array(test["label"])
        found["agrees"], found["lies"] = (float(correct[which].mean()) for which in (agrees, ~agrees))
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
