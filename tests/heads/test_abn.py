"""The Attention Branch Network against an oracle written in numpy loops from the equations, and its options."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import BY_NAME, CLASSES
from torch import nn

import attention_refine as ar
from attention_refine import shapes
from attention_refine.embedded.calibration import pictures
from attention_refine.heads.abn import MAX_HIDDEN, MIN_HIDDEN, attention_gain

CASE = BY_NAME["resnet18"]


def wrap(head: ar.Head | None = None, **options) -> ar.RefinedModel:
    """A small ResNet-18 whose branch has statistics and weights of no special value."""
    model = CASE.wrap(head or ar.AttentionBranch(**{"fade_in_steps": 0, **options}))
    generator = torch.Generator().manual_seed(2)
    for module in model.head.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in ((module.weight, 0.5, 1.5), (module.bias, -0.5, 0.5),
                                      (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 1.5)):  # fmt: skip
                tensor.data.uniform_(low, high, generator=generator)
    return model


# the oracle ----------------------------------------------------------------------------------------------------------


class Oracle:
    """ABN on a ResNet-18, one image at a time, in float64, from the equations of the paper and the authors' code."""

    def __init__(self, model: ar.RefinedModel, map_kernel: int = 3, combine: str = "residual"):
        self.weights = {key: value.double().numpy() for key, value in model.state_dict().items()}
        self.map_kernel, self.combine = map_kernel, combine

    def conv(self, x, name, stride=1, padding=0):
        weight = self.weights[f"{name}.weight"]
        outputs, _, kernel, _ = weight.shape
        x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
        height, width = ((side - kernel) // stride + 1 for side in x.shape[1:])
        y = np.zeros((outputs, height, width))
        for o in range(outputs):
            for i in range(height):
                for j in range(width):
                    rows, columns = (slice(at * stride, at * stride + kernel) for at in (i, j))
                    y[o, i, j] = (weight[o] * x[:, rows, columns]).sum()
        return y

    def norm(self, x, name):
        weight, bias, mean, var = (
            self.weights[f"{name}.{part}"][:, None, None] for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    def block(self, x, name, stride):
        y = np.maximum(self.norm(self.conv(x, f"{name}.conv1", stride, 1), f"{name}.bn1"), 0)
        y = self.norm(self.conv(y, f"{name}.conv2", 1, 1), f"{name}.bn2")
        if f"{name}.downsample.0.weight" in self.weights:
            x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return np.maximum(x + y, 0)

    def branch(self, g):
        """``M`` (K, h, w) and the branch's class scores."""
        y = self.block(self.block(g, "head.stage.stages.0.0", 1), "head.stage.stages.0.1", 1)
        u = np.maximum(self.norm(self.conv(self.norm(y, "head.response.0"), "head.response.1"), "head.response.2"), 0)
        m = self.norm(self.conv(u, "head.to_map.0", padding=self.map_kernel // 2), "head.to_map.1")
        return 1 / (1 + np.exp(-m)), self.conv(u, "head.to_logits").mean((1, 2))

    def perception(self, g, m):
        """Logits of ``(1 + M) g`` or ``M g`` for one map (h, w)."""
        refined = g * (1 + m) if self.combine == "residual" else g * m
        y = self.block(self.block(refined, "backbone.net.layer4.0", 2), "backbone.net.layer4.1", 1).mean((1, 2))
        return self.weights["backbone.net.fc.weight"] @ y + self.weights["backbone.net.fc.bias"]


def feature(model, images):
    """The output of layer3, from timm's own modules."""
    net = model.backbone.net
    with torch.no_grad():
        x = net.maxpool(net.act1(net.bn1(net.conv1(images))))
        return net.layer3(net.layer2(net.layer1(x)))


def cross_entropy(logits, label):
    return np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]


def binary_cross_entropy(logits, labels):
    return np.mean([np.log1p(np.exp(-z)) if y else np.log1p(np.exp(z)) for z, y in zip(logits, labels)])


def close(found, expected):
    np.testing.assert_allclose(found.detach().numpy(), np.stack(expected), rtol=0, atol=2e-6)  # the map is float32


@pytest.mark.parametrize("map_kernel", [1, 3])
@pytest.mark.parametrize("combine", ["residual", "product"])
def test_the_equations_against_loops_in_float64(map_kernel, combine):
    model = wrap(map_kernel=map_kernel, combine=combine).double()
    oracle, images, labels = Oracle(model, map_kernel, combine), CASE.images(2).double(), torch.tensor([1, 4])
    maps, aux, logits = [], [], []
    for g in feature(model, images).numpy():
        m, scores = oracle.branch(g)
        maps.append(m)
        aux.append(scores)
        logits.append(oracle.perception(g, m[0]))
    output = model(images, labels=labels)
    close(output.maps, maps)
    close(output.aux_logits["attention"], aux)
    close(output.logits, logits)
    attention = np.mean([cross_entropy(z, label) for z, label in zip(aux, labels)])
    perception = np.mean([cross_entropy(z, label) for z, label in zip(logits, labels)])
    assert output.losses["attention"].item() == pytest.approx(attention, abs=2e-6)
    assert output.losses["task"].item() == pytest.approx(perception, abs=2e-6)
    assert output.loss.item() == pytest.approx(attention + perception, abs=4e-6)


def test_multi_label_is_binary_cross_entropy_on_both():
    model = wrap().double()
    oracle, images = Oracle(model), CASE.images(2).double()
    labels = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0]])
    attention, perception = [], []
    for g, label in zip(feature(model, images).numpy(), labels):
        m, scores = oracle.branch(g)
        attention.append(binary_cross_entropy(scores, label))
        perception.append(binary_cross_entropy(oracle.perception(g, m[0]), label))
    output = model(images, labels=labels)
    assert output.losses["attention"].item() == pytest.approx(np.mean(attention), abs=2e-6)
    assert output.losses["task"].item() == pytest.approx(np.mean(perception), abs=2e-6)


