"""DARC against loops in float64 from the paper's equations, and the laws its options promise."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from branches import base, images
from cases import BY_NAME
from halves import halves
from safetensors import safe_open
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import attention_refine as ar
from attention_refine.maps import class_attention, normalize
from attention_refine.objectives.darc.rectangles import drawn_from_pixels, rectangles
from attention_refine.objectives.darc.regions import info_nce, pixel_errors

LABELS = torch.tensor([1, 4, 0])
LAYOUTS = ["resnet18", "swin", "vit-token"]  # NCHW, NHWC, tokens
HEADS = ["abn", None]
every_layout = pytest.mark.parametrize("name", LAYOUTS)
every_head = pytest.mark.parametrize("head", HEADS, ids=["abn", "headless"])
SMALL = {"width": 32, "min_cells": 1.0, "iterations": 3}


def wrap(name: str = "resnet18", head: str | None = "abn", **options) -> ar.RefinedModel:
    model = copy.deepcopy(base(name, head))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model.add_objective(ar.DARC(**{**SMALL, **options}))
    return model


def errors(model: ar.RefinedModel, pixels, labels=LABELS, **columns):
    """The iterations of a model on a batch, as its objective sees them."""
    objective = model.objectives["darc"]
    batch = {"pixel_values": pixels, "labels": labels, **columns}
    return objective.rounds(model, batch, model.resume(model.backbone.features(pixels)))


# the oracle ----------------------------------------------------------------------------------------------------------


def transposed(x, weight, bias):
    """A transposed convolution, kernel 4, stride 2, padding 1: every cell adds its weighted kernel to the result."""
    height, width = x.shape[1:]
    out = x.new_zeros(weight.shape[1], 2 * height + 2, 2 * width + 2)
    for k in range(4):
        for m in range(4):
            out[:, k : k + 2 * height : 2, m : m + 2 * width : 2] += torch.einsum("chw,co->ohw", x, weight[:, :, k, m])
    return out[:, 1:-1, 1:-1] + bias[:, None, None]


def decode(decoder: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The deconvolutional network, written out."""
    layers = list(decoder.layers)
    x = torch.einsum("chw,oc->ohw", x, layers[0].weight[:, :, 0, 0]) + layers[0].bias[:, None, None]
    for norm, _, up in zip(layers[1::3], layers[2::3], layers[3::3]):
        groups = x.reshape(norm.num_groups, -1)
        centred = groups - groups.mean(1, keepdim=True)
        x = (centred / (centred.square().mean(1, keepdim=True) + norm.eps).sqrt()).reshape(x.shape)
        x = x * norm.weight[:, None, None] + norm.bias[:, None, None]
        x = 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
        x = transposed(x, up.weight, up.bias)
    return x


def mechanism(name: str, model: ar.RefinedModel, x: torch.Tensor, label: int):
    """``f(x)`` and ``A(f(x))`` of one image."""
    extract, perceive = halves(name, model.backbone.net, headless=model.head is None)
    feature = extract(x[None])
    if model.head is not None:
        return feature, model.head(feature[None])[1][0]
    if not feature.requires_grad:
        feature.requires_grad_()
    (gradient,) = torch.autograd.grad(perceive(feature, x[None])[0, label], feature, create_graph=True)
    cam = sum(gradient[k].mean() * feature[k] for k in range(len(feature))).relu()
    return feature, ((cam - cam.min()) / (cam.max() - cam.min()).clamp_min(1e-12))[None]


def oracle(name: str, model: ar.RefinedModel, pixels, labels):
    """Equations 3.1, 3.2 and 3.4, image by image, iteration by iteration."""
    objective = model.objectives["darc"]
    config, keep = objective.config, 1 - objective.config.momentum
    size = tuple(pixels.shape[2:])
    total = 0.0
    for x, label in zip(pixels, labels):
        a = mechanism(name, model, x, label)[1]
        for i in range(config.iterations):
            numbers = drawn_from_pixels(x[None], config.rectangles, 0, 0, i)
            boxes = rectangles(numbers, size, *objective.occlusion.sides(size), maps=a[None], sampling=config.sampling)
            hidden = torch.zeros(size, dtype=torch.bool)
            for left, top, right, bottom in boxes[0].tolist():
                hidden[top:bottom, left:right] = True
            feature, made = mechanism(name, model, torch.where(hidden, 0.0, x), label)
            a = keep * a.detach() + config.momentum * made
            read = torch.cat([feature, a]) if config.fuse == "concat" else feature * (1 + a)
            difference = decode(objective.decoder, read)[:, hidden] - x[:, hidden]
            total = total + (difference**2).sum() / difference.numel()
    return total / (len(pixels) * config.iterations)


