"""A wrapped model in other people's training loops: transformers.Trainer as its tutorials use it, and docs/integration.md."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import BY_NAME

import attention_refine as ar
from attention_refine.hf_auto.model import RefinedForImageClassification
from attention_refine.objectives._annotations import TARGETS
from attention_refine.objectives._base import objectives

CASE = BY_NAME["hf-resnet"]
LABELS = torch.arange(8) % 5
MASK = torch.zeros(8, 1, 64, 64, dtype=torch.uint8).index_fill_(3, torch.arange(24), 1)


class Images(torch.utils.data.Dataset):
    """Items as a person's own dataset gives them; further columns as asked."""

    def __init__(self, count: int = 8, **columns: torch.Tensor):
        self.columns = {"pixel_values": CASE.images(8)[:count], "labels": LABELS, **columns}

    def __len__(self) -> int:
        return len(self.columns["pixel_values"])

    def __getitem__(self, index: int) -> dict:
        return {name: column[index] for name, column in self.columns.items()}


@pytest.fixture
def trainer(tmp_path):
    """Makes a Trainer; what is given beside model, data, collator and metrics is its arguments."""
    from transformers import Trainer, TrainingArguments

    def make(model, train, data_collator=None, compute_metrics=None, **options):
        options = dict(max_steps=4, save_strategy="no", per_device_train_batch_size=4, logging_steps=1, report_to=[],
                       use_cpu=True, disable_tqdm=True, learning_rate=1e-2, seed=0) | options  # fmt: skip
        arguments = TrainingArguments(output_dir=str(tmp_path / "trainer"), **options)
        return Trainer(model, arguments, data_collator, train, train, compute_metrics=compute_metrics)

    return make


def accuracy(predicted) -> dict:
    """The tutorials' compute_metrics: predictions are logits."""
    logits, labels = predicted
    return {"accuracy": float((np.argmax(logits, axis=1) == labels).mean())}


def supervised(**options) -> ar.RefinedModel:
    return CASE.wrap(ar.AttentionBranch(fade_in_steps=0), objectives=[ar.MapSupervision(**options)])


# columns --------------------------------------------------------------------------------------------------------------


def columns_read() -> set[str]:
    """Names that the objectives' code asks a batch for; those it works out are the targets of maps."""
    read = {*TARGETS.values(), "cue"}
    for path in (Path(ar.__file__).parent / "objectives").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "batch.get":
                asked = node.args[0]
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "batch":
                asked = node.slice
            else:
                continue
            if isinstance(asked, ast.Constant):
                read.add(asked.value)
    return read - {"darc_image", "darc_hidden", "transplanted"}  # which their own prepare has put there


def test_objectives_declare_the_columns_that_they_read():
    declared = {column for cls in objectives.entries.values() for column in (*cls.reads, *cls.adds)}
    assert columns_read() - {"pixel_values", "labels", "smoothing"} <= declared
    assert {"mask", "boxes", "edited_map", "cue", "group", "views", "darc_map", "mask_confidence"} <= declared


@pytest.mark.parametrize("forward", [ar.RefinedModel.forward, RefinedForImageClassification.forward])
def test_the_signature_names_every_column_that_objectives_read(forward):
    assert {"pixel_values", "mask", "group", "index", "mask_confidence"} <= columns_read()
    assert columns_read() <= set(inspect.signature(forward).parameters)


@pytest.mark.parametrize("as_transformers", [False, True])
def test_trainer_keeps_the_columns_of_objectives(trainer, as_transformers):
    model = supervised(weight=10.0)
    given = RefinedForImageClassification.of(model) if as_transformers else model
    found = trainer(given, Images(mask=MASK)).evaluate()["eval_loss"]
    with torch.no_grad():
        wanted = model.eval()(CASE.images(8), labels=LABELS, mask=MASK)
    assert wanted.losses["map_supervision"] > 0.1
    assert found == pytest.approx(float(wanted.loss), rel=1e-5)


