"""On a CUDA device: the CPU's numbers, and training in every precision. Skipped where there is none.

pytest tests/test_cuda.py -n 0
"""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from cases import BY_NAME, CASES, OBJECTIVE_OPTIONS, Case
from safetensors.torch import save_model

import attention_refine as ar
from attention_refine import maps, shapes
from attention_refine.cli import main
from attention_refine.evaluation.measures import MEASURES
from attention_refine.objectives._base import objectives
from attention_refine.training import run as training_run
from attention_refine.training.background import Held

DEVICE = "cuda"
SIDE = 64
OPTIONS = {"map_supervision": {"target": "mask"}}
FAMILIES = ("resnet18", "convnext", "vit-token", "hf-swin")

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)


@pytest.fixture(autouse=True)
def _on_the_device(monkeypatch):
    """Full float32 convolutions, and Accelerate free to take the device: other tests hold it to the CPU."""
    from accelerate.state import AcceleratorState

    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def images():
    return shapes.make("train", 24, size=SIDE)


@functools.cache
def wrapped(name: str, head: str | None = "abn") -> ar.RefinedModel:
    """Shared by tests: copy before changing."""
    return BY_NAME[name].wrap(head)


def with_objective(name: str, objective: str) -> ar.RefinedModel:
    model = fresh(name, labels=shapes.CLASSES)
    if objective == "distillation":
        model.add_objective(ar.Distillation(teacher=fresh(name, None, shapes.CLASSES)))
    else:
        options = {**OBJECTIVE_OPTIONS.get(objective, {}), **OPTIONS.get(objective, {})}
        model.add_objective(objectives.build(objective, options))
    return model


def fresh(name: str, head: str | None = "abn", labels=None) -> ar.RefinedModel:
    torch.manual_seed(2)
    case = BY_NAME[name]
    return ar.wrap(
        case.make(),
        head,
        labels=labels and list(labels),
        preprocessing={"input_size": [3, SIDE, SIDE], "crop_pct": 1.0},
    )


def both(model: ar.RefinedModel) -> tuple[ar.RefinedModel, ar.RefinedModel]:
    """In float64, on the CPU and on the device."""
    model = copy.deepcopy(model).double()
    return model, copy.deepcopy(model).to(DEVICE)


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-6) -> None:
    assert found.device.type == DEVICE
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)


# the CPU's numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("head", [None, *ar.list_heads()])
def test_predictions_and_maps_are_the_cpu_s(case: Case, head):
    here, there = both(wrapped(case.name, head))
    pixels = case.images().double()
    expected, found = here(pixels), there(pixels.to(DEVICE))
    tolerance = 1e-6 if head in (None, "abn") else 1e-4  # the pooling heads work in float32
    close(found.logits, expected.logits, tolerance)
    if head is not None:
        close(found.maps, expected.maps, tolerance)
    close(there.explain(pixels.to(DEVICE)), here.explain(pixels), tolerance)
    close(there.embed(pixels.to(DEVICE)), here.embed(pixels), tolerance)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", maps.list_maps())
def test_every_map_is_the_cpu_s(name, kind):
    here, there = both(wrapped(name, None))
    pixels = BY_NAME[name].images(2).double()
    target = () if not maps.by_name(kind).per_class else (torch.tensor([3, 1]),)
    options = {"rise": {"masks": 32}, "occlusion": {"window": 16, "stride": 16}}.get(kind, {})
    function = maps.by_name(kind)
    try:
        expected = function(here, pixels, *target, **options)
    except ValueError as refusal:
        with pytest.raises(ValueError) as there_too:
            function(there, pixels.to(DEVICE), *target, **options)
        assert str(there_too.value) == str(refusal)
        return
    close(function(there, pixels.to(DEVICE), *(t.to(DEVICE) for t in target), **options).double(), expected.double())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_measure_is_the_cpu_s(name, images, tmp_path):
    few = images.select(range(6))
    drops_tokens = name == "vit-token"
    model = fresh(name, None if drops_tokens else "abn", shapes.CLASSES).eval()
    model.save_pretrained(tmp_path)
    left_out = [] if drops_tokens else ["token_insertion", "token_deletion"]
    several = ("mean_average_precision", "precision_at_1")
    asked = {measure: {} for measure in MEASURES if measure not in (*left_out, *several)}
    asked["label_randomisation"] = {"model": str(tmp_path)}
    options = {"measures": asked, "maps": ["model", "grad_cam"], "perturbation_steps": 4, "progress": False}
    expected = ar.evaluate(model, few, **options)
    found = ar.evaluate(copy.deepcopy(model).to(DEVICE), few, **options)
    for ours, theirs in zip(found.samples, expected.samples):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            if isinstance(value, float):  # a pixel at a threshold may fall on either side of it
                assert ours[key] == pytest.approx(value, abs=0.02), key
            else:
                assert ours[key] == value, key


# training ------------------------------------------------------------------------------------------------------------


def config(folder, steps: int, **options) -> ar.TrainingConfig:
    return ar.TrainingConfig(
        output_dir=str(folder), max_steps=steps, batch_size=8, learning_rate=1e-3, progress=False, **options
    )


