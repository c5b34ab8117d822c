"""Networks as people have them in their hands: compiled, parallel, averaged, scripted, without a classifier."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import attention_refine as ar

SMALL = {"num_classes": 5, "layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}
SIZE = {"preprocessing": {"input_size": [3, 64, 64]}}


def network() -> nn.Module:
    return timm.create_model("resnet18", **SMALL).eval()


AROUND = {
    "compiled": torch.compile,
    "parallel": nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "timm's average": timm.utils.ModelEmaV3,
    "both": lambda net: torch.compile(nn.DataParallel(net)),
}


@pytest.mark.parametrize("around", AROUND)
def test_the_network_inside_is_wrapped(around):
    outer = AROUND[around](network())
    model = ar.wrap(outer, "abn", **SIZE)
    assert type(model.backbone.net) is timm.models.ResNet and model.backbone.site.name == "layer3"
    assert any(model.backbone.net is module for module in outer.modules())


def test_a_refined_model_inside_is_wrapped_already():
    with pytest.raises(TypeError, match="wrapped already"):
        ar.wrap(torch.compile(ar.wrap(network(), **SIZE)), "abn")


@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, torch.zeros(1, 3, 64, 64))])
@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused(make):
    with pytest.raises(TypeError, match="is TorchScript, in which no map can act; wrap the network it was made from"):
        ar.wrap(make(network()), "abn")


@pytest.mark.parametrize("options", [{}, {"head": "abn"}, {"pool": "avg"}], ids=str)
def test_features_are_no_logits(options):
    net = timm.create_model("resnet18", **{**SMALL, "num_classes": 0})
    with pytest.raises(ValueError, match="ResNet has no classifier.*pass num_labels=... or labels="):
        ar.wrap(net, **options, **SIZE)
    assert ar.wrap(net, num_labels=3, **SIZE)(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 3)


def test_the_weights_of_another_network_are_said_in_a_sentence(tmp_path):
    state = network().state_dict()
    file = tmp_path / "other.safetensors"
    save_file({f"blocks.{key}": value for key, value in state.items()}, file)
    with pytest.raises(ValueError) as refusal:
        ar.wrap("resnet18", pretrained=file)
    said = str(refusal.value)
    assert "another network than 'resnet18'" in said and f"no place for {len(state)} ('blocks." in said
    assert "lacks 122 ('bn1.bias' first)" in said and "\n" not in said and len(said) < 400


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("cut.safetensors", "cut.safetensors is not a whole safetensors file .*; copy or download it again"),
        ("none.safetensors", "none.safetensors' is not there; pass True, False or the path of a safetensors file"),
        ("cut.pt", "cut.pt' is not a safetensors file; pass True, False or the path"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, name, sentence):
    for there in ("cut.safetensors", "cut.pt"):
        (tmp_path / there).write_bytes(b"weights " * 40)
    with pytest.raises(ValueError, match=sentence):
        ar.wrap("test_resnet", pretrained=tmp_path / name)


@pytest.mark.parametrize(
    "name, remedy", [("resnet18", "pretrained=False"), ("user/name", "the folder of a saved model")]
)
def test_a_name_that_cannot_be_fetched(name, remedy):
    """Tests run without the Hub (conftest.py)."""
    with pytest.raises(
        OSError, match=f"'{name}' cannot be fetched .*is the name right and the Hub reachable.*{remedy}"
    ):
        ar.wrap(name, "abn")


@pytest.mark.parametrize(
    "labels, sentence",
    [
        (
            ["cat", "dog", "cat"],
            r"and 'cat' is there 2 times; those of a dataset's images go to the model with each batch",
        ),
        ([0, 1, 1, 2], "and 1 is there 2 times; those of a dataset's images"),
        (["cat", None], "labels must be a list of class names, got None among them"),
        (["cat", ""], "got '' among them"),
        ([["cat", "dog"]], r"got \['cat', 'dog'\] among them"),
        (torch.tensor([0, 1]), r"got tensor\(0\) among them"),
        ([], "labels is empty: it names the classes, each once"),
        (5, "got 5; a number of classes is num_labels"),
    ],
)
def test_labels_that_are_no_class_names(labels, sentence):
    with pytest.raises((TypeError, ValueError), match=sentence):
        ar.wrap(network(), labels=labels)


def test_a_single_class_is_said():
    with pytest.warns(UserWarning, match=r"labels=\['Bengal'\] is a single class, which every image then belongs to"):
        assert ar.wrap(network(), labels=["Bengal"], **SIZE).num_labels == 1
    assert ar.wrap(network(), labels=[7, 8, 9], **SIZE).labels == ["7", "8", "9"]
