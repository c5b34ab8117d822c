"""Weights of half precision are trained as float32 and saved as asked; what made a loss not finite is named."""

from __future__ import annotations

import pytest
import torch
from judged import made_model
from safetensors.torch import load_file
from torch import nn

import attention_refine as ar
from attention_refine import shapes
from attention_refine.data import prepare
from attention_refine.training import TrainingConfig, TrainingError, finetune
from attention_refine.training.masters import narrow, stored_as, widen

HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def data():
    return shapes.make("train", 12, size=64)


def config(folder, **options):
    defaults = {"epochs": 2, "batch_size": 6, "learning_rate": 1e-5, "progress": False}
    return TrainingConfig(output_dir=str(folder), **{**defaults, **options})


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]), name


# --- laws


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("head", [None, "abn"])
def test_a_half_model_is_trained_as_its_float32_copy(data, tmp_path, dtype, head):
    """All of its weights move at a rate whose steps a half would round to nothing."""
    half, full = made_model(head).to(dtype), made_model(head).to(dtype).float()
    before = {name: value.detach().clone() for name, value in full.named_parameters()}
    for name, model in (("half", half), ("full", full)):
        finetune(model, data, config(tmp_path / name))
    same(half.state_dict(), full.state_dict())
    same(load_file(tmp_path / "half/last/model.safetensors"), load_file(tmp_path / "full/last/model.safetensors"))
    moved = sum(int((value != before[name]).sum()) for name, value in half.named_parameters())
    rounded = sum(int((value.to(dtype) != before[name].to(dtype)).sum()) for name, value in half.named_parameters())
    total = sum(value.numel() for value in before.values())
    assert moved > 0.999 * total and rounded < 0.5 * total


def test_types_are_put_back_and_shared_weights_stay_shared():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)).to(torch.bfloat16)
    net[1].weight = net[0].weight
    net[2].float()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    types = widen(net)
    assert set(types) == {"0.weight", "0.bias", "1.bias"}
    assert all(value.dtype != torch.bfloat16 for value in net.state_dict().values())
    with torch.no_grad():
        net[0].weight.add_(1e-6)
    trained = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(OSError), stored_as(net, types):
        same(net.state_dict(), before)
        raise OSError("a full disk")
    same(net.state_dict(), trained)
    narrow(net, types)
    same(net.state_dict(), before)
    assert net[1].weight is net[0].weight and widen(nn.Linear(2, 2).double()) == {}


def test_the_precision_is_kept_where_asked_and_a_resumed_run_keeps_it(data, tmp_path):
    seen = shapes.make("validation", 6, size=64)
    options = {"keep_dtype": True, "learning_rate": 1e-3}
    whole, begun = made_model("abn").bfloat16(), made_model("abn").bfloat16()
    finetune(whole, data, config(tmp_path / "whole", **options), eval_dataset=seen)
    finetune(begun, data, config(tmp_path / "parts", **options), eval_dataset=seen)
    for folder in ("last", "best"):
        (tmp_path / "parts" / folder).rename(tmp_path / folder)
    newest = max((tmp_path / "parts" / "checkpoints").glob("step-*"))
    (newest / "model.safetensors").write_bytes(b"")  # so that the second epoch is done again
    (tmp_path / "best").rename(tmp_path / "parts" / "best")
    resumed = made_model("abn").bfloat16()
    with pytest.warns(UserWarning, match="resuming from the earlier checkpoint"):
        finetune(resumed, data, config(tmp_path / "parts", resume=True, **options), eval_dataset=seen)
    assert {p.dtype for p in resumed.parameters()} == {torch.bfloat16}
    same(whole.state_dict(), resumed.state_dict())
    for name in ("best", "last"):
        loaded = ar.load(tmp_path / "parts" / name)
        assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    same(resumed.state_dict(), ar.load(tmp_path / "parts" / "best").state_dict())
    stored = load_file(newest / "model.safetensors")
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {torch.float32}


def test_a_backbone_in_half_precision_under_a_head_in_full_and_a_teacher_in_half(data, tmp_path):
    model = made_model("abn")
    model.backbone.bfloat16()
    teacher = made_model().to(torch.float16)
    model.add_objective(ar.Distillation(teacher=teacher))
    finetune(model, data, config(tmp_path, epochs=1, keep_dtype=True))
    assert {p.dtype for p in model.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.head.parameters()} == {torch.float32}
    assert {p.dtype for p in teacher.parameters()} == {torch.float16}


@pytest.mark.parametrize("dtype", HALVES)
def test_a_half_model_is_judged_embedded_and_read_on_images_as_they_are(data, dtype):
    model, full = made_model("abn").to(dtype), made_model("abn").to(dtype).float()
    pixels = torch.stack([prepare(data, model.preprocessing)[i]["pixel_values"] for i in range(2)])
    torch.testing.assert_close(model(pixels).logits, model(pixels.to(dtype)).logits)
    torch.testing.assert_close(model.embed(pixels).float(), full.embed(pixels), atol=0.1, rtol=0.1)
    found, expected = (ar.evaluate(each, data, measures=["accuracy", "iou"], progress=False) for each in (model, full))
    torch.testing.assert_close(
        found.values("model/iou"), expected.values("model/iou"), atol=0.1, rtol=0, equal_nan=True
    )
    made = ar.propagate(model, data.remove_columns("bbox").select(range(6)), method="segmenter", progress=False)
    assert len(made) == 6


def test_the_console_says_what_becomes_of_the_weights(data, tmp_path, capsys):
    for keep, end in ((False, r"saved so (keep_dtype=True saves bfloat16)"), (True, "saved as bfloat16")):
        finetune(
            made_model().bfloat16(), data, config(tmp_path / str(keep), max_steps=1, progress=True, keep_dtype=keep)
        )
        assert f"weights: bfloat16, trained as float32 and {end}\n" in capsys.readouterr().out


# --- why a loss is not finite


class Spoilt(torch.utils.data.Dataset):
    """Items of which one has a pixel that is no number."""

    def __init__(self, items, row):
        self.items, self.row = items, row

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        item = dict(self.items[i])
        if i == self.row:
            item["pixel_values"] = item["pixel_values"].clone().index_fill_(1, torch.tensor(3), torch.nan)
        return item


def test_an_image_that_is_not_finite_is_named(data, tmp_path):
    items = Spoilt(prepare(data, made_model().preprocessing), 7)
    with pytest.raises(TrainingError, match=r"; pixel_values of row 7 of the dataset are not finite: mend what makes"):
        finetune(made_model(), items, config(tmp_path))


def test_weights_that_came_not_finite_are_named(data, tmp_path):
    model = made_model()
    with torch.no_grad():
        model.backbone.net.fc.bias[2] = torch.inf
    with pytest.raises(TrainingError, match=r"step 1 .*; the weights backbone.net.fc.bias were not finite before this"):
        finetune(model, data, config(tmp_path))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_precision_is_blamed_only_where_it_is_not_full(data, tmp_path, precision):
    options = config(tmp_path, learning_rate=1e9, epochs=9, mixed_precision=precision)
    with pytest.raises(
        TrainingError, match=r"weights and images are finite, .*: try a learning_rate below 1000000000.0"
    ) as e:
        finetune(made_model(), data, options)
    assert ("mixed_precision='no' in place of 'bf16'" in str(e.value)) == (precision == "bf16")
    assert ("mixed_precision" in str(e.value)) == (precision == "bf16")