def prepared(model: ar.RefinedModel, images):
    return ar.data.prepare(images, model.preprocessing, train=True, class_names=list(shapes.CLASSES))


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("objective", ar.list_objectives())
@pytest.mark.parametrize("name", FAMILIES)
def test_every_objective_trains_in_every_precision(name, objective, precision, images, tmp_path):
    model = with_objective(name, objective)
    before = {key: value.clone() for key, value in model.named_parameters()}
    pairs = 2 if objective == "triplet" else 1
    steps = 10 if precision == "fp16" else 3  # the first ones are skipped, until the loss's scale has come down
    done = ar.finetune(
        model, prepared(model, images), config(tmp_path, steps, mixed_precision=precision, images_of_a_class=pairs),
        eval_dataset=ar.data.prepare(images.select(range(8)), model.preprocessing, class_names=list(shapes.CLASSES)),
    )  # fmt: skip
    assert done.steps == steps and done.skipped_steps < steps
    losses = {key: value for key, value in done.history[-1].items() if key.startswith("train/")}
    assert len(losses) > 2 and all(value == value for value in losses.values()), losses
    assert all(parameter.device.type == DEVICE for parameter in model.parameters())
    assert any(not torch.equal(value.cpu(), before[key]) for key, value in model.named_parameters())
    pixels = BY_NAME[name].images(2)
    loaded = ar.load(done.best_path)
    close(model(pixels.to(DEVICE)).logits, loaded(pixels).logits, 1e-3)


@pytest.mark.parametrize("name", ["resnet18", "convnext", "vit-token"])
def test_the_exact_loss_differentiates_twice(name):
    model = fresh(name, None)
    model.add_objective(ar.AttentionConsistency(detach_mask=False))
    here, there = both(model)
    pixels = BY_NAME[name].images(2).double()
    expected, found = (each(x, compute_losses=True) for each, x in ((here, pixels), (there, pixels.to(DEVICE))))
    close(found.losses["consistency"], expected.losses["consistency"])
    for output in (expected, found):
        output.losses["consistency"].backward()
    for ours, theirs in zip(there.parameters(), here.parameters()):
        assert (ours.grad is None) == (theirs.grad is None)
        if theirs.grad is not None:
            close(ours.grad, theirs.grad)


def test_a_resumed_run_goes_on_from_the_same_numbers(images, tmp_path, monkeypatch):
    def run(folder, **options):
        model = fresh("resnet18", labels=shapes.CLASSES)
        ar.finetune(model, prepared(model, images), config(folder, 6, save_every_steps=2, **options))
        return model

    whole = run(tmp_path / "whole")
    take_step, taken = training_run.take_step, []

    def cut_short(*args):
        taken.append(1)
        if len(taken) == 5:
            raise KeyboardInterrupt
        return take_step(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training_run, "take_step", cut_short)
        run(tmp_path / "parts", background_checkpoints=True)
    resumed = run(tmp_path / "parts", resume=True)
    for (key, ours), theirs in zip(resumed.state_dict().items(), whole.state_dict().values()):
        assert ours.device.type == DEVICE
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=key)


def test_what_a_background_checkpoint_holds_is_in_main_memory_and_stays(tmp_path):
    model = fresh("resnet18", labels=shapes.CLASSES)
    save_model(model, str(tmp_path / "own"))
    held = Held(model)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1)
    assert {value.device.type for value in held.state_dict().values()} == {"cpu"}
    save_model(held, str(tmp_path / "held"))
    assert (tmp_path / "held").read_bytes() == (tmp_path / "own").read_bytes()


def test_a_saved_model_is_loaded_onto_the_device_and_used_there(images, tmp_path, capsys):
    model = fresh("resnet18", "brnpa", shapes.CLASSES).eval()
    model.save_pretrained(tmp_path / "model")
    loaded = ar.load(tmp_path / "model", device=DEVICE)
    picture = images[0]["image"]
    close(loaded(loaded.preprocess(picture)).logits, model(model.preprocess(picture)).logits, 1e-4)
    for function, options in ((ar.few_shot, {"ways": 3, "queries": 2, "episodes": 20}), (ar.retrieval, {})):
        ours, theirs = (function(each, images, progress=False, **options) for each in (loaded, model))
        for figure in ("accuracy", "mean_average_precision"):
            if hasattr(theirs, figure):
                assert getattr(ours, figure).value == pytest.approx(getattr(theirs, figure).value, abs=0.05)
    folder = shapes.write(tmp_path / "images", splits=("test",), n=6, size=SIDE)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    words = ["--data.source", str(folder), "--output", str(tmp_path / "page"), "--evaluation.perturbation_images", "2"]
    assert main(["evaluate", str(tmp_path / "model"), *words]) == 0
    assert torch.cuda.max_memory_allocated() > before, "the command takes the device that is there"
    assert main(["explain", str(tmp_path / "model"), str(folder / "test"), "--output", str(tmp_path / "drawn")]) == 0
    assert len(list((tmp_path / "drawn").glob("*.png"))) >= 6
