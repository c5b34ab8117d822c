"""Map supervision against hand-written sums, its targets and flags, and the gradient at the pixels."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from cases import BY_NAME, CLASSES
from torch import nn

import attention_refine as ar
from attention_refine.objectives.supervision import fitted, targets
from attention_refine.training.parameter_groups import frozen, keep_batch_norm

LABELS = torch.tensor([1, 4, 0])
every_layout = pytest.mark.parametrize("name", ["resnet18", "swin", "vit-token"])


@functools.cache
def base(name: str, head: str | None) -> ar.RefinedModel:
    maps = {"abn": "shared", "per_class": "per_class"}
    return BY_NAME[name].wrap(head and ar.AttentionBranch(fade_in_steps=0, map_init="normal", maps=maps[head]))


def wrap(name: str = "resnet18", head: str | None = "abn", **options) -> ar.RefinedModel:
    model = copy.deepcopy(base(name, head))
    model.add_objective(ar.MapSupervision(**options))
    return model


def images(name: str = "resnet18", count: int = 3) -> torch.Tensor:
    return BY_NAME[name].images(count)


def edited(side: int = 64, count: int = 3) -> torch.Tensor:
    """In sixteenths, so that the mean over a cell is exact in float32."""
    return torch.randint(0, 17, (count, 1, side, side), generator=torch.Generator().manual_seed(7)) / 16


# the equations -------------------------------------------------------------------------------------------------------


@every_layout
@pytest.mark.parametrize("norm", ["l2", "mse", "bce"])
def test_the_distance_is_the_equation_written_out(name, norm):
    # In training mode, which keeps maps away from 0 and 1.
    model, pixels, target = wrap(name, norm=norm).double().train(), images(name).double(), edited()
    flags = torch.tensor([True, False, True])
    output = model(pixels, labels=LABELS, edited_map=target, edited=flags)
    cells = output.maps.shape[2]
    step = 64 // cells
    total = 0.0
    for n in (0, 2):
        terms = []
        for i in range(cells):
            for j in range(cells):
                wanted = target[n, 0, i * step : (i + 1) * step, j * step : (j + 1) * step].double().mean()
                m = output.maps[n, 0, i, j]
                squared = (wanted - m) ** 2
                crossed = -(wanted * m.log() + (1 - wanted) * (1 - m).log())
                terms.append(crossed if norm == "bce" else squared)
        total = total + ((sum(terms) + 1e-12) ** 0.5 if norm == "l2" else sum(terms) / len(terms))
    expected = total / 3  # of the batch, edited or not
    torch.testing.assert_close(output.losses["map_supervision"], expected, rtol=0, atol=1e-12)
    weights = [p for p in model.head.parameters() if p.ndim > 1]
    mine = torch.autograd.grad(output.losses["map_supervision"], weights, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad(expected, weights, allow_unused=True)
    for found, wanted in zip(mine, theirs):
        assert (found is None) == (wanted is None)
        if wanted is not None:
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(output.measures["map_supervision_images"], torch.tensor(2 / 3))


def test_a_perfect_map_has_a_finite_gradient_and_no_distance():
    for norm, rest in (("l2", 1e-5), ("mse", 0.0)):
        model = wrap(norm=norm)
        target = model(images()).maps.detach()
        output = model(images(), labels=LABELS, edited_map=target)
        assert output.losses["map_supervision"] <= rest
        output.loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@every_layout
@pytest.mark.parametrize("head", ["abn", None], ids=["abn", "headless"])
def test_steps_down_the_gradient_bring_the_map_to_its_target(name, head):
    model, pixels = wrap(name, head, norm="mse").train(head is not None), images(name)
    target = torch.zeros(3, 1, 64, 64)
    target[:, :, :32, :32] = 1
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    for _ in range(8):
        loss = model(pixels, labels=LABELS, edited_map=target).losses["map_supervision"]
        losses.append(float(loss.detach()))
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


# right for the right reasons -----------------------------------------------------------------------------------------


@every_layout
@pytest.mark.parametrize("several", [False, True], ids=["one label", "several"])
def test_the_input_gradient_is_ross_equation_2(name, several):
    model = wrap(name, head=None, norm="input_gradient").double()
    pixels, target = images(name).double(), edited().round().double()
    labels = nn.functional.one_hot(LABELS, CLASSES).double() if several else LABELS
    flags = torch.tensor([True, False, True])
    found = model(pixels, labels=labels, edited_map=target, edited=flags).losses["map_supervision"]
    expected = 0.0
    for n in (0, 2):  # each image alone, its gradient written as a sum over classes
        x = pixels[n : n + 1].clone().requires_grad_()
        p = model.backbone.net(x).softmax(1)[0] if not several else model.backbone.net(x).sigmoid()[0]
        logs = [p[k].log() + ((1 - p[k]).log() if several else 0) for k in range(CLASSES)]
        gradient = sum(torch.autograd.grad(log, x, retain_graph=True)[0] for log in logs)
        expected = expected + float((((1 - target[n : n + 1]) * gradient) ** 2).sum())
    assert float(found.detach()) == pytest.approx(expected / 3, rel=1e-9)
    found.backward()  # twice differentiable, to the first layer
    first = next(p for p in model.parameters() if p.ndim == 4)
    assert first.grad.isfinite().all() and first.grad.abs().sum() > 0


def test_the_input_gradient_needs_no_labels_and_leaves_the_statistics_alone():
    model = wrap(head=None, norm="input_gradient").train()
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    plain = copy.deepcopy(model)
    plain.objectives.clear()
    plain(images(), compute_losses=False)
    output = model(images(), edited_map=edited())
    assert output.losses["map_supervision"] > 0 and set(output.losses) == {"map_supervision"}
    after = model.state_dict()
    assert all(torch.equal(after[key], plain.state_dict()[key]) for key in before)


# targets -------------------------------------------------------------------------------------------------------------


def test_a_mask_leaves_void_out_and_boxes_are_filled():
    pixels = torch.zeros(3, 3, 8, 8)
    mask = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    mask[0, :, :4] = 1
    mask[0, :, :, 6:] = 255
    mask[2] = 255  # nothing is known of this image
    target, known, given = targets({"pixel_values": pixels, "mask": mask}, "mask")
    assert given.tolist() == [1, 1, 0]
    cells, share = fitted(target, known, (2, 2))
    assert cells[0, 0].tolist() == [[1, 1], [0, 0]] and share[0].all() and not share[2].any()
    boxes = [torch.tensor([[0.0, 0, 4, 8]]), torch.zeros(0, 4), torch.tensor([[0.0, 0, 2, 2], [6, 6, 8, 8]])]
    target, known, given = targets({"pixel_values": pixels, "boxes": boxes}, "boxes")
    assert given.tolist() == [1, 0, 1] and known.all()
    assert target[0, 0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0] and target[2].sum() == 8


@pytest.mark.parametrize("head", ["abn", "per_class", None])
def test_masks_and_boxes_supervise_any_model(head):
    mask = torch.zeros(3, 1, 64, 64, dtype=torch.uint8)
    mask[:, :, :32] = 1
    boxes = [torch.tensor([[0.0, 0, 64, 32]])] * 3
    losses = [
        wrap(head=head, target=kind)(images(), labels=LABELS, mask=mask, boxes=boxes).losses["map_supervision"]
        for kind in ("mask", "boxes")
    ]
    assert losses[0] > 0 and torch.equal(*losses)


def test_a_map_per_class_is_supervised_for_the_true_class():
    model = wrap(head="per_class", norm="mse")
    output = model(images(), labels=LABELS, edited_map=edited())
    maps = output.maps
    target, _ = fitted(edited(), torch.ones(3, 1, 64, 64), maps.shape[2:])
    expected = sum(((maps[n, k] - target[n, 0]) ** 2).mean() for n, k in enumerate(LABELS)) / 3
    torch.testing.assert_close(output.losses["map_supervision"], expected)


# laws ----------------------------------------------------------------------------------------------------------------


@every_layout
@pytest.mark.parametrize("head", ["abn", None], ids=["abn", "headless"])
def test_batched_equals_one_by_one(name, head):
    model = wrap(name, head).double()
    flags, pixels, target = torch.tensor([True, False, True]), images(name).double(), edited()
    batched = model(pixels, labels=LABELS, edited_map=target, edited=flags).losses["map_supervision"]
    singles = [
        model(x[None], labels=y[None], edited_map=t[None], edited=f[None]).losses["map_supervision"]
        for x, y, t, f in zip(pixels, LABELS, target, flags)
    ]
    torch.testing.assert_close(batched, torch.stack(singles).mean(), rtol=0, atol=1e-12, check_dtype=False)
    assert singles[1] == 0


def test_a_batch_without_targets_adds_nothing():
    for columns in ({}, {"edited_map": edited(), "edited": torch.zeros(3, dtype=torch.bool)}):
        output = wrap()(images(), labels=LABELS, **columns)
        assert output.losses["map_supervision"] == 0 and output.measures["map_supervision_images"] == 0


def test_unlabelled_edits_supervise_a_shared_map_alone():
    assert wrap().train()(images(), edited_map=edited()).losses["map_supervision"] > 0
    assert wrap(head=None).train()(images(), edited_map=edited()).loss is None


@pytest.mark.parametrize("head", ["abn", None], ids=["abn", "headless"])
def test_saved_and_loaded_it_is_the_same(head, tmp_path):
    model = wrap(head=head, norm="bce", weight=0.3)
    model.save_pretrained(tmp_path)
    loaded = ar.load(tmp_path)
    found, expected = (m(images(), labels=LABELS, edited_map=edited()) for m in (loaded, model))
    assert torch.equal(found.loss, expected.loss) and found.losses.keys() == expected.losses.keys()
    assert loaded.objectives["map_supervision"].config == model.objectives["map_supervision"].config


@every_layout
def test_the_extractor_alone_is_frozen(name):
    model = wrap(name)
    config = ar.TrainingConfig(output_dir="unused", freeze_extractor=True)
    later = {"resnet18": ("layer4", "fc"), "swin": ("head",), "vit-token": ("blocks.5", "norm.", "head")}[name]
    with frozen(model, config):
        for key, parameter in model.backbone.net.named_parameters():
            assert parameter.requires_grad == key.startswith(later), key
        assert all(p.requires_grad for p in model.head.parameters())
        model.train()
        keep_batch_norm(model, config)
        before = {key: value.clone() for key, value in model.backbone.net.state_dict().items()}
        model(images(name), labels=LABELS, edited_map=edited()).loss.backward()
        after = model.backbone.net.state_dict()
        assert all(torch.equal(after[key], value) for key, value in before.items() if not key.startswith(later))
        moved = [key for key, value in before.items() if "running" in key and not torch.equal(after[key], value)]
        assert bool(moved) == (name == "resnet18")
        classifier = model.backbone.net.get_classifier()
        assert classifier.weight.grad.abs().sum() > 0
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(target="drawing"), "target='drawing' is not one of 'edited', 'mask', 'boxes'"),
        (dict(norm="l1"), "norm='l1' is not one of 'l2', 'mse', 'bce', 'input_gradient'"),
        (dict(eps=0.0), "eps must be between 0 and 0.5"),
        (dict(weight=-1.0), "weight must be 0 or more"),
        (dict(gamma=2.0), "has no option 'gamma'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        ar.MapSupervision(**options)


def test_a_recipe_goes_on_from_a_saved_model_with_its_own_objectives(tmp_path):
    from attention_refine.recipe import ModelOptions, build_model

    model = wrap()
    model.add_objective(ar.AttentionMining())
    model.save_pretrained(tmp_path)
    options = ModelOptions(checkpoint=str(tmp_path), objectives=[{"name": "map_supervision", "weight": 0.5}])
    built = build_model(options, model.labels)
    assert list(built.objectives) == ["map_supervision"] and built.objectives["map_supervision"].weight == 0.5
    assert all(torch.equal(built.head.state_dict()[key], value) for key, value in model.head.state_dict().items())
    with pytest.raises(ValueError, match="has the classes .* the data"):
        build_model(options, ["cat", "dog"])
    with pytest.raises(ValueError, match="objective 'minning' is not one of"):
        built.add_objective("minning")
