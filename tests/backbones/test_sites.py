"""The site finder on a dozen families, its refusals, its cost and what it leaves behind."""

from __future__ import annotations

import pytest
import timm
import torch
from networks import NETWORKS, build, fingerprint, same, site_of
from torch import nn

from attention_refine.backbones import UnsupportedBackbone, find_site, reading_site
from attention_refine.backbones.sites import Site, check_site
from attention_refine.layouts import Layout

TOKENS = Layout("NLC", 1)
NCHW, NHWC = Layout("NCHW"), Layout("NHWC")

EXPECTED = {
    "resnet18": (Site("layer3", NCHW), "layer4"),
    "resnet50d": (Site("layer3", NCHW), "layer4"),
    "test_resnet": (Site("layer3", NCHW), "layer4"),
    "mobilenetv2": (Site("blocks.4", NCHW), "bn2"),
    "efficientnet": (Site("blocks.3", NCHW), "bn2"),
    "convnext": (Site("norm_pre", NCHW), "norm_pre"),  # a norm before the stride undoes a map any earlier
    "swin": (Site("norm", NHWC), "norm"),
    "vit_token": (Site("blocks.2", TOKENS, "attention"), "blocks.2"),
    "vit_avg": (Site("norm", TOKENS), "norm"),
    "hf_resnet": (Site("resnet.encoder.stages.1", NCHW), "resnet.encoder"),
    "hf_vit": (Site("vit.layers.2", TOKENS, "attention"), "vit.layers.2"),
    "hf_swin": (Site("swin.layernorm", Layout("NLC")), "swin.layernorm"),
    "hf_convnext": (Site("convnext.encoder", NCHW), "convnext.encoder"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_site_a_map_acts_on_and_the_site_it_is_read_from(name):
    acts, reads = EXPECTED[name]
    assert site_of(name) == acts
    assert reading_site(*build(name)).name == reads


@pytest.mark.parametrize("name", NETWORKS)
def test_the_search_costs_forty_forwards_at_most_and_leaves_nothing(name):
    net, pixels = build(name)
    net.train()
    next(net.children()).eval()
    next(net.parameters()).requires_grad_(False)
    with torch.no_grad():
        net(pixels)  # a first call may install capture machinery
    before, images = fingerprint(net), []
    handle = net.register_forward_pre_hook(lambda module, args: images.append(len(args[0])))
    find_site(net, pixels)
    reading_site(net, pixels[:1, :, :-16] if name in ("resnet18", "convnext") else pixels)
    handle.remove()
    assert same(before, fingerprint(net))
    once = len(images) // 2
    assert set(images) == {1} and once + 3 <= 40  # one of them with its gradient: three forwards' worth


def test_a_stored_site_comes_back():
    site = Site("blocks.2", TOKENS, "attention")
    assert Site.from_dict(site.to_dict()) == site


def test_starting_from_the_last_grid():
    assert find_site(*build("test_resnet"), where="last").name == "layer4"


def test_a_network_fresh_from_its_initialiser_is_probed_as_if_trained():
    torch.manual_seed(0)
    net = timm.create_model("cait_xxs24_224", num_classes=5, img_size=64, depth=4, embed_dim=48, num_heads=3)
    nn.init.zeros_(net.head.weight)
    before = fingerprint(net)
    site = find_site(net, torch.zeros(1, 3, 64, 64))
    assert site.mechanism == "attention" and site.name.startswith("blocks")
    assert same(before, fingerprint(net))


def test_a_site_by_name_is_checked_like_one_that_was_found():
    net, pixels = build("test_resnet")
    assert check_site(net, pixels, "layer2") == Site("layer2", NCHW)
    vit, images = build("vit_token")
    assert check_site(vit, images, "blocks.1").mechanism == "attention"


@pytest.mark.parametrize(
    "network, name, mechanism, words",
    [
        ("test_resnet", "layer9", None, ("layer9", "layer3")),
        ("test_resnet", "fc", None, ("fc", "not a spatial grid", "layer4")),
        ("test_resnet", "layer2.0.conv1", None, ("layer2.0.conv1", "goes past it")),
        ("convnext", "stages.2", None, ("stages.2", "would not move the logits")),
        ("vit_token", "blocks.3", "scale", ("blocks.3", "scale", "pool='avg'")),
        ("test_resnet", "layer3", "attention", ("layer3", "attention")),
    ],
)
def test_a_useless_site_is_refused_with_what_would_do(network, name, mechanism, words):
    with pytest.raises(UnsupportedBackbone) as refusal:
        check_site(*build(network), name, mechanism)
    assert all(word in str(refusal.value) for word in words), refusal.value


class Flat(nn.Module):
    """No grid anywhere: the image is one vector."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return self.layers(x)


def test_a_network_without_a_grid_is_refused():
    with pytest.raises(UnsupportedBackbone, match="Flat at 16x16 .*larger image.*pool='avg'.*site="):
        find_site(Flat(), torch.zeros(1, 3, 16, 16))


def test_an_image_too_small_to_leave_a_grid_is_refused():
    net, _ = build("resnet18")
    site = find_site(net, torch.zeros(1, 3, 32, 32))
    assert site.name != "layer4"  # one cell is no map
    with pytest.raises(UnsupportedBackbone, match="larger image"):
        find_site(timm.create_model("test_resnet", num_classes=3), torch.zeros(1, 3, 2, 2))


class FrozenStem(nn.Module):
    """What comes before the last layers runs without gradients, as a frozen extractor may."""

    def __init__(self):
        super().__init__()
        self.stem, self.rest = nn.Conv2d(3, 8, 3, 2, 1), nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.more, self.classifier = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU()), nn.Linear(16, 5)

    def forward(self, x):
        with torch.no_grad():
            x = self.stem(x)
        return self.classifier(self.more(self.rest(x)).mean((2, 3)))


def test_a_stem_that_runs_without_gradients_hides_nothing_of_what_follows():
    torch.manual_seed(0)
    assert reading_site(FrozenStem().eval(), torch.randn(1, 3, 32, 32)).name == "more"


def test_a_network_that_ignores_its_input_is_refused():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return 0 * self.conv(x).mean((2, 3)) + 1

    with pytest.raises(UnsupportedBackbone, match="same logits"):
        find_site(Constant(), torch.zeros(1, 3, 8, 8))


def test_a_network_that_draws_at_random_in_evaluation_is_refused():
    class Random(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return torch.nn.functional.dropout(self.conv(x), 0.5, training=True).mean((2, 3))

    net, state = Random(), torch.get_rng_state()
    with pytest.raises(UnsupportedBackbone, match="different logits each time"):
        find_site(net, torch.zeros(1, 3, 8, 8))
    assert torch.equal(state, torch.get_rng_state())


def test_features_without_logits_are_refused_with_the_way_to_get_some():
    with pytest.raises(TypeError, match="num_labels"):
        find_site(timm.create_model("test_resnet", features_only=True), torch.zeros(1, 3, 64, 64))


def test_what_a_network_caches_in_evaluation_is_forgotten():
    torch.manual_seed(0)
    net = timm.create_model("levit_128s", num_classes=5, img_size=64)
    find_site(net, torch.zeros(1, 3, 64, 64))
    assert not any(getattr(module, "attention_bias_cache", None) for module in net.modules())
