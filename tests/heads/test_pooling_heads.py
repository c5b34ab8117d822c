"""The laws of the design for heads that pool and classify by themselves, over several backbones."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import cache

import pytest
import torch
from cases import BY_NAME, CLASSES, POOLING_HEADS
from safetensors.torch import load_file, save_file

import attention_refine as ar
from attention_refine.backbones import logits_of

ROWS = [(head, name) for head, (_, _, names) in POOLING_HEADS.items() for name in names]
every_row = pytest.mark.parametrize("head, name", ROWS, ids=["-".join(row) for row in ROWS])


def wrap(head: str, name: str, **options) -> ar.RefinedModel:
    kind, usual, _ = POOLING_HEADS[head]
    return BY_NAME[name].wrap(kind(**usual, **options))


@cache
def fresh(head: str, name: str) -> ar.RefinedModel:
    """As ``wrap`` returns it. Shared by tests: copy before changing."""
    return wrap(head, name)


@cache
def trained(head: str, name: str) -> ar.RefinedModel:
    """After three training steps, by which the prediction is the head's. Shared by tests: copy before changing."""
    case = BY_NAME[name]
    model = wrap(head, name, fade_in_steps=3).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(case.images(8), labels=torch.arange(8) % CLASSES).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@every_row
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_fresh_model_gives_the_logits_of_its_backbone(head, name, mode):
    case = BY_NAME[name]
    model, plain = copy.deepcopy(fresh(head, name)).train(mode == "train"), case.make().train(mode == "train")
    results = []
    for net in (model, plain):
        torch.manual_seed(1)
        with torch.no_grad():
            results.append(logits_of(net(case.images())))
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


@every_row
def test_one_output_type_ranked_maps_and_nothing_stored(head, name):
    model, images = trained(head, name), BY_NAME[name].images()
    before = {(key, inner): id(value) for key, m in model.named_modules() for inner, value in vars(m).items()}
    with torch.no_grad():
        output = model(images, labels=torch.tensor([0, 1, 2]))
    after = {(key, inner): id(value) for key, m in model.named_modules() for inner, value in vars(m).items()}
    assert after == before
    assert type(output) is ar.RefinedOutput and output.logits.shape == (3, CLASSES)
    assert output.maps.shape[:2] == (3, model.head.num_maps) and output.maps.dtype == torch.float32
    assert output.maps.min() >= 0 and output.maps.max() <= 1 and output.maps.std() > 0
    assert output.aux_logits == {} and set(output.losses) == {"task"}
    if head.startswith("brnpa"):
        assert output.map_scores.shape == (3, 3) and (output.map_scores >= 0).all()
    assert model.explain(images, method="model").shape == (3, model.head.num_maps, 64, 64)


@every_row
def test_a_given_map_moves_the_logits_and_comes_back(head, name):
    model, images = trained(head, name), BY_NAME[name].images()
    with torch.no_grad():
        grid = model(images).maps.shape[2:]
        maps = torch.rand(3, 1, *grid, generator=torch.Generator().manual_seed(3))
        flat, drawn = (model(images, maps=given) for given in (torch.full_like(maps, 0.5), maps))
    assert torch.equal(drawn.maps, maps) and drawn.map_scores is None
    spread = (flat.logits - flat.logits.mean(1, keepdim=True)).norm(dim=1)
    assert ((drawn.logits - flat.logits).norm(dim=1) > 1e-3 * spread).all()


@every_row
def test_batched_equals_one_by_one(head, name):
    model = copy.deepcopy(trained(head, name)).double()
    images = BY_NAME[name].images(4).double() * torch.tensor([0.3, 1.0, 1.5, 3.0]).view(4, 1, 1, 1)
    labels = torch.tensor([0, 3, 1, 4])
    with torch.no_grad():
        batched = model(images, labels=labels)
        singles = [model(image[None], labels=label[None]) for image, label in zip(images, labels)]
    torch.testing.assert_close(batched.logits, torch.cat([one.logits for one in singles]), rtol=0, atol=1e-5)
    torch.testing.assert_close(batched.maps, torch.cat([one.maps for one in singles]), rtol=0, atol=1e-5)
    mean = torch.stack([one.loss for one in singles]).mean()
    torch.testing.assert_close(batched.loss, mean, rtol=0, atol=1e-5)


@every_row
def test_losses_and_gradients_are_finite_on_degenerate_maps_and_images(head, name):
    model, case = copy.deepcopy(trained(head, name)), BY_NAME[name]
    grid = model(case.images()).maps.shape[2:]
    for value in (0.0, 0.5, 1.0):
        model.zero_grad()
        maps = torch.full((3, 1, *grid), value, requires_grad=True)
        loss = model(case.images(), labels=torch.tensor([0, 1, 2]), maps=maps).loss
        loss.backward()
        assert loss.isfinite() and maps.grad.isfinite().all() and maps.grad.abs().sum() > 0
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    output = model.train()(torch.zeros(2, 3, 64, 64), labels=torch.tensor([0, 1]))
    output.loss.backward()
    assert output.loss.isfinite() and output.maps.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@every_row
def test_every_parameter_before_the_classifier_learns(head, name):
    model, case = copy.deepcopy(trained(head, name)).train(), BY_NAME[name]
    model(case.images(6), labels=torch.arange(6) % CLASSES).loss.backward()
    site = model.backbone.net.get_submodule(model.backbone.site.name)
    for part in (model.head, site):
        for key, parameter in part.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    assert model.head.classifier.weight.grad.abs().sum() > 0
    assert next(model.backbone.net.parameters()).grad is not None


