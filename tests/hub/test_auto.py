"""transformers' Auto classes, pipeline and Trainer on refined models, and the loaders of timm and transformers."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from cases import BY_NAME
from PIL import Image

import attention_refine as ar
from attention_refine.backbones.spec import NotRebuildable
from attention_refine.hf_auto.model import RefinedForImageClassification

NAME = "user/model"


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("auto") / "model"
    model.save_pretrained(path)
    return path


# Auto classes ---------------------------------------------------------------------------------------------------------


def test_auto_classes_read_a_folder(folder, model, images, same, photo):
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    config = AutoConfig.from_pretrained(folder)
    assert config.model_type == "attention_refine" and list(config.id2label.values()) == model.labels
    loaded = AutoModelForImageClassification.from_pretrained(folder)
    assert isinstance(loaded, RefinedForImageClassification) and not loaded.training
    same(loaded, model, images)
    processor = AutoImageProcessor.from_pretrained(folder)
    wanted = model.preprocess(photo)
    assert torch.equal(processor(photo)["pixel_values"], wanted)
    many = processor([photo, np.asarray(photo)], return_tensors="pt")["pixel_values"]
    assert torch.equal(many, torch.cat([wanted, wanted]))


@pytest.mark.parametrize("order", [("attention_refine", "transformers"), ("transformers", "attention_refine")])
def test_the_order_of_imports_does_not_matter(folder, order):
    """In a fresh process, with transformers' Auto modules imported before ours or after."""
    first, second = order
    script = (
        f"import {first}\n"
        "from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification as Auto\n"
        f"import {second}\n"
        f"print(AutoConfig.from_pretrained({str(folder)!r}).model_type, type(Auto.from_pretrained({str(folder)!r})).__name__,"
        f" type(AutoImageProcessor.from_pretrained({str(folder)!r})).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-3:] == ["attention_refine", "RefinedForImageClassification", "RefinedImageProcessor"]


def test_pipeline_from_the_hub_without_remote_code(hub, model, photo):
    from transformers import pipeline

    model.push_to_hub(NAME)
    found = pipeline("image-classification", NAME, top_k=5)(photo)
    with torch.no_grad():
        scores = model(model.preprocess(photo)).logits.softmax(1)[0]
    assert {each["label"]: each["score"] for each in found} == pytest.approx(
        dict(zip(model.labels, scores.tolist())), abs=1e-6
    )
    assert not [line for line in hub.log if line.endswith((".py", ".bin", ".pt"))]


def test_auto_checks_what_it_reads(folder, tmp_path):
    import shutil

    from transformers import AutoModelForImageClassification

    shutil.copytree(folder, tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ar.CheckpointError, match="not a whole safetensors file"):
        AutoModelForImageClassification.from_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match="device_map is not supported"):
        AutoModelForImageClassification.from_pretrained(folder, device_map="auto")


def test_what_auto_loads_is_saved_as_it_was(folder, tmp_path):
    from transformers import AutoModelForImageClassification

    AutoModelForImageClassification.from_pretrained(folder, dtype="float32").save_pretrained(tmp_path)
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    half = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.bfloat16)
    assert next(half.parameters()).dtype == torch.bfloat16


# Trainer --------------------------------------------------------------------------------------------------------------


class Images(torch.utils.data.Dataset):
    def __init__(self, count: int):
        case = BY_NAME["hf-resnet"]
        self.pixels, self.labels = case.images(count), torch.arange(count) % 5

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict:
        return {"pixel_values": self.pixels[index], "labels": int(self.labels[index])}


@pytest.mark.parametrize("wrapped", [False, True], ids=["unchanged", "as-transformers-model"])
def test_trainer_trains_evaluates_saves_and_resumes(wrapped, tmp_path):
    from transformers import Trainer, TrainingArguments

    def fresh():
        model = BY_NAME["hf-resnet"].wrap(ar.AttentionBranch(fade_in_steps=0), objectives=["mining"])
        return RefinedForImageClassification.of(model) if wrapped else model

    model, data = fresh().train(), Images(8)
    options = dict(output_dir=str(tmp_path), max_steps=4, save_steps=2, per_device_train_batch_size=4, logging_steps=1,
                   report_to=[], use_cpu=True, disable_tqdm=True, learning_rate=1e-2, seed=0)  # fmt: skip

    def accuracy(found) -> dict:
        logits = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
        assert logits.shape == (8, 5)
        return {"accuracy": float((logits.argmax(1) == found.label_ids).mean())}

    trainer = Trainer(
        model, TrainingArguments(**options), train_dataset=data, eval_dataset=data, compute_metrics=accuracy
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 4 and losses[-1] < losses[0]
    found = trainer.evaluate()
    assert 0 <= found["eval_accuracy"] <= 1 and np.isfinite(found["eval_loss"])
    with torch.no_grad():
        pixels, labels = data.pixels, data.labels
        refined = model.refined if wrapped else model
        assert found["eval_loss"] == pytest.approx(float(refined.eval()(pixels, labels=labels).loss), rel=1e-4)
    again = Trainer(fresh().train(), TrainingArguments(**options), train_dataset=data)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for one, other in zip(trainer.model.parameters(), again.model.parameters()):
        assert torch.equal(one, other)
    if wrapped:
        loaded = ar.load(tmp_path / "checkpoint-4")
        with torch.no_grad():
            assert torch.equal(loaded(pixels).logits, refined.eval()(pixels).logits)


# the backbone alone ---------------------------------------------------------------------------------------------------


def test_timm_reads_the_exported_backbone(tmp_path):
    import timm

    case = BY_NAME["convnext"]
    model = case.wrap(labels=list("abcde"))
    model.export_backbone(tmp_path)
    net = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(net(case.images()), model.backbone(case.images()))
    assert net.pretrained_cfg["label_names"] == list("abcde") and net.pretrained_cfg["input_size"] == (3, 64, 64)
    wrapped = ar.wrap(tmp_path, "abn")
    assert wrapped.preprocessing["input_size"] == [3, 64, 64]


def test_transformers_reads_the_exported_backbone(model, images, tmp_path, photo):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model.export_backbone(tmp_path)
    net = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(net(images).logits, model.backbone(images))
    assert list(net.config.id2label.values()) == model.labels
    pixels = AutoImageProcessor.from_pretrained(tmp_path)(photo, return_tensors="pt")["pixel_values"]
    # both resize with antialiasing, in 8 bits there and in float here: a level of 255 is 0.02 after normalisation
    assert (pixels - model.preprocess(photo)).abs().max() < 0.05


def test_a_backbone_neither_library_knows_is_refused(tmp_path):
    net = BY_NAME["hf-resnet"].make()
    pooled = ar.wrap(net, "abn", pool="avg", num_labels=5, preprocessing={"input_size": [3, 64, 64]})
    with pytest.raises(NotRebuildable, match="this library's own"):
        pooled.export_backbone(tmp_path / "new")
    assert not (tmp_path / "new").exists()
