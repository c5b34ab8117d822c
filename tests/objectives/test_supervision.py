"""Map supervision against hand-written sums, its targets and flags, and the gradient at the pixels."""

from __future__ import annotations

import copy
import functools
import warnings

import pytest
import torch
from cases import BY_NAME, CLASSES
from torch import nn

import attention_refine as ar
from attention_refine.objectives import map_targets, on_grid
from attention_refine.objectives.supervision import distance
from attention_refine.training.batch_norms import kept_batch_norms
from attention_refine.training.parameter_groups import frozen

LABELS = torch.tensor([1, 4, 0])
every_layout = pytest.mark.parametrize("name", ["resnet18", "swin", "vit-token"])


@functools.cache
def base(name: str, head: str | None) -> ar.RefinedModel:
    maps = {"abn": "shared", "per_class": "per_class"}
    return BY_NAME[name].wrap(
        head and ar.AttentionBranch(fade_in_steps=0, map_init="normal", maps=maps[head], hidden_channels="classes")
    )


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


# Rao et al., cues, and rough boxes ------------------------------------------------------------------------------------

MASK = torch.zeros(3, 1, 64, 64, dtype=torch.uint8)
MASK[0, :, 5:40, 10:50] = 1
MASK[1] = 255
MASK[2, :, 20:64, :30] = 1
MASK[2, :, :, 60:] = 255
CUE = torch.zeros(3, 1, 64, 64, dtype=torch.uint8)
CUE[0, :, 3:20, 40:60] = 1
CUE[2, :, 50:60, 5:21] = 1
FLAGS = (True, False, True)
RAO = ["resnet18", "convnext", "vit-token"]


def read(model: ar.RefinedModel, pixels: torch.Tensor) -> torch.Tensor:
    """Grad-CAM (gradient rollout of a class token) of the true class or the head's map, by the public functions."""
    if model.head is not None:
        return model(pixels, compute_losses=False).maps
    name = model.objectives["map_supervision"].source
    site = {"site": model.backbone.site} if name == "grad_cam" else {}
    return ar.maps.by_name(name)(model.backbone.net, pixels, LABELS, create_graph=True, **site).relu()


def on_cells(n: int, i: int, j: int, cells: int, kind: str, grown: int) -> tuple[float, float]:
    """The target of a cell, the mean of what is known there, and the share of it that is known; by loops."""
    step, wanted, known = 64 // cells, 0.0, 0
    marked = CUE if kind == "cue" else MASK
    for y in range(i * step, (i + 1) * step):
        for x in range(j * step, (j + 1) * step):
            if kind == "mask" and MASK[n, 0, y, x] == 255:
                continue
            near = marked[n, 0, max(0, y - grown) : y + grown + 1, max(0, x - grown) : x + grown + 1]
            wanted += float((near == 1).any()) if kind == "mask" else 1 - float((near == 1).any())
            known += 1
    return (wanted / known if known else 0.0), float(known > 0)


def by_hand(maps: torch.Tensor, norm: str, kind: str, grown: int = 0, slack: float = 0.0) -> torch.Tensor:
    """The losses written out, a cell at a time; the mean over the batch."""
    cells, total = maps.shape[2], 0.0
    for n in (0, 2):
        a = maps[n, 0]
        if norm in ("l1", "ppce"):
            a = a / a.max()
        energy = inside = cost = count = 0.0
        for i in range(cells):
            for j in range(cells):
                t, known = on_cells(n, i, j, cells, kind, grown)
                if not known:
                    continue
                m = a[i, j]
                energy, inside = energy + m, inside + t * m
                weight = 1.0
                if kind == "cue":
                    weight, t = 1 - t, 0.0
                near = t + torch.sign(m - t) * torch.relu((m - t).abs() - slack)
                if norm == "l1":
                    cost, count = cost + weight * (t - near).abs(), count + weight
                elif norm == "ppce":
                    share, wanted = (weight, 1 - m) if kind == "cue" else (t, m)
                    cost, count = cost - share * (wanted + slack).clamp(1e-6, 1 - 1e-6).log(), count + share
        total = total + (torch.relu(1 - inside / energy - slack) if norm == "energy" else cost / count)
    return total / 3