def test_per_class_maps_take_logit_k_from_pass_k():
    model = wrap(maps="per_class").double()
    oracle, images = Oracle(model), CASE.images(2).double()
    maps, logits = [], []
    for g in feature(model, images).numpy():
        m, _ = oracle.branch(g)
        maps.append(m)
        logits.append([oracle.perception(g, m[k])[k] for k in range(CLASSES)])
    output = model(images)
    assert output.maps.shape == (2, CLASSES, 4, 4)
    close(output.maps, maps)
    close(output.logits, logits)


def test_the_weight_is_on_the_branch_alone():
    model = wrap(weight=0.25)
    output = model(CASE.images(2), labels=torch.tensor([0, 1]))
    torch.testing.assert_close(output.loss, output.losses["task"] + 0.25 * output.losses["attention"])


# the published shape -------------------------------------------------------------------------------------------------


def test_resnet50_has_the_published_size_and_map():
    import timm

    paper = ar.AttentionBranch(stage_init="scratch", map_init="normal", hidden_channels="classes", fade_in_steps=0)
    model = ar.wrap(timm.create_model("resnet50"), paper).eval()
    assert model.backbone.site.name == "layer3" and model.head.config.branch == "twin"
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == 43.58
    with torch.no_grad():
        images = torch.randn(1, 3, 224, 224)
        assert model.backbone.features(images).grid.shape == (1, 1024, 14, 14)
        output = model(images, compute_aux=True)
    assert output.maps.shape == (1, 1, 14, 14)
    assert output.maps.min() > 0 and output.maps.max() < 1
    assert output.logits.shape == output.aux_logits["attention"].shape == (1, 1000)


def test_the_map_starts_bright_where_the_classes_respond_or_as_the_paper_starts_it():
    positive, normal = (wrap(map_init=start).head.to_map[0].weight for start in ("positive", "normal"))
    assert (positive >= 0).all() and (normal < 0).any() and (normal > 0).any()
    assert wrap().head.config.map_init == "positive"
    with pytest.raises(ValueError, match="map_init='negative' is not one of 'normal', 'positive'"):
        ar.AttentionBranch(map_init="negative")


