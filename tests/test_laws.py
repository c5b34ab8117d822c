"""The laws of the design over every backbone the library names; law 7 (distributed, resumed) is in test_training.py."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from cases import BY_NAME, CASES, CLASSES, Case
from safetensors.torch import load_file, save_file
from torch import Tensor

import attention_refine as ar
from attention_refine.backbones import logits_of

every_backbone = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@cache
def fresh(case: Case) -> ar.RefinedModel:
    """As ``wrap`` returns it. Shared by tests: copy before changing."""
    return case.wrap()


@cache
def trained(case: Case) -> ar.RefinedModel:
    """After three real training steps, by which the map has come in fully. Shared by tests: copy before changing."""
    model = case.wrap(ar.AttentionBranch(fade_in_steps=3)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(case.images(8), labels=torch.arange(8) % CLASSES).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def random_maps(model: ar.RefinedModel, images: Tensor) -> Tensor:
    grid = model(images).maps.shape[2:]
    return torch.rand(len(images), 1, *grid, generator=torch.Generator().manual_seed(3))


# 1. wrapping costs nothing -------------------------------------------------------------------------------------------


@every_backbone
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_fresh_model_gives_the_logits_of_its_backbone(case, mode):
    model = copy.deepcopy(fresh(case)).train(mode == "train")
    plain = case.make().train(mode == "train")
    images = case.images()
    torch.manual_seed(1)
    with torch.no_grad():
        expected = logits_of(plain(images))
    torch.manual_seed(1)
    with torch.no_grad():
        torch.testing.assert_close(model(images).logits, expected, rtol=0, atol=1e-5)


@every_backbone
def test_wrapping_leaves_weights_and_mode_of_the_backbone_alone(case):
    plain = case.make()
    state = {key: value.clone() for key, value in plain.state_dict().items()}
    model = ar.wrap(plain, "abn", preprocessing={"input_size": [3, case.size, case.size]})
    assert model.backbone.net is plain
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())


# 2. a zero map is the plain backbone ---------------------------------------------------------------------------------


@every_backbone
def test_a_zero_map_is_the_plain_backbone_bit_for_bit(case):
    model, images = trained(case), case.images()
    maps = torch.zeros_like(random_maps(model, images))
    with torch.no_grad():
        assert torch.equal(model(images, maps=maps).logits, logits_of(model.backbone.net(images)))


@every_backbone
@pytest.mark.parametrize("constant", [0.25, 1.0])
def test_a_constant_map_scales_the_feature_by_one_plus_it(case, constant):
    model, images = trained(case), case.images()
    maps = torch.full_like(random_maps(model, images), constant)
    site = model.backbone.site
    with torch.no_grad():
        feature = model.backbone.features(images)
        refined, acting, aux_logits = model.head(feature.grid, maps)
        assert torch.equal(refined, feature.grid * (1 + constant))
        assert torch.equal(acting, maps) and aux_logits == {}
        if site.mechanism == "scale":  # what the rest of the network is given
            expected = model.backbone.resume(feature.with_grid(feature.grid * (1 + constant)))
            assert torch.equal(model(images, maps=maps).logits, expected)
            # Not one factor for all: a network that normalises what the site gives does not see that.
            other = feature.with_grid(feature.grid * torch.rand_like(feature.grid))
            assert not torch.equal(model.backbone.resume(other), model.backbone.resume(feature))


@every_backbone
def test_a_map_moves_the_logits(case):
    """Never a silent no-op: what the head learns must be able to change the prediction."""
    model, images = trained(case), case.images()
    with torch.no_grad():
        plain = model(images, maps=torch.zeros_like(random_maps(model, images))).logits
        moved = model(images, maps=random_maps(model, images)).logits
    spread = (plain - plain.mean(1, keepdim=True)).norm(dim=1)
    assert ((moved - plain).norm(dim=1) > 1e-3 * spread).all()


# 3. maps are always (B, K, h, w), and nothing is stored --------------------------------------------------------------


@every_backbone
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_one_output_type_and_one_map_shape(case, mode):
    model, images = copy.deepcopy(trained(case)).train(mode == "train"), case.images()
    output = model(images, compute_aux=True)
    assert type(output) is ar.RefinedOutput
    assert output.logits.shape == (3, CLASSES)
    assert output.maps.shape[:2] == (3, 1) and output.maps.ndim == 4 and output.maps.dtype == torch.float32
    assert output.maps.min() >= 0 and output.maps.max() <= 1 and output.maps.std() > 0
    assert output.aux_logits["attention"].shape == (3, CLASSES)
    assert output.losses == {} and output.loss is None and output.feature is None


def contents(model: torch.nn.Module) -> dict:
    """All a module holds: attributes and hooks by identity, tensors by value."""
    held = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            held[name, key] = sorted(value) if isinstance(value, (dict, set)) and key.startswith("_") else id(value)
    return held


@every_backbone
def test_nothing_is_stored_between_calls(case):
    model, images = trained(case), case.images()
    with torch.no_grad():
        model(images)  # a backbone may make its own buffers at its first call
    before, state = contents(model), {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        model(images, labels=torch.zeros(3, dtype=torch.long))
        model(images, maps=random_maps(model, images))
        model.explain(images)
    assert contents(model) == before
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@every_backbone
def test_a_failed_call_leaves_nothing_behind(case):
    model, images = trained(case), case.images()
    before = contents(model)
    with pytest.raises(ValueError, match=r"maps must be \(batch, 1, h, w\)"):
        model(images, maps=torch.zeros(2, 1, 2, 2))
    site = model.backbone.net.get_submodule(model.backbone.site.name)
    handle = site.register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(images)
    handle.remove()
    assert contents(model) == before


# 4. save, load: bit-equal in another process -------------------------------------------------------------------------

ELSEWHERE = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
import attention_refine as ar

torch.set_num_threads(1)
root = Path(sys.argv[1])
for folder in sorted(path for path in root.iterdir() if path.is_dir()):
    model = ar.load(folder)
    assert not model.training
    with torch.no_grad():
        output = model(load_file(root / f"{folder.name}.images.safetensors")["images"], compute_aux=True)
    aux = {f"aux.{name}": value for name, value in output.aux_logits.items()}
    save_file({"logits": output.logits, "maps": output.maps, **aux}, root / f"{folder.name}.out.safetensors")
"""


