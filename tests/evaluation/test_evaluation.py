"""``evaluate``: its numbers are those of the metric functions, whatever the batches, processes and interruptions."""

from __future__ import annotations

import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import timm
import torch
from judged import PREPROCESSING, QUIET, close, made_model
from processes import in_two_processes

import attention_refine as ar
from attention_refine import maps, metrics, shapes, wrap
from attention_refine.data import prepare
from attention_refine.evaluation import Evaluation, compare, evaluate, map_names
from attention_refine.evaluation.dataset_level import mean_average_precision
from attention_refine.evaluation.judging import Judge

ON_MAPS = ("mask_correlation", "iou", "box_iou", "energy_inside", "energy_on_cue", "pointing_game")


@pytest.fixture(scope="module")
def data():
    return shapes.make("test", 10, size=64)


@pytest.fixture(scope="module")
def items(data):
    prepared = prepare(data, made_model().preprocessing)
    return [prepared[i] for i in range(len(prepared))]


@pytest.fixture(scope="module")
def plain(data):
    return evaluate(made_model(), data, **QUIET)


@pytest.mark.parametrize("head", [None, "abn"])
def test_numbers_are_those_of_the_functions(data, items, head):
    model = made_model(head)
    found = evaluate(model, data, **QUIET)
    labels = torch.stack([item["labels"] for item in items])
    logits, made = [], []
    for item in items:  # one by one
        pixels = item["pixel_values"][None]
        with torch.no_grad():
            output = model(pixels)
        logits.append(output.logits)
        made.append(maps.grad_cam(model, pixels) if head is None else output.maps)
    logits = torch.cat(logits)
    assert found.summary["classification"]["accuracy"]["value"] == pytest.approx(
        float(metrics.accuracy(logits, labels))
    )
    expected = float(metrics.top5_accuracy(logits, labels))
    assert found.summary["classification"]["top5_accuracy"]["value"] == pytest.approx(expected)
    assert found.summary["classification"]["macro_f1"]["value"] == pytest.approx(float(metrics.f1(logits, labels)))
    masks = [item["mask"][None] for item in items]
    boxes = [[item["boxes"]] for item in items]
    cues = [[torch.tensor([[x, y, x + w, y + h]])] for [[x, y, w, h]] in data["cue_bbox"]]
    direct = {
        "mask_correlation": [metrics.mask_correlation(m, t) for m, t in zip(made, masks)],
        "iou": [metrics.iou(m, t) for m, t in zip(made, masks)],
        "box_iou": [metrics.box_overlaps(m, b, (64, 64), torch.tensor([0.5]))[:, 0] for m, b in zip(made, boxes)],
        "energy_inside": [metrics.energy_inside(m, t) for m, t in zip(made, masks)],
        "energy_on_cue": [metrics.energy_inside(m, c, (64, 64)) for m, c in zip(made, cues)],
        "pointing_game": [metrics.pointing_game(m, t, tolerance=15 * 64 / 224) for m, t in zip(made, masks)],
    }
    for name, values in direct.items():
        torch.testing.assert_close(found.values(f"model/{name}"), torch.cat(values).double(), atol=2e-5, rtol=0)
        cell = found.summary["maps"]["model"][name]
        assert cell["value"] == pytest.approx(float(torch.cat(values).mean()), abs=2e-5)
        assert cell["low"] <= cell["value"] <= cell["high"] and cell["count"] == 10 and cell["excluded"] == 0
    both = [
        metrics.insertion_and_deletion(model, items[i]["pixel_values"][None], made[i], n_steps=4) for i in (0, 2, 5, 7)
    ]
    for name in ("insertion", "deletion"):
        auc = torch.cat([getattr(pair, name).auc for pair in both])
        values = found.values(f"model/{name}")
        assert values.isnan().sum() == 6  # four images, spread evenly: 0, 2, 5, 7
        torch.testing.assert_close(values[[0, 2, 5, 7]], auc.double(), atol=1e-5, rtol=0)
        curve = torch.cat([getattr(pair, name).curve for pair in both]).mean(0)
        assert found.curves["model"][name]["mean"] == pytest.approx(curve.tolist(), abs=1e-5)
        assert found.curves["model"][name]["fractions"] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
        assert "model/" + name not in found.samples[1]
        assert found.summary["maps"]["model"][name]["count"] == 4


