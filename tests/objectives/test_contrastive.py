"""Contrastive pretraining: laws, the loss against a float64 loop, views, several processes, then bad input."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from cases import BY_NAME, CASES
from contrastive_runs import make_model, train, train_triplet
from processes import in_two_processes
from safetensors.torch import load_file
from torch import nn

import attention_refine as ar
from attention_refine.backbones.classifier import embedding_size, embeddings, last_layer
from attention_refine.objectives._views import Views
from attention_refine.objectives.contrastive import nt_xent

HERE = Path(__file__).parent
CASE = BY_NAME["resnet18"]


def vectors(count: int = 5, size: int = 7, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, size, generator=generator, dtype=torch.float64).unbind(0)


# laws ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_equal_views_give_the_log_of_the_number_of_choices(count, temperature):
    same = torch.ones(count, 4)
    assert float(nt_xent(same, same, temperature)[0]) == pytest.approx(math.log(2 * count - 1), abs=1e-6)
    zero = torch.zeros(count, 4)
    assert float(nt_xent(zero, zero, temperature)[0]) == pytest.approx(math.log(2 * count - 1), abs=1e-6)


def test_order_of_images_and_of_views_and_lengths_do_not_count():
    first, second = vectors()
    expected = nt_xent(first, second)
    order = torch.tensor([3, 0, 4, 1, 2])
    lengths = torch.rand(5, 1, dtype=torch.float64) + 0.1
    for found in (nt_xent(first[order], second[order]), nt_xent(second, first), nt_xent(first * lengths, 3 * second)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_rotations_of_the_space_do_not_count():
    first, second = vectors()
    turn, _ = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64))
    torch.testing.assert_close(nt_xent(first @ turn, second @ turn), nt_xent(first, second), rtol=1e-12, atol=1e-12)


def test_the_gradient_is_finite_where_a_vector_is_zero():
    first, second = (z.clone() for z in vectors())
    first[2] = 0
    first.requires_grad_()
    loss, _ = nt_xent(first, second)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(first.grad).all()


def test_pairs_that_agree_are_better_than_pairs_that_do_not():
    first, second = vectors()
    near, far = nt_xent(first, first + 0.01 * second), nt_xent(first, second)
    assert near[0] < far[0] and near[1] == 1.0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_backbone_has_an_embedding_that_the_loss_reaches(case):
    """What is read before the classifier gives the network's own logits, and every image's is its own."""
    model = case.wrap(None, objectives=[ar.ContrastivePretraining(dimension=6)]).double()
    images = case.images(3).double()
    layer = last_layer(model.backbone.net, model.num_labels)
    read = embeddings(model.backbone, layer, images)
    assert read.shape == (3, embedding_size(layer))
    one = embeddings(model.backbone, layer, images[1:2])
    torch.testing.assert_close(one, read[1:2], rtol=1e-9, atol=1e-9)
    if case.name != "deit-distilled":  # its logits are the mean of two classifiers
        torch.testing.assert_close(layer(read), model(images).logits, rtol=1e-9, atol=1e-9)
    output = model(images, compute_losses=True)
    assert set(output.losses) == {"contrastive"}, "no labels, no task loss"
    output.loss.backward()
    first = next(p for p in model.backbone.net.parameters() if p.ndim > 1)
    assert first.grad is not None and torch.isfinite(first.grad).all() and first.grad.abs().sum() > 0


def test_it_is_inert_at_inference_and_can_be_dropped(tmp_path):
    model, images = CASE.wrap("abn", objectives=["contrastive"]), CASE.images()
    output = model(images)
    assert output.losses == {} and output.loss is None
    model.save_pretrained(tmp_path / "with")
    loaded = ar.load(tmp_path / "with")
    assert torch.equal(loaded(images).logits, output.logits)
    for name, value in model.objectives["contrastive"].state_dict().items():
        assert torch.equal(loaded.objectives["contrastive"].state_dict()[name], value), "saved with the checkpoint"
    loaded.objectives.pop("contrastive")
    loaded.save_pretrained(tmp_path / "without")
    assert not any("projection" in name for name in load_file(tmp_path / "without" / "model.safetensors"))
    assert torch.equal(ar.load(tmp_path / "without")(images).logits, output.logits)


# numbers -------------------------------------------------------------------------------------------------------------


def loop(first, second, temperature):
    """Equation 1, one pair at a time, in float64."""
    z = [row / row.norm() for pair in zip(first, second) for row in pair]
    total, right = 0.0, 0
    for i in range(len(z)):
        j = i + 1 if i % 2 == 0 else i - 1
        similar = [float(z[i] @ z[k]) / temperature for k in range(len(z))]
        total += -similar[j] + math.log(sum(math.exp(similar[k]) for k in range(len(z)) if k != i))
        right += max((k for k in range(len(z)) if k != i), key=similar.__getitem__) == j
    return total / len(z), right / len(z)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_loss_and_accuracy_equal_a_loop(count, temperature):
    first, second = vectors(count)
    second = second + first
    loss, accuracy = nt_xent(first, second, temperature)
    expected, right = loop(first, second, temperature)
    assert float(loss) == pytest.approx(expected, rel=1e-10, abs=1e-12) and float(accuracy) == pytest.approx(right)


def test_gradient_by_finite_differences():
    first, second = (z.clone().requires_grad_() for z in vectors(3, 4))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5)[0], (first, second))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_objective_is_the_loss_of_projected_embeddings(layers):
    model = CASE.wrap(None, objectives=[ar.ContrastivePretraining(layers=layers, dimension=6, temperature=0.3)])
    images = CASE.images(8)
    views = images.reshape(4, 2, *images.shape[1:])
    output = model(views[:, 0], views=views, compute_losses=True)
    net, z = model.backbone.net, model.objectives["contrastive"].projection
    assert len(z) == 2 * layers - 1
    with torch.no_grad():
        h = nn.functional.adaptive_avg_pool2d(net.forward_features(images), 1).flatten(1)
        for k, layer in enumerate(z[::2]):
            h = (h if k == 0 else h.relu()) @ layer.weight.T + layer.bias
    expected, right = loop(h[::2].double(), h[1::2].double(), 0.3)
    assert output.losses["contrastive"].item() == pytest.approx(expected, rel=1e-5)
    assert float(output.measures["contrastive_accuracy"]) == pytest.approx(right)


# views ---------------------------------------------------------------------------------------------------------------


def made_views(pixels, preprocessing=None, **options):
    config = ar.ContrastivePretraining(**options).config
    return Views(config, preprocessing or {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]})(pixels)


NOTHING = {"smallest_crop": 1.0, "flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0}


def pixels(*shape):
    mean, std = (torch.tensor(each).reshape(3, *[1] * (len(shape) - 2)) for each in ([0.5, 0.4, 0.3], [0.2, 0.3, 0.25]))
    return (torch.rand(shape) - mean) / std


def test_views_with_everything_off_are_the_images():
    images = pixels(3, 3, 24, 20)
    torch.testing.assert_close(made_views(images, **NOTHING), images, rtol=0, atol=1e-5)


def test_flip_and_grey_by_hand():
    images = pixels(2, 3, 8, 8)
    torch.testing.assert_close(made_views(images, **{**NOTHING, "flip": 1.0}), images.flip(-1), rtol=0, atol=1e-5)
    preprocessing = {"mean": [0.0] * 3, "std": [1.0] * 3}
    raw = torch.rand(2, 3, 8, 8)
    grey = made_views(raw, preprocessing, **{**NOTHING, "grey": 1.0})
    luminance = (raw * torch.tensor([0.2989, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    torch.testing.assert_close(grey, luminance.expand_as(raw), rtol=0, atol=2e-3)  # torchvision's weights are rounded


def test_views_repeat_with_the_seed_and_differ_between_images_and_calls():
    images = pixels(1, 3, 16, 16).repeat(4, 1, 1, 1)
    torch.manual_seed(5)
    first, second = made_views(images), made_views(images)
    torch.manual_seed(5)
    assert torch.equal(made_views(images), first)
    assert not torch.equal(first, second)
    assert all(not torch.equal(first[0], other) for other in first[1:])
    assert first.shape == images.shape and torch.isfinite(first).all()


def test_all_frames_of_a_clip_are_changed_alike():
    frame = pixels(2, 3, 1, 16, 16)
    clip = frame.repeat(1, 1, 5, 1, 1)
    found = made_views(clip)
    assert found.shape == clip.shape
    for t in range(1, 5):
        torch.testing.assert_close(found[:, :, t], found[:, :, 0], rtol=0, atol=1e-5)
    moving = pixels(1, 3, 4, 16, 16)
    torch.manual_seed(2)
    together = made_views(moving, blur=0.0)
    for t in range(4):
        torch.manual_seed(2)
        torch.testing.assert_close(together[:, :, t], made_views(moving[:, :, t], blur=0.0), rtol=0, atol=1e-5)


class SmallVideo(nn.Module):
    """A network of clips with a last linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 6, 3, stride=2)
        self.fc = nn.Linear(6, 4)

    def forward(self, clip):
        return self.fc(self.conv(clip).relu().mean((2, 3, 4)))


