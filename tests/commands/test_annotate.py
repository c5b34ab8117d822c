"""annotate: a folder of images in, the same images with masks from words out, which load, check and train; or a sentence."""

from __future__ import annotations

import numpy as np
import pytest
import word_model_folders
from PIL import Image

import attention_refine as ar
from attention_refine import shapes
from attention_refine.cli import main
from attention_refine.data.writing import write_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders; files of two classes have the same names."""
    root = tmp_path_factory.mktemp("images") / "birds"
    rng = np.random.default_rng(0)
    for split, name, number in [("train", c, n) for c in ("crane", "heron") for n in range(3)] + [("test", "crane", 0)]:
        file = root / split / name / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (30, 44, 3), dtype=np.uint8)).save(file)
    return root


@pytest.mark.parametrize("kind", ["clipseg", "owlv2"])
def test_a_folder_is_annotated_and_loads_again(folder, tmp_path, capsys, kind):
    model = word_model_folders.write(tmp_path / "model", kind)
    options = ["--model", str(model), "--threshold", "0.2", "--device", "cpu"]
    out = tmp_path / "out"
    command = ["annotate", str(folder), "a bird", *options]
    assert main([*command, "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{out / 'train'}: 6 images with masks" in said and "0 by people, 0 without" in said
    found = ar.data.load_dataset(out)
    here = ar.data.annotate(
        ar.data.load_dataset(folder), "a bird", model=model, threshold=0.2, device="cpu", progress=False
    )
    assert ar.data.class_names(found) == ["crane", "heron"] and found["label"][:] == here["label"][:]
    assert found["mask_source"][:] == ["words"] * 6
    assert found["mask_confidence"][:] == pytest.approx(here["mask_confidence"][:])
    for row in range(6):
        assert np.array_equal(np.asarray(found["image"][row]), np.asarray(here["image"][row]))
        if kind == "clipseg":
            assert np.array_equal(np.asarray(found["mask"][row]), np.asarray(here["mask"][row]))
        else:
            assert np.allclose(found["bbox"][row], here["bbox"][row], atol=1e-3)
    assert main(["check", str(out)]) == 0
    assert "train: 6 images, 2 classes, 6 masks" in capsys.readouterr().out or kind == "owlv2"
    assert main([*command, "--output", str(out)]) == 1
    assert f"{out / 'train'} is there already: remove it, or write to another folder" in capsys.readouterr().err
    each = ["--text", "crane=a crane", "--text", "heron=a heron"]
    each += ["--output", str(tmp_path / "each"), "--min-confidence", "1"]
    assert main(["annotate", str(folder), *options, *each]) == 0
    assert (
        "0 images with masks" in capsys.readouterr().out and (tmp_path / "each" / "train" / "metadata.jsonl").is_file()
    )


def test_what_cannot_be_is_one_sentence(folder, tmp_path, capsys):
    options = ["--output", str(tmp_path / "out"), "--model", str(tmp_path)]
    for words, said in (
        (
            ["a bird", "--text", "crane=a crane"],
            "give one TEXT for all images, or --text CLASS=TEXT for each class, not both",
        ),
        (["--text", "a crane"], "--text 'a crane' is not CLASS=TEXT"),
        (["--text", "crane=a crane"], "the prompt has no text for 'heron'"),
        (["a bird"], "is no model that finds what a text names"),
    ):
        assert main(["annotate", str(folder), *words, *options]) == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_all_columns_are_written_and_read_again(tmp_path, monkeypatch):
    made = shapes.make("train", 4, size=40)
    map = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    made = (
        ar.data.save_edits(made, [1], [map])
        .add_column("note", ["é", None, "c", "d"])
        .add_column("number", [1, 2, 3, 4])
    )
    write_images(made, tmp_path / "out", "train")
    found = ar.data.load_dataset(tmp_path / "out")
    assert [ar.data.class_names(found)[label] for label in found["label"]] == [
        ar.data.class_names(made)[label] for label in made["label"]
    ]
    for row in range(4):
        assert np.array_equal(np.asarray(found["image"][row]), np.asarray(made["image"][row]))
        assert np.array_equal(np.asarray(found["mask"][row]), np.asarray(made["mask"][row]))
        assert np.ravel(found["bbox"][row]).tolist() == np.ravel(made["bbox"][row]).tolist()
    assert found["edited"][:] == [False, True, False, False]
    assert np.array_equal(ar.data.read_map(found["maps"][1]), map)
    assert found["note"][:] == ["é", None, "c", "d"] and found["number"][:] == [1, 2, 3, 4]
    from attention_refine.data import writing

    def broken(*_):
        raise OSError("no more")

    monkeypatch.setattr(writing.os, "replace", broken)
    with pytest.raises(OSError, match="no more"):
        write_images(made, tmp_path / "other", "train")
    assert list((tmp_path / "other").iterdir()) == [], "nothing half-written is left"