def test_one_forward_serves_prediction_and_maps(items):
    for head, names in ((None, ["model", "grad_cam"]), ("abn", ["model", "grad_cam"])):
        model = made_model(head)
        evaluate(model, items[:1], maps=names, measures=["iou"], progress=False)  # finds the site
        stem = Mock(return_value=None)
        model.backbone.net.conv1[0].register_forward_hook(lambda *_, stem=stem: stem())
        evaluate(model, items[:4], maps=names, measures=["accuracy", "iou"], progress=False)
        assert stem.call_count == 1


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_batch_size_does_not_matter(data, name):
    model = made_model(name=name)
    options = {**QUIET, "maps": ["model", "random", "centre"]}
    close(evaluate(model, data, batch_size=10, **options), evaluate(model, data, batch_size=3, **options))


def test_a_streaming_dataset_gives_the_same(data, plain):
    stream = evaluate(made_model(), data.to_iterable_dataset(), **QUIET)
    for name in ON_MAPS:
        torch.testing.assert_close(stream.values(f"model/{name}"), plain.values(f"model/{name}"), atol=1e-5, rtol=0)
    assert [s["label"] for s in stream.samples] == [s["label"] for s in plain.samples]
    assert (~stream.values("model/insertion").isnan()).nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_workers_and_no_perturbed_images(data, plain):
    found = evaluate(made_model(), data, num_workers=1, batch_size=4, **{**QUIET, "perturbation_images": 0})
    assert set(found.summary["maps"]["model"]) == set(ON_MAPS) and found.curves == {}
    for name in ON_MAPS:
        torch.testing.assert_close(found.values(f"model/{name}"), plain.values(f"model/{name}"), atol=1e-5, rtol=0)
    more = evaluate(made_model(), data.select(range(2)), **{**QUIET, "perturbation_images": 50})
    assert more.summary["maps"]["model"]["insertion"]["count"] == 2


def test_repeats_exactly_and_leaves_the_model_alone(data, plain):
    model = made_model("abn").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    evaluate(model, data, **QUIET, maps=["model", "random"])
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert evaluate(made_model(), data, **QUIET) == plain


def test_missing_ground_truth_is_excluded_and_counted(items):
    partly = [dict(item) for item in items]
    for i in (1, 4):
        del partly[i]["mask"], partly[i]["boxes"], partly[i]["cue"]
    nothing = torch.zeros(1, 64, 64, dtype=torch.uint8)
    partly[6] = {**partly[6], "mask": nothing, "boxes": torch.zeros(0, 4), "cue": nothing}
    model = made_model()
    found = evaluate(model, partly, batch_size=10, **QUIET)
    assert found.summary["images"] == {"total": 10, "with_truth": 8, "skipped": 0}
    whole = evaluate(model, items, batch_size=3, **QUIET)
    for name in ON_MAPS:
        cell = found.summary["maps"]["model"][name]
        assert (cell["count"], cell["excluded"]) == (7, 3)
        assert [found.samples[i][f"model/{name}"] for i in (1, 4, 6)] == [None] * 3
        kept = [i for i in range(10) if i not in (1, 4, 6)]  # what one image lacks, the others of its batch keep
        torch.testing.assert_close(
            found.values(f"model/{name}")[kept], whole.values(f"model/{name}")[kept], atol=1e-5, rtol=0
        )
    none = [{key: item[key] for key in ("pixel_values", "labels", "index")} for item in items]
    found = evaluate(model, none, **QUIET)
    assert list(found.summary["maps"]["model"]) == ["insertion", "deletion"]
    asked = evaluate(model, none, measures=["iou"], progress=False)
    assert asked.summary["maps"]["model"]["iou"] == {
        "value": None, "low": None, "high": None, "level": 0.95, "count": 0, "excluded": 10,
    }  # fmt: skip