OPTIONS = [dict(), dict(sampling="strong", rectangles=2, fuse="concat", momentum=0.3, iterations=2)]


@every_layout
@every_head
@pytest.mark.parametrize("options", OPTIONS, ids=["default", "strong"])
def test_loss_gradient_and_update_against_the_equations_in_float64(name, head, options):
    model = wrap(name, head, weight=0.5, **options).double()
    pixels = images(name, 2).double()
    labels = LABELS[:2]
    parameters = dict(model.named_parameters())
    with sdpa_kernel(SDPBackend.MATH):  # the only attention with a second derivative
        expected = oracle(name, model, pixels, labels)
    wanted = torch.autograd.grad(expected, list(parameters.values()), allow_unused=True)
    output = model(pixels, labels=labels)
    torch.testing.assert_close(output.losses["darc"], expected, rtol=0, atol=1e-9)
    found = torch.autograd.grad(output.losses["darc"], list(parameters.values()), allow_unused=True, retain_graph=True)
    largest = max(float(g.abs().max()) for g in wanted if g is not None)
    felt = 0
    for key, mine, theirs in zip(parameters, found, wanted):
        assert (mine is None) == (theirs is None), key
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9 * largest)
            felt += bool(theirs.abs().max() > 1e-6 * largest)
    assert felt > len(parameters) / 3
    plain = sum(value for key, value in output.losses.items() if key != "darc")
    torch.testing.assert_close(output.loss, plain + 0.5 * output.losses["darc"])
    before = {key: value.detach().clone() for key, value in parameters.items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    output.losses["darc"].backward()
    optimizer.step()
    for key, theirs in zip(parameters, wanted):
        step = 0 if theirs is None else 0.1 * theirs
        torch.testing.assert_close(parameters[key], before[key] - step, rtol=1e-9, atol=1e-9)


def test_the_map_so_far_is_where_the_next_update_starts():
    """``a_{i+1}`` from ``f(x'_i)`` and ``a_i`` across updates: the column darc_map is ``a_0``."""
    model, pixels = wrap(iterations=1, momentum=0.25), images()
    with torch.no_grad():
        first = model(pixels, labels=LABELS)
        handed = first.carried["darc_map"]
        torch.testing.assert_close(handed, errors(model, pixels).maps[-1], rtol=0, atol=0)
        second = errors(model, pixels, darc_map=handed, update=1)
        alone = errors(model, pixels, darc_map=torch.zeros_like(handed), update=1)
        torch.testing.assert_close(second.maps[1], 0.75 * handed + alone.maps[1], rtol=0, atol=1e-6)
        assert not torch.equal(second.hidden, errors(model, pixels).hidden)  # a new occlusion, not the same again
        again = model(pixels, labels=LABELS, darc_map=handed, update=1)
        torch.testing.assert_close(again.losses["darc"], second.errors.mean())
        held = errors(model, pixels, **first.carried, update=1)
        assert torch.equal(held.hidden, errors(model, pixels).hidden)  # with all that is handed on, the same holes


# nothing outside the rectangle contributes ----------------------------------------------------------------------------


@every_layout
@every_head
def test_only_hidden_pixels_contribute(name, head):
    model, pixels = wrap(name, head, rectangles=2), images(name)
    decoded = []
    model.objectives["darc"].decoder.register_forward_hook(lambda _, inputs, out: decoded.append(out))
    rounds = errors(model, pixels)
    assert 0 < float(rounds.hidden.float().mean()) < 0.75
    assert torch.equal(decoded[0], rounds.reconstruction.flatten(0, 1))
    hidden = rounds.hidden.expand_as(rounds.reconstruction)
    (gradient,) = torch.autograd.grad(rounds.errors.sum(), decoded[0])
    gradient = gradient.unflatten(0, hidden.shape[:2])
    assert not gradient[~hidden].any() and (gradient[hidden] != 0).float().mean() > 0.99
    flat = rounds.reconstruction.detach().flatten(0, 1), rounds.hidden.flatten(0, 1)
    target = torch.cat([pixels] * 3).requires_grad_()
    loss = pixel_errors(flat[0], target, flat[1])
    torch.testing.assert_close(loss, rounds.errors.detach().flatten())
    (gradient,) = torch.autograd.grad(loss.sum(), target)
    assert not gradient[~hidden.flatten(0, 1)].any() and gradient[hidden.flatten(0, 1)].any()
    changed = torch.where(hidden.flatten(0, 1), target, 100 * torch.randn_like(target))
    assert torch.equal(pixel_errors(flat[0], changed, flat[1]), loss)


@pytest.mark.parametrize("task", ["clean", "occluded"])
def test_what_is_hidden_is_not_seen(task):
    """In training the generator places the rectangles: other pixels under them give the same prediction."""
    model = wrap("vit-token", task=task, start="uniform").train()
    model.head.eval()  # whose batch norm would see all occlusions at once
    seen = []
    model.objectives["darc"].decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    pixels = images("vit-token", 1)
    for _ in range(2):
        torch.manual_seed(1)
        output = model(pixels, labels=LABELS[:1], compute_losses=True)
        assert output.losses["darc"].isfinite()
        torch.manual_seed(1)
        hidden = model.objectives["darc"].occlusion.hide(pixels)
        pixels = torch.where(hidden, 7.0, pixels)  # under the first rectangle
    torch.testing.assert_close(seen[0][:1], seen[1][:1], rtol=0, atol=1e-6)
    assert not torch.allclose(seen[0][1:], seen[1][1:])  # the others lie elsewhere


# laws ----------------------------------------------------------------------------------------------------------------


@every_layout
@every_head
@pytest.mark.parametrize("options", [dict(), dict(sampling="weak", decoder="shuffle", perceptual_weight=1.0)])
def test_batched_equals_one_by_one(name, head, options):
    model, pixels = wrap(name, head, **options).double(), images(name).double()
    batched = model(pixels, labels=LABELS).losses
    singles = [model(x[None], labels=y[None]).losses for x, y in zip(pixels, LABELS)]
    for key in batched.keys() & {"darc", "darc_perceptual"}:
        torch.testing.assert_close(batched[key], sum(one[key] for one in singles) / 3, rtol=0, atol=1e-9)


@every_head
def test_without_labels_the_loss_is_there_and_of_the_predicted_class(head):
    model, pixels = wrap("resnet18", head), images()
    with torch.no_grad():
        predicted = model(pixels, compute_losses=False).logits.argmax(1)
    if head is None:  # rectangles move predictions: let every occluded image keep its class
        model.backbone.net.fc.bias.data[:] = torch.tensor([50.0, 0, 0, 0, 0])
        predicted = torch.zeros(3, dtype=torch.long)
    free = model(pixels, compute_losses=True)
    assert set(free.losses) == {"darc"}
    torch.testing.assert_close(free.losses["darc"], model(pixels, labels=predicted).losses["darc"])


def test_inert_without_losses_and_no_pass_more():
    model, passes = wrap(), []
    model.backbone.net.layer1[0].conv1.register_forward_hook(lambda _, inputs, out: passes.append(len(inputs[0])))
    model.objectives["darc"].decoder.register_forward_hook(lambda *_: pytest.fail("inference ran the decoder"))
    with torch.no_grad():
        output = model(images())
        model.explain(images(), method="model")
    assert output.losses == {} and output.measures == {} and output.loss is None and output.carried is None
    assert passes == [3, 3]


@every_head
@pytest.mark.parametrize("iterations", [1, 3])
def test_how_many_images_a_step_runs(head, iterations):
    for task, passes in (("clean", iterations + 1), ("occluded", iterations)):
        for sampling in ("random", "strong"):
            model, seen = wrap(head=head, task=task, sampling=sampling, iterations=iterations).train(), []
            inner = model.backbone.net.layer1[0].conv1  # inside a module that answers at once in a second half
            inner.register_forward_hook(lambda _, inputs, out, seen=seen: seen.append(len(inputs[0])))
            model(images(), labels=LABELS).loss.backward()
            assert sum(seen) == 3 * passes, (task, sampling)
            if sampling == "random":
                assert len(seen) <= 2  # occlusions are batched


@pytest.mark.parametrize("task", ["clean", "occluded"])
def test_running_statistics_and_fade_in_see_only_the_tasks_own_pass(task):
    model = BY_NAME["resnet18"].wrap(ar.AttentionBranch(fade_in_steps=5), objectives=[ar.DARC(task=task, **SMALL)])
    plain = copy.deepcopy(model)
    plain.objectives.clear()
    model.train(), plain.train()
    torch.manual_seed(3)
    model(images(), labels=LABELS).loss.backward()
    torch.manual_seed(3)
    hidden = model.objectives["darc"].occlusion.hide(images())
    plain(images().masked_fill(hidden, 0) if task == "occluded" else images(), labels=LABELS)
    statistics = {k: v for k, v in plain.state_dict().items() if "running" in k or "tracked" in k or "begun" in k}
    assert statistics and int(plain.head.begun_steps) == 1
    found = model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in statistics.items())


