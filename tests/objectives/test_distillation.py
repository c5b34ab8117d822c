"""Distillation against an oracle in float64 loops, what is trained and saved of a teacher, and its refusals."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys

import pytest
import torch
from cases import BY_NAME, CLASSES
from safetensors.torch import load_file
from torch import nn

import attention_refine as ar
from attention_refine.objectives.distillation import as_seen_by, divergence, feature_distance, map_distance, on_one_grid

CASE = BY_NAME["resnet18"]
LABELS = torch.tensor([0, 3, 1, 4])


def teacher(head: str | None = "brnpa", **options) -> ar.RefinedModel:
    """Another network than the student's."""
    made = CASE.wrap(head, **options)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in made.backbone.net.layer4.parameters():
            parameter.mul_(1 + 0.5 * torch.rand(parameter.shape, generator=generator))
    return made


def student(head: str | None = "brnpa", given=None, resolution: int = 1, **options) -> ar.RefinedModel:
    objective = ar.Distillation(teacher=teacher() if given is None else given, **options)
    return CASE.wrap(head, objectives=[objective], resolution=resolution)


# the oracle ----------------------------------------------------------------------------------------------------------


def softmax(row, temperature):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def oracle(student_logits, teacher_logits, temperature):
    total = 0.0
    for s, t in zip(student_logits.tolist(), teacher_logits.tolist()):
        q, p = softmax(s, temperature), softmax(t, temperature)
        total += sum(pk * (math.log(pk) - math.log(qk)) for pk, qk in zip(p, q))
    return temperature**2 * total / len(student_logits)


def sigmoid_oracle(student_logits, teacher_logits, temperature):
    total, count = 0.0, 0
    for s, t in zip(student_logits.tolist(), teacher_logits.tolist()):
        for sk, tk in zip(s, t):
            q, p = (1 / (1 + math.exp(-value / temperature)) for value in (sk, tk))
            total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
            count += 1
    return temperature**2 * total / count


@pytest.mark.parametrize("temperature", [1.0, 4.0, 16.0])
def test_the_divergence_against_loops_in_float64(temperature):
    generator = torch.Generator().manual_seed(1)
    s, t = (3 * torch.randn(5, 7, dtype=torch.float64, generator=generator) for _ in range(2))
    assert divergence(s, t, temperature).item() == pytest.approx(oracle(s, t, temperature), abs=1e-10)
    assert divergence(s, t, temperature, sigmoid=True).item() == pytest.approx(
        sigmoid_oracle(s, t, temperature), abs=1e-10
    )
    assert divergence(s, s, temperature).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("interpolation", [0.0, 0.4, 1.0])
def test_the_loss_is_the_papers_interpolation(interpolation):
    taught = teacher()
    model = student(given=taught, temperature=2.0, interpolation=interpolation, weight=3.0)
    images = CASE.images(4)
    output = model(images, labels=LABELS)
    with torch.no_grad():
        expected = oracle(output.logits.double(), taught(images).logits.double(), 2.0)
        task = nn.functional.cross_entropy(output.logits, LABELS).item()
    assert output.losses["distillation"].item() == pytest.approx(expected, rel=1e-4)
    assert output.losses["task"].item() == pytest.approx(task, rel=1e-5)
    assert output.loss.item() == pytest.approx(3 * interpolation * expected + (1 - interpolation) * task, rel=1e-4)


def test_images_with_several_labels_and_without_any():
    taught = teacher()
    model, images = student(given=taught), CASE.images(2)
    several = model(images, labels=torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0]]))
    with torch.no_grad():
        theirs = taught(images).logits.double()
    assert several.losses["distillation"].item() == pytest.approx(
        sigmoid_oracle(several.logits.double(), theirs, 4.0), rel=1e-4
    )
    unlabelled = model(images, compute_losses=True)
    assert set(unlabelled.losses) == {"distillation"}
    assert unlabelled.losses["distillation"].item() == pytest.approx(
        oracle(unlabelled.logits.double(), theirs, 4.0), rel=1e-4
    )


