"""The pages hold what `python benchmarks/results_page.py` makes of the lines there are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REMEDY = "run: python benchmarks/results_page.py"


@pytest.fixture(scope="module")
def made(benchmarks):
    import results_page

    return results_page


@pytest.mark.parametrize(
    "name",
    [
        "docs/results.md",
        "docs/benchmark.md",
        "docs/abn.md",
        "docs/propagate.md",
        "docs/repair.md",
        "docs/zoo.md",
        "docs/published.md",
        "README.md",
    ],
)
def test_what_stands_between_marks_is_what_the_lines_say(made, name):
    page = ROOT / name
    assert page in made.PAGES and "<!-- made: " in page.read_text(encoding="utf-8")
    assert made.written(page) == page.read_text(encoding="utf-8"), REMEDY


def test_the_figure_is_drawn_from_the_lines_that_are_there(made):
    for figure in (made.FIGURE, made.GLANCED):
        assert made.drawn_from() in figure.read_text(encoding="utf-8"), REMEDY


def test_a_further_arm_has_its_row_and_its_sentence(made, monkeypatch, tmp_path):
    found = [json.loads(line) for line in made.tables.RESULTS.read_text(encoding="utf-8").splitlines()]
    masks = [line for line in found if (line["method"], line["annotation"]) == ("repair", "masks 5 %")]
    boxes = [{**line, "annotation": "boxes 5 %", "lies": line["lies"] - 0.02, "true_iou": 0.7} for line in masks]
    rest = [
        line
        for line in found
        if line["network"] == "resnet18" and (line["method"], line["annotation"]) != ("repair", "boxes 5 %")
    ]
    networks = ("resnet50", "mobilenetv2_100")
    other = [{**line, "network": name} for name in networks for line in rest if line["dataset"] == "places3"]
    more = [*rest, *boxes, *other]
    read = made.lines
    monkeypatch.setattr(made, "lines", lambda file: more if file == made.tables.RESULTS else read(file))
    text = "\n".join(made.repaired())
    mean = 100 * sum(line["lies"] for line in boxes) / len(boxes)
    assert f"to {mean:.1f} %; ceiling" in text and "with IoU 0.70 to 0.70" in text
    assert text.count("| repair, boxes 5 % |") == 1 and text.count("| repair, masks 5 % |") == 3
    assert "**places3, resnet50**" in text and "| plain |" in "\n".join(made.methods("pets3"))
    made.draw(tmp_path / "drawn.svg")
    figure = (tmp_path / "drawn.svg").read_text(encoding="utf-8")
    assert ">repair, boxes 5 %<" in figure and ">plain (resnet50)<" in figure
    made.methods_figure.draw(more, tmp_path / "glanced.svg")
    assert (tmp_path / "glanced.svg").read_text(encoding="utf-8").count(">repair, boxes 5 %<") == 1


def test_a_cell_is_one_row_of_a_full_table(made):
    table = made.full_table("brnpa")
    assert table.mean("accuracy", data="cub20", backbone="resnet18", arm="high") == "82.3"
    with pytest.raises(ValueError, match="2 rows have"):
        table.cell("accuracy", data="cub20", arm="high")
    with pytest.raises(ValueError, match="has 0 tables 'nothing'"):
        made.full_table("nothing")


def test_every_config_is_in_the_zoo_with_a_gain_or_what_it_waits_for(made):
    names = {file.stem for file in (ROOT / "hub_configs").glob("*.yaml")}
    rows = [row for row in made.zoo.table(made.full_table) if row.startswith("| `")]
    assert [row for row in rows if "not trained: waits for ImageNet" in row]
    assert {row.split("`")[1] for row in rows} == names and made.zoo.GAINS.keys() <= names
