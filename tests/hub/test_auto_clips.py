"""A model of clips elsewhere: in transformers' Auto classes and its video pipeline, in torch.export and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from films import moving, write
from PIL import Image

import attention_refine as ar

SIZE = {"input_size": [3, 4, 32, 32], "mean": [0.4, 0.45, 0.5], "std": [0.2, 0.25, 0.3], "interpolation": "bilinear",
        "crop_pct": 1.0, "stride": 2}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ar.wrap("r3d_18@4", head="abn", labels=["jump", "turn", "walk"], pretrained=False, preprocessing=SIZE).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "model"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write(tmp_path_factory.mktemp("film") / "film.mp4", moving(30))


def test_auto_classes_read_a_folder_and_a_film_as_the_model_does(folder, model, film):
    from transformers import AutoConfig, AutoModelForVideoClassification, AutoVideoProcessor

    assert AutoConfig.from_pretrained(folder).num_frames == 4
    processor = AutoVideoProcessor.from_pretrained(folder)
    wanted = model.preprocess(film)
    pixels = processor(str(film))["pixel_values"]
    assert torch.equal(pixels, wanted)
    assert torch.equal(processor([str(film), film.read_bytes()])["pixel_values"], torch.cat([wanted, wanted]))
    loaded = AutoModelForVideoClassification.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(loaded(pixels).logits, model(wanted).logits)


def test_frames_that_were_chosen_are_taken_as_they_are(folder, model):
    from transformers import AutoVideoProcessor

    from attention_refine.data import Transform

    processor = AutoVideoProcessor.from_pretrained(folder)
    frames = np.stack(moving(4))
    wanted = Transform(model.preprocessing)(torch.from_numpy(frames).permute(0, 3, 1, 2))["pixel_values"][None]
    for given in (frames, torch.from_numpy(frames), list(frames), [Image.fromarray(frame) for frame in frames]):
        assert torch.equal(processor(given, return_tensors="pt")["pixel_values"], wanted)
    assert processor([frames, frames])["pixel_values"].shape == (2, 3, 4, 32, 32)
    with pytest.raises(ValueError, match="clips of 4 frames, got 3"):
        processor(frames[:3])


def test_pipeline(folder, model, film):
    from transformers import pipeline

    found = pipeline("video-classification", str(folder), top_k=3)(str(film))
    with torch.no_grad():
        scores = model(model.preprocess(film)).logits.softmax(1)[0]
    assert {each["label"]: each["score"] for each in found} == pytest.approx(
        dict(zip(model.labels, scores.tolist())), abs=1e-6
    )


@pytest.mark.parametrize("head", ["abn", "brnpa"])
def test_export(head, tmp_path):
    from attention_refine.export import export_onnx, export_program

    size = SIZE | {"input_size": [3, 4, 16, 16]}
    made = ar.wrap("r3d_18@4", head=head, labels=["jump", "walk"], pretrained=False, preprocessing=size).eval()
    clips = torch.randn(2, 3, 4, 16, 16)
    with torch.no_grad():
        expected = made(clips)
    logits, maps = export_program(made).module()(clips)
    torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps, expected.maps, rtol=1e-4, atol=1e-4)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"ONNX needs {package}: pip install onnx onnxscript onnxruntime")
    import onnxruntime

    export_onnx(made, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    logits, maps = (torch.as_tensor(each) for each in session.run(None, {"pixel_values": clips.numpy()}))
    torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(maps, expected.maps, rtol=1e-4, atol=1e-4)
