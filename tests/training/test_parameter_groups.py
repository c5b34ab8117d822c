"""Rates by layer: timm's own on its networks, the same by hand on transformers' and torchvision's, and in whole runs."""

from __future__ import annotations

import re

import pytest
import timm
import torchvision
from backbones.networks import HF_VIT, hugging_face
from strategy_runs import train
from timm.optim import param_groups_layer_decay
from training_runs import TinyModel, assert_same, largest_difference, last_weights

import attention_refine as ar
from attention_refine.backbones.depth import layers_of
from attention_refine.training import TrainingConfig, TrainingError
from attention_refine.training.parameter_groups import make_optimizer


def rates(model, **options) -> dict[int, float]:
    groups = make_optimizer(model, TrainingConfig(learning_rate=0.1, **options)).param_groups
    return {id(parameter): group["lr"] for group in groups for parameter in group["params"]}


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "test_convnext"])
def test_the_rates_are_those_of_timm(name):
    net = timm.create_model(name, num_classes=5)
    groups = param_groups_layer_decay(net, layer_decay=0.7)
    expected = {id(each): 0.1 * group["lr_scale"] for group in groups for each in group["params"]}
    model = ar.wrap(net, head="abn")
    found = rates(model, layer_decay=0.7, head_learning_rate_multiplier=3.0)
    classifier = {id(each) for each in net.get_classifier().parameters()}
    for name, parameter in net.named_parameters():
        times = 3.0 if id(parameter) in classifier else 1.0
        assert found[id(parameter)] == pytest.approx(times * expected[id(parameter)], rel=1e-12), name
    assert len({round(rate, 9) for rate in expected.values()}) > 4
    for parameter in model.head.parameters():  # above the network
        assert found[id(parameter)] == pytest.approx(0.3)


def test_without_a_grouping_the_blocks_are_the_layers():
    found = layers_of(hugging_face("vit", **HF_VIT), 5)
    for name, layer in found.items():
        block = re.search(r"\.(\d+)\.", name)
        expected = int(block[1]) + 1 if block else 0 if "embeddings" in name else 5 if "classifier" in name else 4
        assert layer == expected, name
    stages = layers_of(hugging_face("resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[2, 1]), 5)
    assert set(stages.values()) == {0, 1, 2, 3, 4}, "blocks, not the stages they stand in"
    resnet = layers_of(torchvision.models.resnet18(num_classes=5), 5)
    assert [resnet[name] for name in ("conv1.weight", "layer1.0.conv1.weight", "layer4.1.bn2.bias", "fc.weight")] == [
        0, 1, 8, 9
    ]  # fmt: skip


def test_a_decay_of_one_is_the_run_without_and_another_is_not(tmp_path):
    for name, decay in (("without", None), ("one", 1.0), ("half", 0.5)):
        train(tmp_path / name, "combined", epochs=1, layer_decay=decay)
    plain = last_weights(tmp_path / "without")
    assert_same(last_weights(tmp_path / "one"), plain)
    assert largest_difference(last_weights(tmp_path / "half"), plain) > 1e-4


def test_a_network_without_layers_and_no_decay_are_refused():
    with pytest.raises(TrainingError, match="layer_decay=0.5 goes by the layers .* Sequential has no blocks"):
        rates(TinyModel(), layer_decay=0.5)
    for bad in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"layer_decay={bad} is not accepted: it must be above 0 and at most 1"):
            TrainingConfig(layer_decay=bad)
