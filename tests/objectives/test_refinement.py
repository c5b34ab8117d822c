"""Refinement at test time: what it returns, what it leaves alone, and when it stops."""

from __future__ import annotations

import copy

import pytest
import torch
from branches import base, images
from test_darc import wrap

import attention_refine as ar
from attention_refine.objectives.darc.refinement import iterations, refine

both = pytest.mark.parametrize("name, head", [("resnet18", "abn"), ("swin", None), ("vit-token", "abn")])


def small(name="resnet18", head="abn", **options):
    return wrap(name, head, iterations=2, width=16, **options)


@both
@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(name, head, training):
    model = small(name, head).train(training)
    frozen = next(model.backbone.net.parameters()).requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    pixels, state = images(name, 2), torch.get_rng_state()
    kept = pixels.clone()
    with torch.no_grad():
        maps = model.refine(pixels, steps=2, learning_rate=0.05)
    assert maps.shape[:2] == (2, 1) and not maps.requires_grad and maps.min() >= 0 and maps.max() <= 1
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(pixels, kept)
    assert [module.training for module in model.modules()] == flags
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted and not frozen.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@both
def test_a_step_is_gradient_descent_on_the_images_own_loss(name, head):
    model, pixels = small(name, head).double(), images(name, 1).double()
    found = refine(model, pixels, steps=1, learning_rate=1e-3, tolerance=0)
    byhand = copy.deepcopy(model)
    loss = byhand(pixels, compute_losses=True).losses["darc"]
    torch.testing.assert_close(torch.tensor(found.losses[0][0]).double(), loss.detach(), rtol=0, atol=1e-6)
    parameters = list(byhand.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients):
            if gradient is not None:
                parameter -= 1e-3 * gradient
        after = byhand(pixels, compute_losses=True)
    assert found.losses[0][1] == pytest.approx(float(after.losses["darc"]), abs=1e-9)
    assert found.losses[0][1] < found.losses[0][0]
    torch.testing.assert_close(found.logits, after.logits.detach(), rtol=0, atol=1e-9)
    if head is not None:
        torch.testing.assert_close(found.maps, after.maps.detach(), rtol=0, atol=1e-9)
        assert not torch.equal(found.maps, model(pixels).maps)


@both
def test_images_are_refined_alone_unless_together(name, head):
    model, pixels = small(name, head), images(name, 2)
    alone = [model.refine(x[None], steps=2) for x in pixels]
    torch.testing.assert_close(model.refine(pixels, steps=2), torch.cat(alone), rtol=0, atol=1e-5)
    together = refine(model, pixels, steps=2, together=True)
    assert together.maps.shape == torch.cat(alone).shape and len(together.losses) == 1


def test_the_record_and_the_guard_of_the_learning_rate():
    model, pixels = small(), images(count=1)
    record = refine(model, pixels, steps=6, learning_rate=1000.0, tolerance=0)
    losses, changes, rates = record.losses[0], record.changes[0], record.rates[0]
    assert len(losses) == 7 and len(changes) == len(rates) == 6
    assert all(after <= before for before, after in zip(losses, losses[1:]))
    assert rates[0] == 1000.0 and changes[0] == 0.0 and losses[1] == losses[0]  # far too large: taken back
    for rate, following, before, after in zip(rates, rates[1:], losses, losses[1:]):
        assert following == (rate / 2 if after == before else rate)
    hopeless = refine(model, pixels, steps=2, learning_rate=1e12, tolerance=0)
    assert torch.equal(hopeless.maps, model(pixels).maps) and torch.equal(hopeless.logits, model(pixels).logits)


def test_it_stops_where_neither_loss_nor_map_moves():
    model, pixels = small(), images(count=1)
    assert len(refine(model, pixels, steps=5, learning_rate=1e-9, tolerance=1e-3).losses[0]) == 2
    assert len(refine(model, pixels, steps=5, learning_rate=1e-9, tolerance=0).losses[0]) == 6
    assert len(refine(model, pixels, steps=5, learning_rate=0.01, tolerance=1e-6).losses[0]) == 6


def test_the_head_alone():
    model, pixels = small(), images(count=1)
    found = refine(model, pixels, steps=2, learning_rate=0.05, part="head")
    assert found.losses[0][-1] < found.losses[0][0] and not torch.equal(found.maps, model(pixels).maps)


def test_inference_mode_and_label_free_map_sources():
    model = small("vit-token", None, source="class_attention")
    with torch.inference_mode():
        assert model.refine(images("vit-token", 1), steps=1).shape == (1, 1, 4, 4)


@both
def test_the_iterations_to_look_at(name, head):
    model, pixels = small(name, head).train(), images(name, 2)
    state = torch.get_rng_state()
    rounds = iterations(model, pixels)
    assert rounds.hidden.shape == (2, 2, 1, 64, 64) and rounds.reconstruction.shape == (2, 2, 3, 64, 64)
    assert rounds.maps.shape[:3] == (3, 2, 1) and rounds.errors.shape == (2, 2) and not rounds.errors.requires_grad
    assert model.training and torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_refined_is_refused():
    plain = copy.deepcopy(base("resnet18", "abn"))
    plain.add_objective(ar.AttentionMining())
    for model, options, said in [
        (plain, {}, "this model's objectives are mining; train it with"),
        (small(), dict(steps=0), "steps must be at least 1 and learning_rate above 0, got 0 and 0.01"),
        (small(), dict(learning_rate=0.0), "got 3 and 0.0"),
        (small(), dict(part="decoder"), "part='decoder' is not one of 'model', 'head'"),
        (small(head=None), dict(part="head"), "part='head', and this model has no head"),
    ]:
        with pytest.raises(ValueError, match=said):
            refine(model, images(count=1), **options)
