"""BR-NPA against an oracle written in numpy loops from the equations, its laws, its options and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import BY_NAME, CLASSES

import attention_refine as ar
from attention_refine.heads.brnpa import LEAST, lengths, part_weights, representative_parts

CASE = BY_NAME["resnet18"]


def wrap(case=CASE, **options) -> ar.RefinedModel:
    """With the parts' own logits from the first pass on, unless told otherwise."""
    return case.wrap(ar.BRNPA(**{"fade_in_steps": 0, **options}))


def features(batch: int = 2, channels: int = 6, cells: int = 12, signed: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    drawn = torch.randn(batch, channels, cells, generator=generator, dtype=torch.float64)
    return drawn if signed else drawn.relu()


# the oracle ----------------------------------------------------------------------------------------------------------


def oracle(v, parts, refine=True):
    """One image, ``v`` (C, N) in float64: vectors (K, C), similarities and weights (K, N), chosen locations (K,)."""
    channels, cells = v.shape
    norm = [sum(v[c, j] ** 2 for c in range(channels)) ** 0.5 + 1e-5 for j in range(cells)]
    score = list(norm)
    vectors, similarities, weights, chosen = [], [], [], []
    for _ in range(parts):
        i = max((j for j in range(cells) if j not in chosen), key=lambda j: score[j])
        s = [max(sum(v[c, j] * v[c, i] for c in range(channels)), 0) / (norm[j] * norm[i]) for j in range(cells)]
        w = [(value + LEAST) / sum(value + LEAST for value in s) for value in s]
        r = [sum(w[j] * v[c, j] for j in range(cells)) if refine else v[c, i] for c in range(channels)]
        score = [(1 - s[j]) * score[j] for j in range(cells)]
        vectors.append(r), similarities.append(s), weights.append(w), chosen.append(i)
    return np.array(vectors), np.array(similarities), np.array(weights), chosen


@pytest.mark.parametrize("signed", [False, True], ids=["post-relu", "signed"])
@pytest.mark.parametrize("refine", [True, False], ids=["refined", "not refined"])
def test_the_equations_against_loops_in_float64(refine, signed):
    v = features(signed=signed)
    vectors, similarities, scores, norms = representative_parts(v, 4, refine)
    for image in range(len(v)):
        r, s, w, chosen = oracle(v[image].numpy(), 4, refine)
        np.testing.assert_allclose(vectors[image], r, rtol=0, atol=1e-12)
        np.testing.assert_allclose(similarities[image], s, rtol=0, atol=1e-12)
        np.testing.assert_allclose(part_weights(similarities)[image], w, rtol=0, atol=1e-12)
        assert scores[image, 0] == norms[image].max() == norms[image, chosen[0]]
    assert len(set(chosen)) == 4


def test_the_model_against_the_oracle_down_to_the_logits():
    model, images = wrap(maps="similarity").double(), CASE.images(2).double()
    net = model.backbone.net
    with torch.no_grad():
        grid = net.layer4(net.layer3(net.layer2(net.layer1(net.maxpool(net.act1(net.bn1(net.conv1(images))))))))
        output = model(images)
    weight, bias = (p.detach().numpy() for p in (model.head.classifier.weight, model.head.classifier.bias))
    for image in range(2):
        r, s, _, _ = oracle(grid[image].flatten(1).numpy(), 3)
        np.testing.assert_allclose(output.maps[image].flatten(1), s, rtol=0, atol=1e-10)
        np.testing.assert_allclose(output.logits[image], weight @ r.flatten() + bias, rtol=0, atol=1e-10)


def test_the_map_is_the_similarity_times_the_norm_relative_to_the_largest():
    active, bare = (wrap(maps=maps).double() for maps in ("activity", "similarity"))
    images = CASE.images(2).double()
    with torch.no_grad():
        norms = active.backbone.features(images).grid.norm(dim=1, keepdim=True) + 1e-5
        expected = bare(images).maps * norms / norms.amax((2, 3), keepdim=True)
        torch.testing.assert_close(active(images).maps, expected, rtol=0, atol=1e-12)
        assert torch.equal(active(images).logits, bare(images).logits)


def test_the_gradient_goes_through_both_sides_of_the_cosine():
    v = features(1, 3, 5, signed=True).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: representative_parts(x, 2)[:2], v)


# laws ----------------------------------------------------------------------------------------------------------------


def test_weights_sum_to_one_and_are_weights():
    for signed in (False, True):
        weights = part_weights(representative_parts(features(signed=signed), 5)[1])
        torch.testing.assert_close(weights.sum(2), torch.ones(2, 5, dtype=torch.float64), rtol=0, atol=1e-12)
        assert (weights >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "channels last"])
def test_the_norms_are_the_same_without_a_gradient(dtype, strided):
    v = features(batch=3, signed=True).to(dtype)
    v = v.transpose(1, 2).contiguous().transpose(1, 2) if strided else v
    with torch.no_grad():
        found = lengths(v)
        assert torch.equal(found[1:2], lengths(v[1:2])), "an image's do not depend on the batch"
    torch.testing.assert_close(found, lengths(v))
    torch.testing.assert_close(found, torch.linalg.vector_norm(v, dim=1))


