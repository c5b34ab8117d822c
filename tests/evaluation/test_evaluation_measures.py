"""Measures that ``evaluate`` takes by name beyond the usual ones: the metric functions' numbers, image by image."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from judged import made_model

from attention_refine import maps, metrics, shapes
from attention_refine.data import prepare
from attention_refine.evaluation import Evaluation, compare, evaluate
from attention_refine.evaluation.dataset_level import max_box_accuracy
from attention_refine.evaluation.measures import MEASURES
from attention_refine.evaluation.sanity import ATTRIBUTION_STEPS
from attention_refine.maps import by_name, list_maps

SIDE = 64


@pytest.fixture(scope="module")
def items():
    prepared = prepare(shapes.make("test", 6, size=SIDE), made_model().preprocessing)
    return [prepared[i] for i in range(len(prepared))]


def judged(model, items, measures, **options):
    return evaluate(model, items, measures=measures, progress=False, **{"perturbation_steps": 4, **options})


def grad_cams(model, items):
    return [maps.grad_cam(model, item["pixel_values"][None]) for item in items]


def test_measures_by_forwards_are_those_of_the_functions(items):
    model, few = made_model(), items[:3]
    names = ["comprehensiveness", "sufficiency", "insertion_mining", "pixel_flipping", "insertion", "average_drop"]
    found = judged(model, few, names)
    for i, (item, made) in enumerate(zip(few, grad_cams(model, few))):
        pixels = item["pixel_values"][None]
        both = metrics.rationale(model, pixels, made)
        mining = metrics.insertion_mining(model, pixels, made, item["labels"][None])
        expected = {
            "comprehensiveness": both.comprehensiveness,
            "sufficiency": both.sufficiency,
            "insertion_mining": mining.auc,
            "pixel_flipping": metrics.pixel_flipping(model, pixels, made, n_steps=4).aopc,
            "insertion": metrics.insertion(model, pixels, made, n_steps=4).auc,
            "average_drop": metrics.average_drop(model, pixels, made),
        }
        for name, value in expected.items():
            assert found.samples[i][f"model/{name}"] == pytest.approx(float(value), abs=1e-5), name
    assert set(found.curves["model"]) == {"insertion_mining", "insertion"}
    # The true class, not the predicted one.
    assert any(sample["label"] != sample["prediction"] for sample in found.samples)
    several = [{**item, "labels": torch.eye(6)[item["labels"]]} for item in few]
    with pytest.raises(
        ValueError, match="'insertion_mining' does not fit a dataset with several labels an image: use insertion"
    ):
        judged(model, several, ["insertion_mining"])


def test_measures_of_one_run_share_it_and_its_options(items, monkeypatch):
    calls = []
    rationale = metrics.rationale

    def counted(net, pixel_values, maps, target, score, batch_size, bins=(0.5,)):
        calls.append(bins)
        return rationale(net, pixel_values, maps, target, bins, score=score, batch_size=batch_size)

    for name in ("comprehensiveness", "sufficiency"):
        measure = MEASURES[name]
        monkeypatch.setitem(MEASURES, name, type(measure)(**{**vars(measure), "function": counted}))
    judged(made_model(), items[:1], {"comprehensiveness": {}, "sufficiency": {"bins": (0.1, 0.2)}})
    assert calls == [(0.1, 0.2)]
    with pytest.raises(ValueError, match="comprehensiveness, sufficiency come of one run"):
        judged(made_model(), items[:1], {"comprehensiveness": {"bins": [0.1]}, "sufficiency": {"bins": [0.2]}})


def test_iou_of_true_positives_leaves_the_others_out(items):
    model = made_model()
    with torch.no_grad():
        predicted = model(torch.stack([item["pixel_values"] for item in items])).logits.argmax(1)
    labels = [int(p) if i in (0, 3) else (int(p) + 1) % 6 for i, p in enumerate(predicted)]
    relabelled = [{**item, "labels": torch.tensor(label)} for item, label in zip(items, labels)]
    found = judged(model, relabelled, {"iou": {"threshold": 0.3}, "iou_true_positives": {"threshold": 0.3}})
    every, right = found.values("model/iou"), found.values("model/iou_true_positives")
    assert torch.equal(right.isnan(), torch.tensor([i not in (0, 3) for i in range(6)]))
    assert torch.equal(right[[0, 3]], every[[0, 3]])
    cell = found.summary["maps"]["model"]["iou_true_positives"]
    assert (cell["count"], cell["excluded"]) == (2, 4) and cell["value"] == pytest.approx(float(every[[0, 3]].mean()))


@pytest.mark.parametrize("options", [{}, {"at": [0.5], "largest_only": True, "thresholds": 21}])
def test_max_box_acc_is_of_the_whole_set(items, options, tmp_path):
    model = made_model()
    partly = [*items[:5], {key: value for key, value in items[5].items() if key not in ("mask", "boxes")}]
    found = judged(model, partly, {"max_box_acc": options, "box_iou": {}}, batch_size=2)
    at, thresholds = options.get("at", (0.3, 0.5, 0.7)), options.get("thresholds", 101)
    overlaps = torch.cat(
        [
            metrics.box_overlaps(made, [item["boxes"]], (SIDE, SIDE), metrics.threshold_grid(thresholds),
                                 options.get("largest_only", False))
            for item, made in zip(items[:5], grad_cams(model, items[:5]))
        ]
    )  # fmt: skip
    cell = found.summary["maps"]["model"]["max_box_acc"]
    assert cell["value"] == pytest.approx(float(metrics.max_box_accuracy(overlaps, at).accuracy))
    assert (cell["count"], cell["excluded"]) == (5, 1) and cell["low"] <= cell["value"] <= cell["high"]
    column = found.values("model/max_box_acc")
    assert column.shape == (6, thresholds) and column[5].isnan().all()
    torch.testing.assert_close(column[:5].float(), overlaps, atol=1e-5, rtol=0)
    found.to_json(tmp_path / "a.json")
    assert Evaluation.from_json(tmp_path / "a.json") == found
    found.to_csv(tmp_path / "a.csv")
    assert "max_box_acc" not in (tmp_path / "a.csv").read_text()


def test_max_box_acc_resampled_and_compared(items):
    overlaps = torch.rand(7, 11, generator=torch.Generator().manual_seed(0))
    statistic = max_box_accuracy(overlaps.double(), (0.3, 0.6))
    for seed in range(10):
        rows = torch.randint(7, (7,), generator=torch.Generator().manual_seed(seed))
        assert float(statistic(rows)) == pytest.approx(float(metrics.max_box_accuracy(overlaps[rows], (0.3, 0.6))[0]))
    a, b = (judged(made_model(seed=seed), items, ["max_box_acc"]) for seed in (1, 2))
    one = compare({"a": a, "b": b}).of("b", "max_box_acc", "model")
    gap = b.summary["maps"]["model"]["max_box_acc"]["value"] - a.summary["maps"]["model"]["max_box_acc"]["value"]
    assert one.difference == pytest.approx(gap) and one.low <= one.difference <= one.high
    assert one.p_value is None and one.count == 6
    none = [{key: item[key] for key in ("pixel_values", "labels", "index")} for item in items[:2]]
    cell = judged(made_model(), none, ["max_box_acc"]).summary["maps"]["model"]["max_box_acc"]
    assert cell["value"] is None and (cell["count"], cell["excluded"]) == (0, 2)


def test_pxap_is_of_all_pixels_of_the_set_resampled_and_compared(items, tmp_path):
    model = made_model()
    partly = [*items[:5], {key: value for key, value in items[5].items() if key not in ("mask", "boxes")}]
    found = judged(model, partly, {"pxap": {"thresholds": 21}}, batch_size=2)
    grid = metrics.threshold_grid(21)
    counts = torch.cat(
        [metrics.pixel_counts(made, item["mask"][None], thresholds=grid) for item, made in zip(items[:5], grad_cams(model, items[:5]))]
    )  # fmt: skip
    cell = found.summary["maps"]["model"]["pxap"]
    assert cell["value"] == pytest.approx(float(metrics.pixel_precision(counts)), abs=1e-4)
    assert (cell["count"], cell["excluded"]) == (5, 1) and cell["low"] <= cell["value"] <= cell["high"]
    found.to_json(tmp_path / "a.json")
    assert Evaluation.from_json(tmp_path / "a.json") == found
    found.to_csv(tmp_path / "a.csv")
    assert "pxap" not in (tmp_path / "a.csv").read_text()
    a, b = (judged(made_model(seed=seed), items, ["pxap"]) for seed in (1, 2))
    one = compare({"a": a, "b": b}).of("b", "pxap", "model")
    gap = b.summary["maps"]["model"]["pxap"]["value"] - a.summary["maps"]["model"]["pxap"]["value"]
    assert one.difference == pytest.approx(gap) and one.low <= one.difference <= one.high


def test_thresholds_that_were_chosen_on_other_images(items):
    """Choe et al.'s discipline: what is tuned is tuned on a split that is not the one judged."""
    model, at = made_model(), [0.3, 0.5]
    held_out, test = items[:3], items[3:]
    found = judged(model, held_out, {"max_box_acc": {"at": at, "thresholds": 21}})
    best = metrics.max_box_accuracy(found.values("model/max_box_acc"), at).threshold
    chosen = metrics.threshold_grid(21)[best].tolist()
    value = judged(model, test, {"max_box_acc": {"at": at, "chosen": chosen}}).summary["maps"]["model"]["max_box_acc"][
        "value"
    ]
    tried = sorted(set(chosen))
    pairs = zip(test, grad_cams(model, test))
    each = [metrics.box_overlaps(made, [item["boxes"]], (SIDE, SIDE), torch.tensor(tried)) for item, made in pairs]
    overlaps, columns = torch.cat(each), [tried.index(threshold) for threshold in chosen]
    expected = sum((overlaps[:, column] >= delta).double().mean() for column, delta in zip(columns, at)) / 2
    assert value == pytest.approx(float(expected))
    again = judged(model, held_out, {"max_box_acc": {"at": at, "chosen": chosen}}).summary["maps"]["model"][
        "max_box_acc"
    ]["value"]
    assert again == pytest.approx(found.summary["maps"]["model"]["max_box_acc"]["value"])
    with pytest.raises(ValueError, match="one threshold in .0, 1. for each overlap of at="):
        judged(model, test, {"max_box_acc": {"at": at, "chosen": [0.5]}})


