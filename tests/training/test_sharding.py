"""Training in shards (FSDP2): two processes that hold half of every weight equal one that holds all."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import in_two_processes
from safetensors import safe_open
from sharded_runs import CASES, Images, train, wrapped
from training_runs import assert_same, largest_difference, last_weights

import attention_refine as ar
from attention_refine.backbones.blocks import block_classes
from attention_refine.training.sharding import check_sharding

CONFIG = ar.TrainingConfig(output_dir="unused")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    in_two_processes(Path(__file__).parents[1] / "sharded_runs.py", folder)
    return folder


@pytest.mark.parametrize(("net", "head"), CASES)
def test_two_processes_with_halves_equal_one_with_all(runs, net, head, tmp_path):
    sharded = runs / f"{net}-{head}"
    model = wrapped(net, head)
    train(tmp_path, model, batch_size=8, clip_grad_norm=1.0)
    assert largest_difference(last_weights(sharded), last_weights(tmp_path)) < 1e-4
    histories = [json.loads((folder / "history.json").read_text()) for folder in (sharded, tmp_path)]
    for entry, wanted in zip(*histories, strict=True):
        assert entry == pytest.approx(wanted, rel=1e-4)
    loaded, images = ar.load(sharded / "last"), torch.stack([Images(9)[row]["pixel_values"] for row in range(9)])
    with torch.no_grad():
        logits, maps = loaded(images).logits, loaded(images).maps
        wanted = ar.load(tmp_path / "last")(images)
    assert torch.allclose(logits, wanted.logits, atol=1e-4) and torch.allclose(maps, wanted.maps, atol=1e-4)
    assert contents(sharded) == contents(tmp_path)


def contents(run: Path) -> dict[str, dict]:
    """Every file of a run, and of tensors their names, shapes and types."""
    found = {}
    for path in sorted(run.rglob("*")):
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as stored:
                parts = {key: stored.get_slice(key) for key in stored.keys()}  # noqa: SIM118
                found[str(path.relative_to(run))] = {k: (v.get_shape(), v.get_dtype()) for k, v in parts.items()}
        elif path.is_file():
            found[str(path.relative_to(run))] = {}
    return found


def test_a_resumed_run_is_the_uninterrupted_one(runs):
    assert_same(last_weights(runs / "resumed"), last_weights(runs / "vit-abn"))


def accelerator(kind: str = "FSDP", version: int = 2, precision: str = "no") -> SimpleNamespace:
    return SimpleNamespace(
        distributed_type=SimpleNamespace(name=kind), is_fsdp2=version == 2, mixed_precision=precision, num_processes=2
    )


@pytest.mark.parametrize(
    ("kind", "version", "precision", "options", "said"),
    [
        ("DEEPSPEED", 2, "no", {}, "DEEPSPEED is not supported.*use FSDP2"),
        ("MEGATRON_LM", 2, "no", {}, "MEGATRON_LM is not supported.*use FSDP2"),
        ("FSDP", 1, "no", {}, "FSDP version 1 is not supported: use version 2"),
        ("FSDP", 2, "fp16", {}, "fp16.*use 'bf16'"),
        ("FSDP", 2, "no", {"compile": True}, "compile=True does not go with FSDP"),
        ("FSDP", 2, "no", {"channels_last": True}, "channels_last=True does not go with FSDP"),
    ],
)
def test_what_is_not_divided_says_what_is(kind, version, precision, options, said):
    config = ar.TrainingConfig(output_dir="unused", **options)
    with pytest.raises(ar.training.TrainingError, match=said):
        check_sharding(wrapped("resnet", "abn"), config, accelerator(kind, version, precision))


@pytest.mark.parametrize(
    ("head", "objective", "refused"),
    [
        (None, "mining", True), ("abn", "mining", False),
        (None, "guided_inference", True), ("abn", "guided_inference", False),
        (None, "map_supervision", True), ("abn", "map_supervision", False),
        ("abn", ar.MapSupervision(norm="input_gradient"), True),
        (None, ar.DARC(min_cells=1), True), ("abn", ar.DARC(min_cells=1), False),
        (None, ar.Transplant(map_agreement=1.0), True), ("abn", ar.Transplant(map_agreement=1.0), False),
        ("abn", "consistency", True), ("abn", "triplet", False), (None, "contrastive", False),
        ("abn", "group_dro", False),
    ],
)  # fmt: skip
def test_objectives_made_of_gradients_are_refused_by_name(head, objective, refused):
    model = ar.wrap(wrapped("resnet", "abn").backbone.net, head, [objective], preprocessing={"input_size": [3, 32, 32]})
    if refused:
        with pytest.raises(ar.training.TrainingError, match=f"{next(iter(model.objectives))}: .*head='abn'"):
            check_sharding(model, CONFIG, accelerator())
    else:
        check_sharding(model, CONFIG, accelerator())


def test_fsdp_that_accelerate_leaves_out_is_said(monkeypatch, caplog):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_sharding(wrapped("resnet", "abn"), CONFIG, accelerator("MULTI_CPU"))
    assert "they stay whole" in caplog.text


def test_a_network_is_divided_at_its_blocks():
    assert block_classes(wrapped("vit", "abn").backbone.net) == ["Block"]
    assert block_classes(wrapped("resnet", "abn").backbone.net) == []  # one in each stage