def test_permuting_locations_permutes_maps_and_nothing_else():
    v, order = features(), torch.randperm(12, generator=torch.Generator().manual_seed(1))
    vectors, similarities, scores, norms = representative_parts(v, 3)
    moved = representative_parts(v[:, :, order], 3)
    for found, expected in zip(moved, (vectors, similarities[:, :, order], scores, norms[:, order])):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_scaling_the_feature_scales_the_vectors_alone():
    v = features() + 0.5  # no vector so short that the eps in its norm counts
    vectors, similarities, scores, _ = representative_parts(v, 3)
    scaled = representative_parts(40 * v, 3)
    torch.testing.assert_close(scaled[0], 40 * vectors, rtol=1e-4, atol=0)  # 1e-5 is added to norms of about 2
    torch.testing.assert_close(scaled[1], similarities, rtol=1e-4, atol=0)
    torch.testing.assert_close(scaled[2], 40 * scores, rtol=1e-4, atol=1e-2)


def test_parts_are_ranked_and_chosen_once():
    _, similarities, scores, _ = representative_parts(features(cells=30), 8)
    assert (scores.diff(dim=1) <= 0).all() and (scores > 0).all()
    assert similarities.argmax(2).sort(1).values.diff(dim=1).min() > 0
    flat = torch.ones(1, 4, 9)  # all alike: nothing is left after the first part
    _, same, scores, _ = representative_parts(flat, 9)
    assert same.isfinite().all() and (scores[:, 1:] < 1e-4).all()


@pytest.mark.parametrize("signed", [False, True], ids=["zero", "signed"])
def test_zero_and_signed_features_give_finite_parts_and_gradients(signed):
    v = (features(signed=True) * 1e-9 if signed else torch.zeros(2, 6, 12)).requires_grad_()
    vectors, similarities, scores, _ = representative_parts(v, 3)
    (vectors.sum() + similarities.sum()).backward()
    for made in (vectors, similarities, scores, v.grad):
        assert made.isfinite().all()
    if not signed:
        torch.testing.assert_close(part_weights(similarities), torch.full((2, 3, 12), 1 / 12))


def test_a_zero_location_is_like_nothing():
    v = features()
    v[:, :, 3] = 0
    assert (representative_parts(v, 3)[1][:, :, 3] == 0).all()


# options -------------------------------------------------------------------------------------------------------------


def test_the_classifier_starts_as_a_part_of_the_backbones_for_each():
    model, net = wrap(), CASE.make()
    for block in model.head.classifier.weight.split(net.fc.in_features, dim=1):
        torch.testing.assert_close(block, net.fc.weight / 3)
    assert torch.equal(model.head.classifier.bias, net.fc.bias)
    fresh = wrap(classifier_init="scratch", bias=False).head.classifier
    assert fresh.bias is None and not torch.allclose(fresh.weight[:, : net.fc.in_features], net.fc.weight / 3)


@pytest.mark.parametrize("name", ["resnet50", "mobilenetv2", "efficientnet", "swin", "hf-resnet", "hf-swin"])
def test_a_constant_map_is_the_backbone_of_pool_and_linear(name):
    case = BY_NAME[name]
    model, images = wrap(case), case.images()
    grid = model(images).maps.shape[2:]
    with torch.no_grad():
        for constant in (0.0, 0.3, 1.0):
            logits = model(images, maps=torch.full((3, 1, *grid), constant)).logits
            torch.testing.assert_close(logits, model.backbone(images), rtol=0, atol=1e-5)


def test_the_prediction_goes_over_to_the_parts():
    model, parts = CASE.wrap(ar.BRNPA(fade_in_steps=4)), wrap()
    images = CASE.images(4)
    for step in range(6):
        share = min(1.0, step / 4)
        assert model.eval().head.strength() == share
        with torch.no_grad():
            plain, own, found = model.backbone(images), parts(images).logits, model(images).logits
        torch.testing.assert_close(found, (1 - share) * plain + share * own)
        model.head.train()
        model(images)
    assert int(model.head.begun_steps) == 6


def test_nothing_after_the_site_runs_once_the_prediction_is_the_heads():
    for steps, runs in ((0, 0), (10, 1)):
        model, ran = wrap(fade_in_steps=steps), []
        model.backbone.net.fc.register_forward_hook(lambda *_, ran=ran: ran.append(1))
        model(CASE.images())
        assert len(ran) == runs


def test_random_representatives_are_the_same_in_evaluation_and_drawn_anew_in_training():
    model, images = wrap(select="random"), CASE.images()
    with torch.no_grad():
        assert torch.equal(model(images).maps, model(images).maps)
        assert not torch.equal(model(images).maps, wrap()(images).maps)
        model.head.train()
        assert len({model(images).maps.sum().item() for _ in range(5)}) > 1