@every_head
def test_seeds_reproduce_and_evaluation_moves_no_generator(head):
    model, pixels = wrap("vit-token", head), images("vit-token")
    state = torch.get_rng_state()
    evaluated = [model(pixels, labels=LABELS).losses["darc"] for _ in range(2)]
    assert torch.equal(*evaluated) and torch.equal(torch.get_rng_state(), state)
    model.train()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(model(pixels, labels=LABELS).losses["darc"])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    seeded = [wrap("vit-token", head, seed=seed).train() for seed in (5, 5, 6)]
    state = torch.get_rng_state()
    found = [each(pixels, labels=LABELS).losses["darc"] for each in seeded]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(torch.get_rng_state(), state)


@every_layout
@every_head
def test_degenerate_images_give_finite_losses_and_gradients(name, head):
    model = wrap(name, head, perceptual_weight=1.0, contrast_weight=1.0).train()
    output = model(torch.zeros_like(images(name)), labels=LABELS)
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert all(value.isfinite() for value in output.measures.values())


@every_layout
@every_head
def test_the_gradient_reaches_what_makes_the_map(name, head):
    """With a head its branch; without one the backbone, also where the feature is a constant to the decoder."""
    model = wrap(name, head, grad="map", iterations=1)
    loss = model(images(name), labels=LABELS).losses["darc"]
    parameters = model.head.to_map.parameters() if head else model.backbone.net.parameters()
    gradients = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    assert any(g is not None and g.abs().max() > 0 for g in gradients)


