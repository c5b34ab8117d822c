"""A head, an objective, a map and a measure of one's own, a short file each, are found wherever the library's are."""

from __future__ import annotations

import math
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from cases import BY_NAME

import attention_refine as ar
from attention_refine.cli import main
from attention_refine.core.registry import import_file
from attention_refine.evaluation import Evaluation, compare, map_names
from attention_refine.heads._base import heads
from attention_refine.maps._registry import maps
from attention_refine.metrics._registry import measures
from attention_refine.objectives._base import objectives
from attention_refine.report import write_report

REGISTRIES = (heads, objectives, maps, measures)
ROOT = Path(__file__).parents[1]
FILES = {
    "own_head": '''
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

import attention_refine as ar


@dataclass(frozen=True)
class GateConfig:
    site: str = "auto"
    mechanism: str | None = None
    weight: float = 1.0


@ar.register_head("own_gate")
class Gate(ar.Head):
    """A gate at every location."""

    config_class = GateConfig

    def attach(self, backbone, num_classes, resolved=None):
        self.resolved = resolved or {"channels": backbone.features(backbone.example()).grid.shape[1]}
        self.conv = nn.Conv2d(self.resolved["channels"], 1, 1)

    def forward(self, feature, maps=None):
        maps = torch.sigmoid(self.conv(feature)) if maps is None else maps
        return feature * (1 + maps), maps, {}
''',
    "own_objective": '''
from dataclasses import dataclass

import attention_refine as ar


@dataclass(frozen=True)
class QuietConfig:
    weight: float = 1.0


@ar.register_objective("own_quiet")
class Quiet(ar.Objective):
    """The mean of the map."""

    config_class = QuietConfig

    def forward(self, model, batch, output):
        return {"own_quiet": output.maps.mean()}
''',
    "own_map": '''
import attention_refine as ar


@ar.register_map("own_brightness", kind="pixels", per_class=False)
def brightness(net, pixel_values, power=1.0):
    """How bright a pixel is."""
    return pixel_values.mean(1, keepdim=True).exp() ** power
''',
    "own_measures": '''
import attention_refine as ar


@ar.register_measure("own_peak", title="Own peak", better=True, needs="map")
def peak(maps, above=0.0):
    """The largest value."""
    return maps.flatten(1).amax(1) - above


@ar.register_measure("own_share", title="Own share", better=None, needs="truth")
def share(maps, mask):
    return mask.float().flatten(1).mean(1)


@ar.register_measure("own_fall", title="Own fall", better=False, needs="forwards", takes=["target"])
def fall(net, pixel_values, maps, target):
    return net(pixel_values).logits.gather(1, target[:, None])[:, 0]


@ar.register_measure("own_margin", title="Own margin", better=True, needs="labels")
def margin(logits, labels):
    return logits.topk(2, dim=1).values.diff(dim=1)[:, 0].neg()
''',
}


@pytest.fixture
def forgotten():
    """What a test registers is gone after it."""
    before = [dict(registry.entries) for registry in REGISTRIES]
    yield
    for registry, entries in zip(REGISTRIES, before):
        registry.entries.clear()
        registry.entries.update(entries)
    for name in FILES:
        sys.modules.pop(name, None)


@pytest.fixture
def written(tmp_path) -> list[Path]:
    paths = []
    for name, code in FILES.items():
        assert len(code.strip().splitlines()) <= 30
        paths.append(tmp_path / f"{name}.py")
        paths[-1].write_text(code.strip() + "\n", encoding="utf-8")
    return paths


@pytest.fixture
def model(forgotten, written) -> ar.RefinedModel:
    for path in written:
        import_file(path)
    return BY_NAME["resnet18"].wrap(head="own_gate", objectives=["own_quiet"])


class Items(torch.utils.data.Dataset):
    """Six noise images with masks."""

    class_names = tuple("abcde")
    is_multi_label = False

    def __len__(self):
        return 6

    def __getitem__(self, index: int) -> dict:
        pixels = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(index))
        mask = torch.zeros(1, 64, 64, dtype=torch.uint8)
        mask[:, : 16 * index] = 1  # the first has no object
        return {"pixel_values": pixels, "labels": torch.tensor(index % 5), "mask": mask, "index": index}


def test_each_is_listed_and_works(model, tmp_path):
    assert "own_gate" in ar.list_heads() and "own_quiet" in ar.list_objectives()
    assert "own_brightness" in ar.list_maps() and {"own_peak", "own_margin"} <= set(ar.list_measures())
    pixels = torch.randn(2, 3, 64, 64)
    output = model.train()(pixels, labels=torch.tensor([0, 3]))
    assert output.losses["own_quiet"].allclose(output.maps.mean())
    assert torch.equal(model.explain(pixels, method="own_brightness"), pixels.mean(1, keepdim=True).exp())
    with pytest.raises(ValueError, match="own_brightness is the same for every class"):
        model.explain(pixels, target=1, method="own_brightness")
    with pytest.raises(
        ValueError, match="first='own_brightness' is not one of 'head'"
    ):  # nobody said it can be trained
        ar.AttentionConsistency(first="own_brightness")
    model.eval().save_pretrained(tmp_path / "saved")
    assert torch.equal(ar.load(tmp_path / "saved")(pixels).logits, model(pixels).logits)


