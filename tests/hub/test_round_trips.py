"""Saved and loaded, logits and maps are the same bits: every head and objective, four backbones, every source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import BY_NAME, OBJECTIVE_OPTIONS
from safetensors.torch import save_file
from stand_in import READ_TOKEN, TOKEN

import attention_refine as ar
from attention_refine.hub import weights as stored
from attention_refine.objectives._base import objectives

BACKBONES = ("resnet18", "convnext", "vit-token", "hf-resnet")
PARTS = [(head, None) for head in (None, *ar.list_heads())] + [("abn", name) for name in ar.list_objectives()]
CASES = [(backbone, head, objective) for backbone in BACKBONES for head, objective in PARTS]
SOURCES = ("private", "gated", "revision", "sharded", "public")


def wrapped(backbone: str, head: str | None, objective: str | None) -> ar.RefinedModel:
    made = [objectives.build(objective, OBJECTIVE_OPTIONS.get(objective))] if objective else []
    model = BY_NAME[backbone].wrap(head, objectives=made, labels=["Bengal cat", "Bombay cat", "beagle", "pug", "日本"])
    for name, buffer in model.named_buffers():
        if buffer.dtype == torch.long and buffer.ndim == 0 and "num_batches" not in name:
            buffer.fill_(7)  # counters are part of the state: a head that has come in half way
    return model


# Loads every model that the parent saved, in a process that has neither its registries nor its caches.
CHILD = """
import json, sys
import torch
import attention_refine as ar
from safetensors.torch import load_file

plan = json.load(open(sys.argv[1]))
images, wrong = load_file(plan["images"]), []
for case in plan["cases"]:
    expected = load_file(case["expected"])
    for options in case["loads"]:
        model = ar.load(**options)
        with torch.no_grad():
            found = model(images[case["backbone"]])
        same = torch.equal(found.logits, expected["logits"])
        if "maps" in expected:
            same = same and torch.equal(found.maps, expected["maps"])
        if not same or model.training or model.labels[4] != "\\u65e5\\u672c":
            wrong.append([case["expected"], options["source"]])
print(json.dumps({"wrong": wrong, "loaded": sum(len(case["loads"]) for case in plan["cases"]),
                  "paths": [p for p in sys.path if p.endswith("tests")]}))
"""


def test_every_part_on_every_backbone_from_every_source_in_a_fresh_process(hub, tmp_path):
    plan = {"images": str(tmp_path / "images.safetensors"), "cases": []}
    save_file({name: BY_NAME[name].images() for name in BACKBONES}, plan["images"])
    for number, (backbone, head, objective) in enumerate(CASES):
        model = wrapped(backbone, head, objective)
        place = tmp_path / f"{number}-{backbone}-{head}-{objective}"
        how = SOURCES[number % len(SOURCES)]
        name = f"user/case-{number}"
        model.save_pretrained(place, max_shard_size="20KB" if how == "sharded" else "5GB")
        assert (place / stored.INDEX).exists() == (how == "sharded")
        files = {path.name: path.read_bytes() for path in place.iterdir()}
        if how == "revision":
            hub.make(name).commit("v1", "v1", files)
        else:
            hub.make(name, files, private=how == "private", gated=how == "gated")
        hub.members.add(name)
        with torch.no_grad():
            output = model(BY_NAME[backbone].images())
        expected = {"logits": output.logits, **({} if output.maps is None else {"maps": output.maps.contiguous()})}
        save_file(expected, place.with_suffix(".expected"))
        asked = {"source": f"{name}@v1" if how == "revision" else name, "token": READ_TOKEN}
        plan["cases"].append({"backbone": backbone, "expected": str(place.with_suffix(".expected")),
                              "loads": [{"source": str(place)}, asked, {**asked, "local_files_only": 1}]})  # fmt: skip
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
                   "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": str(Path(ar.__file__).parents[1])}  # fmt: skip
    environment.pop("HF_TOKEN", None)
    environment.pop("HF_HUB_CACHE", None)
    torch_threads = torch.get_num_threads()
    command = [sys.executable, "-c", f"import torch; torch.set_num_threads({torch_threads})\n" + CHILD]
    run = subprocess.run([*command, str(tmp_path / "plan.json")], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    report = json.loads(run.stdout.splitlines()[-1])
    assert report == {"wrong": [], "loaded": 3 * len(CASES), "paths": []}
    assert TOKEN not in run.stderr and READ_TOKEN not in run.stderr + run.stdout


@pytest.mark.parametrize("objective", ar.list_objectives())
def test_without_training_layers_a_model_predicts_the_same_and_trains_on(objective, tmp_path):
    model = wrapped("hf-resnet", "abn", objective)
    model.save_pretrained(tmp_path, training_layers=False)
    loaded = ar.load(tmp_path)
    assert not loaded.objectives and not [key for key in loaded.state_dict() if key.startswith("objectives.")]
    images = BY_NAME["hf-resnet"].images()
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images).logits)
        assert torch.equal(loaded(images).maps, model(images).maps)
    loaded.add_objective("mining")
    assert "mining" in loaded.train()(images, labels=torch.tensor([0, 1, 2])).losses


def test_shards_are_of_the_size_that_was_asked_and_replace_each_other(model, images, same, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size=12_000)
    shards = sorted(path.name for path in tmp_path.glob("model-*.safetensors"))
    assert (
        shards == [f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors" for n in range(len(shards))]
        and len(shards) > 2
    )
    index = json.loads((tmp_path / stored.INDEX).read_text())
    assert set(index["weight_map"]) == set(model.state_dict()) and set(index["weight_map"].values()) == set(shards)
    same(ar.load(tmp_path), model, images)
    model.save_pretrained(tmp_path, max_shard_size=30_000)
    same(ar.load(tmp_path), model, images)
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("model-*")) and not (tmp_path / stored.INDEX).exists()
    same(ar.load(tmp_path), model, images)


# released formats -----------------------------------------------------------------------------------------------------

FIXTURES = sorted((Path(__file__).parent / "fixtures").iterdir())


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda path: path.name)
def test_a_checkpoint_of_an_earlier_version_still_loads(folder):
    """Written once by the version in its name, never rewritten: ``expected.safetensors`` is what it answered then."""
    from safetensors.torch import load_file

    expected = load_file(folder / "expected.safetensors")
    model = ar.load(folder)
    with torch.no_grad():
        found = model(expected["pixel_values"])
    # another version of torch may order its sums otherwise
    torch.testing.assert_close(found.logits, expected["logits"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.maps, expected["maps"], rtol=1e-5, atol=1e-5)
    assert model.labels == ["Bengal cat", "Bombay cat", "beagle", "pug", "boxer"]