@every_layout
def test_first_order_holds_the_weights_of_grad_cam_constant(name):
    losses, slopes = [], []
    for second_order in (True, False):
        model = wrap(name, None, second_order=second_order).double()
        loss = model(images(name).double(), labels=LABELS).losses["darc"]
        classifier = model.backbone.net.get_classifier().weight
        losses.append(loss)
        slopes.append(torch.autograd.grad(loss, classifier, allow_unused=True)[0])
    torch.testing.assert_close(*losses)
    assert slopes[0].abs().max() > 0 and slopes[1] is None  # the classifier is felt through the weights alone


# map sources ---------------------------------------------------------------------------------------------------------


def test_squeeze_and_excitation_is_what_it_lets_through():
    """``sum_k s_k f_k`` of the last block before the site, min to max; its own layers feel the loss."""
    model = BY_NAME["efficientnet"].wrap(None, objectives=[ar.DARC(source="block", grad="map", **SMALL)])
    name = model.objectives["darc"].source.name
    block, kept = model.backbone.net.get_submodule(name), []
    assert type(block).__name__ == "SqueezeExcite"
    pixels = images("efficientnet")
    handle = block.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].detach()))
    with torch.no_grad():
        maps = model.objectives["darc"].source(model, pixels, None)[1]
        handle.remove()
        f = kept[0]
        s = torch.sigmoid(block.conv_expand(block.act1(block.conv_reduce(f.mean((2, 3), keepdim=True)))))
        total = sum(s[:, k] * f[:, k] for k in range(f.shape[1]))
    low, high = total.amin((1, 2), keepdim=True), total.amax((1, 2), keepdim=True)
    torch.testing.assert_close(maps[:, 0], (total - low) / (high - low), rtol=1e-4, atol=1e-5)
    model(pixels, labels=LABELS).losses["darc"].backward()
    assert block.conv_reduce.weight.grad.abs().max() > 0
    assert model.backbone.net.conv_stem.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["vit-token", "vit-avg", "hf-vit"])