# the twin ------------------------------------------------------------------------------------------------------------


def test_the_twin_runs_at_stride_one_and_shares_nothing_with_the_backbone():
    model = wrap()
    grid = model.backbone.features(CASE.images(1)).grid
    assert model.head.stage(grid).shape[2:] == grid.shape[2:] == (4, 4)
    assert model.backbone.net.layer4(grid).shape[2:] == (2, 2)  # the backbone's own stride is untouched
    of_backbone = {tensor.untyped_storage().data_ptr() for tensor in model.backbone.state_dict().values()}
    assert not of_backbone & {tensor.untyped_storage().data_ptr() for tensor in model.head.state_dict().values()}


def test_the_copy_keeps_the_weights_and_scratch_draws_new_ones():
    copied, fresh = wrap(stage_init="copy"), CASE.wrap(ar.AttentionBranch(stage_init="scratch"))
    twin, drawn = copied.head.stage.stages[0], fresh.head.stage.stages[0]
    for name, weight in copied.backbone.net.layer4.named_parameters():
        if "conv" in name:
            assert torch.equal(twin.get_parameter(name), weight)
            own = drawn.get_parameter(name)
            assert not torch.equal(own, weight)
            fan_out = own.shape[0] * own.shape[2] * own.shape[3]  # the authors' initialisation
            assert own.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    assert all(
        torch.equal(module.weight, torch.ones_like(module.weight)) and not module.running_mean.any()
        for module in drawn.modules()
        if isinstance(module, nn.BatchNorm2d)
    )


@pytest.mark.parametrize("branch", ["twin", "light"])
def test_which_branch_was_used_is_recorded_and_rebuilt(branch, tmp_path):
    model = wrap(branch=branch)
    assert model.head.config.branch == branch
    assert model.head.resolved["stages"] == (["layer4"] if branch == "twin" else [])
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["head"]
    assert stored["options"]["branch"] == branch
    loaded = ar.load(tmp_path)
    assert loaded.head.config == model.head.config
    with torch.no_grad():
        assert torch.equal(loaded(CASE.images()).maps, model(CASE.images()).maps)


def test_auto_takes_the_twin_where_there_is_one_and_says_so():
    assert wrap().head.config.branch == "twin"
    assert BY_NAME["convnext"].wrap().head.config.branch == "light"


def test_the_light_branch_is_light():
    def size(model):
        return sum(parameter.numel() for parameter in model.head.parameters())

    assert size(wrap(branch="light")) < 0.05 * size(wrap(branch="twin"))


def test_hidden_channels():
    model = wrap(hidden_channels=3)
    assert model.head.response[1].out_channels == 3
    assert model(CASE.images(), compute_aux=True).aux_logits["attention"].shape == (3, CLASSES)


@pytest.mark.parametrize(
    "classes, asked, wide",
    [
        (200, None, MAX_HIDDEN),
        (200, "classes", 200),
        (200, 7, 7),
        (3, None, MIN_HIDDEN),
        (3, "classes", 3),
        (50, None, 50),
    ],
)
def test_the_width_is_bounded_both_ways_unless_asked_otherwise(classes, asked, wide, tmp_path):
    model = CASE.wrap(ar.AttentionBranch(hidden_channels=asked), num_labels=classes)
    assert model.head.response[1].out_channels == model.head.resolved["hidden"] == wide
    model.save_pretrained(tmp_path)
    assert torch.equal(ar.load(tmp_path)(CASE.images()).maps, model(CASE.images()).maps)


