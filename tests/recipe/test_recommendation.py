"""``recommend``: what the data has and what the network is decide; the table is true of the package and of its page."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import datasets
import pytest
import timm
import yaml
from cases import BY_NAME

import attention_refine as ar
from attention_refine import shapes
from attention_refine.backbones.kinds import kind_of
from attention_refine.recipe import Recipe
from attention_refine.recipe.recommendation import as_markdown, read_table, rows, saved_model

PAGE = Path(__file__).parents[2] / "docs" / "choosing.md"


@pytest.fixture(scope="module")
def shapes_rows():
    """Sixty images with masks, boxes and cue boxes."""
    return shapes.make("train", 60, size=32)


def with_columns(rows, *names, count=None):
    """The rows with only these columns beside image and label, the first ``count`` of them filled."""
    kept = rows.select_columns(["image", "label", *names])
    if count is None:
        return kept
    lazy = kept.cast_column("mask", datasets.Image(decode=False)) if "mask" in names else kept
    for name in names:
        cells = [cell if row < count else None for row, cell in enumerate(lazy[name])]
        lazy = lazy.remove_columns(name).add_column(name, cells, feature=rows.features[name])
    return lazy


def grouped(rows):
    return rows.add_column("group", ["ab"[i % 2] for i in range(len(rows))])


@pytest.mark.parametrize(
    "columns, count, options, recipe, name",
    [
        (["mask"], None, {}, "repair_folder", "some masks or boxes"),
        (["mask"], 2, {}, "repair_folder", "some masks or boxes"),
        (["mask"], 1, {}, "plain_folder", "nothing but labels"),
        (["bbox"], 3, {}, "repair_folder", "some masks or boxes"),
        (["mask", "cue_bbox"], 3, {}, "repair_folder", "some masks or boxes"),
        (["mask"], 1, {"goal": "map"}, "supervision_folder", "some masks or boxes, for the map"),
        (["cue_bbox"], None, {}, "repair_folder", "cue boxes or masks"),
        (["cue_bbox"], None, {"goal": "map"}, "energy_folder", "cue boxes or masks, for the map"),
        ([], None, {}, "plain_folder", "nothing but labels"),
        (["bbox"], 2, {"goal": "map"}, "propagate_map_folder", "several masks or boxes, for the map"),
        ([], None, {"goal": "map"}, "propagate_map_folder", "nothing but labels, for the map"),
        (["bbox"], 2, {"goal": "both"}, "repair_map_folder", "several masks or boxes, for predictions and map"),
        (["bbox"], 1, {"goal": "both"}, "repair_map_folder", "nothing but labels, for predictions and map"),
        (["bbox"], 2, {"goal": "both", "model": "test_vit"}, "repair_folder", "some masks or boxes, transformer"),
        ([], None, {"goal": "map", "model": "test_vit"}, "plain_folder", "a transformer without annotation"),
        ([], None, {"goal": "parts"}, "brnpa_folder", "fine-grained classes"),
        ([], None, {"goal": "parts", "model": "test_vit"}, "plain_folder", "a transformer without annotation"),
        ([], None, {"model": "test_resnet"}, "plain_folder", "nothing but labels"),
        (["mask"], 3, {"model": "test_vit"}, "repair_folder", "some masks or boxes, transformer"),
        (["bbox"], 3, {"goal": "shortcut"}, "repair_folder", "some masks or boxes"),
        ([], None, {"goal": "shortcut"}, "repair_folder", "a suspected shortcut and nothing annotated"),
        (
            [],
            None,
            {"goal": "shortcut", "model": "test_vit"},
            "repair_folder",
            "a suspected shortcut and nothing annotated, transformer",
        ),
    ],
)
def test_what_the_data_has_decides(shapes_rows, columns, count, options, recipe, name):
    found = ar.recommend(with_columns(shapes_rows, *columns, count=count), **options)
    assert (found.recipe, found.name) == (recipe, name)
    assert found.why in str(found) and found.found in str(found)
    assert found.measured == ("Measured on" in str(found)) != ("Not measured" in str(found))
    written = yaml.safe_load(found.to_yaml())
    assert Recipe.from_dict(written) == found.load(), "what is written is what is run"


@pytest.mark.parametrize("command", ["repair", "edit"])
def test_the_command_line_takes_every_goal_of_the_table(command):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"attention_refine.commands.{command}").add(parser.add_subparsers(), [])
    for goal in read_table()["goals"]:
        words = [command, "model", *(["data"] if command == "edit" else ["--data.source", "folder"]), "--goal", goal]
        assert parser.parse_known_args(words)[0].goal == goal


def test_groups_and_few_labels_decide_where_nothing_else_is_there(shapes_rows):
    bare = with_columns(shapes_rows)
    found = ar.recommend(grouped(bare))
    assert found.name == "groups and nothing else" and found.load().model.objectives == ["group_dro"]
    assert ar.recommend(grouped(with_columns(shapes_rows, "mask"))).recipe == "repair_folder"
    eight = bare.select(range(48))
    assert ar.recommend(eight, goal="map").recipe == "consistency_folder"
    assert ar.recommend(eight).recipe == "plain_folder", "consistency changes the map, not the accuracy"
    assert ar.recommend(eight, "test_vit", goal="map").recipe == "plain_folder", "of a transformer it was not seen"


def test_a_transformer_is_trained_and_looked_at_as_one(shapes_rows):
    found = ar.recommend(with_columns(shapes_rows), "test_vit")
    made = found.load({"training": {"epochs": 3}})
    assert (made.training.optimizer, made.training.learning_rate, made.training.epochs) == ("adamw", 1e-4, 3)
    assert made.evaluation.maps == ["model", "gradient_rollout"] and made.model.backbone == "test_vit"
    assert made.model.image_size is None and found.network == "transformer"
    masked = ar.recommend(with_columns(shapes_rows, "mask"), timm.create_model("test_vit")).load()
    assert "image_size" not in masked.data.propagate and masked.model.objectives[0]["replace"] is True


def test_the_network_may_be_a_module_a_name_or_a_saved_model(tmp_path, shapes_rows):
    model = ar.wrap(BY_NAME["resnet18"].make(), labels=list(shapes.CLASSES))
    model.save_pretrained(tmp_path / "run" / "best")
    bare = with_columns(shapes_rows)
    assert ar.recommend(bare, model).overrides == {}
    named = ar.recommend(bare, str(tmp_path / "run"))
    assert named.overrides == {"model": {"checkpoint": str(tmp_path / "run" / "best")}}
    assert saved_model(tmp_path) is None and saved_model("resnet18") is None
    with pytest.raises(ValueError, match="'resnet81' is no timm model.*close timm and torchvision names"):
        ar.recommend(bare, "resnet81")


@pytest.mark.parametrize(
    "name, kind",
    [("test_resnet", "convolutional"), ("test_vit", "transformer"), ("deit_tiny_patch16_224", "transformer"),
     ("swin_tiny_patch4_window7_224", "transformer"), ("convnext_atto", "convolutional"), ("mobilevit_xxs", "convolutional")],
)  # fmt: skip
def test_kinds_of_networks(name, kind):
    assert kind_of(name) == kind


@pytest.mark.parametrize("name", ["resnet18", "vit-token", "hf-swin", "convnext"])
def test_kinds_of_other_networks(name):
    assert kind_of(BY_NAME[name].make()) == ("transformer" if name in ("vit-token", "hf-swin") else "convolutional")


def test_a_folder_is_described_by_its_training_split(tmp_path):
    folder = shapes.write(tmp_path / "own", splits=("train", "test"), n=12, size=32)
    found = ar.recommend(folder)
    assert found.found.startswith("12 images, 6 classes, 12 masks") and found.load().data.source == str(folder)


def test_bad_input_is_refused_in_a_sentence(shapes_rows):
    with pytest.raises(ValueError, match="goal 'speed' is not one of accuracy, shortcut, map, both, parts"):
        ar.recommend(shapes_rows, goal="speed")
    with pytest.raises(ValueError, match="rows of a stream cannot be counted"):
        ar.recommend(with_columns(shapes_rows).to_iterable_dataset())
    with pytest.raises(ValueError, match="give the training split of a dataset, not all of train"):
        ar.recommend(datasets.DatasetDict(train=shapes_rows))
    with pytest.raises(ValueError, match="list does not say what it holds"):
        ar.recommend([1, 2])


# the table ----------------------------------------------------------------------------------------------------------------


def test_every_row_is_a_recipe_with_its_evidence():
    goals, conditions = read_table()["goals"], {"goal", "annotated", "cues", "groups", "per_class", "network"}
    for row in rows():
        assert set(row.when) <= conditions and set(row.when.get("goal", ())) <= set(goals)
        assert row.why.endswith(".")
        keys = {"data", "network", "seeds", "numbers", "command", "where"} if row.measured else {"measured", "says"}
        assert set(row.evidence) == keys, row.name
        if row.measured:
            page = PAGE.parents[1] / row.evidence["where"].partition(",")[0]
            assert page.is_file(), f"{row.name} says it was measured in {page}"
    assert rows()[-1].when == {}, "the last row holds for anything"
    assert len({row.name for row in rows()}) == len(rows())


def test_the_page_shows_the_table():
    text = PAGE.read_text(encoding="utf-8")
    shown = text.split("as_markdown() -->\n")[1].split("\n<!-- /table")[0]
    assert shown == as_markdown(), (
        "docs/choosing.md: put attention_refine.recipe.recommendation.as_markdown() between the marks"
    )