@every_head
def test_class_attention_is_the_map_of_that_name(name, head):
    model = BY_NAME[name].wrap(head, objectives=[ar.DARC(source="class_attention", **SMALL)])
    pixels = images(name)
    with torch.no_grad():
        maps = model.objectives["darc"].source(model, pixels, None)[1]
    expected = class_attention(model.backbone.net, pixels).mean(1, keepdim=True)
    if head is None or name == "vit-avg":  # a head's gain moves what the class token sees
        torch.testing.assert_close(maps, normalize(expected), rtol=1e-3, atol=1e-4)
    model(pixels, labels=LABELS).losses["darc"].backward()
    assert sum(p.grad.abs().max() > 0 for p in model.backbone.net.parameters() if p.grad is not None) > 5


def test_of_parts_the_largest_at_each_location_is_the_map():
    """BR-NPA has no attention weights: the gradient of its map reaches the backbone, and refinement works."""
    model = BY_NAME["resnet18"].wrap("brnpa", objectives=[ar.DARC(grad="map", momentum=1.0, **SMALL)])
    pixels = images()
    rounds = errors(model, pixels)
    with torch.no_grad():
        made = model.head(model.backbone.features(pixels.masked_fill(rounds.hidden[0], 0.0)).grid)[1]
    assert made.shape[1] == 3
    torch.testing.assert_close(rounds.maps[1].detach(), made.amax(1, keepdim=True), rtol=0, atol=1e-5)
    rounds.errors.sum().backward()
    assert model.backbone.net.conv1.weight.grad.abs().max() > 0
    assert model.refine(pixels, steps=1).shape == (3, 1, 2, 2)


def test_sources_that_do_not_fit_are_refused():
    for options, said in [
        (dict(source="head"), "source='head', and this model has no head"),
        (dict(source="block"), "no attention block that is known by its class"),
        (dict(source="block", block="layer9"), "block='layer9' is no module of the backbone"),
        (dict(source="block", block="fc"), "does not run before the site"),
        (dict(source="class_attention"), "no attention to read"),
        (dict(source="block", block="layer1", task="occluded"), "task='occluded' reads the map off"),
        (dict(min_cells=2.0), "hides 64 of 64 pixels"),
    ]:
        with pytest.raises(ValueError, match=said):
            wrap(head=None, **options)
    assert wrap(head=None, source="block", block="layer2").objectives["darc"].source.name == "layer2"


# the further terms ---------------------------------------------------------------------------------------------------


def test_perceptual_term_teaches_the_decoder_and_holds_the_network_constant():
    model = wrap(perceptual_weight=0.3, grad="map", momentum=1e-6)
    output = model(images(), labels=LABELS)
    (felt,) = torch.autograd.grad(output.losses["darc_perceptual"], model.backbone.net.layer1[0].conv1.weight,
                                  retain_graph=True, allow_unused=True)  # fmt: skip
    output.losses["darc_perceptual"].backward()
    decoder = model.objectives["darc"].decoder
    assert decoder.layers[0].weight.grad.abs().max() > 0 and all(p.requires_grad for p in model.parameters())
    assert felt is None or felt.abs().max() < 1e-3 * decoder.layers[0].weight.grad.abs().max()  # through the map only
    weights = {"task": 1, "attention": 1, "darc": 10, "darc_perceptual": 0.3}
    torch.testing.assert_close(output.loss, sum(weights[name] * value for name, value in output.losses.items()))


def test_info_nce_against_its_equation():
    generator = torch.Generator().manual_seed(0)
    predicted, true = torch.randn(2, 4, 7, generator=generator, dtype=torch.float64)
    for b, found in enumerate(info_nce(predicted, true, 0.2)):
        similar = [math.exp(float(predicted[b] @ t / predicted[b].norm() / t.norm()) / 0.2) for t in true]
        assert float(found) == pytest.approx(-math.log(similar[b] / sum(similar)), abs=1e-9)
    assert float(info_nce(predicted[:1], true[:1], 0.2)) == 0  # no other image: nothing to tell apart