@pytest.mark.parametrize("name", RAO)
@pytest.mark.parametrize("head", [None, "abn"], ids=["headless", "abn"])
@pytest.mark.parametrize("kind", ["mask", "cue"])
@pytest.mark.parametrize("norm", ["energy", "l1", "ppce"])
def test_the_losses_of_rao_et_al_are_their_equations(name, head, kind, norm):
    options = dict(map_norm="max") if head and norm != "energy" else {}
    rim = 0.002 if norm == "energy" else 0.02
    for extra, grown, slack in (({}, 0, 0.0), (dict(dilation=0.05, slack=rim), 3, rim)):
        model = wrap(name, head, norm=norm, target=kind, **options, **extra).double()
        pixels = images(name).double()
        output = model(pixels, labels=LABELS, mask=MASK, cue=CUE)
        found = output.losses["map_supervision"]
        expected = by_hand(read(model, pixels), norm, kind, grown, slack)
        assert found > 0
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)  # targets are means in float32
        weights = [p for p in model.parameters() if p.ndim > 1]
        mine = torch.autograd.grad(found, weights, retain_graph=True, allow_unused=True)
        theirs = torch.autograd.grad(expected, weights, allow_unused=True)
        scale = max(float(each.abs().max()) for each in theirs if each is not None)
        assert scale > 0
        for one, other in zip(mine, theirs):
            if one is not None or other is not None:
                one, other = (torch.zeros(()) if each is None else each for each in (one, other))
                assert (one - other).abs().max() <= 1e-6 * scale
        torch.testing.assert_close(output.measures["map_supervision_images"], torch.tensor(2 / 3))
        assert output.measures["map_supervision_empty"] == 0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_any_distribution_inside_the_target_costs_no_energy(scale):
    target = (torch.rand(4, 1, 8, 8) < 0.4).double()
    known = torch.ones_like(target)
    inside = (torch.rand(4, 1, 8, 8).double() * scale * target).requires_grad_()
    loss = distance(inside, target, known, "energy")
    assert (loss == 0).all()
    (gradient,) = torch.autograd.grad(loss.sum(), inside)
    assert (gradient * target).abs().max() == 0  # nor does it pull at what lies there
    spread = torch.rand(4, 1, 8, 8).double()
    torch.testing.assert_close(
        distance(spread * scale, target, known, "energy"), distance(spread, target, known, "energy")
    )
    share = (spread * target).flatten(1).sum(1) / spread.flatten(1).sum(1)
    torch.testing.assert_close(distance(spread, target, known, "energy"), 1 - share)
    moved = spread.flatten(2)[:, :, torch.randperm(64)].unflatten(2, (8, 8))  # the same values elsewhere
    assert not torch.allclose(distance(moved, target, known, "energy"), 1 - share)


def test_void_has_no_energy():
    target, known = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    target[..., 0, 0], known[..., 1, :] = 1, 0
    maps = torch.tensor([[[[3.0, 1.0], [100.0, 100.0]]]])
    torch.testing.assert_close(distance(maps, target, known, "energy"), torch.tensor([0.25]))


@pytest.mark.parametrize("norm", ["l2", "mse", "l1", "bce", "ppce", "energy"])
@pytest.mark.parametrize("map_norm", ["none", "minmax", "max"])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("empty", [False, True], ids=["", "empty target"])
def test_degenerate_maps_cost_something_finite(norm, map_norm, value, empty):
    maps = torch.full((2, 1, 4, 4), value, requires_grad=True)
    target = torch.zeros(2, 1, 4, 4)
    target[:, :, :2] = 0.0 if empty else 1.0
    scaled = maps if map_norm == "none" else ar.maps.normalize(maps, map_norm)
    for slack in (0.0, 0.3):
        loss = distance(scaled, target, torch.ones_like(target), norm, 1e-6, slack)
        (gradient,) = torch.autograd.grad(loss.sum(), maps, retain_graph=True)
        assert loss.isfinite().all() and (loss >= 0).all() and gradient.isfinite().all()
        if norm == "energy" and value == 0:
            assert (loss == 0).all() and (gradient == 0).all()


def test_a_map_without_energy_adds_nothing_and_is_counted():
    model = wrap(head=None, norm="energy", target="mask")
    nn.init.zeros_(model.backbone.net.get_classifier().weight)
    output = model(images(), labels=LABELS, mask=MASK)
    assert output.losses["map_supervision"] == 0
    torch.testing.assert_close(output.measures["map_supervision_empty"], torch.tensor(2 / 3))
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_slack_and_dilation_forgive_the_rim():
    boxes = [torch.tensor([[16.0, 16, 48, 48]])] * 3
    batch = {"pixel_values": images(), "boxes": boxes}
    plain, rough = map_targets(batch, "boxes")[0], map_targets(batch, "boxes", dilation=0.125)[0]
    assert plain.sum() == 3 * 32**2 and rough.sum() == 3 * 48**2 and (rough >= plain).all()
    off = map_targets({**batch, "cue": CUE}, "cue", dilation=0.125)[0]
    assert (off == 0).sum() > (CUE == 1).sum() and (off[CUE == 1] == 0).all()
    maps, target = torch.tensor([[[[0.9, 0.2]]]]), torch.tensor([[[[1.0, 0.0]]]])
    for norm in ("l1", "mse", "l2", "bce"):
        assert distance(maps, target, torch.ones_like(target), norm, slack=0.25) < 2e-6
        assert distance(maps, target, torch.ones_like(target), norm, slack=0.05) > 0.005
    assert distance(maps, target, torch.ones_like(target), "energy", slack=0.2) == 0