def test_a_checkpoint_of_before_the_bound_keeps_its_width(tmp_path):
    """Its config has no width: that is one channel a class, however many."""
    model = CASE.wrap(ar.AttentionBranch(hidden_channels="classes"), num_labels=200)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["head"]["options"]["hidden_channels"] = None
    del config["head"]["resolved"]["hidden"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded, images = ar.load(tmp_path), CASE.images()
    with torch.no_grad():
        found, expected = (each(images, compute_aux=True) for each in (loaded, model))
    assert torch.equal(found.logits, expected.logits) and torch.equal(found.maps, expected.maps)
    assert torch.equal(found.aux_logits["attention"], expected.aux_logits["attention"])


def test_the_branch_s_scores_are_the_mean_of_its_scores_at_the_locations():
    model, images = wrap().double(), CASE.images().double()
    with torch.no_grad():
        head, feature = model.head, model.backbone.features(images).grid
        expected = head.to_logits(head.response(head.stage(feature))).flatten(2).mean(2)
        found = model(images, compute_aux=True).aux_logits["attention"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_branch_classifies_where_somebody_asks():
    model, images = wrap(), CASE.images()
    assert model(images).aux_logits == {} == model(images, labels=torch.tensor([0, 1, 2]), compute_aux=False).aux_logits
    for asked in ({"compute_aux": True}, {"labels": torch.tensor([0, 1, 2])}, {"compute_losses": True}):
        assert set(model(images, **asked).aux_logits) == {"attention"}
    assert set(model.train()(images).aux_logits) == {"attention"}


# the map comes in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["residual", "product"])
def test_the_map_fades_in_over_training_steps(combine):
    model = CASE.wrap(ar.AttentionBranch(fade_in_steps=4, combine=combine)).train()
    images = CASE.images(4)
    for step in range(6):
        assert float(model.eval().head.strength()) == min(1.0, step / 4)
        feature_before = model.backbone.features(images).grid
        with torch.no_grad():
            refined, maps, _ = model.head(feature_before)
        strength = min(1.0, step / 4)
        expected = 1 + strength * maps if combine == "residual" else 1 + strength * (maps - 1)
        torch.testing.assert_close(refined, feature_before * expected)
        model.train()(images)
    assert int(model.head.begun_steps) == 6  # evaluation does not count


def test_training_steps_use_the_strength_of_the_steps_before():
    model = CASE.wrap(ar.AttentionBranch(fade_in_steps=2)).train()
    feature = model.backbone.features(CASE.images(4)).grid.detach()
    for expected in (0.0, 0.5, 1.0, 1.0):
        refined, maps, _ = model.head(feature)
        torch.testing.assert_close(refined, feature * (1 + expected * maps))


def test_no_fade_in_is_the_form_of_the_paper():
    model = wrap(fade_in_steps=0)
    feature = model.backbone.features(CASE.images()).grid
    refined, maps, _ = model.head(feature)
    assert torch.equal(refined, feature * (1 + maps))


def test_gain():
    maps = torch.tensor([0.0, 0.5, 1.0])
    assert attention_gain(maps).tolist() == [1, 1.5, 2]
    assert attention_gain(maps, 0.5).tolist() == [1, 1.25, 1.5]
    assert attention_gain(maps, 1.0, "product").tolist() == [0, 0.5, 1]
    assert attention_gain(maps, 0.0, "product").tolist() == [1, 1, 1]


# a fresh branch, calibrated ------------------------------------------------------------------------------------------


def own_norms(head: ar.Head) -> list[nn.Module]:
    return [head.response[0], head.response[2], head.to_map[1]]


def test_a_fresh_branch_starts_with_the_statistics_of_drawn_images():
    """Its own norms, one after the other, against the feature of the images; the copied stage keeps what it came with."""
    model, images = CASE.wrap(ar.AttentionBranch(calibrate=False)), CASE.images(5)
    head = model.head
    head.calibrate(model.backbone, lambda: images)  # does nothing, as asked
    assert all(not norm.running_mean.any() and (norm.running_var == 1).all() for norm in own_norms(head))
    head.config = replace(head.config, calibrate=True)
    head.calibrate(model.backbone, lambda: images)
    with torch.no_grad():
        x = head.stage(model.backbone.features(images).grid)
        after = ([head.response[1]], [head.response[3], head.to_map[0]], [])
        for norm, layers in zip(own_norms(head), after):
            torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
            variance = x.var((0, 2, 3))  # unbiased, as in training
            variance = variance.clamp(min=0.01 * variance.mean())
            torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-5)
            assert norm.momentum == 0.1 and not norm.training
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
            for layer in layers:
                x = layer(x)
    for name, value in model.backbone.net.layer4.named_buffers():
        assert torch.equal(head.stage.stages[0].get_buffer(name), value)


def test_a_channel_silent_on_the_drawn_images_is_not_magnified():
    model, images = CASE.wrap(ar.AttentionBranch(calibrate=False)), CASE.images(5)
    head = model.head
    head.config = replace(head.config, calibrate=True)
    with torch.no_grad():
        loudness = head.stage(model.backbone.features(images).grid).var()
    head.stage.register_forward_hook(lambda stage, inputs, output: output.index_fill(1, torch.tensor([0]), 0.0))
    head.calibrate(model.backbone, lambda: images)
    assert head.response[0].running_mean[0] == 0
    assert head.response[0].running_var[0] > 0.001 * loudness


@pytest.mark.parametrize("name", ["resnet18", "convnext", "deit", "vit-avg"])
def test_its_map_is_no_constant_before_any_training(name):
    model, images = BY_NAME[name].wrap(), BY_NAME[name].images()
    assert any(norm.running_mean.any() for norm in own_norms(model.head))
    with torch.no_grad():
        assert model(images).maps.flatten(1).std(1).min() > 0.01
    assert int(model.head.begun_steps) == 0 and not model.head.has_come_in()


def test_calibrating_is_the_same_every_time_and_takes_no_random_number():
    def wrapped(**options):
        torch.manual_seed(3)
        head = ar.AttentionBranch(**options)
        return ar.wrap(CASE.make().train(), head, preprocessing={"input_size": [3, 64, 64]}), torch.rand(1)

    (one, after), (other, again), (bare, without) = wrapped(), wrapped(), wrapped(calibrate=False)
    assert torch.equal(after, again) and torch.equal(after, without)
    state = other.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in one.state_dict().items())
    assert all(torch.equal(value, state[key]) for key, value in bare.named_parameters())
    assert all(module.training for module in one.modules())