@pytest.mark.parametrize("task", ["clean", "occluded"])
def test_further_terms_in_both_forms(task):
    model = wrap(perceptual_weight=0.3, contrast_weight=0.2, task=task).train()
    output = model(images(), labels=LABELS)
    output.loss.backward()
    assert {"darc", "darc_perceptual", "darc_contrast"} <= output.losses.keys()
    assert model.objectives["darc"].predicted.weight.grad.abs().max() > 0


# training: precision, start, checkpoints ------------------------------------------------------------------------------


@every_layout
@every_head
def test_mixed_precision_is_near_full_precision(name, head):
    model, pixels = wrap(name, head), images(name)
    full = model(pixels, labels=LABELS).losses["darc"]
    with torch.autocast("cpu", torch.bfloat16):
        output = model(pixels, labels=LABELS)
    assert output.losses["darc"].dtype == torch.float32 and output.carried["darc_map"].dtype == torch.float32
    torch.testing.assert_close(output.losses["darc"], full, rtol=0.05, atol=0)  # bfloat16 has three digits
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("task", ["clean", "occluded"])
def test_it_begins_after_its_first_steps(task):
    model = wrap(start_step=2, task=task, contrast_weight=1.0).train()
    outputs = [model(images(), labels=LABELS) for _ in range(4)]
    assert [bool(output.losses["darc"] > 0) for output in outputs] == [False, False, True, True]
    assert all(output.losses.keys() == outputs[0].losses.keys() for output in outputs)
    assert all(output.measures.keys() == outputs[0].measures.keys() for output in outputs)


@pytest.mark.parametrize("options", [dict(), dict(head=None, source="block", block="layer3")], ids=["abn", "block"])
def test_saved_loaded_and_dropped(options, tmp_path):
    model = wrap(contrast_weight=0.1, size=(0.2, 0.4), **options).train()
    model(images(), labels=LABELS).loss.backward()
    torch.optim.SGD(model.parameters(), 0.01).step()
    model.eval().save_pretrained(tmp_path / "whole")
    loaded = ar.load(tmp_path / "whole")
    assert loaded.objectives["darc"].config == model.objectives["darc"].config
    found, expected = loaded(images(), labels=LABELS), model(images(), labels=LABELS)
    assert torch.equal(found.logits, expected.logits) and torch.equal(found.loss, expected.loss)
    model.save_pretrained(tmp_path / "dropped", training_layers=False)
    with safe_open(tmp_path / "dropped" / "model.safetensors", "pt") as stored:
        assert not any(key.startswith("objectives") for key in stored.keys())  # noqa: SIM118
    assert json.loads((tmp_path / "dropped" / "config.json").read_text())["objectives"] == []
    light = ar.load(tmp_path / "dropped")
    assert torch.equal(light(images()).logits, expected.logits)
    if model.head is not None:
        assert torch.equal(light(images()).maps, expected.maps)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(iterations=0), "iterations must be at least 1, got 0"),
        (dict(size=(0.0, 0.3)), r"size=\(0.0, 0.3\) must be \(shortest, longest\), shares with 0 < shortest"),
        (dict(size=(0.3, 1.0)), "longest < 1"),
        (dict(size=(0.5, 0.3)), "shortest <= longest"),
        (dict(size=0.3), "size=0.3 must be"),
        (dict(rectangles=0), "rectangles must be at least 1"),
        (dict(momentum=0.0), "momentum must be above 0 and at most 1"),
        (dict(temperature=0.0), "temperature must be above 0"),
        (dict(weight=-1.0), "weight must be 0 or more"),
        (dict(task="both"), "task='both' is not one of 'clean', 'occluded'"),
        (dict(sampling="hard"), "sampling='hard' is not one of 'random', 'strong', 'weak'"),
        (dict(source="cam"), "source='cam' is not one of 'auto', 'head'"),
        (dict(decoder="unet"), "decoder='unet' is not one of 'transposed', 'shuffle'"),
        (dict(fuse="product"), "fuse='product' is not one of 'residual', 'concat'"),
        (dict(patches=3), "has no option 'patches'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        ar.DARC(**options)
