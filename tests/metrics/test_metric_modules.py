"""The torchmetrics classes: equal to their functions, order and repeats, and two processes against one."""

from __future__ import annotations

import copy
import os
import pickle
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from attention_refine import metrics


@pytest.fixture
def masks():
    masks = (torch.rand(4, 1, 20, 28) > 0.6).to(torch.uint8)
    masks[2] = 0
    return masks


BOXES = [
    torch.tensor([[2.0, 3.0, 9.0, 12.0]]),
    torch.tensor([[0.0, 0.0, 28.0, 5.0]]),
    torch.empty(0, 4),
    torch.tensor([[5.0, 5.0, 20.0, 18.0]]),
]
WITH_NET = {
    metrics.Insertion: (metrics.insertion, {"n_steps": 4}),
    metrics.Deletion: (metrics.deletion, {"n_steps": 4, "score": "logit"}),
    metrics.InsertionAndDeletion: (metrics.insertion_and_deletion, {"n_steps": 4}),
    metrics.PixelFlipping: (metrics.pixel_flipping, {"n_steps": 4}),
    metrics.DAUC: (metrics.dauc, {}),
    metrics.IAUC: (metrics.iauc, {}),
    metrics.Confidence: (metrics.confidence, {}),
    metrics.Rationale: (metrics.rationale, {}),
    metrics.ROAD: (metrics.road_combined, {"fractions": (0.3,)}),
}
WITH_TRUTH = {
    metrics.IoU: (metrics.iou, {"normalise": "median"}),
    metrics.BestThresholdIoU: (metrics.best_iou, {}),
    metrics.SoftIoU: (metrics.soft_iou, {}),
    metrics.PointingGame: (metrics.pointing_with_centre, {"tolerance": 1}),
    metrics.EnergyInside: (metrics.energy_inside, {}),
    metrics.MaskCorrelation: (metrics.mask_correlation, {}),
    metrics.MapAUROC: (metrics.map_auroc, {}),
    metrics.MapAveragePrecision: (metrics.map_average_precision, {}),
    metrics.AttributionMass: (metrics.attribution_mass, {}),
    metrics.AttributionDetail: (metrics.attribution_detail, {}),
}
OF_MAPS = {
    metrics.MeanActivation: (metrics.mean_activation, {}),
    metrics.Sparsity: (metrics.sparsity, {}),
    metrics.Entropy: (metrics.entropy, {}),
    metrics.Diversity: (metrics.diversity, {}),
}


def read(result, path):
    for part in path.split(".") if path else ():
        result = getattr(result, part)
    return result


@pytest.mark.parametrize("kind", [*WITH_NET, *WITH_TRUTH, *OF_MAPS], ids=lambda k: k.__name__)
def test_class_equals_function(kind, net, images, maps, masks):
    function, options = {**WITH_NET, **WITH_TRUTH, **OF_MAPS}[kind]
    inputs = (images, maps) if kind in WITH_NET else (maps, masks) if kind in WITH_TRUTH else (maps,)
    first = (net,) if kind in WITH_NET else ()
    metric = kind(**options)
    for rows in ([3, 1], [0], [2, 1]):  # 1 comes twice, as a distributed sampler repeats
        metric.update(*first, *(x[rows] for x in inputs), index=torch.tensor(rows))
    whole = function(*first, *inputs, **options)
    kept, means = metric.per_sample(), metric.compute()
    assert kept["index"].tolist() == [0, 1, 2, 3]
    for name, path in kind.reads.items():
        expected = read(whole, path)
        torch.testing.assert_close(kept[name], expected, atol=1e-5, rtol=1e-5, equal_nan=True)
        assert (name in means) == (expected.ndim == 1) == (name not in kind.tables)
        if name in means:
            torch.testing.assert_close(means[name], expected.nanmean(), atol=1e-5, rtol=1e-5, equal_nan=True)
            assert means[f"{name}_count"] == (~expected.isnan()).sum()
    metric.reset()
    assert metric.per_sample().get("index") is None
    assert pickle.loads(pickle.dumps(metric)).options == options and copy.deepcopy(metric).options == options


