"""Every objective in every way a model is trained: divided over steps and processes, in half precision, broken off and
resumed, and on clips."""

from __future__ import annotations

import copy
import functools
import json
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from processes import in_two_processes
from refining_runs import OBJECTIVES, Clicked, cases, model, train, train_in_updates, weights
from torch import nn

import attention_refine as ar

HERE = Path(__file__).parent
every_case = pytest.mark.parametrize("name, head", cases())
# Float32 rounds weights of about 1 by 6e-8, here through six steps; what each objective moves is above 3e-3.
ROUNDING = 5e-6


def largest_difference(found, expected) -> float:
    """Over the weights; a count of passes does depend on how a batch is divided."""
    assert found.keys() == expected.keys()
    floating = [key for key, value in expected.items() if value.is_floating_point()]
    return max(float((found[key] - expected[key]).abs().max()) for key in floating)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The runs that divided ones must equal."""
    folder = tmp_path_factory.mktemp("whole")
    return functools.cache(lambda name, head: weights(train(folder / f"{name}-{head}", name, head)))


@every_case
def test_accumulated_gradients_are_those_of_the_whole_batch(name, head, whole, tmp_path):
    divided = train(tmp_path, name, head, batch_size=2, gradient_accumulation_steps=2)
    assert largest_difference(weights(divided), whole(name, head)) < ROUNDING
    other = train(tmp_path / "other", name, head, options={"weight": 0.0})
    assert largest_difference(weights(other), whole(name, head)) > 100 * ROUNDING  # the objective does move them


def test_two_processes_equal_one(whole, tmp_path):
    in_two_processes(HERE / "refining_runs.py", tmp_path)
    for name, head in cases():
        assert largest_difference(weights(tmp_path / f"{name}-{head}"), whole(name, head)) < ROUNDING, (name, head)
    in_one = weights(train_in_updates(tmp_path / "one"))
    assert largest_difference(weights(tmp_path / "updates"), in_one) < ROUNDING
    assert largest_difference(whole("darc", True), in_one) > 100 * ROUNDING  # more updates are another run


def test_several_updates_on_accumulated_batches_are_those_on_the_whole(tmp_path):
    divided = train_in_updates(tmp_path / "divided", batch_size=2, gradient_accumulation_steps=2)
    assert largest_difference(weights(divided), weights(train_in_updates(tmp_path / "whole"))) < ROUNDING


@pytest.mark.parametrize("name", ["mining", "guided_inference"])
@pytest.mark.parametrize("saved", [2, 5], ids=["before it begins", "after"])
@pytest.mark.parametrize("head", [True, False], ids=["abn", "headless"])
def test_a_resumed_run_begins_at_its_own_step(name, head, saved, tmp_path):
    """To the bit, with batch statistics; the objective begins at the fourth of eight steps."""
    options = {"alone": False, "options": {"start_step": 3}, "size": 16, "save_every_steps": 1, "keep_last": 9}
    full = train(tmp_path / "full", name, head, **options)
    point = f"checkpoints/step-{saved:08d}"
    shutil.copytree(full / point, tmp_path / "resumed" / point)
    resumed = train(tmp_path / "resumed", name, head, resume=True, **options)
    found, expected = weights(resumed), weights(full)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert expected[f"objectives.{name}.begun_steps"] == 8
    histories = [json.loads((folder / "history.json").read_text()) for folder in (full, resumed)]
    assert histories[0] == histories[1]
    assert histories[0][1][f"train/{name}"] > 2 * histories[0][0][f"train/{name}"] > 0  # one of four steps, then all


@every_case
def test_half_precision_is_near_and_its_losses_are_whole(name, head):
    pixels, batch = batch_of(Clicked(6, noise=0.0))
    made = model(name, head).eval()  # or six images' statistics would add their own noise
    found, gradients = [], []
    for half in (False, True):
        one = copy.deepcopy(made)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = one(pixels, **batch)
        output.loss.backward()
        assert all(value.dtype == torch.float32 for value in output.losses.values())
        assert output.maps is None or output.maps.dtype == torch.float32
        found.append(output.losses)
        gradients.append(torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None]))
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=0.1, atol=0.01)  # 0.4 % a rounding, twenty layers
    assert gradients[1].isfinite().all() and torch.cosine_similarity(*gradients, dim=0) > 0.9


def test_finetune_in_half_precision(tmp_path):
    folder = train(tmp_path, "mining", True, alone=False, mixed_precision="bf16", epochs=1, size=4)
    (entry,) = json.loads((folder / "history.json").read_text())
    assert entry["train/mining"] > 0 and all(value.isfinite().all() for value in weights(folder).values())


def batch_of(dataset) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    items = [dataset[row] for row in range(len(dataset))]
    columns = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    return columns.pop("pixel_values"), columns


# clips ---------------------------------------------------------------------------------------------------------------

LABELS = torch.tensor([1, 2])
# Their gradients are the whole derivative: a fixed threshold (an automatic one is held constant), weights of Grad-CAM
# that are differentiated, nothing drawn at random.
WHOLE = {
    "mining": {"threshold": 0.5},
    "guided_inference": {"second_order": True},
    "map_supervision": {},
    "input_gradient": {},
}


class SmallVideo(nn.Module):
    """``(B, 3, T, H, W)`` to logits, smooth, so that finite differences hold."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(3, 6, 3, stride=2, padding=1), nn.BatchNorm3d(6), nn.GELU())
        self.last = nn.Sequential(nn.Conv3d(6, 8, 3, padding=1), nn.GELU())
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.last(self.first(x)).mean((2, 3, 4)))