def test_several_labels_an_image(items):
    generator = torch.Generator().manual_seed(5)
    several = [{**item, "labels": (torch.rand(6, generator=generator) < 0.4).float()} for item in items]
    model = made_model()
    found = evaluate(model, several, **QUIET)
    with torch.no_grad():
        logits = model(torch.stack([item["pixel_values"] for item in items])).logits
    labels = torch.stack([item["labels"] for item in several])
    cells = found.summary["classification"]
    assert set(cells) == {"mean_average_precision", "macro_f1", "precision_at_1"}
    assert cells["mean_average_precision"]["value"] == pytest.approx(
        float(metrics.average_precision(logits, labels)), abs=1e-6
    )
    assert cells["macro_f1"]["value"] == pytest.approx(float(metrics.f1(logits, labels)), abs=1e-6)
    assert cells["precision_at_1"]["value"] == pytest.approx(float(metrics.accuracy(logits, labels)), abs=1e-6)
    assert found.samples[0]["label"] == labels[0].nonzero().flatten().tolist()
    made = maps.grad_cam(model, items[0]["pixel_values"][None])
    both = metrics.insertion_and_deletion(model, items[0]["pixel_values"][None], made, n_steps=4, score="sigmoid")
    assert found.samples[0]["model/insertion"] == pytest.approx(float(both.insertion.auc), abs=1e-5)
    other = evaluate(made_model(seed=2), several, **QUIET)
    macro = compare({"a": found, "b": other}).of("b", "macro_f1")
    assert macro.difference == pytest.approx(
        other.summary["classification"]["macro_f1"]["value"] - cells["macro_f1"]["value"]
    )
    with pytest.raises(ValueError, match="'accuracy' does not fit a dataset with several labels"):
        evaluate(model, several, measures=["accuracy"], progress=False)


def test_mean_average_precision_of_resampled_rows():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 5, generator=generator).mul(2).round() / 2  # many ties
    labels = (torch.rand(40, 5, generator=generator) < 0.2).long()
    labels[:, 4] = 0  # a class that never occurs
    statistic = mean_average_precision(logits, labels)
    for _ in range(20):
        rows = torch.randint(40, (40,), generator=generator)
        assert float(statistic(rows)) == pytest.approx(float(metrics.average_precision(logits[rows], labels[rows])))


def test_measures_and_maps_by_name_with_options(items):
    model = made_model()
    measures = {
        "iou": {"threshold": 0.2}, "sparsity": {}, "dauc": {"max_steps": 4}, "dc": {}, "average_drop": {}, "road": {},
    }  # fmt: skip
    images = items[:2]
    sources = {"mine": lambda net, x, t: x[:, :1].abs(), "gradient": None}
    found = evaluate(model, images, measures=measures, maps=sources, progress=False)
    pixels = torch.stack([item["pixel_values"] for item in images])
    masks = torch.stack([item["mask"] for item in images])
    mine, gradient = pixels[:, :1].abs(), maps.gradient(model, pixels)
    for name, made in (("mine", mine), ("gradient", gradient)):
        assert found.values(f"{name}/iou").tolist() == pytest.approx(metrics.iou(made, masks, threshold=0.2).tolist())
        assert found.values(f"{name}/sparsity").tolist() == pytest.approx(metrics.sparsity(made).tolist(), rel=1e-4)
        causal = metrics.dauc(model, pixels, made, max_steps=4)
        assert found.values(f"{name}/dauc").tolist() == pytest.approx(causal.auc.tolist(), abs=1e-5)
        assert found.values(f"{name}/dc").tolist() == pytest.approx(causal.correlation.tolist(), abs=1e-3)
        drop = metrics.average_drop(model, pixels, made)
        assert found.values(f"{name}/average_drop").tolist() == pytest.approx(drop.tolist(), abs=1e-5)
        road = metrics.road_combined(model, pixels, made)
        assert found.values(f"{name}/road").tolist() == pytest.approx(road.tolist(), abs=1e-5)
    assert found.summary["classification"] == {}


def test_every_named_map_is_judged(items):
    assert {"model", "grad_cam", "gradient", "guided_backprop", "integrated_gradients", "random", "centre"} <= set(
        map_names()
    )
    names = [name for name in map_names() if name not in ("rise", "occlusion", "score_cam", "smooth_grad")]  # slow ones
    vit = {"attention_rollout", "class_attention", "gradient_rollout", "legrad"}
    found = evaluate(made_model(), items[:2], measures=["iou"], maps=[n for n in names if n not in vit], progress=False)
    assert set(found.summary["maps"]) == set(names) - vit
    random = metrics.random_maps(torch.tensor([0, 1]), (2, 2), seed=0)
    masks = torch.stack([item["mask"] for item in items[:2]])
    assert found.values("random/iou").tolist() == pytest.approx(metrics.iou(random, masks).tolist())