def test_the_feature_can_be_cut_at_zero():
    case = BY_NAME["convnext"]
    model, images = wrap(case, feature_act="relu", maps="similarity").double(), case.images(2).double()
    with torch.no_grad():
        grid, output = model.backbone.features(images).grid.relu(), model(images)
    _, s, _, _ = oracle(grid[0].flatten(1).numpy(), 3)
    np.testing.assert_allclose(output.maps[0].flatten(1), s, rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_few_images_at_a_time_is_the_same(chunk):
    whole, pieces = wrap().train(), wrap(chunk=chunk).train()
    results = []
    for model in (whole, pieces):
        torch.manual_seed(0)
        output = model(CASE.images(5), labels=torch.arange(5))
        output.loss.backward()
        results.append([output.logits, output.maps, output.map_scores, model.backbone.net.conv1.weight.grad])
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_alone():
    model = wrap(dropout=0.5)
    vectors = model.head(model.backbone.features(CASE.images()).grid)[0]
    assert torch.equal(model.head.classify(vectors), model.head.classify(vectors))
    model.head.train()
    assert not torch.equal(model.head.classify(vectors), model.head.classify(vectors))


# a person's map ------------------------------------------------------------------------------------------------------


def test_a_given_map_is_the_weights():
    model, images = wrap().double(), CASE.images().double()
    maps = torch.rand(3, 3, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        grid, output = model.backbone.features(images).grid, model(images, maps=maps)
        weights = maps.float().double()[:, :, None]  # a given map is taken in float32
        vectors = (grid[:, None] * weights).sum((3, 4)) / weights.sum((3, 4))
        torch.testing.assert_close(output.logits, model.head.classifier(vectors.flatten(1)), rtol=0, atol=1e-6)
        assert output.map_scores is None
        one = maps[:, :1]
        torch.testing.assert_close(model(images, maps=one).logits, model(images, maps=one.expand(3, 3, 2, 2)).logits)
        torch.testing.assert_close(model(images, maps=maps).logits, model(images, maps=0.1 * maps).logits)


def test_its_own_similarities_given_back_give_the_same_logits():
    for name in ("resnet18", "convnext", "vit-token", "hf-swin"):
        model, images = wrap(BY_NAME[name], maps="similarity"), BY_NAME[name].images()
        with torch.no_grad():
            output = model(images)
            torch.testing.assert_close(model(images, maps=output.maps).logits, output.logits, rtol=0, atol=1e-5)


def test_a_given_map_acts_through_the_parts_at_once():
    fresh, ready = CASE.wrap(ar.BRNPA(fade_in_steps=1000)), wrap()
    maps = torch.rand(3, 1, 2, 2)
    with torch.no_grad():
        assert torch.equal(fresh(CASE.images(), maps=maps).logits, ready(CASE.images(), maps=maps).logits)


# refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option, value, accepted",
    [
        ("parts", 0, "at least 1"),
        ("select", "largest", "'norm', 'random'"),
        ("feature_act", "gelu", "'none', 'relu'"),
        ("maps", "weights", "'activity', 'similarity'"),
        ("classifier_init", "random", "'copy', 'scratch'"),
        ("dropout", 1.0, "below 1"),
        ("fade_in_steps", -1, "0 or more"),
        ("chunk", 0, "at least 1"),
    ],
)
def test_options_outside_their_range_are_refused(option, value, accepted):
    with pytest.raises(ValueError) as refusal:
        ar.BRNPA(**{option: value})
    message = str(refusal.value)
    assert "BRNPA" in message and option in message and str(value) in message and accepted in message


def test_more_parts_than_locations_are_refused():
    with pytest.raises(ValueError, match=r"BRNPA: parts=5, but the feature has 4 locations \(2x2\).*larger image"):
        wrap(parts=5)
    model = wrap(parts=4)
    assert model(CASE.images()).maps.shape == (3, 4, 2, 2)
    with pytest.raises(ValueError, match=r"parts=4, but the feature has 1 locations"):
        model(torch.zeros(1, 3, 32, 32))


def test_the_site_can_be_named_and_must_be_a_grid_everything_flows_through():
    model = wrap(site="layer3")
    assert model.backbone.site.name == "layer3" and model(CASE.images()).maps.shape == (3, 3, 4, 4)
    assert wrap(BY_NAME["vit-token"], site="blocks.2").backbone.site.mechanism == "scale"
    with pytest.raises(ValueError, match="'layer9' is not a module"):
        wrap(site="layer9")
    with pytest.raises(ValueError, match="goes past it"):
        wrap(site="layer3.0.conv1")
    with pytest.raises(ValueError, match="not a spatial grid"):
        wrap(site="fc")


def test_wrong_given_maps_are_refused():
    with pytest.raises(ValueError, match=r"maps must be \(batch, 1 or 3, h, w\)"):
        wrap()(CASE.images(), maps=torch.rand(3, 2, 2, 2))


def test_classes_of_the_logits():
    assert wrap()(CASE.images()).logits.shape == (3, CLASSES)