def test_attribution_is_of_the_models_integrated_gradients(items):
    model, few = made_model(), items[:4]
    names = ["attribution_mass", "attribution_detail", "completeness_error"]
    found = judged(model, few, names, batch_size=3, perturbation_images=2)
    assert found.settings["maps"] == ["integrated_gradients"]  # no other map was asked for
    assert list(found.summary["maps"]) == ["integrated_gradients"]
    for i in (0, 2):  # two of the four, spread evenly
        pixels = few[i]["pixel_values"][None]
        path = torch.linspace(0, 1, ATTRIBUTION_STEPS, dtype=torch.float64)
        total = torch.zeros_like(pixels, dtype=torch.float64)
        for place in path:
            x = (place.float() * pixels).requires_grad_()
            logit = model(x).logits[0, found.samples[i]["prediction"]]
            weight = (0.5 if place in (0, 1) else 1) / (ATTRIBUTION_STEPS - 1)
            total += weight * torch.autograd.grad(logit, x)[0].double()
        attributed = total * pixels
        with torch.no_grad():
            scores = model(torch.cat([pixels, 0 * pixels])).logits[:, found.samples[i]["prediction"]].double()
        gap = float(scores[0] - scores[1])
        magnitude = attributed.abs().sum(1, keepdim=True).float()
        expected = {
            "attribution_mass": float(metrics.attribution_mass(magnitude, few[i]["mask"][None])),
            "attribution_detail": float(metrics.attribution_detail(magnitude, few[i]["mask"][None])),
            "completeness_error": abs(float(attributed.sum()) - gap) / abs(gap),
        }
        for name, value in expected.items():
            # float32 here, float64 in the loop; the error is a small difference of large sums
            assert found.samples[i][f"integrated_gradients/{name}"] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    assert "integrated_gradients/attribution_mass" not in found.samples[1]
    without = [{key: item[key] for key in ("pixel_values", "labels", "index")} for item in few[:1]]
    alone = judged(model, without, names)
    assert alone.samples[0]["integrated_gradients/attribution_mass"] is None
    assert alone.samples[0]["integrated_gradients/completeness_error"] > 0


