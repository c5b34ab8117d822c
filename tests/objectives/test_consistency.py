"""Attention consistency against a float64 oracle of its equations, and the laws its options promise."""

from __future__ import annotations

import copy
import functools

import consistency_oracle as oracle
import pytest
import timm
import torch
import torchvision
from cases import BY_NAME, CLASSES, lively
from torch import nn

import attention_refine as ar

# networks, small, and where Grad-CAM reads them
SITES = {
    "resnet": "layer4",
    "inception": "Mixed_7c",  # every activation is a function
    "convnext": "stages",
    "vit": "blocks.4",  # the input of the last of six blocks
    "r3d": "layer4",
}
SIZES = {"resnet": (96, 96), "inception": (139, 139), "convnext": (96, 96), "vit": (64, 64), "r3d": (8, 48, 48)}
MATCHINGS = ["mask", "cam_mask", "upsampling", "pooling"]
every_network = pytest.mark.parametrize("name", SITES)


def slim(net: nn.Module, by: int) -> nn.Module:
    """The network with that many times fewer channels."""
    for name, module in list(net.named_modules()):
        parent, leaf = net.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        if isinstance(module, nn.Linear):
            setattr(parent, leaf, nn.Linear(module.in_features // by, module.out_features))
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            setattr(parent, leaf, type(module)(module.num_features // by))
        elif isinstance(module, nn.modules.conv._ConvNd):
            kind = nn.Conv3d if isinstance(module, nn.Conv3d) else nn.Conv2d
            options = dict(stride=module.stride, padding=module.padding, bias=module.bias is not None)
            first = 3 if module.in_channels == 3 else module.in_channels // by
            setattr(parent, leaf, kind(first, module.out_channels // by, module.kernel_size, **options))
    return net


def build(name: str) -> nn.Module:
    if name == "resnet":
        return timm.create_model("resnet18", channels=(8, 12, 16, 24), num_classes=CLASSES)
    if name == "inception":
        net = torchvision.models.Inception3(CLASSES, aux_logits=False, init_weights=False)
        return slim(net, 16)
    if name == "r3d":
        return slim(torchvision.models.video.r3d_18(num_classes=CLASSES), 16)
    options = {"img_size": 64} if name == "vit" else {"act_layer": "gelu"}  # test_convnext has an approximate one
    return timm.create_model(f"test_{name}", num_classes=CLASSES, **options)


def images(name: str = "resnet", count: int = 2) -> torch.Tensor:
    """Noise on patches of colour, float64."""
    generator = torch.Generator().manual_seed(6)
    size = SIZES[name]
    patches = torch.randn(count, 3, *[4] * len(size), generator=generator, dtype=torch.float64)
    noise = torch.randn(count, 3, *size, generator=generator, dtype=torch.float64)
    return nn.functional.interpolate(patches, size) + 0.5 * noise


@functools.cache
def base(name: str) -> ar.RefinedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = lively(build(name), images(name, 6).float())
        return ar.wrap(net, preprocessing={"input_size": [3, *SIZES[name]]}).double().eval()


def wrap(name: str = "resnet", teacher=None, **options) -> ar.RefinedModel:
    model = copy.deepcopy(base(name))
    model.add_objective(ar.AttentionConsistency(teacher, **{"detach_mask": False, **options}))
    return model


def losses(model: ar.RefinedModel, pixels: torch.Tensor, labels: torch.Tensor | None = None):
    output = model(pixels, labels=labels, compute_losses=True)
    return output.losses["consistency"], output.measures


def gradients(loss: torch.Tensor, model: nn.Module, retain: bool = False) -> dict[str, torch.Tensor | None]:
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, retain_graph=retain)
    return dict(zip(parameters, found))


def same_gradients(found, expected, rtol: float = 1e-6) -> None:
    """Every parameter's, in units of the largest of all."""
    largest = max(float(g.abs().max()) for g in expected.values() if g is not None)
    assert largest > 0
    felt = 0
    for key, theirs in expected.items():
        mine = found[key] if found[key] is not None else torch.zeros(1, dtype=torch.float64)
        theirs = theirs if theirs is not None else torch.zeros_like(mine)
        assert (mine - theirs).abs().max() <= rtol * largest, key
        felt += bool(theirs.abs().max() > 1e-4 * largest)
    assert felt > len(expected) / 3


def expected_of(model, name: str, pixels, compare, classes=None) -> dict:
    """The loss of each correlation, and its gradients, summed image by image."""
    net = model.backbone.net
    totals = {}
    for i, x in enumerate(pixels):
        a, b = compare(net, SITES[name], x, oracle.top(net, x) if classes is None else classes[i])
        for kind, h in oracle.CORRELATIONS.items():
            totals[kind] = totals.get(kind, 0.0) - h(a, b) / len(pixels)
    return {kind: (loss.detach(), gradients(loss, model, retain=True)) for kind, loss in totals.items()}


@every_network
@pytest.mark.parametrize("matching", MATCHINGS)
def test_loss_and_gradients_are_the_oracle_s_for_every_correlation(name, matching):
    pixels = images(name)
    expected = expected_of(base(name), name, pixels, lambda *where: oracle.both(*where, matching))
    for kind, (loss, slopes) in expected.items():
        model = wrap(name, matching=matching, correlation=kind)
        found, measures = losses(model, pixels)
        torch.testing.assert_close(found, loss, rtol=0, atol=1e-10)
        same_gradients(gradients(found, model), slopes)
        assert measures["consistency_degenerate"] == 0 and measures["consistency_exact"] == 1


@pytest.mark.parametrize("name", ["resnet", "vit"])
@pytest.mark.parametrize("matching", ["mask", "cam_mask"])
def test_fast_has_the_exact_value_and_the_gradient_of_a_constant_mask(name, matching, monkeypatch):
    pixels = images(name)
    exact, _ = losses(wrap(name, matching=matching), pixels)
    model = wrap(name, matching=matching, detach_mask=True)
    found, measures = losses(model, pixels)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)
    assert measures["consistency_exact"] == 0
    through = oracle.mask_of
    monkeypatch.setattr(oracle, "mask_of", lambda *a, **k: through(*a, **k).detach())
    (_, slopes) = expected_of(base(name), name, pixels, lambda *where: oracle.both(*where, matching))["pearson"]
    same_gradients(gradients(found, model), slopes)


@pytest.mark.parametrize(
    "options",
    [dict(mask_norm="variance"), dict(mask_norm="code", mask_slope=40.0, mask_offset=0.2), dict(pool="avg")],
    ids=str,
)
def test_mask_norms_and_average_pooling_against_the_oracle(options):
    matching = "pooling" if "pool" in options else "mask"
    theirs = {key.replace("mask_", ""): value for key, value in options.items()}
    pixels = images()
    compare = functools.partial(oracle.both, matching=matching, **theirs)
    loss, slopes = expected_of(base("resnet"), "resnet", pixels, compare)["pearson"]
    model = wrap(matching=matching, **options)
    found, _ = losses(model, pixels)
    torch.testing.assert_close(found, loss, rtol=0, atol=1e-10)
    same_gradients(gradients(found, model), slopes)


def test_classes_are_the_predicted_the_true_or_the_first_few():
    pixels, net = images(), base("resnet").backbone.net
    order = net(pixels).argsort(1, descending=True)

    def h(image: int, c: int):
        return oracle.pearson(*oracle.both(net, "layer4", pixels[image], int(c), "mask"))

    def check(options, labels, expected):
        model = wrap(**options)
        assert model.objectives["consistency"].needs_labels is (options["classes"] == "labels")
        found, _ = losses(model, pixels, labels)
        torch.testing.assert_close(found, -expected, rtol=0, atol=1e-7)  # a class's share is float32

    top = (h(0, order[0, 0]) + h(1, order[1, 0])) / 2
    check(dict(classes="top1"), None, top)
    check(dict(classes="top1"), torch.tensor([3, 3]), top)
    check(dict(classes="labels"), torch.tensor([3, 1]), (h(0, 3) + h(1, 1)) / 2)
    several = torch.tensor([[1.0, 0, 1, 0, 1], [0, 0, 0, 0, 0]])
    check(dict(classes="labels"), several, (h(0, 0) + h(0, 2) + h(0, 4)) / 3 / 2)  # the second has no class
    check(dict(classes="topk", topk=2), None, sum(h(i, c) for i in (0, 1) for c in order[i, :2]) / 4)


def test_weights_of_each_frame_or_of_the_whole_clip(monkeypatch):
    """Before layers that mix frames; where mean pooling follows, they are the same."""
    pixels = images("r3d")
    monkeypatch.setitem(SITES, "r3d", "layer3")
    for weights, dims in (("per_frame", (-2, -1)), ("global", (-3, -2, -1))):
        monkeypatch.setattr(oracle, "LOCATIONS", dims)
        compare = functools.partial(oracle.both, matching="mask")
        loss, slopes = expected_of(base("r3d"), "r3d", pixels, compare)["pearson"]
        model = wrap("r3d", site="layer3", temporal_weights=weights)
        found, _ = losses(model, pixels)
        torch.testing.assert_close(found, loss, rtol=0, atol=1e-10)
        same_gradients(gradients(found, model), slopes)


def own_slope(model: ar.RefinedModel, pixels: torch.Tensor) -> None:
    """A step along a direction changes the loss as the gradient says: it is right to its last term."""
    parameters = [p for p in model.parameters() if p.ndim > 1]
    loss, _ = losses(model, pixels)
    slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(4)
    moves = [torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.std() for p in parameters]
    slope = sum((g * m).sum() for g, m in zip(slopes, moves) if g is not None)
    step, ends = 3e-8, []  # so small that it meets no kink of the absolute values
    for sign in (1, -1):
        with torch.no_grad():
            for p, m in zip(parameters, moves):
                p += sign * step * m
            ends.append(losses(model, pixels)[0])
            for p, m in zip(parameters, moves):
                p -= sign * step * m
    assert abs(slope) > 1e-3
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        dict(second="integrated_gradients"),
        dict(second="integrated_gradients", matching="upsampling", correlation="cross_correlation"),
        dict(second="smooth_grad", second_options={"samples": 3}),
        dict(first="attention_rollout", second="gradient"),
        dict(first="class_attention", second="input_x_gradient"),
        dict(first="eigen_cam", second="gradient"),
        dict(first="gradient_rollout", second="gradient", correlation="ssim"),
        dict(first="gradient_rollout", second="gradient", matching="cam_mask"),
        dict(first="integrated_gradients", second="grad_cam", matching="upsampling"),
        dict(squash=True),
        dict(compare="views"),
        dict(compare="layers", layers=("blocks.2", "blocks.4")),
    ],
    ids=lambda options: "-".join(str(v) for v in options.values()),
)
def test_the_gradient_of_every_other_form_is_its_loss_own_slope(options):
    own_slope(wrap("vit", **options), images("vit"))


# laws ----------------------------------------------------------------------------------------------------------------


def test_a_mask_of_ones_agrees_entirely():
    found, _ = losses(wrap(mask_norm="code", mask_slope=1e9, mask_offset=-1e3), images())
    torch.testing.assert_close(found, torch.tensor(-1.0, dtype=torch.float64))


@pytest.mark.parametrize("matching", MATCHINGS)
def test_the_scale_of_the_logits_does_not_matter(matching):
    model, pixels = wrap(matching=matching), images()
    before, _ = losses(model, pixels)
    with torch.no_grad():
        model.backbone.net.fc.weight *= 3.0
    after, _ = losses(model, pixels)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["pearson", "cross_correlation", "ssim"])
def test_correlations_are_the_metrics_and_know_no_scale(kind):
    from attention_refine.objectives.consistency.correlation import correlation

    a, b = torch.rand(2, 3, 1, 7, 5, dtype=torch.float64)
    h, constant = correlation(a, b, kind)
    torch.testing.assert_close(h.float(), getattr(ar.metrics.agreement, kind)(a, b), rtol=0, atol=1e-6)
    torch.testing.assert_close(h, correlation(b, a, kind)[0])
    torch.testing.assert_close(h, correlation(2.5 * a - 4, 0.1 * b + 7, kind)[0], rtol=0, atol=1e-6)
    assert not constant.any()
    if kind != "cross_correlation":
        torch.testing.assert_close(correlation(a, a, kind)[0], torch.ones(3, dtype=torch.float64))
    clips = torch.stack([a, b], 3).transpose(2, 3)  # (3, 1, 2, 7, 5)
    assert correlation(clips, clips.flip(0), kind)[0].shape == (3,)


@pytest.mark.parametrize("kind", ["pearson", "cross_correlation", "ssim"])
@pytest.mark.parametrize("value", [0.0, 0.7])
@pytest.mark.parametrize("squash", [False, True])
def test_a_constant_map_says_nothing(kind, value, squash):
    from attention_refine.objectives.consistency.correlation import correlation

    a, b = torch.rand(2, 2, 1, 4, 4)
    a[1] = value
    a.requires_grad_(), b.requires_grad_()
    h, constant = correlation(a, b, kind, squash)
    assert constant.tolist() == [False, True] and h[1] == 0 and h[0] != 0
    h.sum().backward()
    assert a.grad.isfinite().all() and a.grad[0].any() and not a.grad[1].any() and not b.grad[1].any()


def bias_free() -> ar.RefinedModel:
    """A network that sees nothing in a black image."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.ReLU()
    )
    net.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(8, CLASSES))
    torch.manual_seed(1)
    return ar.wrap(lively(net, torch.randn(4, 3, 32, 32)), preprocessing={"input_size": [3, 32, 32]}).double()


@pytest.mark.parametrize("matching", MATCHINGS)
@pytest.mark.parametrize("kind", ["pearson", "cross_correlation", "ssim"])
def test_degenerate_images_add_nothing_and_are_counted(matching, kind):
    model, x = bias_free(), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    model.add_objective(ar.AttentionConsistency(matching=matching, correlation=kind, detach_mask=False))
    alone, measures = losses(model, x)
    slopes = gradients(alone, model)
    assert measures["consistency_degenerate"] == 0 and alone != 0
    beside, measures = losses(model, torch.cat([torch.zeros_like(x), x]))
    assert measures["consistency_degenerate"] == 0.5
    torch.testing.assert_close(beside, alone / 2)
    for key, slope in gradients(beside, model).items():
        if slopes[key] is not None:
            torch.testing.assert_close(slope, slopes[key] / 2)
    with torch.no_grad():
        model.backbone.net[-1].weight.zero_()  # a dead classifier
    dead, measures = losses(model, x)
    dead.backward()
    assert dead == 0 and measures["consistency_degenerate"] == 1
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


LAYOUTS = ["resnet18", "swin", "vit-token"]  # NCHW, NHWC, tokens
SEVERAL = torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 0, 0, 1.0], [0, 0, 0, 0, 0]])


@functools.cache
def with_head(name: str, head: str | None) -> ar.RefinedModel:
    made = head and ar.AttentionBranch(fade_in_steps=0, map_init="normal")
    return BY_NAME[name].wrap(made).double()


def case(name: str, head: str | None = None, **options) -> tuple[ar.RefinedModel, torch.Tensor]:
    model = copy.deepcopy(with_head(name, head))
    model.add_objective(ar.AttentionConsistency(**{"detach_mask": False, **options}))
    return model, BY_NAME[name].images(3).double()


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("head", ["abn", None], ids=["abn", "headless"])
@pytest.mark.parametrize(
    "options",
    [dict(), dict(classes="labels"), dict(classes="topk", matching="cam_mask"), dict(compare="views")],
    ids=["mask", "labels", "topk", "views"],
)
def test_batched_equals_one_by_one(name, head, options):
    model, pixels = case(name, head, **options)
    batched = losses(model, pixels, SEVERAL)[0]
    singles = sum(losses(model, x[None], y[None])[0] for x, y in zip(pixels, SEVERAL)) / 3
    torch.testing.assert_close(batched, singles, rtol=0, atol=1e-5)


def test_the_head_s_own_map_is_compared_to_first_order():
    model, pixels = case("resnet18", "abn", first="head", detach_mask=True)
    found, _ = losses(model, pixels)
    found.backward()
    assert model.head.to_map[0].weight.grad.abs().sum() > 0
    maps = model(pixels).maps
    guide = ar.maps.guided_backprop(model, pixels)
    mask = torch.stack([oracle.mask_of(g) for g in guide])
    again = model(pixels * mask).maps
    h = sum(oracle.pearson(a.double(), b.double()) for a, b in zip(maps, again)) / 3
    torch.testing.assert_close(found, -h, rtol=0, atol=1e-5)  # the head's map is float32


def test_nothing_is_left_behind_in_training():
    model, pixels = case("resnet18", "abn")
    model.backbone.net.drop_rate = 0.5
    model.train()
    model.backbone.net.bn1.eval()  # a flag of its own
    objective, output = model.objectives["consistency"], model(pixels, compute_losses=False)
    flags = [m.training for m in model.modules()]
    wanted = [p.requires_grad for p in model.parameters()]
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    for batch, raises in (({"pixel_values": pixels, "labels": None}, False), ({"pixel_values": pixels[:, :2]}, True)):
        if raises:
            with pytest.raises((RuntimeError, KeyError)):
                objective(model, batch | {"labels": None}, output)
        else:
            objective(model, batch, output)["consistency"].detach()
        assert flags == [m.training for m in model.modules()]
        assert wanted == [p.requires_grad for p in model.parameters()]
        assert all(p.grad is None for p in model.parameters()) and pixels.grad is None and not pixels.requires_grad
        assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
        assert torch.equal(generator, torch.get_rng_state())


def test_training_and_evaluation_agree_whatever_dropout_and_batch_statistics():
    model, pixels = case("resnet18")
    model.backbone.net.drop_rate = 0.5
    evaluated = losses(model.eval(), pixels)[0]
    assert torch.equal(losses(model.train(), pixels)[0], evaluated)
    with torch.no_grad():
        assert torch.allclose(losses(model.eval(), pixels)[0], evaluated, rtol=0, atol=1e-6)  # no graph is kept here


def test_a_label_free_step_makes_no_pass_but_its_own():
    model, pixels = case("resnet18")
    statistics = model.backbone.net.bn1.running_mean.clone()
    expected = model(pixels).logits
    calls = []
    model.backbone.net.layer1[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    output = model.train()(pixels)
    assert len(calls) == 2 and list(output.losses) == ["consistency"]
    torch.testing.assert_close(output.logits, expected)
    assert torch.equal(statistics, model.backbone.net.bn1.running_mean)
    calls.clear()
    output = model(pixels, labels=torch.tensor([0, 1, 2]))
    assert len(calls) == 3 and list(output.losses) == ["task", "consistency"]


def test_labels_are_needed_only_where_they_are_asked_for():
    model, pixels = case("resnet18", classes="labels")
    assert model.train()(pixels).losses == {}
    assert case("resnet18")[0](pixels).losses == {}  # in evaluation, nothing is computed unasked


def test_full_precision_under_autocast():
    model, pixels = case("resnet18")
    model, pixels = model.float(), pixels.float()
    expected = losses(model, pixels)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses(model, pixels)[0]
    assert torch.equal(found, expected)


def test_gradient_checkpointing_changes_nothing():
    model, pixels = case("vit-token")
    expected = gradients(losses(model, pixels)[0], model)
    model.backbone.net.set_grad_checkpointing()
    same_gradients(gradients(losses(model.train(), pixels)[0], model), expected)


def test_attention_is_in_the_math_kernel_only_where_second_order_needs_it():
    def fast_kernels(**options) -> list[bool]:
        model, pixels = case("vit-token", **options)
        seen = []
        for block in model.backbone.net.blocks:
            block.register_forward_hook(lambda *_: seen.append(torch.backends.cuda.flash_sdp_enabled()))
        model.train()(pixels).loss.backward()
        assert torch.backends.cuda.flash_sdp_enabled()
        return seen[-12:]

    assert fast_kernels() == [False] * 6 + [True] * 5 + [False]  # the guided map; then Grad-CAM of the masked image
    assert fast_kernels(detach_mask=True) == ([True] * 5 + [False]) * 2


class _Once(torch.autograd.Function):
    """A function without a second derivative."""

    @staticmethod
    def forward(ctx, x):
        return x * 1.0

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * 1.0


def test_fast_is_the_default_wherever_there_is_a_mask():
    assert ar.AttentionConsistency().config.detach_mask is True
    assert ar.AttentionConsistency(matching="cam_mask").config.detach_mask is True
    assert ar.AttentionConsistency(matching="pooling").config.detach_mask is False
    assert ar.AttentionConsistency(compare="views").config.detach_mask is False
    assert ar.AttentionConsistency(detach_mask=False).config.detach_mask is False


def test_fast_differentiates_nothing_twice_below_a_pooled_site():
    for fast in (True, False):
        model, pixels = case("resnet18", detach_mask=fast)
        model.backbone.net.layer2.register_forward_hook(lambda module, args, output: _Once.apply(output))
        loss = losses(model, pixels)[0]
        if fast:
            loss.backward()
            continue
        with pytest.raises(RuntimeError, match="differentiate twice"):
            loss.backward()


def test_it_runs_inside_distributed_data_parallel(tmp_path):
    import torch.distributed as dist

    model, pixels = case("resnet18")
    expected = gradients(losses(model, pixels)[0], model)
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(model.train(), find_unused_parameters=True)
        for _ in range(2):
            parallel(pixels).loss.backward()
    finally:
        dist.destroy_process_group()
    found = {key: p.grad / 2 if p.grad is not None else None for key, p in model.named_parameters()}
    same_gradients(found, expected)


# its relatives -------------------------------------------------------------------------------------------------------


def symmetric() -> ar.RefinedModel:
    """A network that a mirror does not confuse: every kernel is its own mirror image."""
    model = bias_free()
    with torch.no_grad():
        for conv in model.backbone.net[0], model.backbone.net[2]:
            conv.weight += conv.weight.flip(3).clone()
            conv.padding, conv.stride = (1, 1), (1, 1)
    return model


def test_a_mirror_image_has_the_mirrored_map():
    model, pixels = symmetric(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model.add_objective(ar.AttentionConsistency(compare="views", view_flip=1.0, view_scale=(1, 1)))
    torch.testing.assert_close(losses(model, pixels)[0], torch.tensor(-1.0, dtype=torch.float64))
    model, pixels = wrap(compare="views", view_flip=1.0, view_scale=(1, 1)), images()
    net, h = model.backbone.net, 0.0
    for x in pixels:
        c = oracle.top(net, x)
        a, b = (oracle.grad_cam(net, "layer4", view, c) for view in (x, x.flip(2)))
        h = h + oracle.pearson(a, b.flip(1)) / 2
    torch.testing.assert_close(losses(model, pixels)[0], -h, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [(0.5, 0.5), (0.8, 1.0), (1.5, 1.5)], ids=str)
def test_what_a_view_shows_is_laid_back_where_it_was(scale):
    from attention_refine.objectives.consistency.siblings import _back, _views, seen_through

    config = ar.AttentionConsistency(compare="views", view_scale=scale).config
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 48), indexing="ij")
    image = torch.stack([x, y])[None].expand(6, -1, -1, -1)
    view = _views(6, config, at_random=True)
    back = seen_through(_back(view), seen_through(view, image))
    ones = torch.ones_like(image)
    inside = seen_through(_back(view), seen_through(view, ones)) > 0.999
    assert inside.float().mean() > 0.7 * min(1, scale[0] ** 2)
    torch.testing.assert_close(back[inside], image[inside], rtol=0, atol=0.02)
    assert len({tuple(v.flatten().tolist()) for v in view}) == 6
    fixed = _views(6, config, at_random=False)
    assert torch.equal(fixed, fixed[:1].expand(6, 2, 3)) and torch.equal(fixed, _views(6, config, at_random=False))


def test_all_frames_of_a_clip_have_one_view():
    from attention_refine.objectives.consistency.siblings import _views, seen_through

    config = ar.AttentionConsistency(compare="views").config
    view, clip = _views(2, config, at_random=True), torch.randn(2, 3, 4, 16, 16)
    frames = torch.stack([seen_through(view, frame) for frame in clip.unbind(2)], 2)
    torch.testing.assert_close(seen_through(view, clip), frames)


def test_two_layers():
    model, pixels = wrap(compare="layers", layers=("layer3", "layer4")), images()
    net, h = model.backbone.net, 0.0
    for x in pixels:
        a, b = (oracle.grad_cam(net, site, x, oracle.top(net, x)) for site in ("layer3", "layer4"))
        h = h + oracle.pearson(a, oracle.upsampled(b, a.shape)) / 2
    found, _ = losses(model, pixels)
    torch.testing.assert_close(found, -h, rtol=0, atol=1e-6)
    same_gradients(gradients(found, model), gradients(-h, model))


def test_two_models(tmp_path):
    pixels, other = images(), copy.deepcopy(base("resnet"))
    torch.testing.assert_close(
        losses(wrap(compare="models", teacher=other), pixels)[0], torch.tensor(-1.0, dtype=torch.float64)
    )
    with torch.no_grad():
        other.backbone.net.layer1[0].conv1.weight.mul_(-1)
    model, h = wrap(compare="models", teacher=other), 0.0
    for x in pixels:
        c = oracle.top(model.backbone.net, x)
        a, b = (oracle.grad_cam(m.backbone.net, "layer4", x, c) for m in (model, other))
        h = h + oracle.pearson(a, b.detach()) / 2
    found, _ = losses(model, pixels)
    torch.testing.assert_close(found, -h, rtol=0, atol=1e-6)
    same_gradients(gradients(found, model), gradients(-h, model))
    assert all(p.grad is None for p in other.parameters())
    assert not any(key.startswith("objectives") for key in model.state_dict())


# saved, loaded, refused ----------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same(tmp_path):
    options = dict(compare="views", view_scale=(0.5, 0.9), first_options={"relu": True}, weight=0.2)
    for number, given in enumerate((options, dict(second="integrated_gradients", second_options={"steps": 3}))):
        model, pixels = case("resnet18", **given)
        model, pixels = model.float(), pixels.float()
        model.save_pretrained(tmp_path / str(number))
        loaded = ar.load(tmp_path / str(number))
        assert loaded.objectives["consistency"].config == model.objectives["consistency"].config
        assert torch.equal(losses(loaded, pixels)[0], losses(model, pixels)[0])


def test_a_second_model_is_found_where_it_is_saved_and_asked_for_where_it_is_not(tmp_path):
    other, pixels = BY_NAME["resnet18"].wrap(None), BY_NAME["resnet18"].images(2)
    other.save_pretrained(tmp_path / "teacher")
    model = BY_NAME["resnet18"].wrap(None)
    model.add_objective(ar.AttentionConsistency(str(tmp_path / "teacher"), compare="models"))
    model.save_pretrained(tmp_path / "student")
    torch.testing.assert_close(losses(ar.load(tmp_path / "student"), pixels)[0], torch.tensor(-1.0))
    model.add_objective(ar.AttentionConsistency(other, compare="models"))
    model.save_pretrained(tmp_path / "orphan")
    orphan = ar.load(tmp_path / "orphan")
    orphan(pixels)
    with pytest.raises(ValueError, match="saved without its teacher, which was an object"):
        orphan.train()(pixels)


@pytest.mark.parametrize(
    "options, said",
    [
        (dict(compare="images"), "compare='images' is not one of 'maps', 'views'"),
        (dict(first="gradcam"), "first='gradcam' is not one of 'head', 'attention_rollout'"),
        (dict(second="rise"), "second='rise' is not one of"),
        (
            dict(second_options={"step": 5}),
            "second_options has 'step', which is no option of 'guided_backprop'; it takes",
        ),
        (dict(matching="masks"), "matching='masks' is not one of 'mask', 'cam_mask', 'upsampling', 'pooling'"),
        (dict(pool="mean"), "pool='mean' is not one of 'max', 'avg'"),
        (dict(correlation="spearman"), "correlation='spearman' is not one of"),
        (dict(mask_norm="minmax"), "mask_norm='minmax' is not one of 'std', 'variance', 'code'"),
        (dict(mask_slope=0.0), "mask_slope must be above 0"),
        (dict(classes="gt"), "classes='gt' is not one of 'top1', 'topk', 'labels'"),
        (dict(topk=0), "topk must be at least 1"),
        (dict(temporal_weights="frame"), "temporal_weights='frame' is not one of 'per_frame', 'global'"),
        (dict(detach_mask=True, matching="pooling"), "detach_mask=True needs a mask"),
        (dict(view_flip=1.5), "view_flip is a probability"),
        (dict(view_scale=(1.0, 0.5)), "view_scale must be two rising numbers"),
        (dict(compare="layers"), "layers=None with compare='layers'"),
        (dict(layers=("a", "b")), "with compare='maps'"),
        (
            dict(compare="layers", layers=("a", "b"), first="gradient"),
            "compare='layers' needs a map that is read at a layer",
        ),
        (dict(compare="models"), "teacher=None with compare='models'"),
        (dict(teacher="here"), "teacher='here' with compare='maps'"),
        (dict(weight=-1.0), "weight must be 0 or more"),
        (dict(strategy="finetune"), "has no option 'strategy'"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        ar.AttentionConsistency(**options)


def test_options_that_do_not_fit_the_model_are_refused():
    with pytest.raises(ValueError, match="the map 'head' needs a head"):
        wrap(first="head")
    with pytest.raises(ValueError, match="site 'layer9' is not a module"):
        wrap(site="layer9")
    with pytest.raises(ValueError, match="site 'stage1' is not a module"):
        wrap(compare="layers", layers=("stage1", "layer4"))
    with pytest.raises(ValueError, match="no activation of .* was guided"):
        net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        ar.wrap(net.append(nn.Linear(8, 3)), objectives=["consistency"], preprocessing={"input_size": [3, 32, 32]})


def test_beside_a_compiled_model_it_runs_uncompiled():
    """A compiled graph cannot be differentiated twice."""
    torch.manual_seed(0)
    model = ar.wrap(
        timm.create_model("test_resnet", num_classes=3), objectives=[ar.AttentionConsistency(detach_mask=False)]
    ).eval()
    pixels, labels = torch.randn(2, 3, 64, 64), torch.tensor([0, 1])
    found = []
    for run in (model, torch.compile(model, backend="aot_eager")):
        model.zero_grad()
        output = run(pixels, labels=labels)
        output.loss.backward()
        found.append((output.losses["consistency"], [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (loss, gradients), (other, others) = found
    assert loss < 0 and len(gradients) == len(others) > 10
    torch.testing.assert_close(other, loss)
    for gradient, compiled in zip(gradients, others):
        torch.testing.assert_close(compiled, gradient, rtol=1e-4, atol=1e-6)
