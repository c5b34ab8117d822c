"""Transplanted objects: the copies pixel by pixel, their loss written out, and what moves along."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from cases import BY_NAME, CLASSES
from torch import Tensor

import attention_refine as ar
from attention_refine.drawing.compositing import softened
from attention_refine.objectives.transplant import Transplant, divergence, regions

LABELS = torch.tensor([1, 4, 0, 2])
every_layout = pytest.mark.parametrize("name", ["resnet18", "convnext", "vit-token"])


@functools.cache
def base(name: str, head: str | None) -> ar.RefinedModel:
    return BY_NAME[name].wrap(head and ar.AttentionBranch(fade_in_steps=0, map_init="normal"))


def wrap(name: str = "resnet18", head: str | None = None, **options) -> ar.RefinedModel:
    model = copy.deepcopy(base(name, head))
    model.add_objective(Transplant(**options))
    return model


def images(name: str = "resnet18", count: int = 4) -> Tensor:
    return BY_NAME[name].images(count)


def rectangle(*boxes: tuple[int, int, int, int] | None) -> Tensor:
    """``(B, 1, 64, 64)`` uint8: a rectangle of rows and columns an image, all void where there is none."""
    made = torch.zeros(len(boxes), 1, 64, 64, dtype=torch.uint8)
    for mask, box in zip(made, boxes):
        if box is None:
            mask.fill_(255)
        else:
            mask[:, box[0] : box[1], box[2] : box[3]] = 1
    return made


MASK = rectangle((8, 40, 10, 30), None, (30, 60, 20, 64), (0, 20, 0, 20))


def copies(batch: dict, receivers: list[int], donors: list[int], **options) -> tuple[dict, Tensor]:
    made = Transplant(**options)
    region = regions(batch, made.config.target, made.config.threshold, made.config.cues != "left")
    return made._copies(batch, region, torch.tensor(donors), torch.tensor(receivers))


# the copies ----------------------------------------------------------------------------------------------------------


def test_a_copy_is_the_object_on_the_other_image_pixel_by_pixel():
    batch = {"pixel_values": images(), "labels": LABELS, "mask": MASK}
    made, _ = copies(batch, donors=[0, 2], receivers=[1, 0], feather=0, cover="none")
    for n, (donor, receiver) in enumerate([(0, 1), (2, 0)]):
        for y in range(64):
            for x in range(64):
                source = donor if MASK[donor, 0, y, x] == 1 else receiver
                assert torch.equal(made["pixel_values"][n, :, y, x], images()[source, :, y, x])
    assert made["labels"].tolist() == [1, 0]
    assert torch.equal(made["mask"], MASK[[0, 2]])


def test_the_edge_is_soft():
    batch = {"pixel_values": images(), "labels": LABELS, "mask": MASK}
    made, _ = copies(batch, donors=[0], receivers=[1], feather=3, cover="none")
    alpha = softened((MASK[:1] == 1).float(), 3)
    assert ((alpha > 0) & (alpha < 1)).sum() > 300
    torch.testing.assert_close(made["pixel_values"], alpha * images()[:1] + (1 - alpha) * images()[1:2])


@pytest.mark.parametrize("feather", [0, 2])
def test_the_receivers_own_object_and_void_are_covered(feather):
    pixels = torch.zeros(2, 3, 64, 64)
    mask = rectangle((0, 8, 0, 8), (30, 50, 30, 50))
    mask[1, :, 50:53, 30:50] = 255
    pixels[1, :, 30:53, 30:50] = 7.0  # the object in a colour of its own on a grey place
    batch = {"pixel_values": pixels, "labels": LABELS[:2], "mask": mask}
    made, _ = copies(batch, donors=[0], receivers=[1], feather=feather)
    assert made["pixel_values"].abs().max() < 1e-6
    kept, _ = copies(batch, donors=[0], receivers=[1], feather=feather, cover="none")
    assert kept["pixel_values"].max() == 7


def test_an_image_whose_object_is_not_known_keeps_all_of_its_pixels():
    batch = {"pixel_values": images(), "labels": LABELS, "mask": MASK}
    made, _ = copies(batch, donors=[3], receivers=[1], feather=0)
    assert torch.equal(made["pixel_values"][0, :, 20:], images()[1, :, 20:])


def test_boxes_and_edited_maps_serve_as_masks():
    boxes = [torch.tensor([[10.0, 8, 30, 40]]), torch.zeros(0, 4), torch.tensor([[20.0, 30, 64, 60]]),
             torch.tensor([[0.0, 0, 20, 20]])]  # fmt: skip
    drawn = torch.where(MASK == 1, 0.8, 0.2)
    columns = {
        "mask": {"mask": MASK},
        "boxes": {"boxes": boxes},
        "edited": {"edited_map": drawn, "edited": torch.tensor([True, False, True, True])},
    }
    for kind, given in columns.items():
        for target in (kind, "auto"):
            region = regions({"pixel_values": images(), **given}, target, 0.5, True)
            assert region.has_object.tolist() == [True, False, True, True]
            assert torch.equal(region.object, (MASK == 1).float()), kind
    # Of each image the first it has: an edited map before a mask before boxes.
    both = {"edited_map": 1 - drawn, "edited": torch.tensor([True, False, False, False]), "mask": MASK, "boxes": boxes}
    region = regions({"pixel_values": images(), **both}, "auto", 0.5, True)
    assert torch.equal(region.object[0], 1 - (MASK[0] == 1).float())
    assert torch.equal(region.object[2:], (MASK[2:] == 1).float())


def test_the_object_moves_and_its_columns_with_it():
    torch.manual_seed(4)
    drawn = torch.rand(4, 1, 64, 64)
    boxes = [torch.tensor([[10.0, 8, 30, 40]])] * 4
    batch = {"pixel_values": images(), "labels": LABELS, "mask": MASK, "edited_map": drawn, "boxes": boxes}
    made, by = copies(batch, [1] * 40, [0] * 40, feather=0, cover="none", target="mask", move=0.25)
    assert by.abs().max() <= 16 and len(by.unique(dim=0)) > 20
    assert by[:, 0].min() == -8  # up to the border, and no further
    for n, (down, right) in enumerate(by.tolist()):
        there = (slice(8 + down, 40 + down), slice(10 + right, 30 + right))
        assert made["mask"][n].sum() == 32 * 20 and (made["mask"][n, 0][there] == 1).all()
        assert torch.equal(made["pixel_values"][n][:, there[0], there[1]], images()[0, :, 8:40, 10:30])
        assert torch.equal(made["edited_map"][n][:, there[0], there[1]], drawn[0, :, 8:40, 10:30])
        assert made["boxes"][n].tolist() == [[10 + right, 8 + down, 30 + right, 40 + down]]


# cues ----------------------------------------------------------------------------------------------------------------

CUE = rectangle((50, 60, 50, 60), (2, 12, 50, 60), (50, 60, 50, 60), (0, 0, 0, 0))


def test_a_cue_is_exchanged_with_the_receivers():
    pixels = torch.zeros(4, 3, 64, 64)
    for n, value in enumerate([5.0, 6.0, 7.0, 0.0]):
        pixels[n] = torch.where(CUE[n] == 1, value, 0.0)
    batch = {"pixel_values": pixels, "labels": LABELS, "cue": CUE}
    made, _ = copies(batch, donors=[0, 0], receivers=[1, 3], feather=0)
    assert torch.equal(made["pixel_values"][0], pixels[1])  # its own covered, the other's in its place
    assert made["pixel_values"][1].abs().max() < 1e-6  # the other has none
    assert torch.equal(made["cue"], CUE[[1, 3]]) and made["labels"].tolist() == [1, 1]
    removed, _ = copies(batch, donors=[0], receivers=[1], feather=0, cues="removed")
    assert removed["pixel_values"].abs().max() < 1e-6 and removed["cue"].sum() == 0


def test_the_donors_cue_does_not_come_along_with_its_object():
    pixels = torch.zeros(2, 3, 64, 64)
    mask, cue = rectangle((10, 40, 10, 40), None), rectangle((20, 25, 20, 25), (50, 60, 0, 10))
    pixels[0] = torch.where(cue[0] == 1, 9.0, 2.0)
    pixels[1] = torch.where(cue[1] == 1, 4.0, 0.0)
    batch = {"pixel_values": pixels, "labels": LABELS[:2], "mask": mask, "cue": cue}
    made, _ = copies(batch, donors=[0], receivers=[1], feather=0)
    torch.testing.assert_close(made["pixel_values"][0], 2.0 * mask[:1].float()[0].expand(3, 64, 64) + pixels[1])
    left, _ = copies(batch, donors=[0], receivers=[1], feather=0, cues="left")
    assert left["pixel_values"].max() == 9


# the loss ------------------------------------------------------------------------------------------------------------


def pairs_of(seed: int, batch: dict, **options) -> tuple[Tensor, Tensor]:
    made = Transplant(**options)
    torch.manual_seed(seed)
    return made._pairs(batch, regions(batch, made.config.target, made.config.threshold, True))


@every_layout
@pytest.mark.parametrize("head", [None, "abn"], ids=["headless", "abn"])
def test_the_loss_is_the_equation_written_out(name, head):
    model = wrap(name, head, feather=2).double()
    pixels = images(name).double()
    batch = {"pixel_values": pixels, "labels": LABELS, "mask": MASK}
    donors, receivers = pairs_of(5, batch)
    assert donors.tolist() == [0, 2, 3] and (donors != receivers).all()
    made, _ = copies(batch, receivers.tolist(), donors.tolist())
    torch.manual_seed(5)
    found = model(pixels, labels=LABELS, mask=MASK, smoothing=0.1).losses["transplant"]
    expected = 0.0
    for image, label in zip(made["pixel_values"], LABELS[donors]):  # each copy alone
        seen = model(image[None].double(), compute_losses=False, compute_aux=True)
        for logits in (seen.logits, *seen.aux_logits.values()):
            p = logits[0].log_softmax(0)
            expected = expected - 0.9 * p[label] - 0.1 * p.mean()
    torch.testing.assert_close(found.double(), expected / 4, rtol=1e-6, atol=0)  # class losses are float32
    weights = [p for p in model.parameters() if p.ndim > 1]
    mine = torch.autograd.grad(found, weights, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad(expected / 4, weights, allow_unused=True)
    assert sum(each is not None for each in mine) > 5
    for one, other in zip(mine, theirs):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


@every_layout
def test_an_image_that_is_all_object_agrees_with_its_copy(name):
    mask = torch.ones(4, 1, 64, 64, dtype=torch.uint8)
    for head in (None, "abn"):
        model = wrap(name, head, map_agreement=2.0, prediction_agreement=3.0)
        torch.manual_seed(1)
        output = model(images(name), labels=LABELS, mask=mask)
        assert output.losses["transplant_maps"] < 1e-8 and output.losses["transplant_predictions"] < 1e-8
        if head is None:
            torch.testing.assert_close(output.losses["transplant"], output.losses["task"])
        apart = model(images(name), labels=LABELS, mask=MASK)
        assert apart.losses["transplant_maps"] > 1e-6 and apart.losses["transplant_predictions"] > 1e-6
        weights = {"transplant_maps": 2.0, "transplant_predictions": 3.0}
        total = sum(weights.get(key, 1.0) * value for key, value in apart.losses.items())
        torch.testing.assert_close(apart.loss, total)
        gradient = torch.autograd.grad(apart.losses["transplant_maps"], list(model.parameters()), allow_unused=True)
        assert any(each is not None and each.abs().sum() > 0 for each in gradient)


def test_divergence_is_jensen_shannon_in_nats():
    first, second = torch.tensor([[100.0, 0.0], [1.0, 2.0]]), torch.tensor([[0.0, 100.0], [1.0, 2.0]])
    torch.testing.assert_close(divergence(first, second, False), torch.tensor([math.log(2), 0.0]))
    p, q = (torch.randn(3, 4).double() for _ in range(2))
    by_hand = 0.0
    for k in range(4):
        a, b = p[1].softmax(0)[k], q[1].softmax(0)[k]
        by_hand += 0.5 * a * (a / ((a + b) / 2)).log() + 0.5 * b * (b / ((a + b) / 2)).log()
    torch.testing.assert_close(divergence(p, q, False)[1], by_hand)
    several = divergence(p, q, True)
    two = divergence(torch.stack([p[:, 2], 0 * p[:, 2]], 1), torch.stack([q[:, 2], 0 * q[:, 2]], 1), False)
    assert (several <= math.log(2)).all() and (two <= 4 * several + 1e-12).all()


def test_further_objectives_are_computed_on_the_copies():
    model = wrap("resnet18", "abn", objectives=["map_supervision"])
    model.add_objective(ar.MapSupervision(target="mask", norm="mse", weight=2.0))
    torch.manual_seed(5)
    output = model(images(), labels=LABELS, mask=MASK)
    batch = {"pixel_values": images(), "labels": LABELS, "mask": MASK}
    donors, receivers = pairs_of(5, batch)
    made, _ = copies(batch, receivers.tolist(), donors.tolist())
    alone = model(made["pixel_values"], labels=made["labels"], mask=made["mask"], objectives=["map_supervision"])
    torch.testing.assert_close(output.losses["transplant"], alone.loss * 3 / 4)
    with pytest.raises(ValueError, match="objectives names 'mining', and this model has no other"):
        wrap(objectives=["mining"])(images(), labels=LABELS, mask=MASK)


# who is copied, and where to -----------------------------------------------------------------------------------------


def test_copies_come_as_often_as_asked_and_never_on_themselves():
    batch = {"pixel_values": images(), "labels": LABELS, "mask": MASK}
    for copies_each, least, most in ((1.0, 300, 300), (2.0, 600, 600), (0.5, 100, 200), (1.5, 400, 500)):
        counted = 0
        for seed in range(100):
            donors, receivers = pairs_of(seed, batch, copies=copies_each)
            assert (donors != receivers).all() and 1 not in donors
            counted += len(donors)
        assert least <= counted <= most
    seen = {tuple(pairs_of(seed, batch)[1].tolist()) for seed in range(200)}
    assert len(seen) == 27  # three donors, three places each


def test_places_of_other_classes_and_covered_ones():
    labels = torch.tensor([1, 1, 0, 0])
    batch = {"pixel_values": images(), "labels": labels, "mask": MASK}
    for seed in range(30):
        donors, receivers = pairs_of(seed, batch, other_class=True)
        assert donors.tolist() == [0, 2, 3] and (labels[donors] != labels[receivers]).all()
        donors, receivers = pairs_of(seed, batch, covered_only=True)
        assert donors.tolist() == [0, 2, 3] and 1 not in receivers
    same = {**batch, "labels": torch.ones(4, dtype=torch.long)}
    assert len(pairs_of(0, same, other_class=True)[0]) == 0


def test_doubtful_masks_are_not_copied():
    batch = {"pixel_values": images(), "labels": LABELS, "mask": MASK}
    batch["mask_confidence"] = torch.tensor([0.9, 1.0, 0.3, 0.6])
    assert pairs_of(0, batch, min_confidence=0.6)[0].tolist() == [0, 3]
    assert pairs_of(0, batch)[0].tolist() == [0, 2, 3]


def test_several_labels_are_the_donors_and_those_left_in_the_picture():
    labels = F.one_hot(LABELS, CLASSES).float()
    batch = {"pixel_values": images(), "labels": labels, "mask": MASK}
    made, _ = copies(batch, donors=[0, 0], receivers=[1, 2])
    assert made["labels"].nonzero().tolist() == [[0, 1], [0, 4], [1, 1]]  # image 1 is not known, 2 is covered
    made, _ = copies(batch, donors=[0], receivers=[2], cover="none")
    assert made["labels"].nonzero().tolist() == [[0, 0], [0, 1]]
    output = wrap()(images(), labels=labels, mask=MASK)
    assert output.losses["transplant"] > 0


@pytest.mark.parametrize("columns", [{}, {"mask": rectangle(None, None, None, None)}, {"mask": 0 * MASK}])
def test_nothing_known_is_nothing_added(columns):
    model = wrap(map_agreement=1.0, prediction_agreement=1.0)
    output = model(images(), labels=LABELS, **columns)
    assert output.measures["transplant_copies"] == 0
    assert all(output.losses[f"transplant{part}"] == 0 for part in ("", "_maps", "_predictions"))
    torch.testing.assert_close(output.loss, output.losses["task"])
    assert wrap()(images(count=1), labels=LABELS[:1], mask=MASK[:1]).losses["transplant"] == 0  # no other image
    assert "transplant" not in wrap().train()(images(), mask=MASK).losses


# laws ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", ["auto", "freeze_stats", "eval", "train"])
def test_what_the_copies_do_to_the_running_statistics(statistics):
    model = wrap("resnet18", "abn", bn_second_pass=statistics).train()
    plain = copy.deepcopy(model)
    plain.objectives.clear()
    plain(images(), labels=LABELS)
    model(images(), labels=LABELS, mask=MASK)
    expected = plain.state_dict()
    moved = [k for k, v in model.state_dict().items() if k in expected and not torch.equal(v, expected[k])]
    assert bool(moved) == (statistics == "train") and all("running" in key or "tracked" in key for key in moved)
    assert all(m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_few_copies_are_normalised_as_at_inference():
    torch.manual_seed(0)
    losses = {}
    for statistics in ("auto", "eval", "freeze_stats"):
        for count in (1.0, 3.0):
            torch.manual_seed(0)
            model = wrap(bn_second_pass=statistics, copies=count).train()
            losses[statistics, count] = model(images(), labels=LABELS, mask=MASK).losses["transplant"]
    assert torch.equal(losses["auto", 1.0], losses["eval", 1.0])
    assert torch.equal(losses["auto", 3.0], losses["freeze_stats", 3.0])
    assert not torch.equal(losses["auto", 3.0], losses["eval", 3.0])


@every_layout
@pytest.mark.parametrize("head", [None, "abn"], ids=["headless", "abn"])
def test_mixed_precision_trains(name, head):
    model = wrap(name, head, map_agreement=1.0, prediction_agreement=1.0).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images(name), labels=LABELS, mask=MASK)
    output.loss.backward()
    assert all(value.dtype == torch.float32 and value.isfinite() for value in output.losses.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_degenerate_images_give_finite_gradients():
    model = wrap("resnet18", None, map_agreement=1.0, prediction_agreement=1.0).train()
    output = model(torch.zeros(4, 3, 64, 64), labels=LABELS, mask=torch.ones(4, 1, 64, 64, dtype=torch.uint8))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_draws_are_torchs_generator_alone():
    model = wrap(move=0.2, copies=1.5)
    found = []
    for _ in range(2):
        torch.manual_seed(7)
        found.append(model(images(), labels=LABELS, mask=MASK).losses["transplant"])
    assert torch.equal(*found)
    assert not torch.equal(found[0], model(images(), labels=LABELS, mask=MASK).losses["transplant"])


def test_saved_and_loaded_it_is_the_same(tmp_path):
    model = wrap(copies=2.5, objectives=["map_supervision"], cover="mirror", map_agreement=0.5)
    model.add_objective(ar.MapSupervision(target="mask"))
    model.save_pretrained(tmp_path)
    loaded = ar.load(tmp_path)
    assert loaded.objectives["transplant"].config == model.objectives["transplant"].config
    losses = []
    for one in (model, loaded):
        torch.manual_seed(3)
        losses.append(one(images(), labels=LABELS, mask=MASK).loss)
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(cover="telea"), "cover='telea' is not one of 'smooth', 'mirror', 'none'"),
        (dict(target="cue"), "target='cue' is not one of 'auto', 'edited', 'mask', 'boxes'"),
        (dict(copies=0), "copies must be above 0, got 0"),
        (dict(move=3), "move must be between 0 and 1, got 3"),
        (dict(feather=-1), "feather must be 0 or more, got -1"),
        (dict(objectives="map_supervision"), "objectives must be a list of names, got 'map_supervision'"),
        (dict(objectives=["transplant"]), "not 'transplant' itself"),
        (dict(share=0.5), "Transplant has no option 'share'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        Transplant(**options)


# copies in their images' places --------------------------------------------------------------------------------------


def test_replaced_images_are_the_copies_and_no_further_pass_is_made():
    model = wrap(replace=True, copies=1.0, feather=0).train()
    batch = {"pixel_values": images(), "labels": LABELS, "mask": MASK}
    torch.manual_seed(5)
    seen = model.objectives["transplant"].prepare(model, batch)
    assert seen["transplanted"].tolist() == [True, False, True, True]
    assert torch.equal(seen["pixel_values"][1], images()[1]) and torch.equal(seen["labels"], LABELS)
    for row in (0, 2, 3):
        own = (MASK[row] == 1).expand(3, -1, -1)
        assert torch.equal(seen["pixel_values"][row][own], images()[row][own])
        assert not torch.equal(seen["pixel_values"][row], images()[row])
    assert torch.equal(batch["pixel_values"], images())  # the batch given is as it was
    torch.manual_seed(5)
    passes = []
    with model.backbone.net.register_forward_hook(lambda *_: passes.append(1)):
        output = model(images(), labels=LABELS, mask=MASK)
    assert len(passes) == 1 and set(output.losses) == {"task"}
    assert float(output.measures["transplant_copies"]) == pytest.approx(0.75)
    wanted = F.cross_entropy(copy.deepcopy(model)(seen["pixel_values"], compute_losses=False).logits, LABELS)
    torch.testing.assert_close(output.losses["task"], wanted, atol=1e-4, rtol=1e-4)


def test_in_evaluation_nothing_is_replaced():
    model, bare = wrap(replace=True).eval(), copy.deepcopy(base("resnet18", None)).eval()
    output = model(images(), labels=LABELS, mask=MASK)
    assert torch.equal(output.logits, bare(images()).logits) and float(output.measures["transplant_copies"]) == 0


def test_a_share_of_the_images_is_replaced_and_boxes_move_along():
    model = wrap(replace=True, copies=0.5, target="boxes").train()
    boxes = [torch.tensor([[10.0, 8.0, 30.0, 40.0]]), torch.zeros(0, 4)] * 2
    counts = []
    for seed in range(40):
        torch.manual_seed(seed)
        seen = model.objectives["transplant"].prepare(
            model, {"pixel_values": images(), "labels": LABELS, "boxes": boxes}
        )
        counts.append(seen["transplanted"].sum().item())
        assert [len(each) for each in seen["boxes"]] == [1, 0, 1, 0]
    assert set(counts) == {0, 1, 2} and 0.7 < sum(counts) / 40 < 1.3


@pytest.mark.parametrize(
    "options, said",
    [
        ({"copies": 1.5}, "copies must be at most 1, got 1.5"),
        ({"map_agreement": 1.0}, "never seen together"),
        ({"objectives": ("map_supervision",)}, "never seen together"),
    ],
)
def test_what_replacing_refuses(options, said):
    with pytest.raises(ValueError, match=said):
        Transplant(replace=True, **options)