def test_per_class_maps_are_judged_by_the_predicted_class(items):
    from attention_refine import AttentionBranch

    model = made_model(AttentionBranch(maps="per_class", branch="light"))
    pixels = torch.stack([item["pixel_values"] for item in items[:3]])
    judge = Judge(model, {}, {"model": None}, multi_label=False, perturbed=(), n_steps=1, seed=0, classes=6)
    logits, made = judge.look(pixels, torch.arange(3))
    with torch.no_grad():
        every = model(pixels).maps
    for i in range(3):
        assert torch.equal(made["model"][i, 0], every[i, logits[i].argmax()])


def test_a_head_that_says_it_has_a_map_for_each_class_is_judged_by_the_predicted_class(items):
    """By what it declares, whatever its options are called; one that does not is judged by its first map."""

    @dataclass(frozen=True)
    class Config:
        site: str = "auto"
        mechanism: str | None = None
        weight: float = 1.0

    class Theirs(ar.Head):
        name, config_class, num_maps = "theirs", Config, 6

        def __init__(self, per_class: bool):
            super().__init__()
            self.per_class = per_class

        def attach(self, backbone, num_classes, resolved=None):
            self.conv = torch.nn.Conv2d(backbone.features(backbone.example()).grid.shape[1], 6, 1)

        def forward(self, feature, maps=None):
            maps = torch.sigmoid(self.conv(feature)) if maps is None else maps
            return feature * (1 + maps.mean(1, keepdim=True)), maps, {}

    pixels = torch.stack([item["pixel_values"] for item in items[:3]])
    for per_class in (True, False):
        model = made_model(Theirs(per_class))
        judge = Judge(model, {}, {"model": None}, multi_label=False, perturbed=(), n_steps=1, seed=0, classes=6)
        logits, made = judge.look(pixels, torch.arange(3))
        with torch.no_grad():
            every = model(pixels).maps
        for i in range(3):
            assert torch.equal(made["model"][i, 0], every[i, logits[i].argmax() if per_class else 0])


