"""The command line as a person uses it: a folder of images in, a model and pages out, and one sentence when it cannot."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from PIL import Image

from attention_refine import shapes
from attention_refine.cli import main

TINY = [
    "--model.backbone", "test_resnet", "--model.pretrained", "false", "--model.image_size", "64",
    "--training.batch_size", "8", "--training.progress", "false", "--evaluation.perturbation_images", "2",
    "--evaluation.perturbation_steps", "2",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return shapes.write(tmp_path_factory.mktemp("images") / "shapes", splits=("train", "test"), n=24, size=64)


@pytest.fixture(scope="module")
def config(tmp_path_factory, folder):
    path = tmp_path_factory.mktemp("config") / "abn.yaml"
    path.write_text(
        yaml.safe_dump({"model": {"head": "abn"}, "data": {"source": str(folder)}, "training": {"epochs": 1}})
    )
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory, config):
    """A plain and an ABN run, trained through the command."""
    out = tmp_path_factory.mktemp("runs")
    for name, head in (("plain", "null"), ("abn", "abn")):
        assert (
            main(["finetune", str(config), *TINY, "--model.head", head, "--training.output_dir", str(out / name)]) == 0
        )
    return out


def test_finetune_leaves_a_model_numbers_a_recipe_and_a_page(runs):
    for name in ("plain", "abn"):
        for file in ("best/config.json", "best/model.safetensors", "history.json", "evaluation.json", "recipe.yaml"):
            assert (runs / name / file).is_file(), f"{name}/{file}"
        assert "<html" in (runs / name / "report.html").read_text()
    recipe = yaml.safe_load((runs / "plain" / "recipe.yaml").read_text())
    assert recipe["model"]["head"] is None and recipe["training"]["epochs"] == 1, "the command line wins over the file"


def test_the_written_recipe_runs_again(runs, tmp_path, capsys):
    recipe = runs / "abn" / "recipe.yaml"
    assert main(["finetune", str(recipe), "--training.output_dir", str(tmp_path / "again")]) == 0
    first, again = (json.loads((path / "history.json").read_text()) for path in (runs / "abn", tmp_path / "again"))
    assert first == again, "the same recipe gives the same run"


def test_evaluate_puts_models_side_by_side(runs, folder, tmp_path, capsys):
    models = [str(runs / name / "best") for name in ("plain", "abn")]
    data = [
        "--data.source",
        str(folder),
        "--evaluation.perturbation_images",
        "2",
        "--evaluation.perturbation_steps",
        "2",
    ]
    assert main(["evaluate", *models, *data, "--output", str(tmp_path / "out")]) == 0
    assert "report:" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text()
    assert "plain-best" in page and "abn-best" in page
    for name in ("plain-best", "abn-best"):
        summary = json.loads((tmp_path / "out" / name / "evaluation.json").read_text())["summary"]
        assert 0 <= summary["classification"]["accuracy"]["value"] <= 1


def test_compare_reads_finished_evaluations(runs, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert (
        main(["compare", str(runs / "plain"), f"refined={runs / 'abn' / 'evaluation.json'}", "--output", str(page)])
        == 0
    )
    said = capsys.readouterr().out
    assert "refined" in said and "plain" in page.read_text()
    assert "at least two" in _refused(capsys, "compare", runs / "plain")
    said = _refused(capsys, "compare", tmp_path, runs / "plain")
    assert f"{tmp_path} holds no evaluation.json: judge its model with attention-refine evaluate" in said
    assert "best does not exist: give an evaluation.json" in _refused(
        capsys, "compare", tmp_path / "best", runs / "plain"
    )


def test_measures_are_chosen_by_name(runs, folder, tmp_path, capsys):
    model, out = runs / "abn" / "best", tmp_path / "out"
    command = ["evaluate", str(model), "--data.source", str(folder), "--output", str(out), "--evaluation.measures"]
    assert main([*command, "[accuracy, sparsity]"]) == 0
    summary = json.loads((out / "best" / "evaluation.json").read_text())["summary"]
    assert list(summary["classification"]) == ["accuracy"] and list(summary["maps"]["model"]) == ["sparsity"]
    assert main([*command, "{sparsity: {}, iou: {threshold: 0.2}}"]) == 0
    settings = json.loads((out / "best" / "evaluation.json").read_text())["settings"]
    assert settings["measures"]["iou"] == {"threshold": 0.2}
    capsys.readouterr()
    command += ["[sparsty]"]
    assert main(command) == 1 and "did you mean 'sparsity'" in capsys.readouterr().err


def test_backbones_prints_rows_of_the_table(capsys):
    assert main(["backbones", "--filter", "timm/resnet"]) == 0
    assert "| `stages.2` | NCHW | scale | twin |" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["evaluate", "fewshot", "explain"])
def test_a_device_that_is_not_there_is_refused_in_a_sentence(runs, folder, tmp_path, capsys, command):
    words = [str(folder / "test")] if command == "explain" else ["--data.source", str(folder)]
    there = "cuda" if torch.cuda.is_available() else "cpu"
    for device in ("gpu", "cuda:99"):
        assert main([command, str(runs / "abn/best"), *words, "--device", device]) == 1
        said = capsys.readouterr().err
        assert f"--device {device!r} cannot be used" in said and f"without --device this is {there!r}" in said
        assert said.count("\n") == 1


def test_explain_writes_a_picture_for_every_image(runs, folder, tmp_path, capsys):
    out = tmp_path / "explained"
    (tmp_path / "a.png").write_bytes(next((folder / "test").glob("*.png")).read_bytes())
    assert main(["explain", str(runs / "abn" / "best"), str(tmp_path / "a.png"), "--output", str(out)]) == 0
    picture = Image.open(out / "a.png")
    assert (
        picture.width == 320 and picture.height > 64
    )  # the photograph and, under it, class, probability and whose map
    said = capsys.readouterr().out
    assert "Map by grad_cam; the model saw the middle" in said or "Map of the abn head" in said
    command = ["explain", str(runs / "plain"), str(tmp_path), "--method", "gradient", "--output", str(out)]
    assert main([*command, "--whole"]) == 0
    assert "a.png" in capsys.readouterr().out


def test_inspect_says_what_a_model_is(runs, capsys):
    assert main(["inspect", str(runs / "abn")]) == 0  # of a run its best model
    said = capsys.readouterr().out
    for words in (
        "test_resnet",
        "layer3",
        "abn",
        "branch=twin",
        "copied from layer4",
        "6: checked square",
        "from fresh weights",
    ):
        assert words in said, words


def test_list_names_the_shipped_configs_and_all_of_them_are_valid(capsys):
    from attention_refine.recipe import Recipe, shipped, shipped_names

    assert main(["finetune", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == shipped_names() != []
    for name in shipped_names():
        Recipe.load(shipped(name))


def test_help_of_every_command(capsys):
    for command in ("demo", "finetune", "evaluate", "compare", "explain", "inspect", "backbones"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0 and "usage: attention-refine" in capsys.readouterr().out


def test_explain_goes_on_after_a_broken_file_and_leaves_its_own_pictures_alone(runs, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("1.png", "2.png", "4.gif", "5.webp"):
        Image.new("RGB", (40, 40), (90, 20, 30)).save(photos / name)
    (photos / "3.png").write_bytes(b"not an image")
    (photos / "6.heic").write_bytes(b"of a phone")
    command = ["explain", str(runs / "plain" / "best"), str(photos), "--output", str(photos / "explained")]
    for _ in range(2):
        assert main(command) == 1
        err = capsys.readouterr().err
        assert "3.png cannot be read as an image" in err and "1 of 5 images could not be explained" in err
        assert "1 .heic images, which Pillow cannot open here" in err
        assert sorted(path.name for path in (photos / "explained").iterdir()) == ["1.png", "2.png", "4.png", "5.png"]
    assert "4 pictures that explain wrote: explained/1.png" in err
    assert main([*command[:-1], str(tmp_path / "elsewhere")]) == 1
    assert (
        "4 pictures that explain wrote" in capsys.readouterr().err
        and len(list((tmp_path / "elsewhere").iterdir())) == 4
    )


def test_explain_writes_into_no_folder_of_images(runs, tmp_path, capsys):
    photos, inner = tmp_path / "photos", tmp_path / "photos" / "cats"
    inner.mkdir(parents=True)
    for path in (photos / "1.jpg", photos / "2.png", inner / "2.png"):
        Image.new("RGB", (40, 40), (90, 20, 30)).save(path)
    (tmp_path / "link").symlink_to(photos)
    before = {path: path.read_bytes() for path in photos.rglob("*.*")}
    explain = ["explain", runs / "plain" / "best"]
    for output in (photos, tmp_path / "link", inner):
        said = _refused(capsys, *explain, photos, "--output", output)
        assert "is a folder of the images, among which the pictures would lie: give another, such as" in said
    for images, output in (
        ([photos / "2.png"], photos),
        ([inner], photos),
        ([photos / "1.jpg", photos / "2.png"], inner),
    ):
        said = _refused(capsys, *explain, *images, "--output", output)
        assert "2.png is there, and is no picture of explain: give another folder" in said
    assert before == {path: path.read_bytes() for path in photos.rglob("*.*")}


def test_explain_says_what_it_leaves_out_of_a_folder(runs, tmp_path, capsys):
    photos, other = tmp_path / "photos", tmp_path / "other"
    for folder in (photos / "a" / "b", photos / "masks", other):
        folder.mkdir(parents=True)
    for path in (photos / "1.png", photos / "a" / "b" / "2.png", photos / "masks" / "1.png", other / "3.gif"):
        Image.new("RGB", (40, 40), (90, 20, 30)).save(path)
    (photos / "4.png").symlink_to(tmp_path / "gone.png")
    (photos / "linked").symlink_to(other)
    (photos / "a" / "round").symlink_to(photos)
    (photos / "notes.txt").write_text("of a person")
    (photos / "film.mp4").write_bytes(b"")
    out = tmp_path / "explained"
    assert main(["explain", str(runs / "plain" / "best"), str(photos), "--output", str(out)]) == 0
    said = capsys.readouterr()
    assert f"3 of 3 images explained in {out}" in said.out
    assert sorted(path.name for path in out.iterdir()) == ["1.png", "2.png", "3.png"]
    for line in ("1 masks and maps: masks/1.png", "1 links to nothing: 4.png", "1 links to a folder that they lie in",
                 "1 .txt files, which are no images", "1 videos: film.mp4"):  # fmt: skip
        assert line in said.err


@pytest.mark.parametrize("command", ["demo", "evaluate m", "audit m d", "repair m", "explain m i", "edit m d"])
def test_an_output_that_is_a_file(tmp_path, capsys, command):
    (tmp_path / "here").write_text("")
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--output", str(tmp_path / "here")])
    assert stop.value.code == 2
    assert "here' is a file; name a folder, which is made where it is not there" in capsys.readouterr().err


def test_a_filter_that_no_network_fits(capsys):
    assert main(["backbones", "--filter", "zzz"]) == 1
    assert "no network's name holds 'zzz'" in capsys.readouterr().err


def _refused(capsys, *command) -> str:
    assert main([*map(str, command)]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("attention-refine: ") and "\n" not in said and "Traceback" not in said
    return said


def test_an_unknown_key_in_a_config(tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text("training: {epoch: 3}")
    assert "did you mean 'epochs'" in (said := _refused(capsys, "finetune", path)) and "bad.yaml" in said
    path.write_text("trainng: {epochs: 3}")
    assert "'trainng' is not one of model, data, training, evaluation" in _refused(capsys, "finetune", path)
    path.write_text("training: [1, 2")
    assert "is not YAML" in _refused(capsys, "finetune", path)
    assert "abn_shapes" in _refused(capsys, "finetune", "abn_shape")


def test_an_image_cut_short(folder, config, tmp_path, capsys):
    broken = tmp_path / "broken"
    shapes.write(broken, splits=("train", "test"), n=24, size=64)
    victim = sorted((broken / "train").glob("*.png"))[5]
    victim.write_bytes(victim.read_bytes()[:200])
    out = tmp_path / "run"
    command = ["finetune", config, *TINY, "--data.source", broken, "--training.output_dir", out]
    assert victim.name in _refused(capsys, *command)
    assert not list(out.rglob("*.safetensors")) or not (out / "best").exists(), "nothing half-written"
    assert main([*map(str, command), "--data.on_error", "skip", "--training.overwrite", "true"]) == 0


def test_a_checkpoint_cut_short(runs, tmp_path, capsys):
    model = tmp_path / "model"
    model.mkdir()
    for file in (runs / "abn" / "best").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "model.safetensors" in _refused(capsys, "inspect", model)
    assert "model.safetensors" in _refused(capsys, "explain", model, model)


def test_a_folder_without_images_and_a_model_that_is_none(runs, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in _refused(capsys, "explain", runs / "abn" / "best", empty)
    assert str(empty) in _refused(capsys, "inspect", empty)
    assert "empty" in _refused(capsys, "evaluate", runs / "abn" / "best", "--data.source", empty)


def test_a_map_nobody_knows(runs, folder, capsys, tmp_path):
    image = next((folder / "test").glob("*.png"))
    said = _refused(capsys, "explain", runs / "abn" / "best", image, "--method", "grad_can", "--output", tmp_path)
    assert "did you mean 'grad_cam'" in said


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_what_was_there(config, tmp_path, capsys):
    out = tmp_path / "run"
    command = ["finetune", config, *TINY, "--training.output_dir", out, "--training.learning_rate", "1e30"]
    said = _refused(capsys, *command, "--training.optimizer", "sgd", "--training.epochs", "8")
    assert "finite" in said and "step" in said