def test_a_model_of_clips_is_trained():
    model = ar.wrap(SmallVideo(), objectives=["contrastive"], preprocessing={"input_size": [3, 4, 16, 16]}).train()
    output = model(torch.randn(3, 3, 4, 16, 16))
    output.loss.backward()
    assert set(output.losses) == {"contrastive"} and model.backbone.net.conv.weight.grad.abs().sum() > 0
    assert model.backbone.net.fc.weight.grad is None, "the classifier learns from labels alone"


def test_it_learns_to_tell_images_apart(tmp_path):
    before = make_model(temperature=0.5)
    result = train(tmp_path, batch_size=7)
    start, end = result.history[0], result.history[-1]
    assert end["train/contrastive"] < start["train/contrastive"]
    assert end["train/loss"] == pytest.approx(end["train/contrastive"])
    last = ar.load(result.last_path)
    assert torch.equal(last.backbone.net.fc.weight, before.backbone.net.fc.weight) and "train/task" not in end


# several processes ---------------------------------------------------------------------------------------------------


def test_two_processes_equal_one(tmp_path):
    """Weights and history of 2 processes × 3 images = 1 process × 6, also where their shares are 3 and 2.

    Of both losses between images: this one, and the triplet loss.
    """
    in_two_processes(HERE / "contrastive_runs.py", tmp_path, "3")
    for strategy in ("finetune", "combined", "triplet"):
        folder = tmp_path / "one" / strategy
        one = train_triplet(folder, 6) if strategy == "triplet" else train(folder, 6, strategy)
        expected = load_file(tmp_path / "one" / strategy / "last" / "model.safetensors")
        found = load_file(tmp_path / strategy / "last" / "model.safetensors")
        moved = make_model().state_dict()
        assert max((expected[name] - moved[name]).abs().max() for name in expected) > 1e-3, "the run did something"
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5, msg=name)
        history = json.loads((tmp_path / strategy / "history.json").read_text())
        for entry, wanted in zip(history, one.history, strict=True):
            assert entry == pytest.approx(wanted, rel=1e-4)


# bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": 0}, "temperature must be above 0, got 0"),
        ({"dimension": 0}, "dimension must be 1 or more, got 0"),
        ({"layers": 0}, "layers must be 1 or more, got 0"),
        ({"weight": -1}, "weight must be 0 or more, got -1"),
        ({"smallest_crop": 0}, "smallest_crop must be above 0 and at most 1, got 0"),
        ({"jitter": 2}, "jitter must be between 0 and 1.25, got 2"),
        ({"flip": 1.5}, "flip is a probability and must be between 0 and 1, got 1.5"),
        ({"tau": 0.1}, "ContrastivePretraining has no option 'tau'; its options are smallest_crop"),
    ],
)
def test_options_are_checked(options, said):
    with pytest.raises(ValueError, match=said):
        ar.ContrastivePretraining(**options)


def test_views_of_another_shape_are_refused():
    model, images = CASE.wrap(None, objectives=["contrastive"]), CASE.images(3)
    with pytest.raises(ValueError, match=r"views must be \(3, 2, 3, 64, 64\), two of each image, got \(3, 3, 64, 64\)"):
        model(images, views=images, compute_losses=True)


def test_a_network_without_a_last_layer_is_refused():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x).mean((2, 3))[:, :3]

    with pytest.raises(ValueError, match="Pooled has no last linear layer of 3 classes"):
        ar.wrap(Pooled(), objectives=["contrastive"], preprocessing={"input_size": [3, 16, 16]})


@pytest.mark.parametrize("labels, passes", [(None, 1), (torch.tensor([0, 1, 2]), 2)], ids=["unlabelled", "labelled"])
def test_a_step_without_labels_makes_no_pass_that_nothing_reads(labels, passes):
    model = ar.wrap(BY_NAME["resnet18"].make(), objectives=["contrastive"]).train()
    seen = []
    with model.backbone.net.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0]))):
        model(BY_NAME["resnet18"].images(3), labels=labels)
    assert len(seen) == passes and 6 in seen, "both views go through as one batch"