def test_tokens_are_dropped_where_there_are_tokens(items):
    few = items[:2]
    model = made_model(name="test_vit")
    found = judged(model, few, ["token_insertion", "token_deletion"])
    for i, (item, made) in enumerate(zip(few, grad_cams(model, few))):
        both = metrics.token_insertion_and_deletion(model, item["pixel_values"][None], made, n_steps=4)
        assert found.samples[i]["model/token_insertion"] == pytest.approx(float(both.insertion.auc), abs=1e-5)
        assert found.samples[i]["model/token_deletion"] == pytest.approx(float(both.deletion.auc), abs=1e-5)
    assert set(found.curves["model"]) == {"token_insertion", "token_deletion"}
    with pytest.raises(ValueError, match="remove pixels instead"):
        judged(made_model(), few, ["token_insertion"])


@pytest.mark.parametrize(
    "head, names", [(None, ["model", "gradient", "eigen_cam", "random"]), ("abn", ["model", "grad_cam"])]
)
def test_randomised_weights(items, head, names):
    model, few = made_model(head), items[:3]
    options = {"layers": 2, "seed": 3}
    found = judged(model, few, {"parameter_randomisation": options}, maps=names, batch_size=3)
    again = judged(model, few, {"parameter_randomisation": options}, maps=names, batch_size=1)
    pixels = torch.stack([item["pixel_values"] for item in few])
    with torch.no_grad():
        target = model(pixels).logits.argmax(1)
    explained = {
        "gradient": lambda net, x: maps.gradient(net, x, target),
        "eigen_cam": lambda net, x: maps.eigen_cam(net, x),
        "grad_cam": lambda net, x: maps.grad_cam(net, x, target),
        "model": (lambda net, x: net(x).maps.detach()) if head else (lambda net, x: maps.grad_cam(net, x, target)),
    }
    for name in names:
        if name == "random":  # looks at no model
            assert "random/parameter_randomisation" not in found.samples[0]
            continue
        expected = metrics.parameter_randomisation(model, explained[name], pixels, **options).similarity.mean(1)
        values = found.values(f"{name}/parameter_randomisation")
        torch.testing.assert_close(values, expected.double(), atol=1e-4, rtol=0)
        # ranks of nearly equal cells may change places with the rounding of another batch size
        torch.testing.assert_close(again.values(f"{name}/parameter_randomisation"), values, atol=1e-2, rtol=0)
    if head is None:
        assert found.values("gradient/parameter_randomisation").max() < 0.9  # gradients do depend on the weights