@pytest.fixture(scope="module")
def loaded_elsewhere(tmp_path_factory):
    """Every trained model saved here, loaded and run in one other process."""
    root = tmp_path_factory.mktemp("models")
    for case in CASES:
        trained(case).save_pretrained(root / case.name)
        save_file({"images": case.images()}, root / f"{case.name}.images.safetensors")
    run = subprocess.run([sys.executable, "-c", ELSEWHERE, str(root)], capture_output=True, text=True, cwd=root)
    assert run.returncode == 0, run.stderr
    return root


@every_backbone
def test_saved_and_loaded_in_another_process_is_bit_equal(case, loaded_elsewhere):
    found = load_file(loaded_elsewhere / f"{case.name}.out.safetensors")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        output = trained(case)(case.images(), compute_aux=True)
    torch.set_num_threads(threads)
    assert torch.equal(found["logits"], output.logits)
    assert torch.equal(found["maps"], output.maps)
    assert torch.equal(found["aux.attention"], output.aux_logits["attention"])


# 5. batched equals one by one ----------------------------------------------------------------------------------------


@every_backbone
@pytest.mark.parametrize("head", ["abn", None], ids=["abn", "headless"])
def test_batched_equals_one_by_one(case, head):
    # in float64, so that what is left is the batch and not the rounding of float32
    model = (copy.deepcopy(trained(case)) if head else case.wrap(None)).double()
    images = case.images(4).double() * torch.tensor([0.3, 1.0, 1.5, 3.0]).view(4, 1, 1, 1)
    labels = torch.tensor([0, 3, 1, 4])
    with torch.no_grad():
        batched = model(images, labels=labels)
        singles = [model(image[None], labels=label[None]) for image, label in zip(images, labels)]
    torch.testing.assert_close(batched.logits, torch.cat([one.logits for one in singles]), rtol=0, atol=1e-5)
    for name, value in batched.losses.items():
        mean = torch.stack([one.losses[name] for one in singles]).mean()
        torch.testing.assert_close(value, mean, rtol=0, atol=1e-5)
    if head:
        torch.testing.assert_close(batched.maps, torch.cat([one.maps for one in singles]), rtol=0, atol=1e-5)
        aux = torch.cat([one.aux_logits["attention"] for one in singles])
        torch.testing.assert_close(batched.aux_logits["attention"], aux, rtol=0, atol=1e-5)
    explained = model.explain(images, target=labels)
    one_by_one = torch.cat([model.explain(image[None], target=label[None]) for image, label in zip(images, labels)])
    assert explained.shape == (4, 1, case.size, case.size)
    torch.testing.assert_close(explained, one_by_one, rtol=0, atol=1e-5)