def test_json_and_csv(plain, tmp_path):
    plain.to_json(tmp_path / "new" / "a.json")
    assert Evaluation.from_json(tmp_path / "new" / "a.json") == plain
    plain.to_csv(tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert len(lines) == 11 and lines[0].startswith("index,file,label,prediction,score,correct")
    assert lines[1].split(",")[2] == shapes.CLASSES[plain.samples[0]["label"]]
    (tmp_path / "cut.json").write_text((tmp_path / "new" / "a.json").read_text()[:500])
    with pytest.raises(ValueError, match=r"cut\.json is not an evaluation"):
        Evaluation.from_json(tmp_path / "cut.json")
    text = str(plain)
    assert "Accuracy" in text and "Mask correlation ↑" in text and "Deletion ↓" in text


def test_compare_on_the_same_images(data, plain):
    other = evaluate(made_model(seed=2), data, **QUIET, maps=["model", "random"])
    found = compare({"a": plain, "b": other}, n_resamples=2000)
    assert found.reference == "a" and {d.map for d in found.differences} == {None, "model"}
    one = found.of("b", "mask_correlation", "model")
    values = other.values("model/mask_correlation") - plain.values("model/mask_correlation")
    assert one.difference == pytest.approx(float(values.mean()), abs=1e-9)
    test = metrics.paired_test(
        other.values("model/mask_correlation"), plain.values("model/mask_correlation"), "permutation", 2000
    )
    assert (one.low, one.high, one.p_value, one.count, one.excluded) == (test.low, test.high, test.p_value, 10, 0)
    assert found.of("b", "insertion", "model").excluded == 0 and found.of("b", "insertion", "model").count == 4
    tested = [d for d in found.differences if d.p_value is not None]
    assert [d.p_corrected for d in tested] == metrics.holm([d.p_value for d in tested])
    f1 = found.of("b", "macro_f1")
    gap = other.summary["classification"]["macro_f1"]["value"] - plain.summary["classification"]["macro_f1"]["value"]
    assert f1.difference == pytest.approx(gap) and f1.p_value is None
    same = compare({"a": plain, "b": plain})
    assert all(d.difference == 0 and d.p_corrected in (None, 1) for d in same.differences)
    assert "Mask correlation" in str(found)
    shorter = evaluate(made_model(), data.select(range(9)), **QUIET)
    with pytest.raises(ValueError, match="9 and 10 images"):
        compare({"a": plain, "b": shorter})
    relabelled = Evaluation(
        plain.summary, [{**s, "label": (s["label"] + 1) % 6} for s in plain.samples], {}, plain.settings
    )
    with pytest.raises(ValueError, match="not of the same images"):
        compare({"a": plain, "b": relabelled})


class Interrupted(Exception):
    pass


def test_resumes_where_it_was_cut(data, plain, tmp_path, monkeypatch):
    measured = Judge.__call__
    calls = []

    def until_third(judge, batch):
        calls.append(batch["position"])
        if len(calls) == 3:
            raise Interrupted
        return measured(judge, batch)

    monkeypatch.setattr(Judge, "__call__", until_third)
    with pytest.raises(Interrupted):
        evaluate(made_model(), data, output=tmp_path, batch_size=3, **QUIET)
    (part,) = (tmp_path / "parts").glob("*.jsonl")
    whole = part.read_text()
    part.write_text(whole[:-40])  # the last of the six lines cut short, as a kill would
    calls.clear()
    calls.extend([None] * 10)
    found = evaluate(made_model(), data, output=tmp_path, resume=True, batch_size=10, **QUIET)
    assert calls[10:] == [[5, 6, 7, 8, 9]]
    close(found, plain)
    assert Evaluation.from_json(tmp_path / "evaluation.json") == found
    assert (tmp_path / "samples.csv").exists()
    calls.clear()
    again = evaluate(made_model(), data, output=tmp_path, resume=True, **QUIET)
    assert calls == [] and again == found
    with pytest.raises(ValueError, match="cannot be continued, because its weights differs"):
        evaluate(made_model(seed=9), data, output=tmp_path, resume=True, **QUIET)
    with pytest.raises(ValueError, match="cannot be continued, because its perturbation_steps differs"):
        evaluate(made_model(), data, output=tmp_path, resume=True, **{**QUIET, "perturbation_steps": 5})
    with pytest.raises(ValueError, match="resume=True needs output="):
        evaluate(made_model(), data, resume=True, **QUIET)
    calls.clear()
    evaluate(made_model(seed=9), data, output=tmp_path, **QUIET)  # anew: the old images are not taken over
    assert sum(map(len, calls)) == 10


class TwoThreads:
    """Two threads in place of two processes: a barrier, and what each gives to the other."""

    def __init__(self):
        self.barrier, self.given = threading.Barrier(2), [None, None]
        self.rank = threading.local()

    def accelerator(self, rank):
        self.rank.value = rank
        wait = self.barrier.wait
        return SimpleNamespace(process_index=rank, num_processes=2, device="cpu", wait_for_everyone=wait)

    def all_gather_object(self, shares, mine):
        self.given[self.rank.value] = json.dumps(list(mine.items()))  # as a process would: a copy
        self.barrier.wait(60)
        shares[:] = [dict(json.loads(given)) for given in self.given]

    def broadcast_object_list(self, values):
        rank = self.rank.value
        if rank == 0:
            self.said = json.dumps(values)
        self.barrier.wait(60)
        values[:] = json.loads(self.said)


def test_two_that_share_the_images_give_what_one_gives(data, tmp_path, monkeypatch):
    two = TwoThreads()
    monkeypatch.setattr(torch.distributed, "all_gather_object", two.all_gather_object)
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", two.broadcast_object_list)
    nine, models = data.select(range(9)), [made_model(), made_model()]

    def run(rank):
        options = {**QUIET, "accelerator": two.accelerator(rank), "batch_size": 2, "output": tmp_path}
        return evaluate(models[rank], nine, **options)

    with ThreadPoolExecutor(2) as pool:
        shared = list(pool.map(run, (0, 1)))
    single = evaluate(made_model(), nine, **QUIET)
    for found in shared:
        assert len(found.samples) == 9
        close(found, single)
    parts = sorted((tmp_path / "parts").glob("*.jsonl"))
    assert [len(part.read_text().splitlines()) for part in parts] == [5, 4]


SCRIPT = """
from pathlib import Path
from accelerate import Accelerator
from attention_refine import shapes
from attention_refine.evaluation import evaluate
from judged import QUIET, made_model
accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
nine = shapes.make("test", 10, size=64).select(range(9))
found = evaluate(made_model(), nine, accelerator=accelerator, batch_size=2, output={folder!r}, **QUIET)
found.to_json(Path({folder!r}) / f"process{{accelerator.process_index}}.json")
"""


@pytest.mark.sweep
def test_two_processes_give_what_one_gives(data, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(folder=str(tmp_path)))
    in_two_processes(script)
    single = evaluate(made_model(), data.select(range(9)), **QUIET)
    for process in (0, 1):
        found = Evaluation.from_json(tmp_path / f"process{process}.json")
        assert len(found.samples) == 9
        close(found, single)


def test_a_stream_is_shared_without_loss_or_repeat(data):
    from attention_refine.evaluation.batches import evaluation_batches

    stream = prepare(data.to_iterable_dataset(), made_model().preprocessing)
    shares = [[p for b in evaluation_batches(stream, rank, 3, {4}, 2, 0) for p in b["position"]] for rank in range(3)]
    assert shares == [[0, 3, 6, 9], [1, 7], [2, 5, 8]]


def test_bad_input_is_refused_in_a_sentence(data, items):
    model = made_model()
    with pytest.raises(ValueError, match="measure 'iuo' is not one of .*did you mean 'iou'"):
        evaluate(model, items, measures=["iuo"], progress=False)
    with pytest.raises(ValueError, match="map 'gradcam' is not one of model, "):
        evaluate(model, items, maps=["gradcam"], progress=False)
    with pytest.raises(ValueError, match="maps='model' is not accepted: it must be a list"):
        evaluate(model, items, maps="model", progress=False)
    with pytest.raises(ValueError, match="row 3 of the dataset has label 7, and the model's classes are 0 to 5"):
        evaluate(model, [{**items[3], "labels": torch.tensor(7)}], progress=False)
    with pytest.raises(ValueError, match="map 'broken' of row 0 of the dataset is not finite"):
        evaluate(model, items, maps={"broken": lambda net, x, t: x[:, :1] * math.nan}, progress=False)
    with pytest.raises(ValueError, match="the dataset is empty"):
        evaluate(model, [], progress=False)
    with pytest.raises(ValueError, match="does not say its preprocessing"):
        evaluate(timm.create_model("test_resnet", num_classes=6), data, progress=False)
    with pytest.raises(ValueError, match="one split of a dataset, not all of train, test"):
        evaluate(model, {"train": data, "test": data}, progress=False)
    with pytest.raises(ValueError, match="batch_size=0 is not accepted: it must be at least 1"):
        evaluate(model, items, batch_size=0, progress=False)


def test_a_bare_network_and_unnamed_classes(data, items):
    torch.manual_seed(1)
    net = timm.create_model("test_resnet", num_classes=6).eval()
    bare = evaluate(net, items, **QUIET)
    unnamed = evaluate(wrap(net, preprocessing=PREPROCESSING), data, **QUIET)
    for name in ON_MAPS:
        torch.testing.assert_close(bare.values(f"model/{name}"), unnamed.values(f"model/{name}"), atol=1e-5, rtol=0)
    assert unnamed.settings["classes"] == list(shapes.CLASSES) and bare.settings["classes"] == list("012345")


def test_files_are_named(tmp_path):
    from attention_refine.data import load_dataset

    shapes.write(tmp_path, splits=["test"], n=6, size=64)
    found = evaluate(made_model(), load_dataset(tmp_path, "test"), measures=["accuracy"], progress=False)
    assert [Path(s["file"]).name for s in found.samples] == [f"{i:05d}.png" for i in range(6)]
    right = found.values("correct")
    assert found.summary["classification"]["accuracy"]["value"] == pytest.approx(float(right.mean()))
    assert found.settings["maps"] == [] and found.summary["maps"] == {}


def test_the_centre_is_one_control_whatever_the_models_grid(data, items):
    """A model with another grid is compared with the same control, at the image's own size; noise keeps the grid."""
    fine = {"fine": lambda net, pixels, target: pixels.mean(1, keepdim=True)}
    coarse = {"coarse": lambda net, pixels, target: pixels.mean(1, keepdim=True)[..., ::32, ::32]}
    options = {"measures": ["mask_correlation"], "progress": False}
    a, b = (evaluate(made_model(), items, maps={**one, "centre": None}, **options) for one in (fine, coarse))
    assert a.summary["maps"]["centre"] == b.summary["maps"]["centre"]
    masks = torch.stack([item["mask"] for item in items])
    expected = metrics.mask_correlation(metrics.centre_maps(len(items), (64, 64)), masks)
    assert a.values("centre/mask_correlation").tolist() == pytest.approx(expected.tolist(), abs=1e-6)