@functools.cache
def video(small: bool, head: bool) -> ar.RefinedModel:
    torch.manual_seed(0)
    net = SmallVideo() if small else torchvision.models.video.r3d_18(num_classes=3)
    site = "first" if small else "auto"
    branch = ar.AttentionBranch(fade_in_steps=0, branch="light", map_init="normal", site=site) if head else None
    made = ar.wrap(net.eval(), branch, preprocessing={"input_size": [3, 8, 32, 32]}).eval()
    return made.double() if small else made


def on_clips(name: str, head: bool, small: bool = False, **options) -> ar.RefinedModel:
    made = copy.deepcopy(video(small, head))
    made.add_objective(OBJECTIVES[name](**options))
    return made


def clips() -> torch.Tensor:
    return torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name, head", [case for case in cases() if case[0] in WHOLE])
def test_clips_one_by_one_and_a_step_down_the_gradient(name, head):
    made, target = on_clips(name, head, small=True, **WHOLE[name]), torch.rand(2, 1, 8, 32, 32).double()
    pixels = clips().double()
    batched = made(pixels, labels=LABELS, edited_map=target).losses
    singles = [made(x[None], labels=y[None], edited_map=t[None]).losses for x, y, t in zip(pixels, LABELS, target)]
    own = [key for key in batched if key not in ("task", "attention")]
    for key in own:
        mean = torch.stack([one[key] for one in singles]).mean()
        torch.testing.assert_close(batched[key], mean, rtol=0, atol=1e-12, check_dtype=False)
    parameters = [p for p in made.parameters() if p.ndim > 1]
    gradients = torch.autograd.grad(sum(batched[key] for key in own), parameters, allow_unused=True)
    squared = sum(float(g.square().sum()) for g in gradients if g is not None)
    step, ends = 1e-5 / squared**0.5, []
    for move in (step, -2 * step):
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients):
                parameter += 0 if gradient is None else move * gradient
            losses = made(pixels, labels=LABELS, edited_map=target).losses
        ends.append(sum(float(losses[key]) for key in own))
    # Central differences: an error of the step squared, 1e-10, over a step of 1e-5, and of rounding, 1e-15 over 1e-5.
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(squared, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("head", [True, False], ids=["abn", "headless"])
def test_mining_hides_places_and_moments_of_a_clip(head):
    made = on_clips("mining", head, quantile=0.5)
    output = made(clips(), labels=LABELS)
    feature = made.backbone.features(clips())
    assert feature.grid.shape[2:] == ((2, 4, 4) if head else (1, 2, 2))
    if head:
        levels = output.maps.flatten(1).quantile(0.5, dim=1).view(-1, 1, 1, 1, 1)
        kept = feature.grid * (1 - torch.sigmoid(10 * (output.maps - levels)))
        torch.testing.assert_close(output.aux_logits["mined"], made.backbone.resume(feature.with_grid(kept)))
    untouched = on_clips("mining", head, threshold=9.0)(clips(), labels=LABELS)
    torch.testing.assert_close(untouched.aux_logits["mined"], made.backbone.resume(feature))


@torch.no_grad()
@pytest.mark.parametrize("head", [True, False], ids=["abn", "headless"])
def test_guided_inference_blackens_a_clip(head):
    for threshold, pixels in ((9.0, clips()), (-20.0, torch.zeros_like(clips()))):
        output = on_clips("guided_inference", head, threshold=threshold)(clips(), labels=LABELS)
        expected = video(False, head)(pixels).logits.softmax(1)[torch.arange(2), LABELS].mean()
        torch.testing.assert_close(output.losses["guided_inference"], expected)


@torch.no_grad()
@pytest.mark.parametrize("head", [True, False], ids=["abn", "headless"])
def test_one_drawing_for_all_frames_of_a_clip(head):
    made, drawn = on_clips("map_supervision", head), torch.rand(2, 1, 32, 32)
    still = made(clips(), labels=LABELS, edited_map=drawn).losses["map_supervision"]
    moving = made(clips(), labels=LABELS, edited_map=drawn[:, :, None].expand(-1, -1, 8, -1, -1))
    torch.testing.assert_close(still, moving.losses["map_supervision"])
