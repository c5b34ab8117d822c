"""The benchmark of every method: each trains and is judged, a plan names each cell once, tables hold what lines say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from attention_refine import data, shapes

ROOT = Path(__file__).parents[1]
NETWORK = "test_resnet"


@pytest.fixture(scope="module")
def methods(benchmarks):
    import methods.filling
    import methods.plan
    import methods.protocol
    import methods.registry
    import methods.running
    import methods.tables
    import methods.validation

    return methods


@pytest.fixture(scope="module")
def places(methods, tmp_path_factory):
    """A folder with sets as those of the benchmark, and weights."""
    root = tmp_path_factory.mktemp("benchmark")
    for name in ("places3", "places3_fair"):
        for split, n in (("train", 24), ("test", 12)):
            shapes.write(root / name, (split,), n, size=64)
            table = root / name / split / "metadata.jsonl"
            rows = [json.loads(line) for line in table.read_text().splitlines()]
            for i, row in enumerate(rows):
                row.pop("cue_bbox", None)
                row |= {"group": f"{row['label']}/{'sea' if i % 3 else 'sky'}", "aligned": str(i % 3 > 0)}
            table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    torch.manual_seed(0)
    save_file(timm.create_model(NETWORK, zero_init_last=False).state_dict(), root / f"{NETWORK}.safetensors")
    return methods.protocol.Places(root, root)


def cell(methods, method, annotation=None, dataset="places3", **fields):
    annotation = annotation or methods.registry.METHODS[method].annotations[0]
    return methods.protocol.Cell(dataset, NETWORK, method, annotation, image_size=64, **{"steps": 3, **fields})


def names():
    text = (ROOT / "benchmarks" / "methods" / "registry.py").read_text().split("METHODS: dict", 1)[1]
    return [line.split('"')[1] for line in text.splitlines() if line.startswith('    "') and '": Method(' in line]


@pytest.mark.parametrize("name", names())
def test_every_method_trains(methods, places, name):
    method = methods.registry.METHODS[name]
    own = cell(methods, name, dataset="places3" if "places3" in method.datasets else "shapes")
    full = methods.protocol.training_rows(own, places)
    rows = methods.protocol.annotated(full, own.annotation, own.seed)
    if method.propagate:
        rows, said = methods.protocol.segmented(own, places, rows)
        assert 0 <= methods.protocol.true_iou(rows, full) <= 1 and said["empty"] >= 0
    model = methods.running.make(own, method, places, data.class_names(rows), rows)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    methods.running.train(own, method, model, rows)
    moved = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert any(key.startswith("backbone") for key in moved)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values() if value.is_floating_point())


def test_names_are_those_of_the_registry(methods):
    assert names() == list(methods.registry.METHODS)


def test_a_cell_says_the_same_twice_and_has_every_measure(methods, places):
    own = cell(methods, "plain")
    first, again = (methods.running.run(own, places) for _ in range(2))
    timed = {key for key in first if key.startswith("cpu")} | {"relative"}
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in again.items() if k not in timed}
    assert {"overall", "macro_f1", "agrees", "lies", "worst_group", "relative", "gmacs"} <= first.keys()
    wanted = {f"{of}_{key}" for of in ("map", "random", "centre") for key in methods.running.ON_MAP}
    assert wanted <= first.keys() and all(math.isfinite(first[key]) for key in wanted)


def test_cells_of_two_processes_have_the_lines_of_one(methods, places, tmp_path):
    cells = [cell(methods, name, steps=1) for name in ("abn", "plain")]
    threads = torch.get_num_threads()
    try:
        for workers in (1, 2):
            methods.filling.run_all(cells, places, tmp_path / f"{workers}.jsonl", workers=workers)
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    one, two = (
        {line["method"]: line for line in map(json.loads, (tmp_path / f"{workers}.jsonl").read_text().splitlines())}
        for workers in (1, 2)
    )
    assert set(one) == {"plain", "abn"}
    timed = ("cpu_prepare", "cpu_train", "cpu_plain_step", "relative")
    for name, line in one.items():
        assert {key: value for key, value in two[name].items() if key not in timed} == {
            key: value for key, value in line.items() if key not in timed
        }
    methods.filling.run_all(cells, places, tmp_path / "none.jsonl", minutes=0, workers=2)
    assert not (tmp_path / "none.jsonl").exists()


def test_the_squeezed_network_begins_nearly_as_the_plain_one(methods, places):
    rows = methods.protocol.training_rows(cell(methods, "plain"), places)
    network = methods.registry.METHODS["squeeze and excitation"].network
    images = torch.rand(2, 3, 64, 64)
    plain, squeezed = (
        methods.protocol.wrapped(cell(methods, "plain"), places, data.class_names(rows), network=each).eval() for each in (None, network)
    )  # fmt: skip
    gates = [name for name, _ in squeezed.named_modules() if name.endswith(".se")]
    before, after = (model.backbone.net.forward_features(images) for model in (plain, squeezed))
    assert len(gates) == len(plain.backbone.net.layer1) * 4
    assert 0 < (before - after).norm() / before.norm() < 0.05


def test_annotations_are_those_asked_for_and_nothing_else(methods, places):
    full = methods.protocol.training_rows(cell(methods, "plain"), places)
    annotated = methods.protocol.annotated
    bare = annotated(full, "none", 0)
    assert not {"mask", "bbox", "cue_bbox"} & set(bare.column_names)
    for annotation, per_class in (("masks 25 %", 1), ("masks 50 %", 2), ("masks 100 %", 4), ("boxes 1 %", 1)):
        rows = annotated(full, annotation, 0)
        column = "mask" if annotation.startswith("masks") else "bbox"
        assert not {"mask", "bbox"} - {column} & set(rows.column_names)
        there = [label for label, value in zip(rows["label"], rows[column]) if value is not None]
        assert [there.count(label) for label in range(6)] == [per_class] * 6
    masks = full.remove_columns("bbox")
    drawn = annotated(masks, "boxes 100 %", 0)
    for mask, (box,) in zip(full["mask"], drawn["bbox"]):
        y, x = np.nonzero(np.asarray(mask))
        assert box == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
    with pytest.raises(ValueError, match="no masks; accepted are boxes"):
        annotated(full.remove_columns("mask"), "masks 5 %", 0)


def test_the_plan_names_each_cell_once_and_what_is_there_no_more(methods):
    cells = methods.plan.cells()
    assert len(set(cells)) == len(cells) and cells[0].method == "plain"
    lines = [{**each.key, "overall": 0.5} for each in cells[:100]]
    assert methods.plan.missing(cells[:250], lines) == cells[100:250]
    other = [{**each, "mixed_precision": "no"} for each in lines]  # counts but for what others are compared with
    first = [each for each in cells[:100] if each.method in methods.registry.FIRST]
    assert first and methods.plan.missing(cells[:100], other) == first
    assert not [each for each in cells if each.dataset == "cub20" and each.annotation.startswith("masks")]
    assert not [each for each in cells if each.transformer and each.method == "brnpa, finer"]
    assert not [each for each in cells if each.annotation == "groups" and each.labels_per_class != "all"]
    turns = [methods.plan.turn(each) for each in cells]
    assert turns == sorted(turns)
    assert {each.network for each in cells[:40]} == {"resnet18"} and {each.seed for each in cells[:40]} == {0}


def line(method, seed, annotation="none", **found):
    return {"dataset": "places3", "network": "resnet18", "method": method, "annotation": annotation, "labels_per_class": "all",
            "seed": seed, "mixed_precision": "no", **found}  # fmt: skip


def test_tables_hold_what_the_lines_say(methods):
    found = [
        *(line("plain", seed, lies=0.6, overall=0.70 + 0.02 * seed) for seed in (0, 1, 2)),
        *(line("ceiling", seed, lies=0.8, overall=0.9) for seed in (0, 1, 2)),
        *(line("repair", seed, "boxes 5 %", lies=0.7 + 0.02 * seed, overall=0.80 + 0.02 * seed) for seed in (0, 1, 2)),
        line("abn", 1, lies=0.65, overall=0.71, map_mask_correlation=0.5),
    ]
    table = methods.tables.table(found)
    assert table[0] == "| method | seeds | accuracy | where it lies | map's correlation | closes of the distance |"
    assert "| plain | 3 | 72.0 ± 2.0 | 60.0 ± 0.0 | - | - |" in table
    assert "| abn | 1 | 71.0 | 65.0 | 0.500 | 25 % |" in table
    half = 4.302652729911275 * 10 / 3**0.5  # Student's 97.5 % with two degrees of freedom; shares 50, 60, 70
    assert f"| 60 % [{60 - half:.0f}, {60 + half:.0f}] |" in next(row for row in table if row.startswith("| repair"))
    fast = [
        {**line("plain", 0, lies=0.5), "mixed_precision": "bf16"},
        {**line("ceiling", 0, lies=0.9), "mixed_precision": "bf16"},
        {**line("abn", 0, lies=0.6), "mixed_precision": "bf16"},
    ]
    table = methods.tables.table([*found, *fast], ["lies"])  # each line beside those of its own precision
    assert "| plain, bfloat16 | 1 | 50.0 | - |" in table and "| plain | 3 | 60.0 ± 0.0 | - |" in table
    assert "| abn | 2, 1 bf16 | 62.5 ± 3.5 | 25 % [25, 25] |" in table
    assert "| abn | +7.5 [-24.3, +39.3] |" in methods.tables.differences([*found, *fast], ["lies"])
    assert methods.tables.controls(found) == []
    beside = {
        f"{name}_{key}": 0.25
        for name in ("random", "centre")
        for key in ("energy_inside", "mask_correlation", "max_box_acc")
    }
    said, _ = methods.tables.controls([*found, line("plain", 3, **beside)])
    assert "random map has energy inside 0.250" in said and "MaxBoxAcc 25.0" in said
    compared = methods.tables.differences(found)
    assert compared[0] == "| minus plain | accuracy | where it lies |"
    repair = next(row for row in compared if row.startswith("| repair"))
    half = 4.302652729911275 * 2 / 3**0.5
    assert f"+12.0 [{12 - half:+.1f}, {12 + half:+.1f}]*" in repair and "+10.0 [+10.0, +10.0] " in repair.replace(
        "*", " "
    )
    assert next(row for row in compared if row.startswith("| abn")) == "| abn | -1.0 | +5.0 |"


def test_a_glance_is_of_all_sets_and_says_what_is_sure(methods):
    found = [
        *(line("plain", seed, lies=0.6, map_energy_inside=0.2) for seed in (0, 1, 2)),
        *(
            line("repair", seed, "boxes 5 %", lies=0.7 + 0.02 * seed, relative=1.5, map_energy_inside=0.1)
            for seed in (0, 1, 2)
        ),
        *({**line("plain", seed, overall=0.9), "dataset": "pets3"} for seed in (0, 1)),
        *({**line("repair", seed, "boxes 5 %", overall=0.9 - 0.2 * seed), "dataset": "pets3"} for seed in (0, 1)),
        line("abn", 1, lies=0.65, overall=0.1),
        {**line("abn", 1, lies=0.9), "labels_per_class": 4},
    ]
    titles, _, *rows = methods.tables.glance(found, "resnet18")
    assert titles.startswith("| minus plain | places3: where it lies | pets3: accuracy | cub20: accuracy |")
    assert rows == [
        "| abn | (+5.0) | - | - | - | - | - | - | - | - | - |",
        "| repair, boxes 5 % | **+12.0** | -10.0 | - | - | - | - | *-0.10* | - | - | 1.5 |",
    ]


def test_the_first_option_tried_is_that_of_the_row(methods):
    for name, options in methods.validation.TRIED.items():
        row, of = methods.registry.METHODS[name], cell(methods, name)

        def put_on(method, of=of):
            objectives = method.then.objectives() if method.then else method.objectives(of) if method.objectives else []
            return [each.config for each in [*objectives, *([method.head(of)] if method.head else [])]]

        every = [put_on(method) for method in options.values()]
        assert every[0] == put_on(row) and all(each not in every[:at] for at, each in enumerate(every)), name


def test_options_are_judged_on_training_images_that_are_held_out(methods, places, monkeypatch):
    rows = methods.protocol.training_rows(cell(methods, "plain"), places)
    train, held_out = methods.validation.split(rows)
    assert len(train) + len(held_out) == len(rows) and sorted(held_out["label"]) == list(range(6))
    monkeypatch.setattr(methods.running, "test_rows", lambda *_: pytest.fail("a test image was read"))
    found = methods.validation.run({**cell(methods, "made abn", "boxes 100 %").key, "options": "bce 3"}, places)
    assert 0 <= found["accuracy"] <= 1 and -1 <= found["mask_correlation"] <= 1
