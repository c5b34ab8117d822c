"""A finer grid from the same weights: what changes, what does not, and how it comes back."""

from __future__ import annotations

import json

import pytest
import torch
from cases import BY_NAME, CLASSES
from torch import nn

import attention_refine as ar
from attention_refine.backbones import UnsupportedBackbone, higher_resolution, logits_of
from attention_refine.backbones.loading import load_network
from attention_refine.backbones.rebuild import describe, rebuild
from attention_refine.backbones.resolution import Resolution, StrideOnePool, resolution_of
from attention_refine.backbones.spec import BackboneSpec
from attention_refine.backbones.trace import trace


def grid(net: nn.Module, images: torch.Tensor) -> tuple[int, ...]:
    with torch.no_grad():
        return trace(net, images[:1])[0][-1].grid


def raised(name: str, factor: int = 2, **options) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """A case's network, the same one at a higher resolution, and images."""
    case = BY_NAME[name]
    size = (3, case.size, case.size)
    return case.make(), higher_resolution(case.make(), factor, input_size=size, **options), case.images()


CONVOLUTIONAL = ["resnet18", "resnet50", "resnet50d", "resnet50t", "mobilenetv2", "efficientnet", "convnext",
                 "hf-resnet", "hf-convnext"]  # fmt: skip
PATCHES = ["vit-token", "vit-avg", "deit", "deit-distilled", "hf-vit"]


@pytest.mark.parametrize("name", CONVOLUTIONAL + PATCHES)
def test_the_grid_doubles_and_the_weights_stay(name):
    plain, fine, images = raised(name)
    before, after = grid(plain, images), grid(fine, images)
    assert after == tuple(2 * side for side in before)
    weights, finer = dict(plain.named_parameters()), dict(fine.named_parameters())
    interpolated = {entry[0] for entry in resolution_of(fine).positions}
    assert len(weights) == len(finer) and interpolated <= set(PATCHES and weights)
    assert bool(interpolated) == (name in ("deit", "deit-distilled", "hf-vit"))  # the others interpolate by themselves
    for key, value in weights.items():
        assert key in interpolated or torch.equal(value, finer[key])
    with torch.no_grad():
        logits = logits_of(fine(images))
    assert logits.shape == (3, CLASSES) and logits.isfinite().all()
    assert not torch.equal(logits, logits_of(plain(images)))


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "hf-vit"])
def test_factor_four(name):
    plain, fine, images = raised(name, 4)
    assert grid(fine, images) == tuple(4 * side for side in grid(plain, images))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet50d", "efficientnet", "hf-resnet", "convnext"])
@pytest.mark.parametrize("factor", [2, 4])
def test_dilated_every_other_location_is_the_feature_of_before(name, factor):
    """The law of stride 1 with dilation: what stood at a location of the coarse grid stands there still."""
    case = BY_NAME[name]
    plain, fine, images = raised(name, factor, dilate=True)
    site = ar.backbones.find_site(plain, images[:1], where="last_grid").name
    features = []
    for net in (plain.double(), fine.double()):
        handle = net.get_submodule(site).register_forward_hook(lambda module, args, output: features.append(output))
        with torch.no_grad():
            net(images.double())
        handle.remove()
    coarse, found = (one if isinstance(one, torch.Tensor) else one[0] for one in features)
    if name == "efficientnet":  # squeeze and excitation look at the mean of all locations, which are other ones
        assert found.shape[2] == factor * coarse.shape[2]
        return
    torch.testing.assert_close(found[:, :, ::factor, ::factor], coarse, rtol=0, atol=1e-9)
    assert case.size // 32 * factor == found.shape[2]


def test_positions_are_interpolated_and_the_class_tokens_kept():
    plain, fine, _ = raised("deit-distilled")
    before, after = plain.pos_embed, fine.pos_embed
    assert torch.equal(before[:, :2], after[:, :2]) and after.shape[1] == 2 + 64
    back = nn.functional.avg_pool2d(after[:, 2:].transpose(1, 2).unflatten(2, (8, 8)), 2).flatten(2).transpose(1, 2)
    assert nn.functional.cosine_similarity(back, before[:, 2:], dim=2).min() > 0.8


def test_patches_stay_centred():
    """A cell of the fine grid sees the patch around its own centre: two by two of them around a coarse one's."""
    plain, fine, images = raised("vit-avg")
    seen = [net.patch_embed.proj for net in (plain, fine)]
    assert seen[1].stride == (8, 8) and seen[1].padding == (4, 4) and seen[0].stride == (16, 16)
    image = torch.zeros(1, 3, 64, 64)
    image[:, :, 16:24, 16:24] = 1  # exactly the cell (2, 2) of the fine grid
    with torch.no_grad():
        moved = (seen[1](image) - seen[1](torch.zeros_like(image))).norm(dim=1)[0]
    assert moved[2, 2] > 0 and (moved[:1] == 0).all() and (moved[4:] == 0).all()


@pytest.mark.parametrize("name", ["resnet50d", "convnext", "hf-resnet", "deit", "hf-vit"])
def test_the_spec_rebuilds_it(name):
    _, fine, images = raised(name)
    stored = json.loads(json.dumps(describe(fine).to_dict()))
    assert stored["resolution"]["factor"] == 2
    again = rebuild(BackboneSpec.from_dict(stored)).eval()
    again.load_state_dict(fine.state_dict())
    with torch.no_grad():
        assert torch.equal(logits_of(again(images)), logits_of(fine(images)))
    assert describe(again).to_dict() == stored
    assert grid(fine, images) == grid(again, images)  # describing left the network as it was