def test_fewer_images_are_drawn_where_they_are_large(monkeypatch):
    drawn, rows = [], shapes.rows
    monkeypatch.setattr(shapes, "rows", lambda split, n: drawn.append(n) or rows(split, n))
    pictures.cache_clear()
    for side in (64, 64, 288, 512):
        ar.wrap(CASE.make(), ar.AttentionBranch(branch="light"), preprocessing={"input_size": [3, side, side]})
    assert drawn == [8, 4, 2]  # and once each


def test_a_checkpoint_is_loaded_as_it_is_and_an_older_one_too(tmp_path, monkeypatch):
    model = CASE.wrap()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["head"]["options"].pop("calibrate") is True
    (tmp_path / "config.json").write_text(json.dumps(config))  # as it was before there was the option
    monkeypatch.setattr(ar.AttentionBranch, "calibrate", lambda *args: pytest.fail("calibrated"))
    with torch.no_grad():
        assert torch.equal(ar.load(tmp_path)(CASE.images()).maps, model(CASE.images()).maps)


# a person's map ------------------------------------------------------------------------------------------------------


def test_a_given_map_skips_the_branch_and_has_no_branch_logits():
    model = wrap()
    ran = []
    model.head.response.register_forward_hook(lambda *_: ran.append(1))
    maps = torch.rand(3, 1, 4, 4)
    output = model(CASE.images(), labels=torch.tensor([0, 1, 2]), maps=maps)
    assert not ran
    assert torch.equal(output.maps, maps) and output.aux_logits == {} and set(output.losses) == {"task"}


def test_a_given_map_acts_at_full_strength_at_once():
    fresh, ready = CASE.wrap(ar.AttentionBranch(fade_in_steps=1000)), CASE.wrap(ar.AttentionBranch(fade_in_steps=0))
    maps = torch.rand(3, 1, 4, 4)
    with torch.no_grad():
        assert torch.equal(fresh(CASE.images(), maps=maps).logits, ready(CASE.images(), maps=maps).logits)


