"""The model: its forward contract, what ``wrap`` accepts, and heads and objectives of a user's own."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import asdict, dataclass

import pytest
import torch
import torch.nn.functional as F
from cases import BY_NAME, CLASSES
from torch import nn

import attention_refine as ar
from attention_refine.core.classification_loss import classification_loss
from attention_refine.core.registry import Registry
from attention_refine.heads._base import heads
from attention_refine.objectives._base import objectives

CASE = BY_NAME["resnet18"]
LABELS = torch.tensor([0, 3, 1])


# losses --------------------------------------------------------------------------------------------------------------


def test_cross_entropy_against_hand_numbers():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert classification_loss(logits, torch.tensor([1, 0])).item() == pytest.approx(expected)


def test_label_smoothing_against_hand_numbers():
    logits = torch.tensor([[math.log(3), 0.0]])  # probabilities 3/4, 1/4; smoothed target 0.9, 0.1
    expected = -(0.9 * math.log(3 / 4) + 0.1 * math.log(1 / 4))
    assert classification_loss(logits, torch.tensor([0]), label_smoothing=0.2).item() == pytest.approx(expected)
    multi = torch.tensor([[1.0, 0.0]])  # sigmoids 3/4, 1/2; smoothed targets 0.9, 0.1
    expected = -(0.9 * math.log(3 / 4) + 0.1 * math.log(1 / 4) + math.log(1 / 2)) / 2
    assert classification_loss(logits, multi, label_smoothing=0.2).item() == pytest.approx(expected)


@pytest.mark.parametrize("label", [9.0, -1.0, float("nan")])
def test_a_quantity_is_no_label(label):
    with pytest.raises(
        ValueError, match=f"label {label:g} of a class is not between 0 and 1.*regression is not supported"
    ):
        classification_loss(torch.zeros(2, 1), torch.tensor([[0.5], [label]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8, torch.bool])
def test_multi_hot_labels_of_any_type(dtype):
    logits = torch.tensor([[math.log(3), 0.0]])
    labels = torch.tensor([[1, 0]]).to(dtype)
    assert classification_loss(logits, labels).item() == pytest.approx(-(math.log(3 / 4) + math.log(1 / 2)) / 2)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_class_indices_of_any_integer_type(dtype):
    logits = torch.tensor([[math.log(3), 0.0]])
    assert classification_loss(logits, torch.tensor([1]).to(dtype)).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("labels", [torch.zeros(3, 4), torch.zeros(3, 1, dtype=torch.long), torch.zeros(3)])
def test_labels_of_another_shape_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels must be class indices \(3,\) or multi-hot \(3, 5\), got torch"):
        classification_loss(torch.zeros(3, 5), labels)


def test_a_label_outside_the_classes_is_refused():
    for bad in (5, -1):
        with pytest.raises(ValueError, match=rf"label {bad} is not one of the 5 classes, 0 to 4"):
            CASE.wrap()(CASE.images(), labels=torch.tensor([0, bad, 1]))


def test_half_precision_logits_have_a_float32_loss():
    loss = classification_loss(torch.randn(2, 5).bfloat16(), torch.tensor([0, 1]))
    assert loss.dtype == torch.float32


# forward -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SparsityConfig:
    weight: float = 0.5
    power: float = 1.0


class Sparsity(ar.Objective):
    """A label-free objective with layers of its own, which reads a further column where there is one."""

    name = "sparsity"
    config_class = SparsityConfig
    needs_labels = False

    def attach(self, model):
        self.scale = nn.Linear(1, 1)

    def forward(self, model, batch, output):
        self.seen = (sorted(batch), output.feature.grid.shape[0] if output.feature else None)
        return {"sparsity": self.scale(output.maps.pow(self.config.power).mean()[None]).square().sum()}


class WantsLabels(Sparsity):
    name = "wants_labels"
    needs_labels = True

    def forward(self, model, batch, output):
        return {"agreement": batch["labels"].float().mean() * output.maps.mean()}


def test_what_is_computed_when():
    model = CASE.wrap(objectives=[Sparsity(), WantsLabels()])
    images = CASE.images()
    plain = model(images)
    assert plain.losses == {} and plain.loss is None
    asked = model(images, compute_losses=True)
    assert set(asked.losses) == {"sparsity"}
    labelled = model(images, labels=LABELS)
    assert list(labelled.losses) == ["task", "attention", "sparsity", "agreement"]
    assert model(images, labels=LABELS, compute_losses=False).losses == {}
    model.train()
    assert set(model(images).losses) == {"sparsity"}
    assert model(images, compute_losses=False).loss is None


def test_the_loss_is_the_weighted_sum():
    model = CASE.wrap(ar.AttentionBranch(weight=0.3), objectives=[Sparsity(weight=2.0), WantsLabels(weight=0.0)])
    output = model(CASE.images(), labels=LABELS)
    losses = output.losses
    expected = losses["task"] + 0.3 * losses["attention"] + 2.0 * losses["sparsity"]
    torch.testing.assert_close(output.loss, expected)
    assert all(value.ndim == 0 for value in losses.values())


def test_columns_and_the_feature_reach_the_objectives():
    objective = Sparsity()
    model = CASE.wrap(objectives=[objective])
    output = model(CASE.images(), labels=LABELS, mask=torch.ones(3, 1, 64, 64), index=torch.arange(3))
    assert objective.seen == (["index", "labels", "mask", "pixel_values", "smoothing"], 3)
    assert output.feature is None


def test_label_smoothing_reaches_both_predictions():
    model, images = CASE.wrap(), CASE.images()
    output = model(images, labels=LABELS, smoothing=0.1)
    expected = F.cross_entropy(output.logits, LABELS, label_smoothing=0.1)
    torch.testing.assert_close(output.losses["task"], expected)
    expected = F.cross_entropy(output.aux_logits["attention"], LABELS, label_smoothing=0.1)
    torch.testing.assert_close(output.losses["attention"], expected)


def test_two_losses_of_one_name_are_refused():
    class Task(WantsLabels):
        name = "impostor"

        def forward(self, model, batch, output):
            return {"task": output.maps.mean()}

    with pytest.raises(ValueError, match="two losses are named 'task'"):
        CASE.wrap(objectives=[Task()])(CASE.images(), labels=LABELS)


def test_without_a_head_there_are_no_maps_and_none_can_be_given():
    model = CASE.wrap(None)
    output = model(CASE.images(), labels=LABELS)
    assert output.maps is None and output.aux_logits == {} and set(output.losses) == {"task"}
    with pytest.raises(ValueError, match="no head.*head='abn'"):
        model(CASE.images(), maps=torch.zeros(3, 1, 4, 4))


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 1, 4, 4), (3, 2, 4, 4)])
def test_maps_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"maps must be \(batch, 1, h, w\) with a batch of 3, got"):
        CASE.wrap()(CASE.images(), maps=torch.zeros(shape))


def test_other_image_sizes_and_shapes():
    model = CASE.wrap()
    for height, width in ((96, 96), (64, 128), (50, 70)):
        output = model(torch.randn(2, 3, height, width))
        grid = model.backbone.features(torch.randn(1, 3, height, width)).grid.shape[2:]
        assert output.maps.shape == (2, 1, *grid)
        assert model.explain(torch.randn(2, 3, height, width)).shape == (2, 1, height, width)


@pytest.mark.parametrize("head", ["abn", None])
@pytest.mark.parametrize("training", [True, False])
def test_explain_is_at_image_size_and_leaves_the_mode_alone(head, training):
    model = CASE.wrap(head)
    images = CASE.images()
    expected = model.explain(images)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.train(training)
    model.backbone.net.layer1.eval()  # a part that a user froze
    flags = {name: module.training for name, module in model.named_modules()}
    explained = model.explain(images)
    assert explained.shape == (3, 1, 64, 64) and not explained.requires_grad
    assert torch.equal(explained, expected)
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "head, began, own",
    [
        (None, 0, False),
        (ar.AttentionBranch(fade_in_steps=3), 0, False),
        (ar.AttentionBranch(fade_in_steps=3), 2, False),
        (ar.AttentionBranch(fade_in_steps=3), 3, True),
        (ar.AttentionBranch(fade_in_steps=0), 0, False),
        (ar.AttentionBranch(fade_in_steps=0), 1, True),
        (ar.BRNPA(fade_in_steps=3), 0, False),
        (ar.BRNPA(fade_in_steps=3), 1, True),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_explain_shows_grad_cam_until_the_map_has_come_in(head, began, own):
    model, images = CASE.wrap(head and type(head)(**asdict(head.config))), CASE.images()
    if began:
        model.head.begun_steps.fill_(began)
    assert model.explained_by() == model.explained_by("auto") == ("model" if own else "grad_cam")
    assert model.explained_by("model") == ("model" if head else "grad_cam")
    assert model.explained_by("rise") == "rise"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        shown = model.explain(images)
    assert torch.equal(shown, model.explain(images, method="model" if own else "grad_cam"))
    if head and not own:
        (one,) = said
        assert "so explain shows grad_cam; method='model' shows the head's own" in str(one.message)
        assert one.filename == __file__
    else:
        assert not said


@pytest.mark.parametrize("head", [None, "abn", "brnpa"])
@pytest.mark.parametrize("name", list(BY_NAME))
def test_a_network_that_reads_its_class_token_is_explained_by_gradient_rollout(name, head):
    case = BY_NAME[name]
    model, images = case.wrap(head), case.images(1)
    expected = "gradient_rollout" if name in ("vit-token", "deit", "hf-vit") else "grad_cam"
    assert model.explained_by() == expected and model.explained_by("model") == ("model" if head else "grad_cam")
    assert torch.equal(model.explain(images), model.explain(images, method=expected))


def test_a_network_of_convolutions_is_asked_once_what_it_pools():
    model = BY_NAME["resnet18"].wrap(None)
    model.explained_by()
    model.backbone.net.register_forward_hook(lambda *_: pytest.fail("asked again"))
    assert model.explained_by() == "grad_cam"


def test_the_output_always_holds_the_maps_of_the_head():
    model, images = CASE.wrap(), CASE.images()
    with torch.no_grad():
        own = model(images).maps
    assert torch.equal(model.explain(images, method="model"), ar.maps.resize(own, (64, 64)))
    assert not torch.equal(model.explain(images), model.explain(images, method="model"))


def test_explain_takes_a_target_where_the_map_has_one():
    model, images = CASE.wrap(None), CASE.images()
    assert not torch.equal(model.explain(images, target=0), model.explain(images, target=1))


# wrap ----------------------------------------------------------------------------------------------------------------


def test_wrap_takes_a_timm_name():
    model = ar.wrap("test_resnet", "abn", pretrained=False, num_labels=4)
    assert model.num_labels == 4 and model.labels == ["0", "1", "2", "3"]
    size = model.preprocessing["input_size"]
    assert model(torch.randn(1, *size)).logits.shape == (1, 4)


def test_wrap_takes_a_folder_of_timm_or_transformers(tmp_path):
    import timm
    from timm.models import save_for_hf

    net = timm.create_model("test_resnet", num_classes=3).eval()
    save_for_hf(net, tmp_path / "timm", safe_serialization=True)
    hugging = BY_NAME["hf-vit"].make()
    hugging.save_pretrained(tmp_path / "transformers")
    for folder, plain, size in (("timm", net, 64), ("transformers", lambda x: hugging(x).logits, 64)):
        model = ar.wrap(tmp_path / folder, "abn", preprocessing={"input_size": [3, size, size]}).eval()
        images = torch.randn(2, 3, size, size)
        with torch.no_grad():
            assert torch.equal(model(images).logits, plain(images))


def test_num_labels_replaces_the_classifier_and_nothing_else():
    for name in ("resnet18", "hf-vit"):
        case = BY_NAME[name]
        before = case.make().state_dict()
        model = case.wrap(num_labels=7)
        assert model(case.images()).logits.shape == (3, 7)
        assert model(case.images(), compute_aux=True).aux_logits["attention"].shape == (3, 7)
        after = model.backbone.net.state_dict()
        assert before.keys() == after.keys()
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        assert changed and all(key.startswith(("fc.", "classifier.")) for key in changed)


def test_labels_give_their_number():
    model = CASE.wrap(labels=["cat", "dog", "fox"])
    assert model.labels == ["cat", "dog", "fox"] and model(CASE.images()).logits.shape == (3, 3)
    with pytest.raises(ValueError, match="num_labels=2 but 3 labels"):
        CASE.wrap(labels=["cat", "dog", "fox"], num_labels=2)
    with pytest.raises(TypeError, match="labels must be a list.*'cats'"):
        CASE.wrap(labels="cats")
    with pytest.raises(ValueError, match="num_labels must be at least 1"):
        CASE.wrap(num_labels=0)


def test_label_names_of_a_transformers_config_come_along_in_order():
    net = BY_NAME["hf-vit"].make()
    net.config.id2label = {4: "e", 0: "a", 2: "c", 1: "b", 3: "d"}
    assert ar.wrap(net).labels == ["a", "b", "c", "d", "e"]


def test_preprocessing_comes_from_the_backbone_and_can_be_overridden():
    import timm

    net = timm.create_model("test_resnet", num_classes=3)
    own = timm.data.resolve_model_data_config(net)
    model = ar.wrap(net)
    for key in ("mean", "std", "input_size"):
        assert model.preprocessing[key] == list(own[key])
    changed = ar.wrap(net, preprocessing={"mean": [0.5, 0.5, 0.5], "crop_pct": 1.0})
    assert changed.preprocessing == {**model.preprocessing, "mean": [0.5, 0.5, 0.5], "crop_pct": 1.0}
    with pytest.raises(ValueError, match="preprocessing has no entry 'means'; its entries are input_size, mean"):
        ar.wrap(net, preprocessing={"means": [0, 0, 0]})


def test_any_module_can_be_wrapped_if_its_size_is_known():
    class Fixed(nn.Module):
        """A network for 40 px images only."""

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 3, 2, 1)
            self.classifier = nn.Linear(8 * 25, 3)

        def forward(self, x):
            return self.classifier(self.second(self.first(x).relu()).relu().flatten(1))

    model = ar.wrap(Fixed(), ar.AttentionBranch(site="first"), preprocessing={"input_size": [3, 40, 40]})
    assert model(torch.randn(2, 3, 40, 40)).maps.shape == (2, 1, 10, 10)


def test_wrap_keeps_mode_device_and_type():
    for training in (True, False):
        model = ar.wrap(CASE.make().train(training), "abn")
        assert model.training is training and model.head.training is training
    model = ar.wrap(CASE.make().double(), "abn")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert model(CASE.images().double()).logits.dtype == torch.float64


@pytest.mark.parametrize(
    "options, error, said",
    [
        (dict(head="abm"), ValueError, "head 'abm' is not one of abn.*did you mean 'abn'"),
        (dict(head=nn.Linear(1, 1)), TypeError, "Linear.*is no head; pass an object or one of abn"),
        (dict(head=ar.AttentionBranch), TypeError, r"AttentionBranch is a class; pass an object of it, AttentionB"),
        (dict(objectives="mining"), TypeError, r"objectives must be a list, got 'mining'; write objectives=\['mining"),
        (dict(objectives=["nothing"]), ValueError, "objective 'nothing' is not one of"),
        (dict(objectives=[nn.Linear(1, 1)]), TypeError, "is no objective"),
        (dict(objectives=[Sparsity(), Sparsity()]), ValueError, "objective 'sparsity' is given twice"),
    ],
    ids=lambda value: "",
)
def test_wrap_refuses_with_a_remedy(options, error, said):
    with pytest.raises(error, match=said):
        ar.wrap(CASE.make(), **options)


def test_wrap_refuses_a_wrapped_model_and_a_used_head():
    head = ar.AttentionBranch()
    model = CASE.wrap(head)
    with pytest.raises(TypeError, match="wrapped already.*model.backbone.net"):
        ar.wrap(model, "abn")
    with pytest.raises(ValueError, match="part of another model already; make a new one"):
        CASE.wrap(head)
    again = ar.wrap(model.backbone.net, "abn")
    assert again.backbone.net is model.backbone.net


def test_an_unknown_name_is_refused_with_the_closest():
    with pytest.raises(ValueError, match="'resnet5O'.*close timm and torchvision names: .*resnet50"):
        ar.wrap("resnet5O", "abn")


# the model as an object ----------------------------------------------------------------------------------------------


def test_a_deep_copy_is_another_model():
    model = CASE.wrap(ar.AttentionBranch(fade_in_steps=0))
    twin = copy.deepcopy(model)
    images = CASE.images()
    with torch.no_grad():
        expected = model(images).logits
        assert torch.equal(twin(images).logits, expected)
        for parameter in twin.parameters():
            parameter.add_(1.0)
        assert torch.equal(model(images).logits, expected)
    assert not torch.equal(twin(images).logits, expected)


def test_state_dict_keys_say_where_a_tensor_belongs_and_do_not_change():
    model = CASE.wrap(objectives=[Sparsity()])
    keys = set(model.state_dict())
    assert {key.split(".")[0] for key in keys} == {"backbone", "head", "objectives"}
    of_backbone = {key.removeprefix("backbone.net.") for key in keys if key.startswith("backbone")}
    assert of_backbone == set(CASE.make().state_dict())
    model.train()
    model(CASE.images(), labels=LABELS).loss.backward()
    model.eval().explain(CASE.images())
    assert set(model.state_dict()) == keys


def test_it_says_what_it_is():
    assert "site='layer3', mechanism='scale', classes=5" in repr(CASE.wrap())
    assert "classes=5" in repr(CASE.wrap(None))


# heads and objectives of a user's own --------------------------------------------------------------------------------


@pytest.fixture
def own(monkeypatch):
    """A head and an objective registered for one test."""

    @dataclass(frozen=True)
    class GateConfig:
        site: str = "auto"
        mechanism: str | None = None
        weight: float = 1.0
        bias: float = 0.0

    monkeypatch.setattr(heads, "entries", dict(heads.entries))
    monkeypatch.setattr(objectives, "entries", dict(objectives.entries))

    @ar.register_head("gate")
    class Gate(ar.Head):
        config_class = GateConfig

        def attach(self, backbone, num_classes, resolved=None):
            if resolved is None:
                resolved = {"channels": backbone.features(backbone.example()).grid.shape[1]}
            self.resolved = resolved
            self.conv = nn.Conv2d(resolved["channels"], 2, 1)
            self.num_maps = 2

        def forward(self, feature, maps=None):
            if maps is None:
                maps = torch.sigmoid(self.conv(feature) + self.config.bias)
            return feature * (1 + maps.mean(1, keepdim=True)), maps, {}

    ar.register_objective("sparsity")(type("Registered", (Sparsity,), {}))
    return Gate


def test_an_own_head_and_objective_work_end_to_end(own, tmp_path):
    assert "gate" in ar.list_heads() and "sparsity" in ar.list_objectives()
    model = CASE.wrap(own(bias=0.5), objectives=["sparsity"])
    output = model.train()(CASE.images(), labels=LABELS)
    assert output.maps.shape == (3, 2, 4, 4) and set(output.losses) == {"task", "sparsity"}
    output.loss.backward()
    assert model.head.conv.weight.grad.abs().sum() > 0
    assert model.objectives["sparsity"].scale.weight.grad.abs().sum() > 0
    model.eval().save_pretrained(tmp_path)
    loaded = ar.load(tmp_path)
    assert loaded.head.config.bias == 0.5 and loaded.objectives["sparsity"].weight == 0.5
    one, other = model(CASE.images(), labels=LABELS), loaded(CASE.images(), labels=LABELS)
    assert torch.equal(one.logits, other.logits) and torch.equal(one.maps, other.maps)
    assert torch.equal(one.losses["sparsity"], other.losses["sparsity"])


def test_a_checkpoint_with_a_head_that_is_not_registered_says_so(own, tmp_path, monkeypatch):
    CASE.wrap("gate").save_pretrained(tmp_path)
    monkeypatch.delitem(heads.entries, "gate")
    with pytest.raises(ar.CheckpointError, match="head 'gate' is not one of"):
        ar.load(tmp_path)


def test_an_own_head_acts_inside_attention_too(own):
    case = BY_NAME["vit-token"]
    model = case.wrap("gate")
    assert model.backbone.site.mechanism == "attention"
    output = model(case.images())
    assert output.logits.shape == (3, CLASSES)
    with torch.no_grad():
        zero = model(case.images(), maps=torch.zeros(3, 2, *output.maps.shape[2:])).logits
        assert torch.equal(zero, model.backbone(case.images()))


def test_an_unregistered_head_cannot_be_saved(tmp_path):
    class Unnamed(ar.AttentionBranch):
        name = "unnamed"

    model = CASE.wrap(Unnamed())
    with pytest.raises(ValueError, match="head 'unnamed' is not registered.*register_head"):
        model.save_pretrained(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


# the registry --------------------------------------------------------------------------------------------------------


def test_a_name_is_registered_once():
    registry = Registry("head")
    registry.register("one")(type("First", (), {}))
    with pytest.raises(ValueError, match="head 'one' is already registered, by First"):
        registry.register("one")(type("Second", (), {}))
    assert registry.names() == ["one"]


def test_registering_names_the_class():
    registry = Registry("head")

    @registry.register("mine")
    class Mine:
        def __init__(self, size=1):
            self.size = size

    assert Mine.name == "mine" and registry.build("mine", {"size": 3}).size == 3


def test_a_class_that_was_not_registered_has_no_name():
    class Nameless(ar.Objective):
        config_class = SparsityConfig

    with pytest.raises(ValueError, match=r"Nameless has no name; decorate it with ar.register_objective"):
        CASE.wrap(objectives=[Nameless()])


def test_an_unknown_name_lists_what_there_is():
    registry = Registry("objective")
    with pytest.raises(ValueError, match=r"objective 'x' is not one of \(none\)"):
        registry.build("x")
