"""What rebuilds a backbone: names and plain arguments of three libraries, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from networks import HF_VIT, TINY_VIT, hugging_face
from safetensors.torch import save_file
from torch import nn

import attention_refine as ar
from attention_refine.backbones.loading import has_classifier, load_network, num_classes
from attention_refine.backbones.pooling import PatchPooling
from attention_refine.backbones.rebuild import describe, rebuild
from attention_refine.backbones.spec import BackboneSpec, NotRebuildable

MAKERS = {
    "timm": lambda: timm.create_model("deit_tiny_patch16_224", num_classes=5, **TINY_VIT),
    "transformers": lambda: hugging_face("vit", **HF_VIT),
    "torchvision": lambda: torchvision.models.squeezenet1_1(num_classes=5),
}


@pytest.mark.parametrize("source", MAKERS)
def test_a_network_comes_back_from_its_description(source):
    net = MAKERS[source]().eval()
    spec = BackboneSpec.from_dict(json.loads(json.dumps(describe(net).to_dict())))
    assert spec.source == source
    again = rebuild(spec)
    again.load_state_dict(net.state_dict(), strict=True)
    pixels = torch.randn(1, 3, 64, 64)
    own, other = net(pixels), again.eval()(pixels)
    assert torch.equal(getattr(own, "logits", own), getattr(other, "logits", other))


@pytest.mark.parametrize("source", ["timm", "transformers"])
def test_the_input_size_is_the_one_it_was_built_for(source):
    assert describe(MAKERS[source]()).preprocessing["input_size"] == [3, 64, 64]


def test_pooling_travels_with_the_description():
    net = load_network(MAKERS["timm"](), pool="avg").eval()
    assert isinstance(net, PatchPooling) and num_classes(net) == 5
    again = rebuild(BackboneSpec.from_dict(json.loads(json.dumps(describe(net).to_dict()))))
    again.load_state_dict(net.state_dict(), strict=True)
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(again.eval()(pixels), net(pixels))


def test_other_modules_cannot_be_described():
    with pytest.raises(NotRebuildable, match="Linear is neither"):
        describe(nn.Linear(2, 2))
    with pytest.raises(NotRebuildable, match="create_model"):
        from timm.models.resnet import BasicBlock, ResNet

        describe(ResNet(BasicBlock, (1, 1, 1, 1)))


def test_a_changed_torchvision_network_cannot_be_described():
    net = torchvision.models.squeezenet1_1(num_classes=5)
    net.features[0].stride = (1, 1)
    with pytest.raises(NotRebuildable, match="change nothing but that number"):
        describe(net)


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(source="keras"), "keras"),
        (dict(name="resnet_of_tomorrow"), "not an architecture of timm"),
        (dict(args={"checkpoint_path": "/tmp/x"}), "may not ask for other weights"),
        (dict(args={"no_such_option": 1}), "cannot build"),
        (dict(source="transformers", name="Trainer"), "not a vision model"),
        (dict(source="transformers", name="ViTModel", args={"model_type": "vit9"}), "vit9"),
        (dict(source="transformers", name="ViTModel", args={"model_type": "vit", "auto_map": {}}), "remote code"),
        (dict(source="torchvision", name="resnet_of_tomorrow"), "not a model of torchvision"),
        (
            dict(source="torchvision", name="resnet18", args={"weights": "DEFAULT"}),
            "takes num_classes, a video ResNet width as well, and nothing else",
        ),
    ],
)
def test_a_description_that_is_not_plain_is_refused(change, words):
    spec = dict(source="timm", name="test_resnet", args={})
    with pytest.raises(ValueError, match=words):
        rebuild(BackboneSpec(**{**spec, **change}))


def test_labels_replace_the_classifier_and_nothing_else():
    for source in MAKERS:
        net = MAKERS[source]()
        kept = {name: p.clone() for name, p in net.named_parameters()}
        fresh = load_network(net, num_labels=3)
        assert num_classes(fresh) == 3
        same = [name for name, p in fresh.named_parameters() if p.shape == kept[name].shape]
        assert len(same) >= len(kept) - 2 and all(
            torch.equal(dict(fresh.named_parameters())[name], kept[name]) for name in same
        )


def test_labels_that_it_already_has_change_nothing():
    net = MAKERS["timm"]()
    assert load_network(net, num_labels=5) is net


def test_a_network_of_features_has_no_classifier():
    import transformers

    assert not has_classifier(transformers.ViTModel(transformers.ViTConfig(**HF_VIT)))
    assert has_classifier(MAKERS["transformers"]())


def test_timm_weights_from_a_folder_and_a_transformers_folder(tmp_path):
    from timm.models import save_for_hf

    net = timm.create_model("test_resnet", num_classes=5).eval()
    save_for_hf(net, tmp_path / "timm", safe_serialization=True)
    loaded = load_network(tmp_path / "timm").eval()
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(pixels), net(pixels))
    vit = MAKERS["transformers"]().eval()
    vit.save_pretrained(tmp_path / "vit")
    again = load_network(tmp_path / "vit", num_labels=7)
    assert num_classes(again) == 7
    assert torch.equal(again.vit.layernorm.weight, vit.vit.layernorm.weight)


@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_a_timm_name_that_takes_one_size_is_built_for_the_size_asked_for(size, tmp_path):
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("deit_tiny_patch16_224").state_dict(), weights)
    model = ar.wrap(
        "deit_tiny_patch16_224", pretrained=weights, num_labels=3, preprocessing={"input_size": [3, *size]}
    ).eval()
    from_file = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(weights)}}
    expected = timm.create_model("deit_tiny_patch16_224", **from_file, img_size=size, num_classes=3).eval()
    expected.load_state_dict({k: v for k, v in model.backbone.net.state_dict().items() if "head" in k}, strict=False)
    pixels = torch.randn(2, 3, *size)
    with torch.no_grad():
        assert torch.equal(model(pixels).logits, expected(pixels))  # the weights' positions, interpolated by timm
        model.save_pretrained(tmp_path / "saved")
        assert torch.equal(ar.load(tmp_path / "saved")(pixels).logits, expected(pixels))


@pytest.mark.parametrize("family", ["timm", "transformers"])
def test_a_module_that_cannot_take_the_size_asked_for_is_refused(family):
    with pytest.raises(ValueError, match=r"cannot take images of input_size \[3, 160, 160\].*image_size in its config"):
        ar.wrap(MAKERS[family](), preprocessing={"input_size": [3, 160, 160]})


def test_masked_autoencoder_weights_are_read_as_a_plain_transformer(tmp_path):
    import transformers

    mae = transformers.ViTMAEModel(transformers.ViTMAEConfig(**HF_VIT))
    mae.save_pretrained(tmp_path)
    net = load_network(tmp_path, num_labels=4)
    assert type(net).__name__ == "ViTForImageClassification" and num_classes(net) == 4
    assert torch.equal(net.vit.embeddings.cls_token, mae.embeddings.cls_token)


@pytest.mark.parametrize(
    "source, options, words",
    [
        ("resnet51", {}, "close timm and torchvision names: resnet"),
        ("no/such/thing", {}, "no timm model, torchvision model, Hugging Face id"),
        ("test_resnet", {"num_labels": 0}, "num_labels must be at least 1"),
        ("test_resnet", {"pool": "max", "pretrained": False}, "pool='max'"),
    ],
)
def test_unknown_names_are_refused(source, options, words):
    with pytest.raises(ValueError, match=words):
        load_network(source, **options)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no config.json"):
        load_network(tmp_path)


def test_a_plain_module_does_not_take_labels():
    with pytest.raises(ValueError, match="replace its last layer yourself"):
        load_network(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), num_labels=3)


def test_an_unknown_pooling_in_a_description_is_not_ignored():
    spec = describe(MAKERS["timm"]())
    with pytest.raises((KeyError, TypeError)):
        rebuild(replace(spec, pooling={"site": {}}))