def test_its_own_map_given_back_gives_the_same_logits():
    for name in ("resnet18", "vit-token", "swin", "hf-vit"):
        case = BY_NAME[name]
        model = case.wrap(ar.AttentionBranch(fade_in_steps=0))
        with torch.no_grad():
            output = model(case.images())
            assert torch.equal(model(case.images(), maps=output.maps).logits, output.logits)


def test_a_map_of_another_size_is_resized():
    model, images = wrap(), CASE.images()
    drawn = torch.rand(3, 1, 64, 64)
    small = F.interpolate(drawn, (4, 4), mode="bilinear", antialias=True)
    output = model(images, maps=drawn)
    assert output.maps.shape == (3, 1, 4, 4)
    assert torch.equal(output.maps, small)
    stroke = torch.zeros(3, 1, 64, 64)
    stroke[:, :, :, 37] = 1  # one pixel wide: it must not fall between two samples
    assert model(images, maps=stroke).maps[0, 0, 0].argmax() == 2
    upwards = model(images, maps=torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(3, 1, 1, 2)).maps
    assert upwards.shape == (3, 1, 4, 4) and (upwards.diff(dim=3) >= 0).all()


def test_per_class_models_take_one_map_or_one_for_each_class():
    model, images = wrap(maps="per_class"), CASE.images()
    one = torch.rand(3, 1, 4, 4)
    with torch.no_grad():
        single, repeated = model(images, maps=one), model(images, maps=one.expand(3, CLASSES, 4, 4))
    torch.testing.assert_close(single.logits, repeated.logits)
    with pytest.raises(ValueError, match=r"maps must be \(batch, 1 or 5, h, w\).*got \(3, 2, 4, 4\)"):
        model(images, maps=torch.rand(3, 2, 4, 4))


def test_a_gradient_reaches_a_given_map():
    model = wrap()
    maps = torch.full((3, 1, 4, 4), 0.5, requires_grad=True)
    model(CASE.images(), labels=torch.tensor([0, 1, 2]), maps=maps).loss.backward()
    assert maps.grad.abs().min() > 0


# training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "vit-token", "convnext"])
def test_a_batch_of_one_trains(name):
    case = BY_NAME[name]
    model = case.wrap().train()
    model(case.images(1), labels=torch.tensor([2])).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.head.parameters())


def test_the_branch_teaches_the_extractor():
    """The branch's loss goes back into the layers before the site, as in the paper, and not into those after it."""
    model = wrap().train()
    model(CASE.images(), labels=torch.tensor([0, 1, 2])).losses["attention"].backward()
    assert model.backbone.net.layer1[0].conv1.weight.grad.abs().sum() > 0
    assert model.backbone.net.layer4[0].conv1.weight.grad is None


def test_maps_stay_float32_in_half_precision():
    model = wrap().to(torch.bfloat16)
    output = model(CASE.images().to(torch.bfloat16))
    assert output.logits.dtype == torch.bfloat16 and output.maps.dtype == torch.float32


# refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option, value, accepted",
    [
        ("branch", "heavy", "'auto', 'twin', 'light'"),
        ("stage_init", "random", "'copy', 'scratch'"),
        ("maps", "both", "'shared', 'per_class'"),
        ("combine", "sum", "'residual', 'product'"),
        ("map_kernel", 5, "1, 3"),
        ("mechanism", "gate", "None, 'scale', 'attention'"),
        ("fade_in_steps", -1, "0 or more"),
        ("hidden_channels", 0, "at least 1"),
        ("weight", -1.0, "0 or more"),
    ],
)
def test_options_outside_their_range_are_refused(option, value, accepted):
    with pytest.raises(ValueError) as refusal:
        ar.AttentionBranch(**{option: value})
    message = str(refusal.value)
    assert "AttentionBranch" in message and option in message and str(value) in message and accepted in message


def test_an_unknown_option_is_refused_with_the_closest():
    with pytest.raises(ValueError, match="no option 'stage_int'.*did you mean 'stage_init'"):
        ar.AttentionBranch(stage_int="copy")
