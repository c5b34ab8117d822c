"""Maps of a refined transformer: they are the backbone's, with what its own map does to it, and the head's are not among them."""

from __future__ import annotations

import pytest
import torch
from cases import BY_NAME

import attention_refine as ar
from attention_refine import maps
from attention_refine.backbones.attention import ClassRowGain

ROLLOUTS = ("attention_rollout", "class_attention", "gradient_rollout")
FEW = {"rise": {"masks": 4}, "occlusion": {"window": 32, "stride": 32}, "smooth_grad": {"samples": 2},
       "integrated_gradients": {"steps": 4}, "score_cam": {"top_channels": 4}}  # fmt: skip
PATCHES = {"vit-token": 4, "vit-avg": 4, "deit": 4, "hf-vit": 8}
HEADS = {"abn": ar.AttentionBranch, "brnpa": ar.BRNPA}


def close(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert float((found - expected).abs().amax() / expected.abs().amax()) <= tolerance


@pytest.mark.parametrize("method", ROLLOUTS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", PATCHES)
def test_a_fresh_model_has_the_rollouts_of_its_backbone(name, head, method):
    case = BY_NAME[name]
    model, images = case.wrap(HEADS[head]()), case.images(2)
    expected = maps.by_name(method)(case.make(), images)
    close(maps.by_name(method)(model, images), expected)
    explained = model.explain(images, method=method)
    assert explained.shape == (*expected.shape[:2], 64, 64)


@pytest.mark.parametrize("method", ROLLOUTS)
@pytest.mark.parametrize("name", ["vit-token", "deit"])
def test_the_gain_on_the_class_row_is_in_the_rollout_fused_or_not(name, method):
    """Fused, the row has a kernel of its own; unfused, the gain is added before the softmax: two ways to the same map."""
    case = BY_NAME[name]
    model, images = case.wrap(ar.AttentionBranch(fade_in_steps=0)), case.images(2)
    assert model.backbone.site.mechanism == "attention"
    rollout = maps.by_name(method)
    fused, without = rollout(model, images), rollout(case.make(), images)
    assert not torch.allclose(fused, without, rtol=1e-3, atol=0)
    for block in model.backbone.net.blocks:
        block.attn.fused_attn = False
    close(rollout(model, images), fused)


def test_the_gain_is_seen_as_the_softmax_applies_it():
    case = BY_NAME["vit-token"]
    net, images = case.make(), case.images(2)
    site = case.wrap("abn").backbone.site
    gain = 1 + torch.rand(2, 1, 4, 4)
    bare, seen = [], []
    with torch.no_grad(), maps.AttentionWeights(2, bare.append):
        net(images)
    with torch.no_grad(), maps.AttentionWeights(2, seen.append), ClassRowGain(gain, site.layout):
        net(images)
    assert len(bare) == len(seen) == len(net.blocks)
    prefix = bare[0].shape[-1] - 16
    full = torch.cat([torch.ones(2, prefix), gain.flatten(1)], 1)[:, None]
    row = bare[0][:, :, 0] * full  # of the first layer: the later ones have other tokens
    torch.testing.assert_close(seen[0][:, :, 0], row / row.sum(-1, keepdim=True))
    torch.testing.assert_close(seen[0][:, :, 1:], bare[0][:, :, 1:])


def test_a_head_that_classifies_reads_all_patches_once_it_has_come_in():
    case = BY_NAME["vit-token"]
    fresh, ready = case.wrap(ar.BRNPA()), case.wrap(ar.BRNPA(fade_in_steps=0))
    images = case.images(2)
    of_class, of_patches = (maps.attention_rollout(model, images) for model in (fresh, ready))
    torch.testing.assert_close(of_class, maps.attention_rollout(case.make(), images, row="class"))
    torch.testing.assert_close(of_patches, maps.attention_rollout(case.make(), images, row="mean"))


@pytest.mark.parametrize("method", [name for name in maps.list_maps() if name not in ROLLOUTS])
@pytest.mark.parametrize("head", HEADS)
def test_every_other_map_of_a_refined_transformer(head, method):
    case = BY_NAME["vit-token"]
    model, images = case.wrap(HEADS[head](fade_in_steps=0)), case.images(1)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found = maps.by_name(method)(model, images, **FEW.get(method, {}))
    assert found.shape[:2] == (1, 1) and found.isfinite().all() and found.std() > 0
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
