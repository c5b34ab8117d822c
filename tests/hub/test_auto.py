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
