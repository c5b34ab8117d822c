"""Batch norms that share statistics: the same model with the same files; where they cannot be shared, a sentence."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import timm
import torch
from strategy_runs import make_model, train
from torch import nn
from training_runs import TinyModel, assert_same, last_weights

import attention_refine as ar
from attention_refine.backbones.synchronizing import synchronized
from attention_refine.training import TrainingConfig, TrainingError, batch_norms
from attention_refine.training.batch_norms import check_shared_statistics, statistics_line

GPUS = SimpleNamespace(num_processes=2, device=torch.device("cuda"))
CPUS = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
ALONE = SimpleNamespace(num_processes=1, device=torch.device("cpu"))
SHARED = TrainingConfig(sync_batch_norm=True)


def test_within_the_block_they_are_shared_and_afterwards_the_models_own():
    """timm's hold the activation that follows, and keep it."""
    net = timm.create_model("test_efficientnet", num_classes=3)
    model = ar.wrap(net, head="abn", preprocessing={"input_size": [3, 64, 64]})
    own = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    pixels, state = torch.randn(2, 3, 64, 64), model.state_dict()
    before = [int(module.num_batches_tracked) for module in own]
    expected = model.eval()(pixels).logits
    with synchronized(model):
        shared = [module for module in model.modules() if isinstance(module, nn.SyncBatchNorm)]
        assert len(shared) == len(own) > 10
        assert torch.equal(model(pixels).logits, expected)
        assert_same(model.state_dict(), state)
        model.train()(pixels)
    assert [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)] == own
    assert all(module.training for module in own)
    assert [int(module.num_batches_tracked) for module in own] == [count + 1 for count in before]


def test_a_run_is_the_same_and_leaves_the_same_files(tmp_path, monkeypatch):
    """One process has nothing to share: what a run does with such norms must not differ by a bit."""
    options = {"epochs": 1, "ema_decay": 0.9, "evaluated": True}
    train(tmp_path / "own", "combined", **options)
    kinds = set()

    def converted(model, config, accelerator):
        model.register_forward_pre_hook(lambda module, args: kinds.update(map(type, module.modules())))
        return synchronized(model)

    monkeypatch.setattr("attention_refine.training.loop.shared_statistics", converted)
    model, _ = train(tmp_path / "shared", "combined", **options)
    assert nn.SyncBatchNorm in kinds and nn.SyncBatchNorm not in set(map(type, model.modules()))
    assert_same(last_weights(tmp_path / "shared"), last_weights(tmp_path / "own"))
    names = [
        sorted(path.relative_to(tmp_path / run) for path in (tmp_path / run).rglob("*")) for run in ("own", "shared")
    ]
    assert names[0] == names[1]


def test_they_are_converted_for_several_processes_only():
    for accelerator, kind in ((GPUS, nn.SyncBatchNorm), (ALONE, nn.BatchNorm2d)):
        model = TinyModel("batch")
        with batch_norms.shared_statistics(model, SHARED, accelerator):
            assert type(model.backbone[1]) is kind
    check_shared_statistics(TinyModel("batch"), SHARED, ALONE)


def test_where_they_cannot_be_shared_is_refused():
    with pytest.raises(TrainingError, match="sync_batch_norm=True needs GPUs: .* freeze_batch_norm=True"):
        check_shared_statistics(TinyModel("batch"), SHARED, CPUS)
    wrap = dict(source="test_resnet", pretrained=False, num_labels=3, preprocessing={"input_size": [3, 64, 64]})
    for objective, said in (
        (ar.AttentionMining(), "mining, .*: give it bn_second_pass='eval', or leave one of them out"),
        (ar.AttentionConsistency(), "consistency, which runs the network again .*: leave one of them out"),
    ):
        with pytest.raises(TrainingError, match=said):
            check_shared_statistics(ar.wrap(**wrap, head="abn", objectives=[objective]), SHARED, GPUS)
    allowed = ar.wrap(**wrap, head="abn", objectives=[ar.AttentionMining(bn_second_pass="eval"), ar.MapSupervision()])
    check_shared_statistics(allowed, SHARED, GPUS)


def test_statistics_of_parts_of_a_batch_are_said():
    model, config = make_model(), TrainingConfig(batch_size=8)
    assert statistics_line(model, [], config, GPUS) == (
        "batch norm: statistics of each process's own 8 images; sync_batch_norm=True shares them"
    )
    assert "freeze_batch_norm=True keeps them" in statistics_line(model, [], config, CPUS)
    assert "of all processes' images" in statistics_line(model, [], SHARED, GPUS)
    kept = batch_norms.kept_batch_norms(model, TrainingConfig(freeze_batch_norm=True))
    assert statistics_line(model, kept, config, GPUS) is None
    assert statistics_line(model, [], config, ALONE) is statistics_line(TinyModel("layer"), [], config, GPUS) is None
