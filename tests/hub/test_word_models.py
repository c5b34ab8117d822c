"""Networks that read text, from the Hub: one commit of it, no code, no pickle, and what failed in a sentence."""

from __future__ import annotations

import pytest
import word_model_folders

from attention_refine.backbones.word_models import load_word_model
from attention_refine.data import annotate
from attention_refine.embedded import shapes


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of two commits."""
    root = tmp_path_factory.mktemp("word-models")
    folders = [word_model_folders.write(root / str(seed), "clipseg", seed) for seed in (0, 1)]
    return [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]


def test_a_model_is_fetched_at_its_revision(hub, files, tmp_path):
    repo = hub.make("someone/words", files[0])
    first = repo.refs["main"]
    second = repo.commit("main", "other weights", files[1]).sha
    rows = shapes.make("train", 3, size=40).select_columns(["image", "label"])
    options = {"model": "someone/words", "threshold": 0.01, "device": "cpu", "progress": False}
    new = annotate(rows, "a bird", **options)
    old = annotate(rows, "a bird", revision=first, **options)
    assert "words" in new["mask_source"][:] and new["mask_confidence"][:] != old["mask_confidence"][:]
    assert load_word_model("someone/words").commit == second
    assert load_word_model("someone/words", first).commit == first
    asked = len(hub.asked("GET .*safetensors"))
    assert annotate(rows, "a bird", **options)["mask_confidence"][:] == new["mask_confidence"][:]
    assert len(hub.asked("GET .*safetensors")) == asked, "weights are fetched once"


def test_code_and_pickles_of_a_repository_are_left_alone(hub, files):
    evil = b"raise SystemExit('the code of a repository was run')"
    config = files[0]["config.json"].replace(
        b"{", b'{"auto_map": {"AutoModel": "evil.Net", "AutoConfig": "evil.C"},', 1
    )
    hub.make("someone/evil", {**files[0], "config.json": config, "evil.py": evil})
    assert load_word_model("someone/evil").kind.finds == "maps"
    pickled = {name: content for name, content in files[0].items() if name != "model.safetensors"}
    hub.make("someone/pickled", {**pickled, "pytorch_model.bin": b"cos\nsystem\n(S'false'\ntR."})
    with pytest.raises(OSError, match="'someone/pickled' cannot be fetched .*has it safetensors"):
        load_word_model("someone/pickled")
    assert not hub.asked("GET .*(evil.py|pytorch_model.bin)")


def test_what_is_not_there_is_said(hub, files):
    hub.make("someone/words", files[0])
    with pytest.raises(OSError, match="'someone/nothing' cannot be fetched .*is the name right"):
        load_word_model("someone/nothing")
    with pytest.raises(OSError, match="'someone/words' at 'v9' cannot be fetched"):
        load_word_model("someone/words", "v9")
    hub.make("someone/clip", {"config.json": b'{"model_type": "clip"}'})
    with pytest.raises(
        ValueError, match="its type is 'clip'.: the kinds are clipseg .CIDAS/clipseg-rd64-refined., owlvit"
    ):
        load_word_model("someone/clip")