def test_an_objective_that_trainer_feeds_nothing_says_so(trainer):
    with pytest.warns(UserWarning, match="map_supervision saw nothing to learn from in a whole epoch"):
        trainer(supervised(), Images(index=torch.arange(8))).train()


def test_trainer_gives_its_metrics_the_images(trainer):
    def images(predicted) -> dict:
        return {"images": len(predicted.inputs)}

    found = trainer(CASE.wrap(), Images(), compute_metrics=images, include_for_metrics=["inputs"]).evaluate()
    assert found["eval_images"] == len(Images())


def test_gradient_checkpointing_is_refused_with_the_remedy(trainer):
    with pytest.raises(ValueError, match="gradient_checkpointing is not there .* gradient_accumulation_steps"):
        trainer(CASE.wrap(), Images(), gradient_checkpointing=True).train()


# predictions and losses -----------------------------------------------------------------------------------------------


def test_predictions_are_logits(trainer):
    model = supervised()
    found = trainer(model, Images(mask=MASK), compute_metrics=accuracy)
    assert 0 <= found.evaluate()["eval_accuracy"] <= 1
    with torch.no_grad():
        np.testing.assert_allclose(found.predict(Images()).predictions, model.eval()(CASE.images(8)).logits, atol=1e-5)


def test_the_config_is_made_from_the_model():
    model = supervised()
    assert model.config.id2label == dict(enumerate(model.labels)) and model.config.num_labels == 5
    model.config.use_cache = True
    assert "config" not in vars(model) and not model.config.to_dict().get("use_cache")


@pytest.mark.parametrize("smooths", [True, False], ids=["label_smoothing_factor", "compute_loss_func"])
@pytest.mark.parametrize(
    "head, objectives, part",
    [("abn", [], "the head 'abn'"), (None, ["consistency"], "the objective 'consistency'")],
)
def test_losses_that_trainer_would_lose_are_said(trainer, smooths, head, objectives, part):
    made = trainer(CASE.wrap(head, objectives=objectives), Images(), label_smoothing_factor=0.1 * smooths)
    if not smooths:
        made.compute_loss_func = lambda output, labels, num_items_in_batch=None: output.logits.sum()
    with pytest.raises(ValueError, match=rf"the losses of {part} would be lost\. .*'smoothing': 0\.1"):
        made.train()


def test_labels_are_smoothed_by_trainer_without_a_head_and_by_the_model_with_one(trainer):
    plain = CASE.wrap(None)

    def smoothing(items):
        return {**ar.data.collate(items), "smoothing": 0.1}

    theirs = trainer(plain, Images(), label_smoothing_factor=0.1).evaluate()["eval_loss"]
    assert trainer(plain, Images(), smoothing).evaluate()["eval_loss"] == pytest.approx(theirs, rel=1e-5)
    model = CASE.wrap("abn")
    found = trainer(model, Images(), smoothing, max_steps=1, per_device_train_batch_size=8)
    found.train()
    with torch.no_grad():
        again = CASE.wrap("abn").train()(CASE.images(8), labels=LABELS, smoothing=0.1)
    assert found.state.log_history[0]["loss"] == pytest.approx(float(again.loss), rel=1e-4)