def test_features_and_maps_against_loops():
    generator = torch.Generator().manual_seed(2)
    s, t = (torch.randn(2, 3, side, side, dtype=torch.float64, generator=generator) for side in (4, 2))
    total = 0.0
    for image in range(2):
        for i in range(2):
            for j in range(2):
                fine = [s[image, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean().item() for c in range(3)]
                coarse = t[image, :, i, j].tolist()
                dot = sum(a * b for a, b in zip(fine, coarse))
                total += 1 - dot / math.sqrt(sum(a * a for a in fine) * sum(b * b for b in coarse))
    assert feature_distance(s, t).item() == pytest.approx(total / 8, abs=1e-6)
    expected = (nn.functional.avg_pool2d(s, 2) - t).square().mean()
    torch.testing.assert_close(map_distance(s, t), expected)
    one = t.amax(1, keepdim=True)
    torch.testing.assert_close(
        map_distance(s, one), (nn.functional.avg_pool2d(s.amax(1, keepdim=True), 2) - one).square().mean()
    )
    assert [each.shape for each in on_one_grid(t, s)] == [t.shape, t.shape]


# laws ----------------------------------------------------------------------------------------------------------------


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    model = CASE.wrap("brnpa")
    model.add_objective(
        ar.Distillation(teacher=CASE.wrap("brnpa"), interpolation=1.0, feature_weight=1.0, map_weight=1.0)
    )
    output = model(CASE.images(4), labels=LABELS)
    for name in ("distillation", "distillation_features", "distillation_maps"):
        assert output.losses[name].item() == pytest.approx(0, abs=1e-5)
    assert output.measures["distillation_agreement"] == 1


def test_batched_equals_one_by_one():
    model, images = student(feature_weight=1.0, map_weight=1.0).double(), CASE.images(4).double()
    with torch.no_grad():
        batched = model(images, labels=LABELS).losses
        singles = [model(image[None], labels=label[None]).losses for image, label in zip(images, LABELS)]
    for name, value in batched.items():
        torch.testing.assert_close(value, torch.stack([one[name] for one in singles]).mean(), rtol=0, atol=1e-5)


def test_the_student_learns_and_the_teacher_does_not():
    taught = teacher()
    before = {key: value.clone() for key, value in taught.state_dict().items()}
    flags = [module.training for module in taught.modules()]
    model = student(given=taught, interpolation=1.0, feature_weight=0.1, map_weight=0.1).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    seen = []
    for _ in range(5):
        output = model(CASE.images(4), labels=LABELS)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        seen.append(output.losses["distillation"].item())
    assert seen[-1] < seen[0]
    assert all(torch.equal(value, before[key]) for key, value in taught.state_dict().items())
    assert flags == [module.training for module in taught.modules()]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in taught.parameters())


def test_a_teacher_in_training_mode_teaches_in_evaluation_mode():
    taught = teacher()
    quiet = student(given=taught)(CASE.images(4), labels=LABELS).losses["distillation"]
    taught.train()
    torch.testing.assert_close(student(given=taught)(CASE.images(4), labels=LABELS).losses["distillation"], quiet)
    assert taught.training and taught.head.begun_steps == 0


def test_the_paper_s_two_resolutions():
    model = student(resolution=2, feature_weight=0.5, map_weight=0.5).train()
    output = model(CASE.images(4), labels=LABELS)
    assert output.maps.shape == (4, 3, 4, 4)
    assert set(output.losses) == {"task", "distillation", "distillation_features", "distillation_maps"}
    output.loss.backward()
    assert model.backbone.net.conv1.weight.grad.isfinite().all()


def test_mixed_precision():
    model = student(map_weight=1.0).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(CASE.images(4), labels=LABELS)
    assert output.losses["distillation"].dtype == torch.float32 and output.loss.isfinite()
    output.loss.backward()


def test_any_network_can_teach():
    net = CASE.make()
    model = student(head=None, given=net)
    output = model(CASE.images(4), labels=LABELS)
    assert output.losses["distillation"].item() == pytest.approx(0, abs=1e-6)


def test_the_teacher_sees_the_images_as_it_was_trained():
    taught = teacher()
    model = student(given=taught)
    taught.preprocessing |= {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 1.0]}
    images = CASE.images(2)
    mean, std = (torch.tensor(model.preprocessing[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    pixels = images * std + mean
    expected = (pixels - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.5, 0.25, 1.0]).view(
        1, 3, 1, 1
    )
    torch.testing.assert_close(as_seen_by(taught, model, images, None), expected)
    assert as_seen_by(taught, model, images, 32).shape == (2, 3, 32, 32)
    clip = torch.randn(2, 3, 4, 64, 64)
    assert as_seen_by(nn.Identity(), model, clip, 32).shape == (2, 3, 4, 32, 32)


# what is saved -------------------------------------------------------------------------------------------------------


def test_the_teacher_s_weights_are_neither_counted_nor_saved(tmp_path):
    model, plain = student(), CASE.wrap("brnpa")
    assert set(model.state_dict()) == set(plain.state_dict())
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in plain.parameters())
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(plain.state_dict())


def test_a_teacher_that_was_an_object_must_be_given_again(tmp_path):
    model = student()
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["objectives"][0]
    assert stored["options"]["teacher"] == "object"
    loaded = ar.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(CASE.images()).logits, model(CASE.images()).logits)
    with pytest.raises(ValueError, match="saved without its teacher, which was an object; give it again"):
        loaded(CASE.images(4), labels=LABELS)
    taught = teacher()
    loaded.add_objective(ar.Distillation(teacher=taught))
    torch.testing.assert_close(
        loaded(CASE.images(4), labels=LABELS).losses["distillation"],
        student(given=taught)(CASE.images(4), labels=LABELS).losses["distillation"],
    )


