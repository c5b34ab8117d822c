"""What a person typed means what it says: text as it is, numbers, lists, nothing; and what they meant is suggested."""

from __future__ import annotations

import pytest

from attention_refine.cli import main
from attention_refine.core.options import suggestion
from attention_refine.core.typed_words import read, value_of
from attention_refine.recipe import DataOptions, ModelOptions, Recipe, shipped, shipped_lines, shipped_names
from attention_refine.training import TrainingConfig


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("runs/cats #2", str, "runs/cats #2"), ("no", str, "no"), ("2024", str, "2024"), ("1e3", str, "1e3"), ("null", str, "null"),
        ("null", str | None, None), ("none", str | dict | None, None), 
        ("{name: abn, combine: product}", str | dict | None, {"name": "abn", "combine": "product"}),
        ("a: b", str | None, "a: b"), ("true", bool | str, True), ("True.safetensors", bool | str, "True.safetensors"),
        ("1e-4", float, 1e-4), ("3", int, 3), ("0.2", float | str, 0.2), ("validation", float | str, "validation"), ("3", int | None, 3),
        ("consistency", list[str | dict], ["consistency"]), ("mining, darc", list[str | dict], ["mining", "darc"]),
        ("{name: darc, width: 8}", list[str | dict], [{"name": "darc", "width": 8}]), 
        ("[mining, {name: darc}]", list[str | dict], ["mining", {"name": "darc"}]),
        ("6,8", list[float], [6, 8]), ("accuracy", list[str] | dict | None, ["accuracy"]), 
        ("{iou: {threshold: 0.2}}", list[str] | dict | None, {"iou": {"threshold": 0.2}}),
        ("none", list[str] | dict | None, None), ("three", int, "three"),
    ],
)  # fmt: skip
def test_the_words_of_a_command_line(text, hint, value):
    found = value_of(text, hint)
    assert found == value and type(found) is type(value)


def test_the_words_of_a_file():
    said = read("a: no\nb: 1e-4\nc: true\nd: off\ne: 3\nf: 'x #2'\ng: null\nh: 2.5e+3\ni: 1e4x")
    assert said == {
        "a": "no",
        "b": 1e-4,
        "c": True,
        "d": "off",
        "e": 3,
        "f": "x #2",
        "g": None,
        "h": 2500.0,
        "i": "1e4x",
    }
    assert isinstance(said["b"], float)


def test_fields_of_text_keep_the_words_of_a_file_and_numbers_are_decimal(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "data: {revision: 0123, source: 2024-01-01, label_column: 12:30, unlabeled: 1_000, group_column: 1e5,\n"
        "       train_split: 0x10, test_split: null, mask_values: [010, 2]}\n"
        "training: {epochs: 010, seed: 7, learning_rate: 1.e-4, output_dir: 007, alternated_alpha: .5}\n"
        "evaluation: {groups: [1, no, 2.50]}\n"
    )
    found = Recipe.load(path)
    data, training = found.data, found.training
    assert (data.revision, data.source, data.label_column, data.unlabeled) == ("0123", "2024-01-01", "12:30", "1_000")
    assert (data.group_column, data.train_split, data.test_split, data.mask_values) == ("1e5", "0x10", None, [10, 2])
    assert (training.epochs, training.learning_rate, training.output_dir) == (10, 1e-4, "007")
    assert training.alternated_alpha == 0.5 and found.evaluation.groups == ["1", "no", "2.50"]
    path.write_text(found.to_yaml())
    assert Recipe.load(path) == found


@pytest.mark.parametrize("text", ["training: {epochs: 3, epochs: 5}", "data:\n  source: a\n  source: b\n", "data: {}\ndata: {}"])  # fmt: skip
def test_a_key_that_is_there_twice_is_refused(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"is not YAML: key '(epochs|source|data)' is there twice .* line \d"):
        Recipe.load(path)


def test_no_is_a_precision_and_a_truth_where_one_is_asked_for(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "training: {mixed_precision: no, channels_last: yes, learning_rate: 5e-4, output_dir: 'runs/cats #2'}"
    )
    training = Recipe.load(path).training
    assert (training.mixed_precision, training.channels_last, training.learning_rate) == ("no", True, 5e-4)
    assert training.output_dir == "runs/cats #2"
    with pytest.raises(ValueError, match="channels_last='maybe' is not accepted: it must be true or false"):
        TrainingConfig(channels_last="maybe")


def test_a_name_that_is_known_elsewhere_is_suggested(capsys):
    assert suggestion("lr", TrainingConfig) == "did you mean 'learning_rate'?"
    assert suggestion("sorce", DataOptions) == "did you mean 'source'?"
    assert suggestion("zzz", ModelOptions).startswith("known are backbone, ")
    with pytest.raises(TypeError, match="TrainingConfig: unknown option 'epoch': did you mean 'epochs'"):
        TrainingConfig(epoch=3)
    for words, said in (
        (["--training.lr", "0.1"], "unknown option --training.lr: did you mean 'learning_rate'?"),
        (["--training.epoch=3"], "unknown option --training.epoch: did you mean 'epochs'?"),
        (["--learning_rate", "0.1"], "did you mean --training.learning_rate?"),
        (["--lr", "0.1"], "did you mean --training.learning_rate?"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["finetune", "abn_shapes", *words])
        assert stop.value.code == 2 and said in capsys.readouterr().err


def test_every_known_name_is_of_a_field():
    for kind in Recipe.sections().values():
        assert set(kind.KNOWN_AS.values()) <= set(kind.__dataclass_fields__)
        assert not set(kind.KNOWN_AS) & set(kind.__dataclass_fields__)


def test_the_list_has_a_line_on_each(capsys):
    assert main(["finetune", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == shipped_names() and lines == shipped_lines()
    assert all(len(line.split()) >= 5 for line in lines)
    (plain,) = [line for line in lines if line.startswith("plain_folder ")]
    assert plain.endswith("A plain fine-tune of your own photographs, to compare the others with")


def test_heads_and_objectives_of_shipped_configs_can_be_made():
    from attention_refine.heads._base import heads
    from attention_refine.objectives._base import objectives
    from attention_refine.recipe.building import _made

    used = set()
    for name in shipped_names():
        model = Recipe.load(shipped(name)).model
        made = [_made(objectives, entry) for entry in model.objectives]
        used |= {each.name for each in made} | ({_made(heads, model.head).name} if model.head else set())
        if name.endswith("_folder"):
            assert Recipe.load(shipped(name)).data.source == "path/to/folder"
    assert {"abn", "brnpa", "bilinear", "mining", "guided_inference", "map_supervision", "consistency", "darc"} <= used


def test_a_limit_takes_rows_evenly():
    from attention_refine.commands.evaluate import _limited

    class Rows(list):
        def select(self, rows):
            return [self[row] for row in rows]

    assert _limited(Rows(range(10)), 4) == [0, 2, 5, 7]
    assert _limited(Rows(range(10)), None) == _limited(Rows(range(10)), 10) == list(range(10))
    with pytest.raises(SystemExit):
        main(["evaluate", "model", "--limit", "0"])