@pytest.mark.parametrize("several", [False, True], ids=["one label", "several"])
def test_an_accumulated_step_is_the_mean_over_its_images(trainer, several):
    """Batches of 4 and 2 images: each image counts the same, and not each batch."""
    case = BY_NAME["vit-token"]  # without batch norm, whose statistics are those of a batch
    labels = torch.nn.functional.one_hot(LABELS, 5).float() if several else LABELS

    def trained(**options) -> list[torch.Tensor]:
        model = case.wrap(None)
        made = trainer(model, Images(6, labels=labels), max_steps=1, optim="sgd", max_grad_norm=0.0, **options)
        made.train()
        return [parameter.detach() for parameter in model.parameters()]

    whole = trained(per_device_train_batch_size=6)
    parts = trained(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


# saving ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_transformers", [False, True])
def test_trainer_saves_resumes_and_loads_the_best(trainer, as_transformers, tmp_path):
    def fresh():
        model = CASE.wrap(ar.AttentionBranch(fade_in_steps=0), objectives=["mining"])
        return RefinedForImageClassification.of(model) if as_transformers else model

    options = dict(save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2, compute_metrics=accuracy,
                   metric_for_best_model="accuracy")  # fmt: skip
    made = trainer(fresh(), Images(), **options)
    made.train()
    losses = [entry["loss"] for entry in made.state.log_history if "loss" in entry]
    assert len(losses) == 4 and losses[-1] < losses[0]
    again = trainer(fresh(), Images(), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "trainer" / "checkpoint-2"))
    for one, other in zip(made.model.parameters(), again.model.parameters()):
        assert torch.equal(one, other)

    best = trainer(fresh(), Images(), load_best_model_at_end=True, **options | {"metric_for_best_model": "loss"})
    best.train()
    saved = Path(best.state.best_model_checkpoint)
    best.save_model(str(tmp_path / "saved"))
    pixels = CASE.images(8)
    with torch.no_grad():
        refined = best.model.refined if as_transformers else best.model
        wanted = refined.eval()(pixels).logits
        for folder in (saved, tmp_path / "saved"):
            assert torch.equal(read(folder, fresh, as_transformers, tmp_path / "whole")(pixels).logits, wanted)


def read(folder: Path, fresh, whole: bool, target: Path) -> ar.RefinedModel:
    """The model in a folder that Trainer wrote: at once, or by the remedy that the refusal names."""
    if whole:
        return ar.load(folder)
    with pytest.raises(ar.CheckpointError, match="which transformers.Trainer does not write .*docs/integration.md"):
        ar.load(folder)
    import safetensors.torch

    model = fresh()
    safetensors.torch.load_model(model, folder / "model.safetensors")
    model.save_pretrained(target)
    return ar.load(target)


# the page -------------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[1] / "docs" / "integration.md"
SECTIONS = {
    title: re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for title, _, text in (part.partition("\n") for part in PAGE.read_text(encoding="utf-8").split("\n## ")[1:])
}


def run(title: str, names: dict) -> dict:
    for code in SECTIONS[title]:
        exec(compile(code, f"{PAGE.name}: {title}", "exec"), names)
    return names


@pytest.fixture
def page(tmp_path, monkeypatch):
    """The names that the page's first code leaves, in an empty folder."""
    from torch.utils.data import DataLoader  # the first loop's import, which the later ones use

    monkeypatch.chdir(tmp_path)
    return run("Model and data", {"__name__": "page", "DataLoader": DataLoader})


def test_every_code_of_the_page_is_run():
    loops = {"A loop of your own", "Accelerate", "transformers.Trainer", "Lightning"}
    assert SECTIONS.keys() == {"Model and data", "Afterwards, the same for all", *loops}
    assert all(SECTIONS.values())


def test_a_loop_of_ones_own(page, capsys):
    before = [parameter.clone() for parameter in page["model"].parameters()]
    output = run("A loop of your own", page)["output"]
    assert output.losses["map_supervision"] > 0 and "map_supervision" in capsys.readouterr().out
    assert any(not torch.equal(*pair) for pair in zip(before, page["model"].parameters()))
    assert ar.load("plain").labels == page["labels"]


def test_accelerate(page):
    assert run("Accelerate", page)["output"].losses["map_supervision"] > 0
    assert ar.load("accelerated").labels == page["labels"]


def test_transformers_trainer_and_what_comes_after(page, capsys):
    trained = run("transformers.Trainer", page)["model"]
    assert isinstance(trained, ar.RefinedModel) and list(trained.objectives) == ["map_supervision"]
    run("Afterwards, the same for all", page)
    assert "Mask correlation" in capsys.readouterr().out


def test_lightning(page):
    pytest.importorskip("lightning", reason="Lightning is not installed: pip install lightning")
    module = run("Lightning", page)["module"]
    logged = module.trainer.logged_metrics
    assert logged["map_supervision"] > 0 and 0 <= logged["accuracy"] <= 1
    assert ar.load("lightning/model").labels == page["labels"]
