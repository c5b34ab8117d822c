"""Wrapped networks: with patches pooled, of other libraries, of clips, and used in all the ways a backbone is used."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from networks import HF_VIT, TINY_VIT, build
from torch import nn

import attention_refine as ar
from attention_refine.backbones.calibrate import liven
from attention_refine.backbones.rebuild import rebuild
from attention_refine.backbones.spec import NotRebuildable
from attention_refine.backbones.trace import trace
from attention_refine.backbones.video import FramesFirst
from attention_refine.layouts import Layout, to_grid
from attention_refine.support_table import examine

VIDEO = dict(HF_VIT, num_frames=4)


def features_only(kind: str) -> nn.Module:
    import transformers as hf

    torch.manual_seed(0)
    return {
        "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**HF_VIT)),
        "dinov2 backbone": lambda: hf.Dinov2Backbone(hf.Dinov2Config(**HF_VIT)),
        "dinov3": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**HF_VIT)),
        "siglip": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**HF_VIT)),
        "clip": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**HF_VIT)),
        "ijepa": lambda: hf.IJepaModel(hf.IJepaConfig(**HF_VIT)),
    }[kind]().eval()


def clips(kind: str) -> nn.Module:
    import transformers as hf

    torch.manual_seed(0)
    return {
        "r3d_18": lambda: torchvision.models.video.r3d_18(num_classes=5),
        "r2plus1d_18": lambda: torchvision.models.video.r2plus1d_18(num_classes=5),
        "videomae": lambda: hf.VideoMAEForVideoClassification(hf.VideoMAEConfig(num_labels=5, **VIDEO)),
        "timesformer": lambda: hf.TimesformerForVideoClassification(hf.TimesformerConfig(num_labels=5, **VIDEO)),
        "timesformer, joint": lambda: hf.TimesformerForVideoClassification(
            hf.TimesformerConfig(num_labels=5, attention_type="joint_space_time", **VIDEO)
        ),
    }[kind]().eval()


# patches pooled ------------------------------------------------------------------------------------------------------


def test_a_class_token_network_with_patches_pooled():
    found = examine(*build("vit_token"), pool="avg")
    assert found.faults == [] and found.mechanism == "scale" and found.moved > 0.05


@pytest.mark.parametrize("kind", ["dinov2", "dinov2 backbone", "dinov3", "siglip", "clip", "ijepa"])
def test_a_network_of_features_gets_a_classifier(kind):
    found = examine_features(kind)
    assert found.faults == [] and found.map_size == (4, 4)


def examine_features(kind):
    model = ar.wrap(features_only(kind), num_labels=5, preprocessing={"input_size": [3, 64, 64]})
    return examine(model.backbone.net.eval(), torch.randn(2, 3, 64, 64))


def test_a_network_of_features_without_labels_is_refused():
    with pytest.raises(TypeError, match="no classifier.*num_labels"):
        ar.wrap(features_only("dinov2"), head="abn")


def test_a_masking_network_is_refused():
    import transformers as hf

    with pytest.raises(ar.UnsupportedBackbone, match="random masking"):
        ar.wrap(hf.ViTMAEModel(hf.ViTMAEConfig(**HF_VIT)), head="abn", num_labels=5)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="pool='max' is not one of None, 'avg'"):
        ar.wrap(build("vit_token")[0], pool="max")


def test_pooling_needs_to_know_how_many_classes():
    with pytest.raises(ValueError, match="num_labels"):
        ar.wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), pool="avg")


# torchvision and plain modules ---------------------------------------------------------------------------------------


@pytest.mark.sweep
def test_a_torchvision_classifier_works_and_comes_back():
    torch.manual_seed(0)
    net = torchvision.models.mobilenet_v2(num_classes=5).eval()
    pixels = torch.randn(4, 3, 64, 64)
    found = examine(liven(net, pixels), pixels)
    assert found.faults == [] and found.mechanism == "scale"


def test_a_torchvision_classifier_takes_other_labels():
    net = torchvision.models.squeezenet1_1(num_classes=4)
    model = ar.wrap(net, labels=["a", "b", "c"], preprocessing={"input_size": [3, 64, 64]})
    spec = model.backbone.spec
    assert (spec.source, spec.name, spec.args) == ("torchvision", "squeezenet1_1", {"num_classes": 3})
    assert torch.equal(model.backbone.net.features[0].weight, net.features[0].weight)
    assert rebuild(spec).state_dict().keys() == model.backbone.net.state_dict().keys()


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU())
        self.last = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.last(self.body(x)).relu().mean((2, 3)))


def test_a_plain_module_is_usable_but_not_saveable(tmp_path):
    torch.manual_seed(0)
    net, pixels = Plain().eval(), torch.randn(2, 3, 32, 32)
    model = ar.wrap(net, head=ar.AttentionBranch(site="body"), preprocessing={"input_size": [3, 32, 32]}).eval()
    output = model(pixels)
    assert output.maps.shape == (2, 1, 8, 8)
    torch.testing.assert_close(output.logits, net(pixels))
    with pytest.raises(NotRebuildable, match="Plain is neither"):
        model.save_pretrained(tmp_path)


# clips ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind, grid",
    [
        ("videomae", (2, 4, 4)),
        ("timesformer", (4, 4, 4)),
        ("timesformer, joint", (4, 4, 4)),
        pytest.param("r3d_18", (2, 6, 6), marks=pytest.mark.sweep),
        pytest.param("r2plus1d_18", (2, 6, 6), marks=pytest.mark.sweep),
    ],
)
def test_clips_have_maps_in_time(kind, grid):
    torch.manual_seed(0)
    tokens = not kind.startswith("r")
    pixels = torch.randn(2, 3, 4, 64, 64) if tokens else torch.randn(2, 3, 8, 48, 48)
    options = {"pool": "avg"} if kind == "timesformer" else {}  # its class token attends to one frame at a time
    net = clips(kind)
    found = examine(FramesFirst(net) if tokens else net, pixels, **options)
    assert found.faults == [] and found.map_size == grid


@pytest.mark.parametrize("kind, last", [("videomae", False), ("timesformer", True), ("timesformer, joint", True)])
def test_a_map_of_a_clip_is_of_the_place_and_moment_it_says(kind, last):
    net = FramesFirst(clips(kind))
    pixels = torch.randn(1, 3, 4, 64, 64)
    other = pixels.clone()
    other[:, :, 2:, :16, 32:48] += 3  # the later frames, the first row of patches, the third column
    embeddings = next(m for name, m in net.named_modules() if name.endswith("embeddings"))
    seen = []
    embeddings.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        net(pixels)
        net(other)
    prefix = 0 if kind == "videomae" else 1
    layout = Layout("NLC", prefix, grid_rank=3, frames_last=last)
    change = to_grid(seen[1] - seen[0], layout, (4, 64, 64)).abs().sum(1)[0]
    expected = torch.zeros_like(change, dtype=torch.bool)
    expected[len(change) // 2 :, 0, 2] = True
    assert torch.equal(change > 0, expected)
    candidates, _ = trace(net.eval(), pixels)
    assert {c.layout.frames_last for c in candidates if c.layout.format == "NLC"} == {last}


# ways of use ---------------------------------------------------------------------------------------------------------


def wrapped(name: str, pixels: torch.Tensor, **args) -> ar.RefinedModel:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=5, **args).eval()
    return ar.wrap(net, head="abn", preprocessing={"input_size": list(pixels.shape[1:])}).eval()


@pytest.mark.parametrize(
    "name, args, size, grid",
    [
        ("test_resnet", {}, (64, 96), (4, 6)),
        ("test_convnext", {}, (64, 128), (2, 4)),
        ("deit_tiny_patch16_224", dict(TINY_VIT, img_size=(64, 96)), (64, 96), (4, 6)),
        ("deit_tiny_patch16_224", dict(TINY_VIT, dynamic_img_size=True), (96, 64), (6, 4)),
    ],
)
def test_images_need_not_be_square(name, args, size, grid):
    pixels = torch.randn(2, 3, *size)
    model = wrapped(name, pixels, **args)
    output = model(pixels)
    assert output.maps.shape[2:] == grid
    torch.testing.assert_close(output.logits, model.backbone(pixels))


def test_a_size_other_than_the_one_it_was_wrapped_at():
    model = wrapped("deit_tiny_patch16_224", torch.zeros(1, 3, 64, 64), **TINY_VIT, dynamic_img_size=True)
    pixels = torch.randn(2, 3, 96, 128)
    output = model(pixels)
    assert output.maps.shape[2:] == (6, 8)
    torch.testing.assert_close(output.logits, model.backbone(pixels))


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_other_than_three(channels):
    pixels = torch.randn(2, channels, 64, 64)
    model = wrapped("test_resnet", pixels, in_chans=channels)
    assert model.preprocessing["input_size"][0] == channels
    torch.testing.assert_close(model(pixels).logits, model.backbone(pixels))


def test_a_frozen_backbone_trains_its_head_alone():
    pixels = torch.randn(2, 3, 64, 64)
    model = wrapped("test_resnet", pixels).train()
    model.backbone.requires_grad_(False)
    model(pixels, labels=torch.tensor([0, 1])).loss.backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None for p in model.head.parameters())


@pytest.mark.parametrize("name, args", [("test_resnet", {}), ("deit_tiny_patch16_224", TINY_VIT)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_maps_in_float32(name, args, dtype):
    pixels = torch.randn(2, 3, 64, 64)
    model = wrapped(name, pixels, **args)
    full = model(pixels)
    with torch.autocast("cpu", dtype=dtype):
        half = model(pixels)
        own = model.backbone(pixels)
    assert half.maps.dtype == torch.float32 and half.logits.dtype == dtype
    assert torch.equal(half.logits, own)  # at wrap, in any precision
    torch.testing.assert_close(half.maps, full.maps, atol=0.05, rtol=0)


def test_channels_last_gives_the_same():
    pixels = torch.randn(2, 3, 64, 64)
    model = wrapped("test_resnet", pixels)
    plain = model(pixels)
    other = model.to(memory_format=torch.channels_last)(pixels.to(memory_format=torch.channels_last))
    torch.testing.assert_close(other.logits, plain.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.maps, plain.maps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["test_resnet", "vit_token", "swin", "hf_vit"])
def test_gradient_checkpointing_changes_nothing_but_what_runs_twice(kind):
    net, pixels = build(kind)
    model = ar.wrap(net, head="abn", preprocessing={"input_size": list(pixels.shape[1:])}).train()
    labels, runs = torch.tensor([0, 1]), []
    leaf = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))][4]  # in the first stage, past the stem
    leaf.register_forward_pre_hook(lambda *_: runs.append(1))
    state = copy.deepcopy(model.state_dict())

    def gradients() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model.load_state_dict(state)  # statistics are updated in every pass
        model.zero_grad()
        loss = model(pixels, labels=labels).loss
        loss.backward()
        return {"loss": loss.detach(), **{n: p.grad for n, p in model.named_parameters() if p.grad is not None}}

    expected = gradients()
    assert len(runs) == 1
    getattr(net, "set_grad_checkpointing", getattr(net, "gradient_checkpointing_enable", None))()
    found = gradients()
    assert len(runs) == 3  # once forward and once again in the backward pass
    assert expected.keys() == found.keys() and len(found) > 10
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(pixels).maps, model(pixels).maps)
    assert len(runs) == 5


def test_reentrant_gradient_checkpointing_is_refused():
    from timm.layers import set_reentrant_ckpt, use_reentrant_ckpt

    pixels, before = torch.randn(2, 3, 64, 64), use_reentrant_ckpt()
    model = wrapped("deit_tiny_patch16_224", pixels, **TINY_VIT).train()
    model.backbone.net.set_grad_checkpointing(True)
    set_reentrant_ckpt(True)
    try:
        with pytest.raises(RuntimeError, match="reentrant"):
            model(pixels, labels=torch.tensor([0, 1]))
    finally:
        set_reentrant_ckpt(before)


@pytest.mark.parametrize("head", ["abn", "brnpa"])
@pytest.mark.parametrize("kind", ["test_resnet", "swin", "vit_token"])
def test_a_compiled_model_is_one_graph_and_gives_the_same(kind, head):
    net, pixels = build(kind)
    made = {"abn": ar.AttentionBranch, "brnpa": ar.BRNPA}[head](fade_in_steps=4)
    model = ar.wrap(net, head=made, preprocessing={"input_size": list(pixels.shape[1:])}).eval()
    model.head.begun_steps.fill_(2)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)  # what is compiled is checked, not its speed
    with torch.no_grad():
        expected, found = model(pixels), compiled(pixels)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-5, atol=1e-5)
    state, labels, gradients = copy.deepcopy(model.train().state_dict()), torch.tensor([0, 1]), []
    for run in (model, compiled):
        model.load_state_dict(state)
        model.zero_grad()
        torch.manual_seed(0)
        run(pixels, labels=labels).loss.backward()
        assert int(model.head.begun_steps) == 3
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 10
    for key in gradients[0]:
        torch.testing.assert_close(gradients[1][key], gradients[0][key], rtol=1e-3, atol=1e-5)
