"""Attention mining against loops in float64 from the paper's equations, and the laws its options promise."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from branches import base, images
from cases import CLASSES
from halves import halves
from safetensors import safe_open

import attention_refine as ar
from attention_refine.objectives._masking import soft_mask

LABELS = torch.tensor([1, 4, 0])
SEVERAL = torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 1.0], [0, 0, 0, 0, 0]])
LAYOUTS = ["resnet18", "swin", "vit-token"]  # NCHW, NHWC, tokens
every_layout = pytest.mark.parametrize("name", LAYOUTS)


def wrap(name: str = "resnet18", head: str | None = "abn", **options) -> ar.RefinedModel:
    model = copy.deepcopy(base(name, head))
    model.add_objective(ar.AttentionMining(**options))
    return model


# the oracle ----------------------------------------------------------------------------------------------------------


def oracle(name: str, model: ar.RefinedModel, pixels, labels, sigma: float, slope: float = 100.0):
    """Equations 1 to 3, location by location."""
    extract, perceive = halves(name, model.backbone.net)
    total = 0.0
    for pixel_values, label in zip(pixels, labels):
        feature = extract(pixel_values[None])
        with torch.no_grad():
            grid = model.head(feature[None])[1].shape[2:]
        assert grid == feature.shape[1:]
        a = model.head(feature[None])[1][0, 0]
        hidden = feature.clone()
        for i in range(grid[0]):
            for j in range(grid[1]):
                t = 1 / (1 + torch.exp(-slope * (a[i, j] - sigma)))
                hidden[:, i, j] = feature[:, i, j] - t * feature[:, i, j]
        logits = perceive(hidden, pixel_values[None])[0]
        if label.ndim == 0:
            total = total + torch.exp(logits[label]) / torch.exp(logits).sum()
        elif label.any():
            total = total + sum(1 / (1 + torch.exp(-logits[k])) for k in range(CLASSES) if label[k]) / label.sum()
    return total


@every_layout
@pytest.mark.parametrize("labels", [LABELS, SEVERAL], ids=["one label", "several"])
def test_loss_and_gradient_against_the_equations_in_float64(name, labels):
    model = wrap(name, threshold=0.55, weight=0.5).double()
    pixels = images(name).double()
    expected = oracle(name, model, pixels, labels, 0.55)
    parameters = dict(model.named_parameters())
    wanted = torch.autograd.grad(expected, list(parameters.values()), allow_unused=True)
    output = model(pixels, labels=labels)
    torch.testing.assert_close(output.losses["mining"], expected, rtol=0, atol=1e-12)
    found = torch.autograd.grad(output.losses["mining"], list(parameters.values()), allow_unused=True)
    largest = max(float(g.abs().max()) for g in wanted if g is not None)
    felt = 0
    for key, mine, theirs in zip(parameters, found, wanted):
        assert (mine is None) == (theirs is None), key
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12 * largest)
            felt += bool(theirs.abs().max() > 1e-4 * largest)
    assert felt > len(parameters) / 3
    plain = sum(value for key, value in output.losses.items() if key != "mining")
    torch.testing.assert_close(output.loss, plain + 0.5 * output.losses["mining"], check_dtype=False)


@every_layout
def test_through_grad_cam_the_gradient_is_the_loss_own_slope(name):
    """Without a head, to the last term: a step along a direction changes the loss as the gradient says."""
    model = wrap(name, head=None, threshold=0.3, slope=5.0).double()
    pixels = images(name).double()
    parameters = [p for p in model.parameters() if p.ndim > 1]
    loss = model(pixels, labels=LABELS).losses["mining"]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(4)
    moves = [torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.std() for p in parameters]
    slope = sum((g * m).sum() for g, m in zip(gradients, moves) if g is not None)
    step, ends = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, m in zip(parameters, moves):
                p += sign * step * m
            ends.append(model(pixels, labels=LABELS).losses["mining"])
            for p, m in zip(parameters, moves):
                p -= sign * step * m
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), slope, rtol=1e-4, atol=1e-6)


def test_first_order_holds_the_weights_of_grad_cam_constant():
    model = wrap(head=None, threshold=0.3, slope=5.0).double()
    first = wrap(head=None, threshold=0.3, slope=5.0, second_order=False).double()
    losses = [m(images().double(), labels=LABELS).losses["mining"] for m in (model, first)]
    torch.testing.assert_close(*losses)
    classifiers = [torch.autograd.grad(loss, m.backbone.net.fc.weight)[0] for loss, m in zip(losses, (model, first))]
    assert not torch.allclose(*classifiers)


# the ends of the threshold, and the mask -----------------------------------------------------------------------------


@every_layout
@pytest.mark.parametrize("head", ["abn", None], ids=["abn", "headless"])
def test_a_high_threshold_hides_nothing_and_a_low_one_everything(name, head):
    pixels = images(name)
    model = wrap(name, head, threshold=3.0)
    with torch.no_grad():
        output = model(pixels, labels=LABELS)
        feature = model.backbone.features(pixels)
        untouched = model.backbone.resume(feature)
        assert torch.equal(output.aux_logits["mined"], untouched)
        assert output.measures["mining_hidden"] == 0
        expected = untouched.softmax(1)[torch.arange(3), LABELS].sum()
        torch.testing.assert_close(output.losses["mining"], expected)
        output = wrap(name, head, threshold=-3.0)(pixels, labels=LABELS)
        hidden = model.backbone.resume(feature.with_grid(torch.zeros_like(feature.grid)))
    assert torch.equal(output.aux_logits["mined"], hidden) and output.measures["mining_hidden"] == 1


def test_the_mask_is_a_half_at_the_threshold_and_binary_beyond_the_band():
    maps = torch.tensor([0.30, 0.35, 0.40, 0.45, 0.50])
    mask = soft_mask(maps, 0.4, 100.0)
    expected = torch.tensor([1 / (1 + math.exp(-x)) for x in (-10, -5, 0, 5, 10)])
    torch.testing.assert_close(mask, expected)


@pytest.mark.parametrize("quantile", [0.5, 0.8])
def test_the_automatic_threshold_is_the_quantile_of_each_map_and_is_reported(quantile):
    model = wrap("vit-token", quantile=quantile)
    with torch.no_grad():
        output = model(images("vit-token"), labels=LABELS)
    levels = output.maps.flatten(1).quantile(quantile, dim=1)
    torch.testing.assert_close(output.measures["mining_threshold"], levels.mean())
    mask = torch.sigmoid(100 * (output.maps - levels.view(-1, 1, 1, 1)))
    torch.testing.assert_close(output.measures["mining_hidden"], mask.mean())
    live = ((output.maps - levels.view(-1, 1, 1, 1)).abs() < 0.05).float().mean()
    torch.testing.assert_close(output.measures["mining_live"], live)


# laws ----------------------------------------------------------------------------------------------------------------


@every_layout
@pytest.mark.parametrize("head", ["abn", None], ids=["abn", "headless"])
@pytest.mark.parametrize("labels", [LABELS, SEVERAL], ids=["one label", "several"])
def test_batched_equals_one_by_one(name, head, labels):
    model, pixels = wrap(name, head, area_penalty=0.5).double(), images(name).double()
    batched = model(pixels, labels=labels).losses["mining"]
    singles = sum(model(x[None], labels=y[None]).losses["mining"] for x, y in zip(pixels, labels))
    torch.testing.assert_close(batched, singles, rtol=0, atol=1e-12)


@every_layout
@pytest.mark.parametrize("head", ["abn", None], ids=["abn", "headless"])
def test_what_comes_before_the_site_is_not_run_again(name, head):
    model = wrap(name, head).train()
    net = model.backbone.net
    first = net.layer1[0].conv1 if name == "resnet18" else net.patch_embed.proj  # inside a module that answers at once
    last = net.get_classifier()
    calls = {"first": 0, "last": 0}
    first.register_forward_hook(lambda *_: calls.update(first=calls["first"] + 1))
    last.register_forward_hook(lambda *_: calls.update(last=calls["last"] + 1))
    model(images(name), labels=LABELS).loss.backward()
    assert calls == {"first": 1, "last": 2}


@pytest.mark.parametrize("head", ["abn", None], ids=["abn", "headless"])
def test_the_second_pass_leaves_the_running_statistics_alone(head):
    without = wrap("resnet18", head).train()
    without.objectives.clear()
    without(images(), labels=LABELS)
    statistics = {key: value for key, value in without.state_dict().items() if "running" in key or "tracked" in key}
    assert statistics
    for choice, equal in (("freeze_stats", True), ("eval", True), ("train", False)):
        model = wrap("resnet18", head, bn_second_pass=choice, site="auto").train()
        model(images(), labels=LABELS).loss.backward()
        found = model.state_dict()
        same = all(torch.equal(found[key], value) for key, value in statistics.items())
        assert same is (equal or head is None), choice  # without a head nothing after the site has statistics
        assert all(m.training and getattr(m, "track_running_stats", True) for m in model.modules())


def test_frozen_statistics_still_normalise_by_the_batch():
    frozen, tracked, evaluated = (
        wrap(bn_second_pass=choice).train()(images(), labels=LABELS).aux_logits["mined"]
        for choice in ("freeze_stats", "train", "eval")
    )
    assert torch.equal(frozen, tracked) and not torch.allclose(frozen, evaluated)


@every_layout
def test_map_only_leaves_the_shared_weights_to_the_other_losses(name):
    model, pixels = wrap(name, am_grad="map_only"), images(name)
    loss = model(pixels, labels=LABELS).losses["mining"]
    loss.backward()
    assert model.head.to_map[0].weight.grad.abs().sum() > 0
    classifier = model.backbone.net.get_classifier()
    assert classifier.weight.grad is None and classifier.weight.requires_grad
    everything = wrap(name)(pixels, labels=LABELS).losses["mining"]
    torch.testing.assert_close(loss, everything)  # the value is the same, only the route differs
    everything.backward()


@every_layout
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_degenerate_maps_give_finite_losses_and_gradients(name, value):
    model, pixels = wrap(name, area_penalty=1.0), images(name)
    grid = model.backbone.features(pixels).grid.shape[2:]
    maps = torch.full((3, 1, *grid), value, requires_grad=True)
    output = model(pixels, labels=LABELS, maps=maps)
    output.loss.backward()
    assert output.loss.isfinite() and maps.grad.isfinite().all()
    assert all(v.isfinite() for v in (*output.losses.values(), *output.measures.values()))


@every_layout
def test_black_images_without_a_head_give_finite_losses_and_gradients(name):
    model = wrap(name, head=None).train()
    output = model(torch.zeros_like(images(name)), labels=LABELS)
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_inert_without_losses():
    model = wrap()
    with torch.no_grad():
        output = model(images())
    assert output.losses == {} and output.measures == {} and output.loss is None and "mined" not in output.aux_logits


# options -------------------------------------------------------------------------------------------------------------


def test_reduction_score_residual_and_area():
    pixels = images()
    with torch.no_grad():
        summed = wrap()(pixels, labels=LABELS).losses["mining"]
        mean = wrap(reduction="mean")(pixels, labels=LABELS).losses["mining"]
        torch.testing.assert_close(summed, 3 * mean)
        logit = wrap(score="logit")(pixels, labels=LABELS)
        torch.testing.assert_close(logit.losses["mining"], logit.aux_logits["mined"][torch.arange(3), LABELS].sum())
        sigmoid = wrap(score="sigmoid")(pixels, labels=LABELS)
        expected = sigmoid.aux_logits["mined"].sigmoid()[torch.arange(3), LABELS].sum()
        torch.testing.assert_close(sigmoid.losses["mining"], expected)
        residual = wrap(am_residual=True, threshold=3.0)(pixels, labels=LABELS)
        torch.testing.assert_close(residual.aux_logits["mined"], residual.logits)  # nothing hidden: perception itself
        area = wrap(area_penalty=2.0, weight=0.25)(pixels, labels=LABELS)
        torch.testing.assert_close(area.losses["mining_area"], area.measures["mining_hidden"])
        weights = {"task": 1, "attention": 1, "mining": 0.25, "mining_area": 2}
        torch.testing.assert_close(area.loss, sum(weights[name] * loss for name, loss in area.losses.items()))


def test_a_map_per_class_is_hidden_for_its_own_class():
    model, pixels = wrap(head="per_class", threshold=0.5), images()
    feature = model.backbone.features(pixels)
    output = model(pixels, labels=SEVERAL)

    def score(image: int, k: int):
        mask = torch.sigmoid(100 * (output.maps[image : image + 1, k : k + 1] - 0.5))
        one = model.backbone.features(pixels[image : image + 1])
        return model.backbone.resume(one.with_grid(one.grid * (1 - mask)))[0, k].sigmoid()

    expected = (score(0, 0) + score(0, 2)) / 2 + score(1, 4)
    torch.testing.assert_close(output.losses["mining"], expected, rtol=1e-4, atol=1e-5)
    assert feature.grid.shape[0] == 3


def test_mining_begins_after_its_first_step_and_the_count_is_saved(tmp_path):
    model = wrap(start_step=2, area_penalty=1.0).train()
    losses = [model(images(), labels=LABELS).losses for _ in range(4)]
    assert [bool(loss["mining"] > 0) for loss in losses] == [False, False, True, True]
    assert all(loss.keys() == losses[0].keys() for loss in losses)
    fresh = wrap(start_step=2).train()
    fresh(images(), labels=LABELS)
    fresh.save_pretrained(tmp_path)
    again = ar.load(tmp_path).train()
    assert [bool(again(images(), labels=LABELS).losses["mining"] > 0) for _ in range(2)] == [False, True]
    assert wrap(start_step=2).eval()(images(), labels=LABELS).losses["mining"] > 0  # nothing waits in evaluation


@pytest.mark.parametrize("head", ["abn", None], ids=["abn", "headless"])
def test_saved_and_loaded_it_is_the_same_and_holds_one_perception(head, tmp_path):
    model = wrap("resnet18", head, threshold=0.4, weight=0.01).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(2):
        model(images(), labels=LABELS).loss.backward()
        optimizer.step(), optimizer.zero_grad()
    model.eval().save_pretrained(tmp_path)
    loaded = ar.load(tmp_path)
    assert loaded.objectives["mining"].config == model.objectives["mining"].config
    found, expected = loaded(images(), labels=LABELS), model(images(), labels=LABELS)
    assert torch.equal(found.logits, expected.logits) and torch.equal(found.loss, expected.loss)
    if head is not None:
        assert torch.equal(found.maps, expected.maps)
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        keys = set(stored.keys())
    plain = copy.deepcopy(model)
    plain.objectives.clear()
    assert keys - plain.state_dict().keys() == {"objectives.mining.begun_steps"}
    assert json.loads((tmp_path / "config.json").read_text())["objectives"][0]["options"]["threshold"] == 0.4


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(threshold="high"), "threshold='high' is not one of 'auto', 'a number'"),
        (dict(quantile=1.0), "quantile must be between 0 and 1"),
        (dict(slope=0.0), "slope must be above 0, got 0.0"),
        (dict(score="probability"), "score='probability' is not one of 'auto', 'softmax'"),
        (dict(reduction="max"), "reduction='max'"),
        (dict(bn_second_pass="off"), "bn_second_pass='off' is not one of 'freeze_stats', 'eval', 'train'"),
        (dict(am_grad="none"), "am_grad='none' is not one of 'all', 'map_only'"),
        (dict(area_penalty=-1.0), "area_penalty must be 0 or more"),
        (dict(sigma=0.5), "has no option 'sigma'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        ar.AttentionMining(**options)


def test_options_that_do_not_fit_the_model_are_refused():
    with pytest.raises(ValueError, match="site='layer2', but the head's site is 'layer3'"):
        wrap(site="layer2")
    with pytest.raises(ValueError, match="am_residual=True .* no head"):
        wrap(head=None, am_residual=True)
    assert wrap(head=None, site="layer3").backbone.site.name == "layer3"
