"""The segmenter: what it learns on real features of made images, the same twice, and what it refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from backbones.networks import NETWORKS, build
from cases import BY_NAME

from attention_refine.backbones.pyramid import find_levels, read_levels
from attention_refine.mending import segmenter
from attention_refine.mending.segmenter import Segmenter, SegmenterConfig, fit_segmenter

SIZE = 64


def scenes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bright squares on dark noise, and where they are."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, SIZE, SIZE, generator=generator) * 0.3 - 1
    masks = torch.zeros(count, 1, SIZE, SIZE)
    for image, mask in zip(images, masks):
        top, left = torch.randint(0, SIZE - 24, (2,), generator=generator).tolist()
        image[:, top : top + 24, left : left + 24] += 2
        mask[:, top : top + 24, left : left + 24] = 1
    return images, masks


def outlines(images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A batch whose masks follow the objects."""
    return images, masks, torch.ones_like(masks), torch.zeros(len(images), dtype=torch.bool)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_levels_are_grids_of_the_network_shallow_to_deep(name):
    net, images = build(name)
    levels = find_levels(net, images[:1])
    assert 1 <= len(levels) <= 4 and len({level.name for level in levels}) == len(levels)
    features = read_levels(net, levels, images)
    cells = [feature.shape[2] * feature.shape[3] for feature in features]
    assert cells == sorted(cells, reverse=True) and all(feature.ndim == 4 for feature in features)
    assert cells[0] <= (images.shape[-1] // 4) ** 2
    alone = read_levels(net, levels, images[:1])
    for together, one in zip(features, alone):
        assert (together[:1] - one).abs().max() <= 1e-5 * one.abs().max()


@pytest.mark.parametrize("name", ["resnet18", "convnext", "vit-token"])
def test_a_few_masks_teach_it_other_images(name):
    """On networks whose weights are random: enough for bright against dark, as far as the finest grid resolves it."""
    net = BY_NAME[name].make().eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    images, masks = scenes(24, seed=0)
    fitted = fit_segmenter(net, [outlines(images, masks)], SegmenterConfig(steps=80, batch_size=12))
    others, truth = scenes(8, seed=1)
    found = F.interpolate(fitted.predict(net, others), (SIZE, SIZE), mode="bilinear", align_corners=False)
    assert found[truth == 1].mean() - found[truth == 0].mean() > 0.3
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_the_same_seed_gives_the_same_and_the_generator_stays():
    net, _ = build("resnet18")
    images, masks = scenes(4, seed=0)
    batches = [outlines(images, masks)]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again = (fit_segmenter(net, batches, SegmenterConfig(steps=5), seed=4) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    other = fit_segmenter(net, batches, SegmenterConfig(steps=5), seed=5)
    assert not torch.equal(first.predict(net, images), other.predict(net, images))


def test_mixing_before_enlarging_is_the_hypercolumn_classifier():
    """The equation of the module, with the features enlarged first, in float64."""
    torch.manual_seed(0)
    features = [torch.randn(2, 5, 8, 8), torch.randn(2, 7, 4, 4)]
    fresh = Segmenter([], [5, 7], SegmenterConfig(hidden=6)).eval()
    for i in range(len(features)):
        getattr(fresh, f"mean_{i}").normal_()
        getattr(fresh, f"std_{i}").uniform_(0.5, 2)
    columns, weights = [], []
    for i, feature in enumerate(features):
        unit = feature.double() / feature.double().norm(dim=1, keepdim=True)
        standard = (unit - getattr(fresh, f"mean_{i}").double()) / getattr(fresh, f"std_{i}").double()
        columns.append(F.interpolate(standard, (8, 8), mode="bilinear", align_corners=False))
        weights.append(fresh.mix[i].weight.double())
    hidden = F.conv2d(torch.cat(columns, 1), torch.cat(weights, 1), fresh.mix[0].bias.double()).relu()
    last = fresh.decide[-1]
    wanted = F.conv2d(hidden, last.weight.double(), last.bias.double(), padding=1)
    torch.testing.assert_close(fresh.logits(features).double(), wanted, atol=1e-5, rtol=1e-5)


def test_what_is_void_teaches_nothing():
    net, _ = build("resnet18")
    images, masks = scenes(4, seed=0)
    known = torch.ones_like(masks)
    known[:, :, :32] = 0
    wrong = masks.clone()
    wrong[:, :, :32] = 1 - wrong[:, :, :32]
    fitted = [
        fit_segmenter(net, [(images, each, known, torch.zeros(4, dtype=torch.bool))], SegmenterConfig(steps=5))
        for each in (masks, wrong)
    ]
    assert torch.equal(fitted[0].predict(net, images), fitted[1].predict(net, images))


def test_a_rough_region_teaches_what_stands_out_in_it(monkeypatch):
    """The rows that only bound their object go through ``outlined`` with the deepest features; the others do not."""
    net, _ = build("resnet18")
    images, masks = scenes(4, seed=0)
    rough = torch.tensor([True, False, True, False])
    seen = []

    def stub(feature, region, known):
        seen.append((feature, region, known))
        return torch.zeros_like(region), torch.zeros_like(known)

    monkeypatch.setattr(segmenter, "outlined", stub)
    batches = [(images, masks, torch.ones_like(masks), rough)]
    found = fit_segmenter(net, batches, SegmenterConfig(steps=5, batch_size=4))
    levels = find_levels(net, images[:1])
    ((feature, region, known),) = seen
    torch.testing.assert_close(feature.float(), read_levels(net, levels, images)[-1][rough], atol=1e-2, rtol=1e-2)
    assert len(region) == len(known) == 2 and known.all()
    unknown = torch.ones_like(masks)
    unknown[rough] = 0  # nothing of the rough rows counts, as the stub says
    monkeypatch.undo()
    batches = [(images, masks * unknown, unknown, torch.zeros(4, dtype=torch.bool))]
    wanted = fit_segmenter(net, batches, SegmenterConfig(steps=5, batch_size=4))
    assert torch.equal(found.predict(net, images), wanted.predict(net, images))


def test_refusals():
    net, _ = build("resnet18")
    with pytest.raises(ValueError, match="no annotated image"):
        fit_segmenter(net, [])
    for name, value in {"hidden": 0, "steps": 0, "batch_size": -1, "learning_rate": 0.0, "dropout": 1.0}.items():
        with pytest.raises(ValueError, match=f"Segmenter: {name} must be"):
            dataclasses.replace(SegmenterConfig(), **{name: value})