@pytest.mark.parametrize("norm", ["l2", "mse", "bce", "l1", "ppce", "energy", "input_gradient"])
def test_steps_take_the_map_off_the_cue(norm):
    model, pixels = wrap(head=None, norm=norm, target="cue"), images()
    optimizer = torch.optim.Adam(model.parameters(), 3e-5 if norm == "input_gradient" else 1e-4)
    losses = []
    for _ in range(6):
        loss = model(pixels, labels=LABELS, cue=CUE).losses["map_supervision"]
        losses.append(float(loss.detach()))
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_the_gradient_at_the_cue_alone_is_ross_own_direction():
    model = wrap(head=None, norm="input_gradient", target="cue").double()
    found = model(images().double(), labels=LABELS, cue=CUE).losses["map_supervision"]
    expected = 0.0
    for n in (0, 2):
        x = images()[n : n + 1].double().requires_grad_()
        (gradient,) = torch.autograd.grad(model.backbone.net(x).log_softmax(1).sum(), x)
        expected += float((gradient * CUE[n]).square().sum())
    assert float(found.detach()) == pytest.approx(expected / 3, rel=1e-9)


def test_auto_takes_the_edited_map_then_the_mask_then_the_boxes():
    boxes = [torch.tensor([[0.0, 0, 64, 32]])] * 3
    flags = torch.tensor([True, False, False])
    batch = {"pixel_values": images(), "edited_map": edited(), "edited": flags, "mask": MASK, "boxes": boxes}
    target, known, given = map_targets(batch)
    assert given.tolist() == [1, 1, 1]
    assert torch.equal(target[0], edited()[0]) and torch.equal(target[1, 0, :32], torch.ones(32, 64))
    assert torch.equal(target[2], (MASK[2] == 1).float()) and torch.equal(known[2], (MASK[2] != 255).float())
    assert map_targets({"pixel_values": images(), "mask": MASK})[2].tolist() == [1, 0, 1]


# the map -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, chosen", [("resnet18", "grad_cam"), ("convnext", "grad_cam"), ("swin", "grad_cam"),
                                          ("vit-avg", "grad_cam"), ("vit-token", "gradient_rollout"),
                                          ("deit-distilled", "grad_cam"), ("hf-vit", "gradient_rollout")])  # fmt: skip
def test_the_map_is_rollout_where_a_class_token_is_pooled(name, chosen):
    assert wrap(name, head=None).objectives["map_supervision"].source == chosen
    if name in ("resnet18", "vit-token"):
        assert wrap(name, head="abn").objectives["map_supervision"].source == "head"


@pytest.mark.parametrize("name", ["resnet18", "vit-token"])
@pytest.mark.parametrize("maps", ["grad_cam", "input_x_gradient", "gradient", "layer_cam", "guided_backprop", "eigen_cam",
                                  {"name": "integrated_gradients", "steps": 3}, {"name": "smooth_grad", "samples": 2},
                                  "attention_rollout", "class_attention"])  # fmt: skip
@pytest.mark.parametrize("head", [None, "abn"], ids=["headless", "abn"])
def test_any_differentiable_map_learns(name, maps, head):
    called = maps["name"] if isinstance(maps, dict) else maps
    if name == "resnet18" and called in ("attention_rollout", "class_attention"):
        pytest.skip("has no attention")
    if name == "vit-token" and called == "guided_backprop":
        pytest.skip("has no rectified units")
    if name == "vit-token" and head and called in ("class_attention", "attention_rollout"):
        pytest.skip("the head has attention of its own")
    model = wrap(name, head, norm="energy", target="mask", maps=maps).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images(name), labels=LABELS, mask=MASK)
    loss = output.losses["map_supervision"]
    assert 0 < loss < 1 and loss.dtype == torch.float32
    gradients = torch.autograd.grad(loss, list(model.backbone.net.parameters()), allow_unused=True)
    assert sum(float(each.abs().sum()) for each in gradients if each is not None) > 0
    assert all(each.isfinite().all() for each in gradients if each is not None)