def test_mining_tokens_agreement_and_boxes(net, images, maps):
    labels = torch.tensor([0, 1, 2, 3])
    mining = metrics.InsertionMining(n_points=5)
    mining.update(net, images, maps, labels, reference_logits=torch.eye(6)[[0, 0, 0, 0]])
    expected = metrics.insertion_mining(net, images, maps, labels, 5).auc[1:].mean()
    torch.testing.assert_close(mining.compute()["insertion_mining"], expected, atol=1e-6, rtol=1e-5)
    assert mining.compute()["insertion_mining_count"] == 3

    agreement = metrics.Agreement()
    agreement.update(maps, maps.flip(0))
    torch.testing.assert_close(agreement.compute()["ssim"], metrics.ssim(maps, maps.flip(0)).mean())

    boxes = metrics.MaxBoxAccuracy(at=(0.3,), thresholds=metrics.threshold_grid(11))
    boxes.update(maps[:2], BOXES[:2], (20, 28))
    boxes.update(maps[2:], BOXES[2:], (20, 28))
    table = metrics.box_overlaps(maps, BOXES, (20, 28), metrics.threshold_grid(11))
    assert boxes.compute()["max_box_accuracy"] == metrics.max_box_accuracy(table, (0.3,)).accuracy
    assert boxes.compute()["max_box_accuracy_count"] == 3


def test_forward_and_collection(maps, masks):
    from torchmetrics import MetricCollection

    collection = MetricCollection([metrics.IoU(), metrics.EnergyInside()], compute_groups=False)
    batch = collection(maps[:2], masks[:2])
    torch.testing.assert_close(batch["iou"], metrics.iou(maps[:2], masks[:2]).mean())
    collection(maps[2:], masks[2:])
    total = collection.compute()
    torch.testing.assert_close(total["iou"], metrics.iou(maps, masks).nanmean())
    assert total["energy_inside_count"] == 3


def test_index_for_some_batches_only(maps):
    metric = metrics.Entropy()
    metric.update(maps, index=torch.arange(4))
    metric.update(maps)
    with pytest.raises(ValueError, match="index"):
        metric.compute()
    metric.reset()
    with pytest.raises(ValueError, match="3 indices for 4 samples"):
        metric.update(maps, index=torch.arange(3))
    assert metric.per_sample()["entropy"].numel() == 0


def test_classification_class():
    logits, labels = torch.randn(30, 8), torch.randint(8, (30,))
    metric = metrics.Classification()
    metric.update(logits[:11], labels[:11])
    metric.update(logits[11:], labels[11:])
    for name, value in metrics.classification_scores(logits, labels).items():
        assert metric.compute()[name] == value


def _toy():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(5, 1, 6, 6, generator=generator)
    masks = (torch.rand(5, 1, 6, 6, generator=generator) > 0.5).to(torch.uint8)
    masks[3] = 0
    return maps, masks, torch.randn(6, 4, generator=generator), torch.arange(6) % 4


def _worker(rank, port, queue):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    maps, masks, logits, labels = _toy()
    for rows in ([[0, 2, 4], [1, 3, 0]], [[0, 1, 2, 3, 4], []]):  # one repeated; a process that sees nothing
        best, scores = metrics.BestThresholdIoU(), metrics.Classification()
        for row in rows[rank]:
            best.update(maps[[row]], masks[[row]], index=torch.tensor([row]))
        scores.update(logits[rank::2], labels[rank::2])
        values = {name: value.tolist() for name, value in best.per_sample().items()}
        queue.put((values, best.compute()["best_iou"].item(), scores.compute()["accuracy"].item()))
        best.update(maps[:1], masks[:1], index=torch.tensor([rank]))  # still usable: what was gathered is put back
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_equal_one():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A server that has imported the package forks both workers: one import of torch and torchmetrics, not two.
    context = mp.get_context("forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["attention_refine.metrics._modules"])
    queue = context.SimpleQueue()
    processes = [context.Process(target=_worker, args=(rank, port, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
        assert process.exitcode == 0
    maps, masks, logits, labels = _toy()
    expected = metrics.best_iou(maps, masks)
    for _ in range(4):
        values, mean, accuracy = queue.get()
        assert values["index"] == [0, 1, 2, 3, 4]
        torch.testing.assert_close(torch.tensor(values["best_iou"]), expected.iou, equal_nan=True)
        torch.testing.assert_close(torch.tensor(values["best_iou_curve"]), expected.curve, equal_nan=True)
        assert mean == pytest.approx(expected.iou.nanmean().item(), abs=1e-6)
        assert accuracy == pytest.approx(metrics.accuracy(logits, labels).item())
