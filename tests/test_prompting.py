"""Networks that compare images with texts: the network's own scores, maps of any text, bad input, the Hub."""

from __future__ import annotations

import json

import datasets
import pytest
import torch
import transformers
import word_model_folders
from PIL import Image

import attention_refine as ar
from attention_refine import cli, shapes
from attention_refine.backbones.spec import NotRebuildable

TEXTS = ["a cat", "a bird", "a star"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("zero-shot")
    return {kind: word_model_folders.write(root / kind, kind) for kind in word_model_folders.ZERO_SHOT}


@pytest.fixture(scope="module")
def model(folders):
    return ar.zero_shot(folders["clip"], TEXTS)


@pytest.mark.parametrize("kind", word_model_folders.ZERO_SHOT)
def test_the_scores_are_those_of_the_network_itself(folders, kind):
    model = ar.zero_shot(folders[kind], TEXTS, template="a {}")
    net = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    words = transformers.AutoTokenizer.from_pretrained(folders[kind])
    fill = (
        {"padding": "max_length", "max_length": word_model_folders.LONGEST} if kind == "siglip" else {"padding": True}
    )
    given = words([f"a {text}" for text in TEXTS], return_tensors="pt", **fill)
    given = {name: given[name] for name in ("input_ids", "attention_mask") if name in given}
    pixels = torch.randn(2, *model.preprocessing["input_size"])
    with torch.no_grad():
        expected = net(pixel_values=pixels, **given).logits_per_image
        assert torch.allclose(model(pixels).logits, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 1e-3 and model.labels == TEXTS and not model.training


@pytest.mark.parametrize("method", ["auto", "legrad", "grad_cam", "gradient_rollout", "integrated_gradients"])
def test_a_map_of_a_text_is_that_of_the_class_it_would_be(model, method):
    pixels = torch.randn(2, 3, 32, 32)
    for at, text in enumerate(TEXTS):
        assert torch.allclose(
            model.explain(pixels, prompt=text, method=method), model.explain(pixels, at, method=method), atol=1e-6
        )
    other = model.explain(pixels, prompt="the ears", method=method)
    assert other.shape == (2, 1, 32, 32) and not torch.allclose(other, model.explain(pixels, 0, method=method))
    assert model.labels == TEXTS and model(pixels).logits.shape == (2, 3)


def test_it_is_used_as_any_other_model(model, tmp_path):
    rows = shapes.make("test", 6, size=40)
    seen = model.show(rows[0]["image"], target="a star")
    assert seen.label == "a star" and 0 < seen.score < 1
    labels = [label % 3 for label in rows["label"]]
    rows = rows.select_columns(["image", "mask"]).add_column("label", labels, feature=datasets.ClassLabel(names=TEXTS))
    found = ar.evaluate(model, rows, perturbation_images=0, progress=False)
    right = model(torch.cat([model.preprocess(row["image"]) for row in rows])).logits.argmax(1) == torch.tensor(labels)
    assert [bool(each) for each in found.values("correct")] == right.tolist()
    with pytest.raises(NotRebuildable, match="ZeroShotClassifier"):
        model.save_pretrained(tmp_path / "saved")
    with pytest.raises(NotRebuildable, match="ZeroShotClassifier"):  # at once, not when the first epoch is to be saved
        ar.finetune(model, rows, ar.TrainingConfig(output_dir=str(tmp_path / "run"), max_steps=2, batch_size=2))
    assert not (tmp_path / "run").exists()


def test_what_is_refused(model, folders, tmp_path):
    for texts in ("a cat", ["a cat"], ["a cat", ""], ["a cat", 3]):
        with pytest.raises(ValueError, match="two or more texts"):
            ar.zero_shot(folders["clip"], texts)
    with pytest.raises(ValueError, match="is there 2 times"):
        ar.zero_shot(folders["clip"], ["a cat", "a cat"])
    with pytest.raises(ValueError, match="template must hold {}"):
        ar.zero_shot(folders["clip"], TEXTS, template="a photo")
    with pytest.raises(ValueError, match="tokens long and this clip model reads 16: shorten it"):
        ar.zero_shot(folders["clip"], ["a cat", "a very long description of a bird"])
    with pytest.raises(ValueError, match="its type is 'clipseg'.*openai/clip-vit-base-patch32"):
        ar.zero_shot(word_model_folders.write(tmp_path / "clipseg", "clipseg"), TEXTS)
    with pytest.raises(OSError, match="cannot be fetched"):
        ar.zero_shot("nobody/nothing", TEXTS)
    pixels = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match="target=1 out"):
        model.explain(pixels, 1, prompt="a cat")
    with pytest.raises(ValueError, match="make one with ar.zero_shot"):
        ar.wrap("resnet10t", pretrained=False).explain(torch.randn(1, 3, 64, 64), prompt="a cat")


def test_weights_of_one_tower_are_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "clip"
    folder.mkdir()
    for file in folders["clip"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("text_model")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="lack .* tensors of a CLIPModel"):
        ar.zero_shot(folder, TEXTS)


def test_the_command_draws_where_it_sees_a_text(folders, tmp_path, capsys):
    Image.new("RGB", (50, 40), (200, 30, 30)).save(tmp_path / "red.png")
    given = ["explain", str(folders["clip"]), str(tmp_path / "red.png"), "--prompt", "a cat", "--prompt", "a bird"]
    assert cli.main([*given, "--output", str(tmp_path / "out"), "--method", "legrad"]) == 0
    assert Image.open(tmp_path / "out" / "red.png").size[0] >= 50
    assert "Map by legrad" in capsys.readouterr().out


def test_its_config_names_no_code(folders, tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for file in folders["clip"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": {"AutoModel": "a.B"}}))
    with pytest.raises((ValueError, OSError), match="no model that compares|cannot be fetched"):
        ar.zero_shot(folder, TEXTS)