def test_random_labels(items, tmp_path):
    model, other, few = made_model(seed=1), made_model(seed=2), items[:2]
    other.save_pretrained(tmp_path / "shuffled")
    options = {"model": str(tmp_path / "shuffled"), "similarity": "pearson"}
    found = judged(model, few, {"label_randomisation": options}, maps=["gradient"])
    for i, item in enumerate(few):
        pixels, target = item["pixel_values"][None], found.samples[i]["prediction"]
        expected = metrics.pearson(maps.gradient(model, pixels, target), maps.gradient(other, pixels, target))
        assert found.samples[i]["gradient/label_randomisation"] == pytest.approx(float(expected), abs=1e-5)
    same = {**options, "model": str(tmp_path / "same")}
    model.save_pretrained(tmp_path / "same")
    values = judged(model, few, {"label_randomisation": same}).values("model/label_randomisation")
    assert values.tolist() == pytest.approx([1, 1], abs=1e-5)
    with pytest.raises(ValueError, match="trained on shuffled labels"):
        judged(model, few, ["label_randomisation"])


def test_curves_have_a_band(items):
    found = judged(made_model(), items, ["insertion", "deletion"], perturbation_images=5, seed=7)
    for name in ("insertion", "deletion"):
        cell = found.curves["model"][name]
        assert cell["count"] == 5 and cell["level"] == 0.95
        assert len(cell["low"]) == len(cell["mean"]) == len(cell["high"]) == len(cell["fractions"]) == 5
        assert all(low <= mean <= high for low, mean, high in zip(cell["low"], cell["mean"], cell["high"]))
        assert any(high > low for low, high in zip(cell["low"], cell["high"]))


def test_the_table_of_measures_is_whole():
    assert all(measure.function is not None or measure.needs in ("labels", "groups", "sanity") or name == "completeness_error"
               for name, measure in MEASURES.items())  # fmt: skip
    assert {"insertion", "deletion", "token_insertion", "token_deletion", "insertion_mining"} < {
        name for name, measure in MEASURES.items() if measure.curve is not None
    }
    net, pixels = timm.create_model("test_vit", num_classes=6, img_size=SIDE).eval(), torch.randn(1, 3, SIDE, SIDE)
    classless = [name for name in list_maps() if not by_name(name).per_class]
    for name in classless:
        with pytest.raises(ValueError, match="same for every class"):
            by_name(name)(net, pixels, 0)
    assert classless == ["attention_rollout", "class_attention", "eigen_cam"]
    assert math.isfinite(float(by_name("gradient_rollout")(net, pixels, 0).sum()))
