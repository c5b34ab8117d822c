"""Saving and loading: round trips, and every way a checkpoint can be broken, foreign or hostile."""

from __future__ import annotations

import copy
import json
import os
import struct

import pytest
import torch
from cases import BY_NAME
from safetensors.torch import load_file, save_file
from torch import nn

import attention_refine as ar
from attention_refine.backbones.spec import NotRebuildable
from attention_refine.hub import weights as stored

CASE = BY_NAME["hf-resnet"]
FILES = {"config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.fixture(scope="module")
def model():
    return CASE.wrap()


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit(folder, change):
    """The config of ``folder`` with ``change`` applied to it."""
    config = json.loads((folder / "config.json").read_text())
    changed = change(config)
    (folder / "config.json").write_text(json.dumps(config if changed is None else changed))


def refused(folder, *said):
    """Loading ends in one sentence that holds every part of ``said``."""
    with pytest.raises(ar.CheckpointError) as error:
        ar.load(folder)
    message = str(error.value)
    assert all(part in message for part in said), message
    return message


# round trips ---------------------------------------------------------------------------------------------------------


def same(first, second, images):
    with torch.no_grad():
        one, other = first(images), second(images)
    assert torch.equal(one.logits, other.logits)
    assert one.maps is None and other.maps is None or torch.equal(one.maps, other.maps)


@pytest.mark.parametrize(
    "head",
    [
        None,
        "abn",
        ar.AttentionBranch(maps="per_class", combine="product", map_kernel=1, hidden_channels=3, fade_in_steps=0),
        ar.AttentionBranch(branch="light", weight=0.5),
        ar.AttentionBranch(stage_init="scratch", site="resnet.encoder.stages.1"),
    ],
    ids=["headless", "abn", "per-class", "light", "scratch"],
)
def test_a_round_trip_keeps_everything(head, tmp_path):
    model = CASE.wrap(copy.deepcopy(head), labels=list("abcde"))
    model.save_pretrained(tmp_path)
    loaded = ar.RefinedModel.from_pretrained(tmp_path)
    assert loaded.labels == model.labels
    assert loaded.preprocessing == model.preprocessing and loaded.backbone.input_size == (3, 64, 64)
    assert loaded.backbone.site == model.backbone.site and loaded.backbone.spec == model.backbone.spec
    if head is not None:
        assert loaded.head.config == model.head.config and loaded.head.resolved == model.head.resolved
    assert {key: value.shape for key, value in loaded.state_dict().items()} == {
        key: value.shape for key, value in model.state_dict().items()
    }
    same(model, loaded, CASE.images())
    loaded.save_pretrained(tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_loaded_model_trains_on(folder):
    loaded = ar.load(str(folder)).train()
    assert int(loaded.head.begun_steps) == 0
    loaded(CASE.images(4), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    assert int(loaded.head.begun_steps) == 1
    assert all(parameter.grad is not None for parameter in loaded.head.parameters())


def test_the_fade_in_goes_on_where_it_was(tmp_path):
    model = CASE.wrap(ar.AttentionBranch(fade_in_steps=4)).train()
    model(CASE.images(4))
    model.save_pretrained(tmp_path)
    assert float(ar.load(tmp_path).head.strength()) == 0.25


def test_half_precision_comes_back_as_it_was(tmp_path):
    model = CASE.wrap().to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = ar.load(tmp_path)
    assert {key: value.dtype for key, value in loaded.state_dict().items()} == {
        key: value.dtype for key, value in model.state_dict().items()
    }
    same(model, loaded, CASE.images().to(torch.bfloat16))


def test_tied_weights_are_saved_and_tied_again(tmp_path, monkeypatch):
    @ar.register_head("tied")
    class Tied(ar.Head):
        config_class = type(CASE.wrap().head.config)

        def attach(self, backbone, num_classes, resolved=None):
            self.resolved = {"channels": 24}
            self.first, self.second = nn.Conv2d(24, 1, 1), nn.Conv2d(24, 1, 1)
            self.second.weight = self.first.weight

        def forward(self, feature, maps=None):
            made = torch.sigmoid(self.first(feature) + self.second(feature)) if maps is None else maps
            return feature * (1 + made), made, {}

    from attention_refine.heads._base import heads

    try:
        model = CASE.wrap("tied")
        model.save_pretrained(tmp_path)
        loaded = ar.load(tmp_path)
        assert loaded.head.first.weight is loaded.head.second.weight
        same(model, loaded, CASE.images())
    finally:
        monkeypatch.delitem(heads.entries, "tied")


def test_labels_with_odd_characters(tmp_path):
    labels = ["Bengal cat", 'a "quoted" \\ name', "日本スピッツ", "emoji 🐱 and \n newline", "\ud800 lone surrogate"]
    CASE.wrap(labels=labels).save_pretrained(tmp_path)
    assert ar.load(tmp_path).labels == labels


def test_other_files_in_the_folder_are_left_alone(model, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", *FILES}
    assert (tmp_path / "README.md").read_text() == "mine"


def test_files_can_be_read_by_others_as_the_umask_says(folder):
    mask = os.umask(0)
    os.umask(mask)
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


def test_no_pickle_and_no_path_of_this_machine_in_a_checkpoint(folder):
    config = (folder / "config.json").read_text()
    assert str(folder.parent) not in config
    header = (folder / "model.safetensors").read_bytes()[8:9]
    assert header == b"{" and {path.name for path in folder.iterdir()} == FILES


# writing that fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["save_file", "write_text", "fsync"])
def test_a_failed_save_leaves_the_earlier_checkpoint_and_no_remains(broken, model, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def partly(*args, **kwargs):
        if broken == "save_file":
            args[1].write_bytes(b"half")
        raise OSError("no space left on device")

    owner = {"save_file": stored, "write_text": type(folder), "fsync": os}[broken]
    monkeypatch.setattr(owner, broken, partly)
    other = CASE.wrap(labels=list("vwxyz"))
    with pytest.raises(OSError, match="the disk is full"):
        other.save_pretrained(folder)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    same(model, ar.load(folder), CASE.images())


def test_a_plain_module_is_refused_at_save_and_nothing_is_written(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(8, 4))  # fmt: skip
    model = ar.wrap(net, "abn", preprocessing={"input_size": [3, 32, 32]})
    with pytest.raises(NotRebuildable, match="Sequential is neither a timm.*timm.create_model"):
        model.save_pretrained(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_network_changed_after_it_was_built_is_refused_at_save(model, tmp_path):
    changed = copy.deepcopy(model)
    changed.backbone.net.classifier = nn.Sequential(nn.Flatten(), nn.Linear(32, 8), nn.Linear(8, 5))
    with pytest.raises(NotRebuildable, match="a layer was changed after the network was built"):
        changed.save_pretrained(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_head_that_looks_at_values_while_it_is_made_loads(tmp_path, monkeypatch):
    from attention_refine.heads._base import heads

    monkeypatch.setattr(heads, "entries", dict(heads.entries))

    @ar.register_head("looks")
    class Looks(ar.AttentionBranch):
        def attach(self, backbone, num_classes, resolved=None):
            super().attach(backbone, num_classes, resolved)
            self.steps = torch.linspace(0, 1, 4).tolist()

    model = CASE.wrap("looks")
    model.save_pretrained(tmp_path)
    assert ar.load(tmp_path).head.steps == model.head.steps


def test_an_option_that_is_no_data_is_refused_at_save(tmp_path):
    model = CASE.wrap()
    model.preprocessing["mean"] = torch.zeros(3)
    with pytest.raises(NotRebuildable, match="Tensor is not JSON serializable"):
        model.save_pretrained(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


# broken files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 4, 100, -1000, -1])
def test_weights_cut_short(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(folder, "model.safetensors", "not a whole safetensors file", "download it again")


def test_weights_that_are_another_format(folder):
    torch.save({"a": torch.zeros(1)}, folder / "model.safetensors")
    refused(folder, "model.safetensors", "not a whole safetensors file")


def test_weights_whose_header_lies_about_its_length(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    refused(folder, "model.safetensors", "not a whole safetensors file")


@pytest.mark.parametrize("kept", [0, 1, 200, -5])
def test_config_cut_short(folder, kept):
    path = folder / "config.json"
    path.write_text(path.read_text()[:kept])
    refused(folder, "config.json", "not JSON", "cut short")


def test_config_that_is_no_text(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00{")
    refused(folder, "config.json", "not JSON")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    refused(folder, name)


def test_an_empty_folder(tmp_path):
    refused(tmp_path, str(tmp_path), "no config.json")


def weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_a_missing_tensor_is_named(folder):
    weights(folder, lambda tensors: tensors.pop("head.to_map.0.weight"))
    refused(folder, "lacks 1", "'head.to_map.0.weight'")


def test_a_tensor_too_many_is_named(folder):
    weights(folder, lambda tensors: tensors.update(extra=torch.zeros(1)))
    refused(folder, "has no place for 1", "'extra'")


def test_a_tensor_of_another_shape_is_named(folder):
    weights(folder, lambda tensors: tensors.update({"head.to_map.0.weight": torch.zeros(1, 5, 1, 1)}))
    refused(folder, "another shape for 1", "'head.to_map.0.weight'")


# foreign and newer configs -------------------------------------------------------------------------------------------


def test_a_timm_folder_is_refused_with_the_remedy(tmp_path):
    import timm
    from timm.models import save_for_hf

    save_for_hf(timm.create_model("test_resnet"), tmp_path, safe_serialization=True)
    refused(tmp_path, "config.json", "test_resnet", "ar.wrap(")


def test_a_transformers_folder_is_refused_with_the_remedy_and_the_remedy_works(tmp_path):
    CASE.make().save_pretrained(tmp_path)
    refused(tmp_path, "config.json", "resnet", "ar.wrap(")
    wrapped = ar.wrap(tmp_path, "abn", preprocessing={"input_size": [3, 64, 64]})
    with torch.no_grad():
        assert torch.equal(wrapped(CASE.images()).logits, CASE.make()(CASE.images()).logits)


def test_wrapping_a_saved_model_is_refused_with_the_remedy(folder):
    with pytest.raises(ValueError, match=r"wrapped already.*ar\.load"):
        ar.wrap(folder, "abn")


@pytest.mark.parametrize("content", ["[]", "3", '"text"', "null", "{}"])
def test_json_that_is_no_config(folder, content):
    (folder / "config.json").write_text(content)
    refused(folder, "config.json", "not a refined model")


@pytest.mark.parametrize("number", [2, 10**9, "1", None])
def test_another_format_is_refused(folder, number):
    edit(folder, lambda config: config.update(format=number))
    refused(folder, "format", repr(number), "upgrade attention-refine")


@pytest.mark.parametrize("key", ["backbone", "site", "head", "objectives", "labels", "preprocessing"])
def test_a_missing_entry_is_named(folder, key):
    edit(folder, lambda config: config.__delitem__(key))
    refused(folder, "config.json", f"lacks {key!r}")


def test_an_unknown_entry_is_named(folder):
    edit(folder, lambda config: config.update(labelz=[]))
    refused(folder, "config.json", "'labelz'", "labels")


def test_an_entry_of_the_wrong_kind_is_named(folder):
    edit(folder, lambda config: config.update(labels="cat"))
    refused(folder, "config.json", "'labels'", "'cat'")


def nested(path, value):
    def change(config):
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return change


HOSTILE = [
    (nested(["backbone", "source"], "torch.hub"), ["'torch.hub'", "timm, transformers"]),
    (nested(["backbone", "name"], "PreTrainedModel"), ["'PreTrainedModel' is not a vision model"]),
    (nested(["backbone", "name"], "pipeline"), ["'pipeline' is not a vision model"]),
    (nested(["backbone", "args", "auto_map"], {"AutoConfig": "evil--code.Config"}), ["auto_map", "never run"]),
    (nested(["backbone", "args", "attn_implementation"], "evil/kernel"), ["attn_implementation", "never run"]),
    (nested(["backbone", "args", "inner"], [{"auto_map": {}}]), ["auto_map", "never run"]),
    (nested(["backbone", "args", "model_type"], "evil"), ["'evil'", "upgrade transformers"]),
    (nested(["backbone", "args", "model_type"], "bert"), ["'bert'", "'resnet' network"]),
    (nested(["backbone", "extra"], 1), ["extra"]),
    (nested(["head", "name"], "os.system"), ["'os.system'", "abn"]),
    (nested(["head", "options", "code"], "import os"), ["'code'", "its options are"]),
    (nested(["head", "options", "combine"], "eval"), ["'eval'", "'residual'"]),
    (nested(["head", "resolved", "stages"], ["__class__"]), ["__class__"]),
    (nested(["site", "name"], "resnet.__class__"), ["'resnet.__class__'", "not a module"]),
    (nested(["site", "layout", "format"], "XYZ"), ["'XYZ'", "NCHW"]),
    (nested(["site", "mechanism"], "magic"), ["'magic'", "scale, attention"]),
    (nested(["objectives"], [{"name": "nothing", "options": {}}]), ["'nothing'"]),
    (nested(["labels"], ["only one"]), ["5 classes", "1 labels"]),
    (nested(["preprocessing"], {}), ["input_size"]),
]


@pytest.mark.parametrize("change, said", HOSTILE, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_config_outside_what_the_library_writes_is_refused(folder, change, said):
    edit(folder, change)
    refused(folder, "config.json", *said)


TIMM = [
    (["name"], "resnet18; import os", ["'resnet18; import os'", "not an architecture"]),
    (["name"], "hf-hub:evil/model", ["'hf-hub:evil/model'", "not an architecture"]),
    (["name"], "local-dir:/etc", ["'local-dir:/etc'", "not an architecture"]),
    (["args", "pretrained_cfg"], {"url": "http://evil"}, ["pretrained_cfg"]),
    (["args", "pretrained_cfg_overlay"], {"file": "/etc/passwd"}, ["pretrained_cfg_overlay"]),
    (["args", "checkpoint_path"], "/etc/passwd", ["checkpoint_path"]),
    (["args", "pretrained"], True, ["pretrained"]),
    (["args", "no_such_argument"], 1, ["no_such_argument"]),
    (["args", "num_classes"], 7, ["7 classes", "5 labels"]),
]


@pytest.mark.parametrize("path, value, said", TIMM, ids=lambda value: str(value)[:30])
def test_a_timm_config_may_not_name_other_code_or_weights(path, value, said, tmp_path):
    folder = tmp_path / "timm"
    BY_NAME["convnext"].wrap().save_pretrained(folder)
    edit(folder, nested(["backbone", *path], value))
    refused(folder, "config.json", *said)


def test_a_config_that_asks_for_more_than_the_weights_hold_is_refused_before_it_is_built(folder):
    edit(folder, nested(["backbone", "args", "hidden_sizes"], [8, 16, 24, 10**6]))
    refused(folder, "far more memory than its weights hold")
    edit(folder, nested(["backbone", "args", "hidden_sizes"], [8, 16, 24, 64]))
    refused(folder, "another shape for")


# ids -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "resnet50", "a/b/c", "../elsewhere", "/no/such/folder", "user/", "/name", "a b/c",
                                  "https://evil/x", "user/name@", "~/model"])  # fmt: skip
def test_a_bad_id_is_refused(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ar.CheckpointError, match="neither a folder nor a Hub id"):
        ar.load(name)


def test_what_may_have_been_meant_is_told(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    for given, meant in {
        "https://huggingface.co/user/name": "of a page on the Hub give the id, 'user/name'",
        str(tmp_path / "model.safetensors"): "it is a file; give the folder that save_pretrained wrote",
        "resnet18": r"a network that is not refined yet is wrapped, ar.wrap\(name\)",
        None: "a saved model is given by its folder or its Hub id .*, got a NoneType",
        ar.RefinedModel: "got RefinedModel",
    }.items():
        with pytest.raises(ar.CheckpointError, match=meant):
            ar.load(given)


def test_two_revisions_are_refused():
    with pytest.raises(ar.CheckpointError, match="two revisions.*'v1'.*'v2'"):
        ar.load("user/name@v1", revision="v2")


def test_a_repo_that_cannot_be_had_ends_in_one_sentence(tmp_path):
    with pytest.raises(ar.CheckpointError, match="'user/no-such-model@refs/pr/1' is no folder here") as error:
        ar.load("user/no-such-model@refs/pr/1", cache_dir=tmp_path, local_files_only=True)
    assert "\n" not in str(error.value)