# 6. losses are finite on degenerate maps, and differentiable ---------------------------------------------------------


@every_backbone
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_losses_are_finite_on_degenerate_maps(case, value):
    model, images = copy.deepcopy(trained(case)), case.images()
    maps = torch.full_like(random_maps(model, images), value).requires_grad_()
    output = model(images, labels=torch.tensor([0, 1, 2]), maps=maps)
    assert set(output.losses) == {"task"} and output.loss.isfinite()
    output.loss.backward()
    assert maps.grad.isfinite().all() and maps.grad.abs().sum() > 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@every_backbone
def test_black_images_give_finite_losses_and_gradients(case):
    model = copy.deepcopy(trained(case)).train()
    output = model(torch.zeros(2, 3, case.size, case.size), labels=torch.tensor([0, 1]))
    output.loss.backward()
    assert output.loss.isfinite() and output.maps.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@every_backbone
def test_every_parameter_learns(case):
    model, images = copy.deepcopy(trained(case)).train(), case.images(6)
    plain = copy.deepcopy(model.backbone.net)
    labels = torch.arange(6) % CLASSES
    F.cross_entropy(logits_of(plain(images)), labels).backward()
    output = model(images, labels=labels)
    assert set(output.losses) == {"task", "attention"}
    torch.testing.assert_close(output.loss, output.losses["task"] + output.losses["attention"])
    output.loss.backward()
    learning = dict(plain.named_parameters())
    for name, parameter in model.backbone.net.named_parameters():
        if learning[name].grad is not None and learning[name].grad.abs().sum() > 1e-6:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    for name, parameter in model.head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if not name.startswith("stage."):  # a copied stage has weights that no loss can feel, an attention's key bias
            assert parameter.grad.abs().sum() > 0, name


@every_backbone
def test_mixed_precision_trains_with_float32_maps(case):
    model = copy.deepcopy(trained(case)).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(case.images(4), labels=torch.tensor([0, 1, 2, 3]))
    output.loss.backward()
    assert output.maps.dtype == torch.float32 and output.loss.dtype == torch.float32 and output.loss.isfinite()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():  # a zero map is the plain backbone here too
        zero = model.eval()(case.images(4), maps=torch.zeros_like(output.maps)).logits
        assert torch.equal(zero, logits_of(model.backbone.net(case.images(4))))
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


# 8. unsupported is said at wrap time ---------------------------------------------------------------------------------

REFUSED = [
    ("resnet18", dict(site="layer9"), ["'layer9'", "not a module", "try 'layer3'"]),
    ("resnet18", dict(site="layer3.0.conv1"), ["'layer3.0.conv1'", "goes past it", "site='auto'"]),
    ("resnet18", dict(site="fc"), ["'fc'", "not a spatial grid", "'layer4'"]),
    ("resnet18", dict(mechanism="attention", site="layer3"), ["'layer3'", "attention", "site='auto'"]),
    ("resnet18", dict(branch="twin", site="layer4"), ["branch='twin'", "'layer4'", "branch='light'"]),
    ("convnext", dict(branch="twin"), ["branch='twin'", "branch='light'"]),
    ("convnext", dict(site="stages.2"), ["'stages.2'", "normalisation undoes it", "site='auto'"]),
    ("vit-token", dict(mechanism="scale", site="blocks.5"), ["'blocks.5'", "class token ignores it", "pool='avg'"]),
]


@pytest.mark.parametrize("name, options, said", REFUSED, ids=lambda value: "" if isinstance(value, list) else None)
def test_what_cannot_work_is_refused_at_wrap_time_with_the_remedy(name, options, said):
    with pytest.raises(ValueError) as refusal:
        BY_NAME[name].wrap(ar.AttentionBranch(**options))
    message = str(refusal.value)
    assert all(part in message for part in said), message
    assert "\n" not in message


def test_a_network_without_a_classifier_is_refused():
    import timm

    with pytest.raises((TypeError, ValueError), match="no classifier.*num_labels"):
        ar.wrap(timm.create_model("test_resnet", features_only=True), "abn")


@every_backbone
def test_the_mechanism_is_the_one_that_suits_the_pooling(case):
    """A class token is looked at through attention; everything else is scaled."""
    pools_a_token = case.name in ("vit-token", "deit", "deit-distilled", "hf-vit")
    assert fresh(case).backbone.site.mechanism == ("attention" if pools_a_token else "scale")
