"""A dataset as the editor has it: worst first, every edit in the folder when it is said to be, nobody's edit run over."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the pages need attention-refine[app]")
pytest.importorskip("uvicorn", reason="the pages need attention-refine[app]")
from app_runs import CLASSES, make_folder, make_model  # noqa: E402

import attention_refine as ar  # noqa: E402
from attention_refine import data  # noqa: E402
from attention_refine.app.collection import Collection, NotHere, Overtaken  # noqa: E402
from attention_refine.app.held import Held  # noqa: E402
from attention_refine.data import DataError  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "photographs", 2)


def drawn(seed: int, size=(192, 256)) -> np.ndarray:
    return (np.random.default_rng(seed).integers(0, 256, size) / 255).astype(np.float32)


def test_an_edit_is_in_the_folder_as_map_supervision_reads_it(folder):
    collection = Collection(folder)
    assert len(collection) == 6 and collection.edited == 0 and collection.classes == list(CLASSES)
    name = collection.order[3]
    assert collection[name].label == name.split("/")[1] and collection.edit(name) == (None, "")
    revision = collection.save(name, drawn(1))
    assert collection.edited == 1 and collection.edit(name)[1] == revision != ""
    rows = data.load_dataset(folder, "train")
    assert sum(rows["edited"]) == 1 and "maps" not in data.load_dataset(folder, "test").column_names
    np.testing.assert_allclose(collection.edit(name)[0], drawn(1), atol=1 / 65535)
    np.testing.assert_array_equal(Collection(folder).edit(name)[0], collection.edit(name)[0])
    assert sorted(Collection(folder).order) == sorted(collection.order)


def test_taking_an_edit_back_leaves_none_and_the_label(folder):
    collection = Collection(folder)
    name = collection.order[0]
    collection.save(name, drawn(1))
    collection.discard(name)
    assert collection.edit(name) == (None, "") and collection.edited == 0
    assert collection[name].label == name.split("/")[1] == Collection(folder)[name].label
    assert Collection(folder).edited == 0


def test_an_edit_on_an_older_one_is_refused_and_the_newer_stays(folder):
    one, name = Collection(folder), "train/cat/photo & 0 ü.png"
    first = one.save(name, drawn(1), base="")
    second = one.save(name, drawn(2), base=first)
    with pytest.raises(Overtaken, match="another map of train/cat/photo & 0 ü.png was saved in the meantime"):
        one.save(name, drawn(3), base=first)
    with pytest.raises(Overtaken):
        one.discard(name, base="")
    np.testing.assert_allclose(one.edit(name)[0], drawn(2), atol=1 / 65535)
    assert one.edit(name)[1] == second == one.save(name, drawn(2))


def test_edits_from_several_threads_are_all_there(folder):
    collection = Collection(folder)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda pair: collection.save(pair[1], drawn(pair[0])), enumerate(collection.order)))
    again = Collection(folder)
    assert again.edited == len(again) == 6
    for number, name in enumerate(collection.order):
        np.testing.assert_allclose(again.edit(name)[0], drawn(number), atol=1 / 65535)


def test_the_order_is_the_audits_and_what_it_did_not_see_stays_behind(folder):
    collection = Collection(folder)
    before = list(collection.order)
    audit = ar.audit(make_model(), collection.rows, limit=4, progress=False)
    collection.worst_first(audit)
    files = [sample["file"] for sample in audit.worst(6)]
    assert [collection[name].file for name in collection.order[:4]] == files and len(files) == 4
    assert collection.order[4:] == [name for name in before if collection[name].file not in files]
    for name, sample in zip(collection.order, audit.worst(6)):
        assert collection[name].wrong == (not sample["correct"])
        if not sample["correct"]:
            assert collection[name].found == f"taken for {CLASSES[sample['prediction']]}"
    collection.save(collection.order[0], drawn(1))
    assert collection[collection.order[0]].wrong is not None, "an edit does not forget what was found"


def test_a_folder_with_metadata_keeps_what_it_says(folder):
    lines = [{"file_name": f"cat/photo & {n} ü.png", "label": "cat", "place": "sofa"} for n in (0, 3)]
    (folder / "train" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    collection = Collection(folder)
    collection.save("train/cat/photo & 3 ü.png", drawn(1))
    collection.save("train/owl/photo & 2 ü.png", drawn(2))
    rows = data.load_dataset(folder, "train")
    assert len(rows) == 6 and sum(rows["edited"]) == 2 and rows["place"].count("sofa") == 2


def test_bad_input_is_refused_in_a_sentence(folder, tmp_path, monkeypatch):
    collection = Collection(folder)
    for name in ("train/cat/nothing.png", "../../etc/passwd", "", "/etc/passwd"):
        with pytest.raises(NotHere, match="is not an image of the split 'train'"):
            collection.save(name, drawn(1))
    with pytest.raises(DataError, match="a map lies in .0, 1."):
        collection.save(collection.order[0], drawn(1) * 2)
    assert Collection(folder).edited == 0
    with pytest.raises(DataError, match="is not a folder: the editor writes maps beside images"):
        Collection("user/dataset")
    with pytest.raises(DataError, match="has no split 'validation': it has train, test"):
        Collection(folder, "validation")
    videos = data.load_dataset(folder, "train").rename_column("image", "video")
    monkeypatch.setattr("attention_refine.app.collection.load_dataset", lambda *args: videos)
    with pytest.raises(DataError, match="holds video, label; the editor draws on images"):
        Collection(folder)
    data.load_dataset(folder, "train").save_to_disk(tmp_path / "tables")
    with pytest.raises(DataError, match="holds tables"):
        Collection(tmp_path / "tables")


def test_what_is_held_makes_room_for_what_is_new():
    held = Held(2)
    held.put("a", 1), held.put("b", 2)
    assert held.get("a") == 1
    held.put("c", 3)
    assert held.get("b") is None and held.get("a") == 1 and held.get("c") == 3 and held.get("z") is None
