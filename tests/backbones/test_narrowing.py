"""Video networks of torchvision by name, narrowed or not: built of the same parts, described, rebuilt."""

from __future__ import annotations

import pytest
import torch
import torchvision
from safetensors.torch import save_file

import attention_refine as ar
from attention_refine.backbones.loading import load_network
from attention_refine.backbones.narrowing import NAMES, build_narrow, width_of
from attention_refine.backbones.rebuild import describe, rebuild

SMALL = {"input_size": [3, 4, 32, 32], "fps": 8}


@pytest.mark.parametrize("name", NAMES)
def test_at_full_width_the_network_is_torchvisions(name):
    theirs, ours = torchvision.models.get_model(name, num_classes=5).eval(), build_narrow(name, 5, 64).eval()
    assert repr(theirs) == repr(ours)
    ours.load_state_dict(theirs.state_dict())
    clip = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(ours(clip), theirs(clip))


@pytest.mark.parametrize("name", NAMES)
def test_a_narrow_network_is_described_and_rebuilt(name):
    net = load_network(f"{name}@8", num_labels=3, pretrained=False)
    spec = describe(net)
    assert width_of(net) == 8 and spec.args == {"num_classes": 3, "width": 8} and spec.preprocessing["fps"] == 15
    again = rebuild(type(spec).from_dict(spec.to_dict()))
    again.load_state_dict(net.state_dict())
    clip = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(again.eval()(clip), net.eval()(clip))


def test_a_checkpoint_keeps_width_and_preprocessing(tmp_path):
    model = ar.wrap("r3d_18@4", labels=["a", "b"], pretrained=False, preprocessing={**SMALL, "short": "loop"}).eval()
    model.save_pretrained(tmp_path)
    loaded = ar.load(tmp_path)
    assert {name: loaded.preprocessing[name] for name in ("input_size", "fps", "short")} == {**SMALL, "short": "loop"}
    clip = torch.randn(2, 3, 4, 32, 32)
    assert torch.equal(loaded(clip).logits, model(clip).logits)
    with pytest.raises(ValueError, match=r"are one clip, .* without a batch"):
        model(clip[0])


def test_weights_of_a_file_say_how_many_classes_there_are(tmp_path):
    net = build_narrow("mc3_18", 7, 4)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    read = load_network("mc3_18@4", pretrained=tmp_path / "w.safetensors")
    assert read.fc.out_features == 7 and torch.equal(read.fc.weight, net.fc.weight)
    with pytest.raises(ValueError, match="weights of another network"):
        load_network("r3d_18@4", pretrained=tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("name", "word"),
    [("r3d_18@2", "from 4 to 64"), ("swin3d_t@8", "only r3d_18, mc3_18, r2plus1d_18"), ("r3d_18@x", "whole number"),
     ("r3d_19", "close timm and torchvision names: r3d_18")],
)  # fmt: skip
def test_what_is_no_such_network_is_refused(name, word):
    with pytest.raises(ValueError, match=word):
        load_network(name, pretrained=False)


def test_narrow_weights_are_not_published():
    with pytest.raises(ValueError, match="no published weights .* pretrained=False"):
        load_network("r3d_18@8")
