"""torch.export and ONNX give the model's logits and maps."""

from __future__ import annotations

import pytest
import torch
from cases import BY_NAME

import attention_refine as ar
from attention_refine.export import export_onnx, export_program

HEADS = {
    "plain": None,
    "abn": ar.AttentionBranch(fade_in_steps=0),
    "per-class": ar.AttentionBranch(maps="per_class", fade_in_steps=0),
    **{name: name for name in ar.list_heads() if name != "abn"},
}
BACKBONES = ("resnet18", "convnext", "vit-token", "hf-resnet")


def wrapped(backbone, head):
    import copy

    model = BY_NAME[backbone].wrap(copy.deepcopy(HEADS[head]))
    for name, buffer in model.named_buffers():
        if buffer.dtype == torch.long and buffer.ndim == 0 and "num_batches" not in name:
            buffer.fill_(40)  # a head that has come in part of the way
    return model


def agree(model, found, images):
    with torch.no_grad():
        expected = model(images)
    logits, *maps = found if isinstance(found, (tuple, list)) else (found,)
    # 1e-4: another runtime fuses and orders its sums otherwise
    torch.testing.assert_close(torch.as_tensor(logits), expected.logits, rtol=1e-4, atol=1e-4)
    assert len(maps) == (expected.maps is not None)
    for one in maps:
        torch.testing.assert_close(torch.as_tensor(one), expected.maps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_torch_export(backbone, head, tmp_path):
    model = wrapped(backbone, head).train()
    program = export_program(model)
    assert model.training and model.backbone.net.training
    torch.export.save(program, tmp_path / "model.pt2")
    module = torch.export.load(tmp_path / "model.pt2").module()
    images = BY_NAME[backbone].images(3)
    for batch in (images, images[:1]):
        agree(model.eval(), module(batch), batch)


@pytest.mark.parametrize("backbone, head", [("vit-token", "abn")])
def test_onnx_runtime(backbone, head, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"ONNX needs {package}: pip install onnx onnxscript onnxruntime")
    import onnxruntime

    model, images = wrapped(backbone, head), BY_NAME[backbone].images()
    export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [output.name for output in session.get_outputs()] == ["logits", "maps"]
    agree(model, session.run(None, {"pixel_values": images.numpy()}), images)