def test_torchvision_too():
    import torchvision

    net = higher_resolution(torchvision.models.get_model("resnet18", weights=None, num_classes=CLASSES).eval())
    images = torch.randn(1, 3, 64, 64)
    again = rebuild(BackboneSpec.from_dict(describe(net).to_dict()))
    again.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(again(images), net(images))
    assert net.layer4[0].conv1.stride == (1, 1)


@pytest.mark.parametrize(
    "name, head", [("resnet18", "brnpa"), ("convnext", "brnpa"), ("vit-token", "brnpa"), ("hf-vit", "abn")]
)
def test_a_wrapped_model_at_a_higher_resolution_comes_back(name, head, tmp_path):
    case = BY_NAME[name]
    coarse, model = case.wrap(head), case.wrap(head, resolution=2)
    images = case.images()
    with torch.no_grad():
        output = model(images)
        assert output.maps.shape[2:] == tuple(2 * side for side in coarse(images).maps.shape[2:])
        torch.testing.assert_close(output.logits, model.backbone(images), rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path)
    loaded = ar.load(tmp_path)
    with torch.no_grad():
        again = loaded(images)
    assert torch.equal(again.logits, output.logits) and torch.equal(again.maps, output.maps)
    assert loaded.backbone.spec == model.backbone.spec


def test_other_classes_and_pooled_patches_keep_it():
    for name in ("hf-resnet", "hf-vit"):
        net = load_network(raised(name)[1], num_labels=3)
        assert grid(net, BY_NAME[name].images()) == grid(raised(name)[1], BY_NAME[name].images())
        assert logits_of(net(BY_NAME[name].images())).shape == (3, 3)
    model = BY_NAME["vit-token"].wrap("brnpa", pool="avg", resolution=2)
    assert model(BY_NAME["vit-token"].images()).maps.shape == (3, 3, 8, 8)


def test_a_pool_at_stride_one_gives_the_old_values_at_every_other_location():
    feature = torch.randn(2, 3, 6, 6)
    for kind, pool in (("avg", nn.AvgPool2d(2)), ("max", nn.MaxPool2d(2))):
        found = StrideOnePool(kind)(feature)
        assert found.shape == feature.shape
        torch.testing.assert_close(found[:, :, ::2, ::2], pool(feature))
        spread = StrideOnePool(kind, 2)(feature.repeat_interleave(2, 2).repeat_interleave(2, 3))
        torch.testing.assert_close(spread[:, :, ::4, ::4], pool(feature))


def test_clips_too():
    import torchvision

    net = torchvision.models.video.r3d_18(num_classes=CLASSES).eval()
    weights = {key: value.clone() for key, value in net.state_dict().items()}
    clip = torch.randn(1, 3, 4, 32, 32)
    before = grid(net, clip)
    higher_resolution(net, input_size=(3, 4, 32, 32))
    assert before == (1, 2, 2) and grid(net, clip) == (1, 4, 4)  # time keeps its stride
    assert all(torch.equal(value, weights[key]) for key, value in net.state_dict().items())


def test_a_transformer_of_clips_is_refused_in_one_sentence():
    import transformers

    sizes = dict(image_size=64, patch_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = transformers.VideoMAEConfig(num_labels=CLASSES, num_frames=4, intermediate_size=64, **sizes)
    with pytest.raises(UnsupportedBackbone, match="VideoMAEForVideoClassification cannot be read at 2 times"):
        higher_resolution(transformers.VideoMAEForVideoClassification(config).eval())


def test_factor_one_changes_nothing():
    net = BY_NAME["swin"].make()
    assert higher_resolution(net, 1) is net and resolution_of(net) is None


@pytest.mark.parametrize("name", ["swin", "hf-swin"])
def test_where_it_makes_no_sense_it_is_refused_and_nothing_is_changed(name):
    case = BY_NAME[name]
    net = case.make()
    with torch.no_grad():
        before = logits_of(net(case.images()))
    with pytest.raises(UnsupportedBackbone) as refusal:
        higher_resolution(net, 2, input_size=(3, 64, 64))
    message = str(refusal.value)
    assert type(net).__name__ in message and "2 times" in message and "larger images" in message and "\n" not in message
    with torch.no_grad():
        assert torch.equal(logits_of(net(case.images())), before)
    assert resolution_of(net) is None


def test_a_network_that_fails_at_another_size_is_refused_and_left_as_it_was():
    import timm

    net = timm.create_model("mixer_s32_224", num_classes=CLASSES).eval()
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        before = net(image)
        with pytest.raises(UnsupportedBackbone, match="MlpMixer cannot be read at 2 times its resolution"):
            higher_resolution(net)
        assert torch.equal(net(image), before)
    assert net.stem.proj.stride == (32, 32) and not net.training


@pytest.mark.parametrize("factor", [0, 3, -2, 1.5, "2"])
def test_bad_factors_are_refused(factor):
    with pytest.raises(ValueError, match="is not a power of two; take 2 or 4"):
        higher_resolution(BY_NAME["resnet18"].make(), factor)


def test_twice_and_wrapped_are_refused():
    net = raised("resnet18")[1]
    with pytest.raises(ValueError, match="2 times its resolution already"):
        higher_resolution(net, 2)
    with pytest.raises(ValueError, match="a bare network"):
        higher_resolution(BY_NAME["resnet18"].wrap("brnpa"), 2)


def test_a_config_can_set_strides_and_nothing_else():
    net = BY_NAME["resnet18"].make()
    for entry, said in ((["fc", "weight", 0, 1], "'weight'"), (["layer4", "stride", [2, 2], [1, 1]], "'layer4'")):
        with pytest.raises(ValueError, match=said):
            Resolution(2, settings=[entry]).apply(net)