ELSEWHERE = """
import sys, torch
from safetensors.torch import load_file, save_file
import attention_refine as ar

torch.set_num_threads(1)
model = ar.load(sys.argv[1])
batch = load_file(sys.argv[2])
with torch.no_grad():
    output = model(batch["images"], labels=batch["labels"])
save_file({"logits": output.logits, **output.losses}, sys.argv[3])
"""


def test_a_teacher_by_folder_is_stored_as_that_and_loaded_when_needed(tmp_path):
    from safetensors.torch import save_file

    taught = teacher()
    taught.save_pretrained(tmp_path / "teacher")
    model = student(given=str(tmp_path / "teacher"))
    model.save_pretrained(tmp_path / "student")
    stored = json.loads((tmp_path / "student" / "config.json").read_text())["objectives"][0]
    assert stored["options"]["teacher"] == str(tmp_path / "teacher")
    save_file({"images": CASE.images(4), "labels": LABELS}, tmp_path / "batch.safetensors")
    arguments = [str(tmp_path / name) for name in ("student", "batch.safetensors", "out.safetensors")]
    run = subprocess.run([sys.executable, "-c", ELSEWHERE, *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = load_file(tmp_path / "out.safetensors")
    with torch.no_grad():
        output = model(CASE.images(4), labels=LABELS)
    torch.testing.assert_close(found["logits"], output.logits, rtol=0, atol=1e-6)
    torch.testing.assert_close(found["distillation"], output.losses["distillation"], rtol=1e-5, atol=1e-6)
    (tmp_path / "teacher" / "model.safetensors").unlink()  # a student predicts without its teacher
    ar.load(tmp_path / "student")(CASE.images())


def test_a_copy_has_the_same_teacher_and_not_a_copy_of_it():
    model = student(temperature=3.0)
    copied = copy.deepcopy(model)
    one, other = (each.objectives["distillation"] for each in (model, copied))
    assert one.config == other.config and one.teacher(model) is other.teacher(copied)


# refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option, value, accepted",
    [
        ("temperature", 0.0, "above 0"),
        ("interpolation", 1.5, "between 0 and 1"),
        ("score", "argmax", "'auto', 'softmax', 'sigmoid'"),
        ("feature_weight", -1.0, "0 or more"),
        ("map_weight", -1.0, "0 or more"),
        ("weight", -1.0, "0 or more"),
        ("teacher_size", 0, "at least 1"),
    ],
)
def test_options_outside_their_range_are_refused(option, value, accepted):
    with pytest.raises(ValueError) as refusal:
        ar.Distillation(teacher="somewhere", **{option: value})
    message = str(refusal.value)
    assert "Distillation" in message and option in message and str(value) in message and accepted in message


def test_teachers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="there is no teacher; pass teacher="):
        CASE.wrap("brnpa", objectives=["distillation"])
    with pytest.raises(TypeError, match="teacher=3 is neither a folder, a Hub id nor a model"):
        ar.Distillation(teacher=3)
    with pytest.raises(ValueError, match="the teacher has 3 classes, the student 5"):
        student(given=CASE.wrap("brnpa", num_labels=3))
    with pytest.raises(ValueError, match="the same classes in another order"):
        names = [str(index) for index in range(CLASSES)]
        student(given=CASE.wrap("brnpa", labels=names[::-1]))
    with pytest.raises(ValueError, match="map_weight compares the heads' maps"):
        student(head=None, map_weight=1.0)
    with pytest.raises(ValueError, match="map_weight needs a teacher with a head"):
        student(given=CASE.make(), map_weight=1.0)
    with pytest.raises(ValueError, match="feature_weight needs a teacher with a backbone"):
        student(given=CASE.make(), feature_weight=1.0)
    with pytest.raises(ValueError, match="feature has 128 channels, the teacher's 64"):
        student(given=CASE.wrap("abn"), feature_weight=1.0)(CASE.images(4), labels=LABELS)
    with pytest.raises(ValueError, match=r"teacher's logits are \(4, 3\), the student's \(4, 5\)"):
        import timm

        student(given=timm.create_model("test_resnet", num_classes=3))(CASE.images(4), labels=LABELS)


def test_a_folder_without_a_teacher_is_said_at_the_first_loss(tmp_path):
    model = student(given=str(tmp_path))
    with pytest.raises(ValueError, match=r"has no config\.json"):
        model(CASE.images(4), labels=LABELS)
