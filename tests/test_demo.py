"""The demo: what it tells, which boxes it gives, and that its sentence claims no more than its numbers."""

from __future__ import annotations

import json

import pytest
import torch
from test_report import Page

import attention_refine as ar
from attention_refine import demo, shapes
from attention_refine.repairing.changes import Change


def changes(lies, holds=(0.96, 0.96), energy=(0.4, 0.1)):
    """Three changes of 400 images with these shares before and after."""

    def values(share):
        return (torch.arange(400) < round(400 * share)).double()

    def one(name, pair, higher_is_better=True):
        return Change.of(name, name, *(values(share) for share in pair), higher_is_better)

    return [one("lies", lies), one("holds", holds), one("energy_on_cue", energy, False)]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    return demo.tell(tmp_path_factory.mktemp("demo"), seed=3, quick=True, progress=False)


def test_the_page_has_four_pictures_three_numbers_and_the_audits(told):
    text = told.report.read_text(encoding="utf-8")
    words = " ".join(" ".join(Page(text).words).split())
    first = text[: text.index("<h2>")]
    assert first.count("<figure>") == 4 and first.count('class="value"') == 3 and first.count('class="verdict"') == 1
    assert all(" ".join(code.split()) in words for code in demo.STEPS.values())
    assert "6 of 96 training images" in first
    for audit in told.audits.values():
        assert audit.verdict in words
    for link in ("plain/audit/audit.html", "mended/audit/audit.html"):
        assert f'href="{link}"' in text and (told.report.parent / link).is_file()


def test_both_models_and_the_numbers_are_written(told):
    folder = told.report.parent
    numbers = json.loads((folder / "numbers.json").read_text())
    assert [number["after"]["value"] for number in numbers] == [change.after["value"] for change in told.changes]
    for name, when in (("plain", "before"), ("mended", "after")):
        loaded, made = ar.load(folder / name / "last"), told.models[when]
        assert all(torch.equal(a, b) for a, b in zip(loaded.backbone.state_dict().values(), made.backbone.state_dict().values()))  # fmt: skip
    before, after = (told.models[when].backbone.net.state_dict() for when in ("before", "after"))
    assert any(not torch.equal(before[key], after[key]) for key in before)


def test_the_mending_sees_boxes_of_a_share_of_each_class_and_nothing_of_the_badge():
    rows = shapes.make("train", 120, size=32)
    few = demo.boxed(rows, seed=1, share=0.1)
    kept = [row for row, box in enumerate(few["bbox"]) if box is not None]
    assert few.column_names == ["image", "label", "bbox"]
    assert sorted(rows["label"][row] for row in kept) == [label for label in range(6) for _ in range(2)]
    assert all(few["bbox"][row] == rows["bbox"][row] for row in kept)
    other = demo.boxed(rows, seed=2, share=0.1)
    assert kept == [row for row, box in enumerate(demo.boxed(rows, 1, 0.1)["bbox"]) if box is not None]
    assert kept != [row for row, box in enumerate(other["bbox"]) if box is not None]


def test_the_sentence_claims_no_more_than_the_numbers():
    mended = demo.sentence(changes((0.25, 0.6)), 90, 1800)
    assert "60\u00a0% of the images whose badge lies instead of 25\u00a0%" in mended and "off the badge" in mended
    assert "off the badge" not in demo.sentence(changes((0.25, 0.6), energy=(0.2, 0.2)), 90, 1800)
    assert "it stays right on 95" in demo.sentence(changes((0.25, 0.6), holds=(0.95, 0.95)), 90, 1800)
    assert "it falls to 90" in demo.sentence(changes((0.25, 0.6), holds=(0.95, 0.9)), 90, 1800)
    for after in (0.25, 0.1):
        assert "did not mend" in demo.sentence(changes((0.25, after)), 90, 1800)