def test_several_labels_are_one_map_of_their_sum():
    several = nn.functional.one_hot(LABELS, CLASSES).float()
    several[0, 3] = 1
    for maps in ("grad_cam", "input_x_gradient"):
        model = wrap(head=None, norm="energy", target="mask", maps=maps).double()
        found = model(images().double(), labels=several.double(), mask=MASK).losses["map_supervision"]
        site = {"site": model.backbone.site} if maps == "grad_cam" else {}
        made = ar.maps.by_name(maps)(
            model.backbone.net, images().double(), lambda logits: (logits * several).sum(1), **site
        ).relu()
        target, known, given = map_targets({"pixel_values": images(), "mask": MASK})
        apart = distance(made, *on_grid(target, known, made.shape[2:]), "energy")
        torch.testing.assert_close(found, (apart * given).sum() / 3, rtol=1e-7, atol=1e-9)


def test_maps_head_without_one_is_refused():
    with pytest.raises(ValueError, match="maps='head' needs a head, and this model has none"):
        wrap(head=None, maps="head")


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
    target, known, given = map_targets({"pixel_values": pixels, "mask": mask}, "mask")
    assert given.tolist() == [1, 1, 0]
    cells, share = on_grid(target, known, (2, 2))
    assert cells[0, 0].tolist() == [[1, 1], [0, 0]] and share[0].all() and not share[2].any()
    boxes = [torch.tensor([[0.0, 0, 4, 8]]), torch.zeros(0, 4), torch.tensor([[0.0, 0, 2, 2], [6, 6, 8, 8]])]
    target, known, given = map_targets({"pixel_values": pixels, "boxes": boxes}, "boxes")
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
    target, _ = on_grid(edited(), torch.ones(3, 1, 64, 64), maps.shape[2:])
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
        for norm in kept_batch_norms(model, config):
            model.get_submodule(norm).eval()
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
        (dict(target="drawing"), "target='drawing' is not one of 'auto', 'edited', 'mask', 'boxes', 'cue'"),
        (dict(norm="l3"), "norm='l3' is not one of 'l2', 'mse', 'l1', 'bce', 'ppce', 'energy', 'input_gradient'"),
        (dict(maps="grad_cams"), "maps='grad_cams' is not one of 'auto', 'head', 'grad_cam', 'attention_rollout'"),
        (dict(maps="rise"), "maps='rise' is not one of 'auto'"),
        (dict(maps={"steps": 3}), "maps given with options needs a name"),
        (dict(maps={"name": "head", "steps": 3}), "maps='head' takes no options, got steps"),
        (dict(norm="input_gradient", maps="grad_cam"), "reads no map, so maps='grad_cam' has no effect"),
        (dict(norm="input_gradient", slack=0.1), "reads no map, so slack=0.1 has no effect"),
        (dict(dilation=-0.1), "dilation must be 0 or more and below 1, got -0.1"),
        (dict(slack=1.0), "slack must be 0 or more and below 1, got 1.0"),
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
    with pytest.raises(ValueError, match="the dataset has cat, dog; the checkpoint .*: 0, 1, 2, 3, 4. Rename"):
        build_model(options, ["cat", "dog"])
    with pytest.raises(ValueError, match="objective 'minning' is not one of"):
        built.add_objective("minning")


def test_masks_of_0_and_255_are_asked_about_and_other_values_refused():
    pixels, mask = torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    mask[:, :, 2:5, 2:5] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fine in (mask, mask.float(), mask == 1, torch.full_like(mask, 255), torch.zeros_like(mask)):
            map_targets({"pixel_values": pixels, "mask": fine}, "mask")
    with pytest.warns(UserWarning, match="0 and 255 alone: 255 is void.*give mask == 255"):
        map_targets({"pixel_values": pixels, "mask": mask * 255}, "mask")
    with pytest.raises(ValueError, match=r"masks hold 1 \(object\), 0 \(background\) and 255 \(void\), got 128"):
        map_targets({"pixel_values": pixels, "mask": mask * 128}, "mask")


@pytest.mark.parametrize("kind, name", [("mask", "mask"), ("edited", "edited_map"), ("cue", "cue")])
def test_a_plane_without_a_channel_is_that_of_its_own_image(kind, name):
    """(B, H, W) against maps (B, 1, h, w) would be broadcast to every pair of images."""
    planes = torch.zeros(3, 1, 64, 64)
    for i in range(3):
        planes[i, :, 8 * i : 8 * i + 16, 8:40] = 1
    batch = {"pixel_values": images()}
    for own, other in zip(*(map_targets({**batch, name: each}, kind) for each in (planes, planes[:, 0]))):
        assert torch.equal(own, other)
    for wrong in (planes[:2], planes.expand(3, 3, 64, 64), planes[0, 0]):
        with pytest.raises(ValueError, match=rf"{name} must be \(3, 1, h, w\) for 3 images, got"):
            map_targets({**batch, name: wrong}, kind)


def test_boxes_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"boxes of an image must be \(n, 4\), left, top, right, bottom, got \(4,\)"):
        map_targets({"pixel_values": images(), "boxes": [torch.zeros(4)] * 3}, "boxes")
