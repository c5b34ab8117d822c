"""Repos made to harm: each is refused in a sentence, before memory, disk or time is spent on it."""

from __future__ import annotations

import copy
import json
import resource
import struct

import pytest
import torch
from cases import BY_NAME
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import attention_refine as ar
from attention_refine.hub import config as configs
from attention_refine.hub import weights as stored
from attention_refine.hub.meta_build import Budget, TooLarge

NAME = "evil/model"


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """The files of a sound checkpoint."""
    folder = tmp_path_factory.mktemp("sound")
    model.save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def config(whole):
    return json.loads(whole["config.json"])


def put(folder, files):
    folder.mkdir(exist_ok=True, parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def refused(source, *said, most=64 * 2**20, **options):
    """Loading ends in one sentence, having asked Python for little memory and grown the process by little."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with pytest.raises(ar.CheckpointError) as error:
        ar.load(source, **options)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    message = str(error.value)
    assert "\n" not in message and len(message) < 1500 and all(part in message for part in said), message
    assert grown < most, f"{grown / 2**20:.0f} MiB"
    return message


def with_config(whole, config):
    return {**whole, "config.json": json.dumps(config).encode()}


def header_only(tensors: dict, size: int = 64) -> bytes:
    """A safetensors file of that header with zeros for weights."""
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * size


# from the Hub, nothing is fetched that was not judged ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "model.pkl"])
def test_a_pickle_is_never_fetched(hub, whole, name):
    hub.make(
        NAME, {"config.json": whole["config.json"], name: b"\x80\x04cos\nsystem\n", "evil.py": b"raise SystemExit"}
    )
    refused(NAME, "has no model.safetensors", "never read")
    assert not [line for line in hub.log if name in line or "evil.py" in line]


def test_a_pickle_called_safetensors_is_not_read(hub, whole, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle")
    hub.make(NAME, {**whole, "model.safetensors": (tmp_path / "pickle").read_bytes()})
    refused(NAME)


def test_a_thousand_labels_of_a_megabyte_are_not_fetched(hub, whole, config):
    repo = hub.make(NAME, whole)
    config["labels"] = ["x" * 2**20] * 20
    repo.at("main").files["config.json"] = json.dumps(config).encode()
    refused(NAME, "config.json is 20 MiB large", "not read")
    assert not hub.asked("GET .*/resolve/.*config.json")


def test_labels_that_are_long_many_or_no_text(whole, config, tmp_path):
    for labels, said in (
        ([["a"]] * 5, "not text"),
        (["x" * 2000] * 5, "2000 characters"),
        ([], "no labels"),
        ([1] * 5, "not text"),
    ):
        refused(put(tmp_path, with_config(whole, {**config, "labels": labels})), "label", said)
    refused(
        put(tmp_path, with_config(whole, {**config, "labels": [str(n) for n in range(10**5)]})),
        "5 classes but there are 100000",
    )


def test_a_claimed_backbone_of_100_gigabytes_is_refused_before_its_weights_are_fetched(hub, whole, config):
    config["backbone"]["args"]["hidden_sizes"] = [8, 16, 24, 200_000]
    hub.make(NAME, with_config(whole, config))
    refused(NAME, "cannot be built", "far more memory than its weights hold")
    assert not hub.asked("HEAD .*safetensors")


def test_a_header_that_claims_100_gigabytes_is_refused_before_the_weights_are_fetched(hub, whole, config):
    config["backbone"]["args"]["hidden_sizes"] = [8, 16, 24, 200_000]
    tensors = {f"t{n}": {"dtype": "F32", "shape": [25 * 10**9], "data_offsets": [0, 10**11]} for n in range(1)}
    hub.make(NAME, {**with_config(whole, config), "model.safetensors": header_only(tensors)})
    refused(NAME)
    assert not hub.asked("HEAD .*safetensors")


def test_weights_larger_than_their_header_are_not_fetched(hub, whole):
    repo = hub.make(NAME, whole)
    repo.at("main").files["model.safetensors"] += b"\0" * 2**25
    refused(NAME, "larger than their header says")
    assert not hub.asked("HEAD .*safetensors")


# configs -------------------------------------------------------------------------------------------------------------


SIZES = [
    (["args", "hidden_sizes"], [8, 16, 24, -32]),
    (["args", "hidden_sizes"], [8, 16, 24, 10**12]),
    (["args", "hidden_sizes"], [8, 16, 24, 2**20]),
    (["args", "hidden_sizes"], [8, 16, 24, 2**63]),
    (["args", "depths"], [1, 1, 1, 2**20]),
    (["args", "depths"], [10**9] * 4),
    (["args", "embedding_size"], 0),
    (["args", "num_channels"], 2**20),
    (["args", "id2label"], {str(n): "x" for n in range(50_000)}),
]


@pytest.mark.parametrize("path, value", SIZES, ids=lambda value: str(value)[:30])
def test_huge_and_negative_sizes(whole, config, tmp_path, path, value):
    inner = config["backbone"]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    refused(put(tmp_path, with_config(whole, config)), "config.json")


@pytest.mark.parametrize(
    "size", [[3, 2**30, 2**30], [3, -64, 64], [3, 0, 64], [3, 64], "64", [3, 64.5, 64], [3, True, 64], None]
)
def test_image_sizes(whole, config, tmp_path, size):
    config["preprocessing"]["input_size"] = size
    refused(put(tmp_path, with_config(whole, config)), "input_size")


@pytest.mark.parametrize(
    "key, value",
    [
        ("mean", [0, 0]),
        ("std", [1, 1, 0]),
        ("std", ["a"] * 3),
        ("crop_pct", 0),
        ("crop_pct", "x"),
        ("interpolation", 3),
    ],
)
def test_preprocessing(whole, config, tmp_path, key, value):
    config["preprocessing"][key] = value
    refused(put(tmp_path, with_config(whole, config)), f"preprocessing {key}")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "[" * 100_000])
def test_numbers_that_are_none(whole, tmp_path, text):
    content = whole["config.json"].replace(b'"crop_pct": 1.0', b'"crop_pct": ' + text.encode())
    assert content != whole["config.json"]
    refused(put(tmp_path, {**whole, "config.json": content}), "config.json")


OUTSIDE = [
    ("hf-resnet", ["source"], "os"),
    ("hf-resnet", ["name"], "../../evil"),
    ("hf-resnet", ["args", "auto_map"], {"AutoModel": "evil--code.Model"}),
    ("hf-resnet", ["args", "quantization_config"], {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    ("convnext", ["name"], "hf-hub:evil/model"),
    ("convnext", ["name"], "local-dir:/etc"),
    ("convnext", ["args", "checkpoint_path"], "/etc/passwd"),
    ("convnext", ["args", "pretrained_cfg"], {"url": "http://127.0.0.1:1/x"}),
    ("convnext", ["args", "cache_dir"], "/etc"),
    ("convnext", ["args", "scriptable"], "os.system"),
]


@pytest.mark.parametrize("case, path, value", OUTSIDE, ids=lambda value: str(value)[:30])
def test_a_config_that_names_code_or_a_file_outside(case, path, value, tmp_path, monkeypatch):
    import builtins

    folder = tmp_path / "model"
    BY_NAME[case].wrap().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    inner = config["backbone"]
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))
    real = builtins.open

    def watched(file, *args, **options):
        assert not str(file).startswith("/etc/passwd"), file
        return real(file, *args, **options)

    monkeypatch.setattr(builtins, "open", watched)
    refused(folder, "config.json")


@pytest.mark.parametrize(
    "name, args",
    [("TimmWrapperForImageClassification", {"model_type": "timm_wrapper", "architecture": "hf-hub:evil/model"}),
     ("TimmWrapperForImageClassification", {"model_type": "timm_wrapper", "architecture": "local-dir:/etc"}),
     ("TimmWrapperForImageClassification", {"model_type": "timm_wrapper", "architecture": "resnet10t",
                                            "model_args": {"checkpoint_path": "/etc/passwd"}}),
     ("TimmBackbone", {"model_type": "timm_backbone", "backbone": "resnet10t", "use_pretrained_backbone": True})],
)  # fmt: skip
def test_a_network_inside_a_network_names_no_other_weights(whole, config, tmp_path, name, args, hub):
    config["backbone"] |= {"name": name, "args": args}
    refused(put(tmp_path / "model", with_config(whole, config)), "config.json", "other weights")
    assert not hub.log


# weights -------------------------------------------------------------------------------------------------------------


def changed(whole, tmp_path, change):
    put(tmp_path, whole)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


KEY = "head.to_map.0.weight"


def test_nan_weights(whole, tmp_path):
    refused(changed(whole, tmp_path, lambda tensors: tensors[KEY][0].fill_(float("nan"))), "NaN", KEY)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.uint8])
def test_wrong_types_of_numbers(whole, tmp_path, dtype):
    folder = changed(whole, tmp_path, lambda tensors: tensors.update({KEY: tensors[KEY].to(dtype)}))
    refused(folder, "another type of number", KEY)
    folder = changed(whole, tmp_path, lambda tensors: tensors.update({"head.begun_steps": torch.zeros(())}))
    refused(folder, "another type of number", "begun_steps")


def test_a_type_no_layer_has(whole, tmp_path):
    tensors = {"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}
    refused(put(tmp_path, {**whole, "model.safetensors": header_only(tensors, 4)}), "F8_E4M3", "F32")


def test_unknown_keys(whole, tmp_path):
    refused(
        changed(whole, tmp_path, lambda tensors: tensors.update({"x" * 10_000: torch.zeros(1)})), "has no place for 1"
    )


HEADERS = {
    "huge length": struct.pack("<Q", 2**40) + b"{}",
    "negative shape": header_only({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 64]}}),
    "overflow": header_only({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 64]}}),
    "overlap": header_only({name: {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]} for name in "ab"}),
    "past the end": header_only({"a": {"dtype": "F32", "shape": [32], "data_offsets": [0, 128]}}),
    "no json": struct.pack("<Q", 8) + b"\xff" * 8,
    "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie(whole, tmp_path, hub, name):
    files = {**whole, "model.safetensors": HEADERS[name]}
    refused(put(tmp_path / "model", files), "model.safetensors")
    hub.make(NAME, files)
    refused(NAME)


# the index of shards -------------------------------------------------------------------------------------------------

TRAVERSALS = ["../model.safetensors", "/etc/passwd", "..\\x.safetensors", "a/model-00001-of-00001.safetensors",
              "model-00001-of-00002.safetensors/../../x", "pytorch_model.bin", "", "model-00002-of-00002.safetensors",
              "model-1-of-1.safetensors", "model-00001-of-00001.safetensors\n",
              "model-٠٠٠٠١-of-00001.safetensors"]  # fmt: skip


@pytest.mark.parametrize("name", TRAVERSALS)
def test_an_index_names_shards_beside_it_and_nothing_else(whole, tmp_path, hub, name):
    files = {key: value for key, value in whole.items() if key != "model.safetensors"}
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": {KEY: name}}).encode()
    refused(put(tmp_path / "model", files), "index.json")
    hub.make(NAME, files)
    refused(NAME, "index.json")
    assert not [line for line in hub.log if "passwd" in line or ".bin" in line]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"weight_map": 3}',
        b'{"weight_map": []}',
        b'{"weight_map": {"a": 3}}',
        b'{"weight_map": {}}',
        b"[" * 10**5,
    ],
)
def test_an_index_that_is_none(whole, tmp_path, content):
    files = {key: value for key, value in whole.items() if key != "model.safetensors"}
    refused(put(tmp_path, {**files, "model.safetensors.index.json": content}), "index.json")


def test_both_kinds_of_weights_are_refused(whole, tmp_path):
    refused(put(tmp_path, {**whole, "model.safetensors.index.json": b"{}"}), "delete the one that is older")


def test_a_shard_that_is_missing_or_holds_what_another_holds(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size=20_000)
    shards = sorted(tmp_path.glob("model-*"))
    content = shards[-1].read_bytes()
    shards[-1].unlink()
    refused(tmp_path, f"has no {shards[-1].name}")
    shards[-1].write_bytes(shards[0].read_bytes())
    refused(tmp_path, "another shard holds too")
    shards[-1].write_bytes(content)
    ar.load(tmp_path)


# the guard itself ----------------------------------------------------------------------------------------------------


def test_the_budget_stops_memory_and_layers_before_they_are_had():
    for ask in (
        lambda: torch.zeros(2**36),
        lambda: torch.arange(2**36),
        lambda: torch.randn(2**18, 2**18),
        lambda: torch.ones(2).repeat(2**36),
    ):
        with pytest.raises(TooLarge, match="memory"), Budget(100, 2**20):
            ask()
    with pytest.raises(TooLarge, match="layers"), Budget(100, 2**30):
        for _ in range(200):
            torch.nn.Linear(2, 2)
    with Budget(1000, 2**20), torch.device("meta"):
        torch.nn.Linear(8, 8)


# fuzzing -------------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


@pytest.fixture(scope="module")
def fuzzed(whole, tmp_path_factory):
    folder = put(tmp_path_factory.mktemp("fuzz"), whole)
    config = json.loads(whole["config.json"])
    return folder, config, list(places(config))[1:]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_config_changed_anywhere_loads_or_is_refused(fuzzed, data):
    folder, config, found = fuzzed
    config = copy.deepcopy(config)
    path = data.draw(st.sampled_from(found))
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[path[-1]] = data.draw(json_values)
    else:
        del inner[path[-1]]
    (folder / "config.json").write_text(json.dumps(config))
    loads_or_is_refused(folder)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_bytes_changed_anywhere_load_or_are_refused(whole, fuzzed, data):
    folder = fuzzed[0]
    (folder / "config.json").write_bytes(whole["config.json"])
    name = data.draw(st.sampled_from(["config.json", "model.safetensors"]))
    content = bytearray(whole[name])
    top = min(len(content), 20_000)
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, top - 1), st.integers(0, 255)), min_size=1, max_size=4)
    ):
        content[place] = byte
    (folder / name).write_bytes(content[: data.draw(st.sampled_from([len(content), top, 100]))])
    try:
        loads_or_is_refused(folder)
    finally:
        (folder / name).write_bytes(whole[name])


def loads_or_is_refused(folder):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        ar.load(folder)
    except ar.CheckpointError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_as_config_or_index_are_refused(content):
    for read in (lambda: configs.parse_config(content, "config.json"), lambda: stored.shards_in(content, "index.json")):
        with pytest.raises(ar.CheckpointError):
            read()