def test_evaluation_report_and_comparison(model, tmp_path):
    assert "own_brightness" in map_names()
    asked = {"accuracy": {}, "own_margin": {}, "own_peak": {"above": 1.0}, "own_share": {}, "own_fall": {}}
    options = {"maps": ["model", "own_brightness"], "measures": asked, "progress": False}
    found = ar.evaluate(model, Items(), output=tmp_path / "run", **options)
    assert set(found.summary["classification"]) == {"accuracy", "own_margin"}
    for name in ("model", "own_brightness"):
        assert set(found.summary["maps"][name]) == {"own_peak", "own_share", "own_fall"}
    bright = torch.stack([Items()[i]["pixel_values"] for i in range(6)]).mean(1).exp().flatten(1).amax(1) - 1
    torch.testing.assert_close(found.values("own_brightness/own_peak"), bright.double())
    shares = torch.tensor([math.nan, 0.25, 0.5, 0.75, math.nan, math.nan], dtype=torch.float64)  # NaN: nothing else
    torch.testing.assert_close(found.values("model/own_share"), shares, equal_nan=True)
    assert (found.values("own_margin") >= 0).all()
    assert "Own peak ↑" in str(found) and "Own fall ↓" in str(found) and "Own margin" in str(found)
    page = write_report(tmp_path / "report.html", {"one": found}).read_text(encoding="utf-8")
    assert all(title in page for title in ("Own peak", "Own share", "Own fall", "Own margin", "own_brightness"))

    read = Evaluation.from_json(tmp_path / "run" / "evaluation.json")
    for name in list(measures.entries):
        if name.startswith("own_"):
            del measures.entries[name]  # as on a machine where nobody registers them
    differences = compare({"old": read, "new": read})
    assert differences.of("new", "own_peak", "model").difference == 0
    assert differences.of("new", "own_margin").difference == 0
    assert "own peak" in str(read)


def test_a_measure_that_gives_no_number_a_sample_is_refused(model):
    ar.register_measure("own_mean", title="Own mean", better=None, needs="map")(lambda maps: maps.mean())
    with pytest.raises(ValueError, match=r"measure 'own_mean' gave \(\) for 6 samples: it gives \(B,\), one each"):
        ar.evaluate(model, Items(), measures=["own_mean"], progress=False)


@pytest.mark.parametrize(
    "command, names",
    [
        ("explain", ["own_brightness"]),
        ("evaluate", ["own_brightness", "own_peak"]),
        ("finetune", ["own_gate", "own_quiet", "own_brightness", "own_peak"]),
    ],
)
def test_the_help_of_the_command_line_lists_them(forgotten, written, command, names, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*(f"--use={path}" for path in written), command, "--help"])
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert stop.value.code == 0 and all(name in said for name in names)


def test_what_use_refuses(forgotten, tmp_path, capsys):
    assert main(["--use", str(tmp_path / "none.py"), "explain", "--help"]) == 1
    assert "none.py' is no Python file" in capsys.readouterr().err
    (tmp_path / "torch.py").write_text("")
    assert main(["--use", str(tmp_path / "torch.py"), "explain", "--help"]) == 1
    assert "has the name of the module 'torch', which is imported already" in capsys.readouterr().err


def test_the_tables_of_the_docs(model):
    page = runpy.run_path(str(ROOT / "docs" / "tables.py"))["tables"]()
    for name in (*ar.list_heads(), *ar.list_objectives(), *ar.list_maps(), *ar.list_measures()):
        assert f"| `{name}` |" in page
    for line in ("A gate at every location.", "The mean of the map.", "How bright a pixel is.", "The largest value."):
        assert line in page


def test_the_page_of_the_docs_is_what_is_registered():
    page = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    assert page["PAGE"].read_text(encoding="utf-8") == page["tables"](), "run python docs/tables.py"


def test_the_map_and_the_measure_of_the_page_of_the_docs(forgotten):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.DOTALL)
    for code in blocks[:2]:
        exec(compile(code, "extending.md", "exec"), {})
    found = ar.evaluate(
        BY_NAME["resnet18"].wrap(), Items(), maps=["brightness"], measures={"peak": {"above": 0.2}}, progress=False
    )
    assert found.summary["maps"]["brightness"]["peak"]["count"] == 6