@every_row
def test_mixed_precision_trains_with_float32_maps(head, name):
    model, case = copy.deepcopy(trained(head, name)).train(), BY_NAME[name]
    with torch.autocast("cpu", torch.bfloat16):
        output = model(case.images(4), labels=torch.tensor([0, 1, 2, 3]))
    output.loss.backward()
    assert output.maps.dtype == torch.float32 and output.loss.dtype == torch.float32 and output.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    half = copy.deepcopy(trained(head, name)).to(torch.bfloat16)
    output = half(case.images().to(torch.bfloat16))
    assert output.logits.dtype == torch.bfloat16 and output.maps.dtype == torch.float32


@every_row
def test_several_labels_an_image(head, name):
    model, case = trained(head, name), BY_NAME[name]
    labels = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    with torch.no_grad():
        output = model(case.images(), labels=labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(output.logits, labels.float())
    torch.testing.assert_close(output.loss, expected)


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
    with torch.no_grad():
        output = model(load_file(root / f"{folder.name}.images.safetensors")["images"])
    save_file({"logits": output.logits, "maps": output.maps}, root / f"{folder.name}.out.safetensors")
"""


@pytest.fixture(scope="module")
def loaded_elsewhere(tmp_path_factory):
    """Every trained model saved here, loaded and run in one other process; one of them at twice its resolution."""
    root = tmp_path_factory.mktemp("models")
    for head, name in ROWS:
        trained(head, name).save_pretrained(root / f"{head}-{name}")
        save_file({"images": BY_NAME[name].images()}, root / f"{head}-{name}.images.safetensors")
    run = subprocess.run([sys.executable, "-c", ELSEWHERE, str(root)], capture_output=True, text=True, cwd=root)
    assert run.returncode == 0, run.stderr
    return root


@every_row
def test_saved_and_loaded_in_another_process_is_bit_equal(head, name, loaded_elsewhere):
    found = load_file(loaded_elsewhere / f"{head}-{name}.out.safetensors")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        output = trained(head, name)(BY_NAME[name].images())
    torch.set_num_threads(threads)
    assert torch.equal(found["logits"], output.logits) and torch.equal(found["maps"], output.maps)


@pytest.mark.parametrize("head", ["brnpa", "bilinear"])
@pytest.mark.parametrize("name", ["resnet18", "vit-token"])
def test_grad_cam_of_a_fresh_wrap_is_that_of_the_backbone(head, name):
    model, images = fresh(head, name), BY_NAME[name].images()
    found = ar.maps.grad_cam(model, images, target=1)
    torch.testing.assert_close(found, ar.maps.grad_cam(model.backbone.net, images, target=1), rtol=1e-4, atol=1e-5)


@every_row
def test_grad_cam_of_a_trained_model_goes_through_the_head(head, name):
    model, images = trained(head, name), BY_NAME[name].images()
    found = ar.maps.grad_cam(model, images, target=1, site=f"backbone.net.{model.backbone.site.name}")
    with torch.enable_grad():
        grid = model.backbone.features(images).grid.detach().requires_grad_()
        score = model.head.classify(model.head(grid)[0])[:, 1].sum()
        (gradient,) = torch.autograd.grad(score, grid)
    expected = (gradient.mean((2, 3), keepdim=True) * grid).sum(1, keepdim=True).detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["brnpa", "bilinear"])
@pytest.mark.parametrize("family, grid", [("VideoMAE", (2, 4, 4)), ("Timesformer", (4, 4, 4))])
def test_clips(head, family, grid, tmp_path):
    import transformers

    torch.manual_seed(0)
    sizes = dict(image_size=64, patch_size=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    config = getattr(transformers, f"{family}Config")(num_labels=CLASSES, num_frames=4, intermediate_size=64, **sizes)
    net = getattr(transformers, f"{family}ForVideoClassification")(config).eval()
    model, clips = ar.wrap(net, head), torch.randn(2, 3, 4, 64, 64)
    assert not model.training
    output = model(clips, labels=torch.tensor([0, 1]))
    torch.testing.assert_close(output.logits, model.backbone(clips), rtol=0, atol=1e-5)
    assert output.maps.shape == (2, model.head.num_maps, *grid)
    assert model.explain(clips, method="model").shape == (2, model.head.num_maps, 4, 64, 64)
    drawn = model(clips, maps=torch.rand(2, 1, *grid), labels=torch.tensor([0, 1]))
    drawn.loss.backward()
    assert model.head.classifier.weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    assert torch.equal(ar.load(tmp_path)(clips).maps, output.maps)


@pytest.mark.parametrize("head", ["brnpa", "bilinear"])
def test_mining_asks_the_head_what_is_left(head):
    """The second pass goes through the head's own pooling and classifier, and not through the backbone's."""
    case = BY_NAME["resnet18"]
    model = case.wrap(POOLING_HEADS[head][0](fade_in_steps=0), objectives=["mining"]).train()
    model.backbone.net.fc.register_forward_hook(lambda *_: 1 / 0)
    output = model(case.images(4), labels=torch.arange(4))
    output.loss.backward()
    assert output.losses["mining"].isfinite() and output.aux_logits["mined"].shape == (4, CLASSES)
    assert int(model.head.begun_steps) == 1  # the second pass does not count
