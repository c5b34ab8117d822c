"""Guided attention inference against loops in float64 from the paper's equations, and the laws its options promise."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from branches import base, images
from cases import CLASSES
from halves import halves

import attention_refine as ar
from attention_refine.objectives.guided_inference import filled

LABELS = torch.tensor([1, 4, 0])
SEVERAL = torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 1.0], [0, 0, 0, 0, 0]])
every_layout = pytest.mark.parametrize("name", ["resnet18", "swin", "vit-token"])


def wrap(name: str = "resnet18", head: str | None = None, **options) -> ar.RefinedModel:
    model = copy.deepcopy(base(name, head))
    model.add_objective(ar.GuidedInference(**options))
    return model


def grad_cam(name, net, x, wanted):
    """Equations 1 and 2 for one image; the weights are constants."""
    extract, perceive = halves(name, net, headless=True)
    f = extract(x[None])
    score = (perceive(f, x[None])[0] * wanted).sum()
    w = torch.autograd.grad(score, f, retain_graph=True)[0].mean((1, 2))
    a = sum(w[k] * f[k] for k in range(len(f))).relu()
    return (a - a.min()) / (a.max() - a.min()).clamp_min(1e-12)


def oracle(name, net, pixels, labels, joint):
    """Equations 3 to 5, class by class."""
    total = 0.0
    for x, label in zip(pixels, labels):
        classes = [int(label)] if label.ndim == 0 else label.nonzero()[:, 0].tolist()
        hot = F.one_hot(torch.tensor(classes, dtype=torch.long), CLASSES).to(x)
        groups = [(hot.sum(0), classes)] if joint and classes else [(row, [k]) for row, k in zip(hot, classes)]
        for wanted, hidden in groups:
            a = F.interpolate(grad_cam(name, net, x, wanted)[None, None], x.shape[1:], mode="bilinear")[0]
            masked = x - x / (1 + torch.exp(-10 * (a - 0.5)))
            logits = net(masked[None])[0]
            scores = logits.softmax(0) if label.ndim == 0 else logits.sigmoid()
            total = total + scores[hidden].sum() / len(classes)
    return total / len(pixels)


@every_layout
@pytest.mark.parametrize(
    "labels, joint", [(LABELS, False), (SEVERAL, False), (SEVERAL, True)], ids=["one", "several", "joint"]
)
def test_loss_and_gradient_against_the_equations_in_float64(name, labels, joint):
    model, pixels = wrap(name, joint_mask=joint).double(), images(name).double()
    parameters = dict(model.backbone.net.named_parameters())
    expected = oracle(name, model.backbone.net, pixels, labels, joint)
    wanted = torch.autograd.grad(expected, list(parameters.values()), allow_unused=True)
    loss = model(pixels, labels=labels).losses["guided_inference"]
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    largest = max(float(g.abs().max()) for g in wanted if g is not None)
    for mine, theirs in zip(found, wanted):
        if theirs is not None:
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12 * largest)


@every_layout
@pytest.mark.parametrize("head", ["abn", None], ids=["abn", "headless"])
def test_the_ends_of_the_threshold(name, head):
    pixels = images(name)
    with torch.no_grad():
        nothing = wrap(name, head, threshold=9.0)(pixels, labels=LABELS)
        everything = wrap(name, head, threshold=-20.0)(pixels, labels=LABELS)
        black = base(name, head)(torch.zeros_like(pixels)).logits.softmax(1)
    rows = torch.arange(3)
    torch.testing.assert_close(nothing.losses["guided_inference"], nothing.logits.softmax(1)[rows, LABELS].mean())
    torch.testing.assert_close(everything.losses["guided_inference"], black[rows, LABELS].mean())
    assert nothing.measures["guided_inference_hidden"] < 1e-6 and everything.measures["guided_inference_hidden"] == 1


@pytest.mark.parametrize("head, source", [("abn", "head"), ("per_class", "head"), ("abn", "grad_cam"), (None, "auto")])
def test_every_source_of_the_map_trains_and_leaves_the_statistics_alone(head, source):
    model = wrap(head=head, source=source, second_order=True).train()
    plain = copy.deepcopy(model)
    plain.objectives.clear()
    plain(images(), labels=SEVERAL)
    output = model(images(), labels=SEVERAL)
    found, expected = model.state_dict(), plain.state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())  # the head's step counter, too
    output.losses["guided_inference"].backward()
    stem = model.backbone.net.conv1.weight.grad
    assert stem.isfinite().all() and stem.abs().sum() > 0
    assert all(module.training for module in model.modules())


def test_batched_equals_one_by_one():
    for head in ("abn", "per_class", None):
        model = wrap(head=head, area_penalty=1.0).double()
        batched = model(images().double(), labels=SEVERAL).losses
        singles = [model(x[None], labels=y[None]).losses for x, y in zip(images().double(), SEVERAL)]
        for name in ("guided_inference", "guided_inference_area"):
            mean = torch.stack([one[name] for one in singles]).mean()
            torch.testing.assert_close(batched[name], mean, rtol=0, atol=1e-12, check_dtype=False)


def test_the_extra_loss_is_the_squared_distance_to_the_masks_there_are():
    model = wrap(ext_weight=10.0).double()
    mask = torch.full((3, 1, 64, 64), 255, dtype=torch.uint8)
    mask[:2] = 0
    mask[:2, :, :32] = 1
    output = model(images().double(), labels=LABELS, mask=mask)
    expected = 0.0
    for x, label in zip(images().double()[:2], LABELS):
        a = grad_cam("resnet18", model.backbone.net, x, F.one_hot(label, CLASSES).double())
        h = torch.zeros_like(a)
        h[: len(a) // 2] = 1
        expected = expected + ((a - h) ** 2).mean() / 3
    torch.testing.assert_close(output.losses["guided_inference_ext"], expected)
    known = output.losses["task"] + output.losses["guided_inference"] + 10 * output.losses["guided_inference_ext"]
    torch.testing.assert_close(output.loss, known)
    assert model(images().double(), labels=LABELS).losses["guided_inference_ext"] == 0


def test_map_only_leaves_the_second_pass_constant():
    model = wrap(head="abn", am_grad="map_only")
    model(images(), labels=LABELS).losses["guided_inference"].backward()
    assert model.backbone.net.fc.weight.grad is None and model.head.to_map[0].weight.grad.abs().sum() > 0
    assert all(p.requires_grad for p in model.parameters())


def test_fills():
    pixels = images(count=1)
    assert filled(pixels, "zero").abs().sum() == 0
    torch.testing.assert_close(filled(pixels, "mean")[0, :, 0, 0], pixels[0].mean((1, 2)))
    blurred = filled(pixels.double(), "blur")
    assert blurred.shape == pixels.shape
    for i, j in ((0, 0), (5, 63), (31, 20)):  # the mean of 21 pixels each way, the edge repeated beyond it
        rows, columns = (torch.arange(at - 10, at + 11).clamp(0, 63) for at in (i, j))
        expected = pixels.double()[0][:, rows][:, :, columns].mean((1, 2))
        torch.testing.assert_close(blurred[0, :, i, j], expected, rtol=0, atol=1e-12)
    assert filled(pixels[..., :16, :9], "blur").shape == (1, 3, 16, 9)  # narrower than the blur


def test_black_images_and_images_without_a_class_are_finite():
    model = wrap().train()
    for labels in (SEVERAL, torch.zeros(3, CLASSES)):
        output = model(torch.zeros_like(images()), labels=labels)
        output.loss.backward()
        assert output.loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_it_begins_after_its_first_step_and_is_saved(tmp_path):
    model = wrap(start_step=1, area_penalty=1.0).train()
    losses = [model(images(), labels=LABELS).losses for _ in range(2)]
    assert [bool(loss["guided_inference"] > 0) for loss in losses] == [False, True]
    model.eval().save_pretrained(tmp_path)
    assert torch.equal(ar.load(tmp_path)(images(), labels=LABELS).loss, model(images(), labels=LABELS).loss)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(source="cam"), "source='cam' is not one of 'auto', 'head', 'grad_cam'"),
        (dict(fill="noise"), "fill='noise' is not one of 'zero', 'mean', 'blur'"),
        (dict(ext_weight=-1.0), "ext_weight must be 0 or more"),
        (dict(slope=-1.0), "slope must be above 0"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        ar.GuidedInference(**options)


def test_a_head_s_map_needs_a_head():
    with pytest.raises(ValueError, match="source='head' needs a head"):
        wrap(source="head")
