"""``repair``: what is trained before and after, what is compared, and a page that says no more than the numbers do."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from test_audit import Rule, images
from test_report import Page

import attention_refine as ar
from attention_refine import shapes
from attention_refine.auditing.audit import examined
from attention_refine.cli import main
from attention_refine.recipe import Recipe, shipped, shown_objects
from attention_refine.repairing.changes import Change, changes, headline, sentence
from attention_refine.repairing.page import pictures, write_page
from attention_refine.repairing.repair import plain_of

TINY = {
    "model": {"pretrained": False, "image_size": 64},
    "training": {"max_steps": 2, "batch_size": 8, "progress": False, "mixed_precision": "no"},
}
SEGMENTER = {"method": "segmenter", "segmenter": {"steps": 2}}


def looked(part, dataset=None, **options):
    return examined(Rule(part), images(30) if dataset is None else dataset, map="gradient", progress=False, **options)


@pytest.fixture(scope="module")
def mended():
    """A model of the place, and one of the object, on images whose place lies for half of them."""
    rows = images(60, lies=0.5)
    return looked("place", rows), looked("object", rows)


def by_name(found):
    return {change.name: change for change in found}


def test_every_figure_is_paired(mended):
    before, after = (each[0] for each in mended)
    found = by_name(changes(before, after))
    assert {
        "accuracy",
        "mixed_rand",
        "cue_moved",
        "worst_group_accuracy",
        "group_gap",
        "energy_object",
        "energy_cue",
    } <= set(found)
    wrong = sum(not sample["correct"] for sample in before.samples) / 60
    assert found["accuracy"].difference["value"] == pytest.approx(wrong) and found["accuracy"].better is True
    assert found["accuracy"].difference["count"] == 60 and found["accuracy"].difference["low"] > 0
    flipped = [s["scenes"]["mixed_rand"]["correct"] for s in before.samples]
    assert found["mixed_rand"].before["value"] == pytest.approx(sum(flipped) / len(flipped))
    assert found["mixed_rand"].after["value"] == 1 and found["energy_object"].after["value"] == pytest.approx(
        1, abs=1e-5
    )
    assert found["place_alone"].better is None, "neither is better there"
    assert found["group_gap"].difference["value"] < 0 and found["group_gap"].better is True
    assert found["energy_cue"].better is None and found["energy_cue"].difference["value"] == 0
    groups = [name for name in found if name.startswith("group: ")]
    assert len(groups) == len(before.evaluation.summary["groups"]["group"]["accuracy"])


def test_the_sentence_says_what_is_sure_both_ways_and_nothing_else(mended):
    before, after = (each[0] for each in mended)
    found = changes(before, after)
    assert [change.name for change in headline(found)] == ["accuracy", "mixed_rand", "energy_cue"]
    said = sentence(found)
    assert said.startswith("Mended: accuracy, images as they are from ") and "to 100 % (+" in said
    assert said.endswith("No sure difference: map on the cue from 0 % to 0 % (0 points, 0 to 0).")
    assert sentence(changes(after, before)).startswith("Not mended, and worse: accuracy, images as they are from 100 %")
    assert sentence(changes(after, after)).startswith("Not mended: no difference beyond chance (accuracy")


def test_a_change_is_better_only_on_its_better_side():
    values = torch.arange(50) / 1e3
    lower = Change.of("energy_cue", "Energy", values + 0.1, values, higher_is_better=False)
    assert lower.better is True and lower.difference["value"] == pytest.approx(-0.1)
    assert Change.of("energy_cue", "Energy", values, values + 0.1, higher_is_better=False).better is False
    assert Change.of("same", "Same", values, values).better is None
    assert str(lower).startswith("energy from 12 % to 2 % (−10.0 points, ")


def test_audits_of_other_images_are_refused(mended):
    with pytest.raises(ValueError, match="not of the same images: audit both with the same dataset, limit and seed"):
        changes(mended[0][0], looked("object", images(60, lies=0.5), limit=30)[0])


def test_the_pictures_are_the_same_images_and_chosen_by_the_first_audit(mended):
    shown = pictures(*mended)
    assert [figure.caption.partition(":")[0] for figure in shown] == ["before", "before", "after", "after"]
    assert shown[0].note == shown[2].note and shown[0].note.startswith("row ")
    assert shown[1].correct is False and shown[3].correct is True
    assert shown[1].caption.partition(":")[2] == shown[3].caption.partition(":")[2]
    assert len(pictures(mended[0], None)) == 2


def test_the_page_is_whole_and_its_first_screen_is_a_sentence_pictures_and_numbers(mended, tmp_path):
    found = changes(mended[0][0], mended[1][0])
    path = write_page(
        tmp_path / "repair.html", sentence(found), headline(found), found, *mended, title="Repair of <b>", why="one\ntwo", control=False,
        config={"model": {"head": None}},
    )  # fmt: skip
    text = path.read_text()
    page = Page(text)
    first = text[: text.index("<h2>")]
    assert first.count("<img") == 4 and sentence(found) in page.text and first.count('class="value"') == 3
    assert "Repair of <b>" not in text and "no control was trained" in page.text and "head: null" in page.text
    assert all(change.title in page.text for change in found)
    assert all(attrs["src"].startswith("data:") for tag, attrs in page.tags if tag == "img")
    assert not [attrs for tag, attrs in page.tags if tag == "a"], "no audit lies there to be linked"


def test_the_control_is_the_recipe_without_what_mends(tmp_path):
    for name in (
        "repair_folder",
        "supervision_folder",
        "brnpa_distilled_folder",
        "group_dro_folder",
        "consistency_folder",
    ):
        recipe = Recipe.load(shipped(name))
        plain = plain_of(recipe, tmp_path)
        assert plain.model.head is None and plain.model.objectives == [] and plain.model.resolution == 1
        assert plain.data.propagate is None and plain.training.balance is None
        kept = ("epochs", "max_steps", "batch_size", "learning_rate", "optimizer", "seed")
        assert all(getattr(plain.training, key) == getattr(recipe.training, key) for key in kept)
    plain = Recipe.load(shipped("plain_folder"))
    assert plain_of(plain, plain.training.output_dir) == plain


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shapes.write(tmp_path_factory.mktemp("images") / "shapes", splits=("train", "test"), n=24, size=64)


@pytest.fixture(scope="module")
def repaired(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("repair")
    lines: list[str] = []
    overrides = {**TINY, "data": {"propagate": SEGMENTER}}
    return out, lines, ar.repair("test_resnet", folder, out, overrides=overrides, limit=12, say=lines.append)


def test_a_backbone_is_trained_plainly_audited_mended_and_audited_again(repaired, folder):
    out, lines, done = repaired
    for file in (
        "repair.html", "recipe.yaml", "before/best/model.safetensors", "before/audit/audit.html", "before/evaluation.json",
        "after/best/model.safetensors", "after/audit/audit.json", "after/evaluation.json", "after/propagate/propagation.json",
    ):  # fmt: skip
        assert (out / file).is_file(), file
    assert done.recommendation.recipe == "repair_folder" and "Measured on places3" in lines[0]
    control = json.loads((out / "before" / "best" / "config.json").read_text())
    assert control["objectives"] == [] and done.model.objectives["transplant"].config.replace
    assert [s["index"] for s in done.before.samples] == [s["index"] for s in done.after.samples]
    assert len(done.before.samples) == 12 and done.before.settings == done.after.settings
    assert [change.name for change in headline(done.changes)] == ["accuracy", "mixed_rand", "energy_cue"]
    assert str(done).splitlines() == [
        done.sentence,
        f"model: {out / 'after' / 'best'}",
        f"report: {out / 'repair.html'}",
    ]
    text = done.page.read_text()
    assert 'href="before/audit/audit.html"' in text and 'href="after/audit/audit.html"' in text
    assert "as many images and updates" in Page(text).text


def test_the_written_recipe_is_what_was_trained(repaired, folder):
    out, _, done = repaired
    written = Recipe.from_dict(yaml.safe_load((out / "recipe.yaml").read_text()))
    assert written == done.recipe == Recipe.from_dict(yaml.safe_load((out / "after" / "recipe.yaml").read_text()))
    assert written.model.backbone == "test_resnet" and written.data.source == str(folder)
    control = Recipe.from_dict(yaml.safe_load((out / "before" / "recipe.yaml").read_text()))
    assert control == plain_of(written, out / "before")


def test_finished_evaluations_can_be_compared(repaired, tmp_path, capsys):
    out, _, done = repaired
    page = tmp_path / "c.html"
    assert main(["compare", str(out / "before"), str(out / "after"), "--output", str(page)]) == 0
    assert "minus before" in capsys.readouterr().out and page.is_file()


def test_a_saved_model_is_audited_as_it_is_and_goes_on(repaired, folder, tmp_path, capsys):
    out, _, first = repaired
    words = ["repair", str(out / "before"), "--data.source", str(folder), "--output", str(tmp_path / "again"),
             "--recipe", "transplant_folder", "--training.max_steps", "1", "--training.batch_size", "8", "--limit", "12",
             "--training.progress", "false", "--training.mixed_precision", "no"]  # fmt: skip
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "transplant_folder: chosen by hand" in printed and "the control" not in printed
    assert printed.rstrip().splitlines()[-1] == f"report: {tmp_path / 'again' / 'repair.html'}"
    assert not (tmp_path / "again" / "before" / "best").exists()
    again = ar.Audit.from_json(tmp_path / "again" / "before" / "audit" / "audit.json")
    assert [s["prediction"] for s in again.samples] == [s["prediction"] for s in first.before.samples]
    assert "no control was trained" in Page((tmp_path / "again" / "repair.html").read_text()).text


@pytest.fixture(scope="module")
def bare(folder, tmp_path_factory):
    """The same images in folders of their classes, and nothing that says where anything is."""
    bare = tmp_path_factory.mktemp("bare") / "images"
    for file in folder.rglob("*.png"):
        split = file.relative_to(folder).parts[0]
        if "mask" in str(file.relative_to(folder)):
            continue
        label = next(
            line["label"] for line in map(json.loads, (folder / split / "metadata.jsonl").read_text().splitlines())
            if line["file_name"] == str(file.relative_to(folder / split))
        )  # fmt: skip
        target = bare / split / str(label) / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    return bare


def test_nothing_annotated_is_mended_and_judged_by_what_stands_out(tmp_path, bare):
    overrides = {
        **TINY,
        "data": {"propagate": {"method": "unsupervised", "image_size": 192, "segmenter": {"steps": 2}}},
    }
    lines: list[str] = []
    out = tmp_path / "out"
    done = ar.repair("test_resnet", bare, out, goal="shortcut", overrides=overrides, limit=12, say=lines.append)
    assert done.recommendation.name == "a suspected shortcut and nothing annotated"
    assert "nobody annotated the test images: what stands out in them is taken for the object" in lines
    found = json.loads((out / "after" / "propagate" / "propagation.json").read_text())
    assert found["annotated"] == 0 and found["made"] > 0 and found["iou"] is None
    assert done.after is not None and "mixed_rand" in done.after.scenes and done.before.settings["made"] > 6
    rough = f"Of {done.before.settings['made']} of 12 images a model made the masks"
    assert rough in Page(done.page.read_text()).text


def test_test_images_that_people_annotated_are_judged_as_they_are(folder, bare):
    recipe = Recipe.load(shipped("repair_folder"), {"data": {"propagate": {"method": "unsupervised"}}})
    annotated = ar.data.load_dataset(folder, "test")
    assert shown_objects(recipe, annotated) is annotated
    plain = ar.data.load_dataset(bare, "test")
    assert shown_objects(Recipe.load(shipped("repair_folder")), plain) is plain


def test_without_anything_to_mend_with_the_plain_model_is_audited(tmp_path, bare):
    done = ar.repair("test_resnet", bare, tmp_path / "out", overrides=TINY, say=lambda line: None)
    assert done.after is None and done.changes == [] and done.recommendation.recipe == "plain_folder"
    assert done.sentence.startswith("Nothing to mend with. What this model looks at could not be found out")
    assert not (tmp_path / "out" / "after").exists() and done.model_path.parent.name == "before"
    assert "Not looked at: how much of the map lies on the object" in Page(done.page.read_text()).text


def test_bad_input_is_refused_in_a_sentence(repaired, folder, tmp_path, capsys):
    out, _, _ = repaired
    quiet = {"say": lambda line: None}
    with pytest.raises(ValueError, match=r"trains the head 'abn', and .*best has none: repair its backbone by name"):
        ar.repair(out / "before", folder, tmp_path / "a", goal="map", **quiet)
    with pytest.raises(ValueError, match="judged on a test split"):
        ar.repair("test_resnet", folder, tmp_path / "b", overrides={**TINY, "data": {"test_split": None}}, **quiet)
    for words, said in (
        (["resnet18"], "name the images to repair with: --data.source FOLDER"),
        (
            ["resnet18", "--data.source", "x", "--training.output_dir", "y"],
            "give that in place of --training.output_dir",
        ),
        (["resnet18", "--data.source", "x", "--model.backbone", "y"], "the model to repair is the first argument"),
        (["resnet18", "--data.source", str(tmp_path / "nowhere")], "nowhere"),
    ):
        assert main(["repair", *words]) == 1 and said in capsys.readouterr().err
