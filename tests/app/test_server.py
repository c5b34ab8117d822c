"""What the pages ask for, asked without a browser: answers, limits, and a sentence for whatever cannot be."""

from __future__ import annotations

import base64
import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the pages need attention-refine[app]")
pytest.importorskip("uvicorn", reason="the pages need attention-refine[app]")
pytest.importorskip("httpx", reason="starlette's test client needs httpx")
import word_model_folders  # noqa: E402
from app_runs import CLASSES, make_folder, make_model, make_photograph, make_server  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from attention_refine import data  # noqa: E402
from attention_refine.app import running, uploads  # noqa: E402
from attention_refine.backbones.word_models import WordModel  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_model().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "photographs", 2)


@pytest.fixture
def editor(model, folder, tmp_path):
    return TestClient(make_server(model, folder, tmp_path / "out"), base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def live(model):
    return TestClient(make_server(model, None, None), base_url="http://127.0.0.1")


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stored = io.BytesIO()
    image.save(stored, kind, **options)
    return stored.getvalue()


def decoded(text: str, dtype=np.uint8) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


# a dataset -----------------------------------------------------------------------------------------------------------


def test_an_edit_is_saved_predicted_with_and_there_when_asked_again(editor, folder):
    name = editor.get("/api/images").json()["images"][2]["name"]
    image = editor.get("/api/image", params={"name": name}).json()
    assert image["drawn"] is None and image["edited_scores"] is None and image["revision"] == ""
    assert sum(image["scores"]) == pytest.approx(1) and len(decoded(image["own"])) == image["height"] * image["width"]
    drawn = np.zeros((image["height"], image["width"]), np.uint8)
    drawn[20:90, 100:170] = 255
    size = {"name": name, "height": image["height"], "width": image["width"]}
    found = editor.post("/api/edit", params={**size, "base": ""}, content=drawn.tobytes()).json()
    assert found["edited"] == 1 and found["revision"]
    assert max(np.abs(np.subtract(found["edited_scores"], image["scores"]))) > 1e-3
    again = editor.get("/api/image", params={"name": name}).json()
    np.testing.assert_array_equal(decoded(again["drawn"]), drawn.ravel())
    assert again["edited_scores"] == pytest.approx(found["edited_scores"], abs=1e-4)
    rows = data.load_dataset(folder, "train")
    saved = data.read_map(rows["maps"][rows["edited"].index(True)])
    np.testing.assert_allclose(saved, drawn / 255, atol=1 / 65535)
    listed = editor.get("/api/images").json()
    assert listed["edited"] == 1 and [e["name"] for e in listed["images"] if e["edited"]] == [name]
    assert editor.delete("/api/edit", params={"name": name, "base": found["revision"]}).json()["edited"] == 0
    assert editor.get("/api/image", params={"name": name}).json()["drawn"] is None


def test_a_map_that_was_made_elsewhere_is_shown_at_the_size_that_is_drawn_on(editor, model, folder, tmp_path):
    data.save_edits(folder, "train/cat/photo & 0 ü.png", np.eye(7, dtype=np.float32), split="train")
    again = TestClient(make_server(model, folder, tmp_path / "out"), base_url="http://127.0.0.1")
    image = again.get("/api/image", params={"name": "train/cat/photo & 0 ü.png"}).json()
    drawn = decoded(image["drawn"]).reshape(image["height"], image["width"])
    assert drawn[0, 0] == 255 == drawn[-1, -1] and drawn[0, -1] == 0 and again.get("/api/images").json()["edited"] == 1


@pytest.mark.parametrize("kind", ["clipseg", "owlv2"])
def test_what_a_text_names_is_proposed_and_not_saved(model, folder, tmp_path, kind):
    words = word_model_folders.write(tmp_path / kind, kind)
    client = TestClient(make_server(model, folder, tmp_path / "out", words=words), base_url="http://127.0.0.1")
    name = client.get("/api/images").json()["images"][0]["name"]
    image = client.get("/api/image", params={"name": name}).json()
    found = client.get("/api/words", params={"name": name, "text": "a bird"}).json()
    drawn = decoded(found["drawn"]).reshape(image["height"], image["width"]) == 255
    annotated = data.annotate(data.load_dataset(folder), "a bird", model=words, progress=False, device="cpu")
    cells = annotated.cast_column("image", datasets.Image(decode=False))["image"]
    row = annotated[next(at for at, cell in enumerate(cells) if cell["path"].endswith(name))]
    mask = np.zeros((72, 96), bool)  # of the photograph
    if kind == "clipseg":
        mask = data.read_mask(row["mask"]) == 1
    for x, y, width, height in row.get("bbox") or []:
        mask[round(y) : round(y + height), round(x) : round(x + width)] = True
    sampled = ((np.arange(count) + 0.5) * side / count for count, side in zip(drawn.shape, mask.shape))
    mask = mask[np.ix_(*(each.astype(int) for each in sampled))]
    around = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 4, mode="edge"), (9, 9))
    inner = around.all((2, 3)) | ~around.any((2, 3))  # at a rim, cells and pixels end apart
    assert (drawn == mask)[inner].all() and drawn[inner].any() and not drawn[inner].all()
    assert drawn.mean() > 0 and client.get("/api/images").json()["edited"] == 0
    for text, said in (("", "write what to find"), ("a bird " * 20, "shorten it")):
        answer = client.get("/api/words", params={"name": name, "text": text})
        assert answer.status_code == 400 and said in answer.json()["error"]


def test_nothing_found_is_said(model, folder, tmp_path, monkeypatch):
    words = word_model_folders.write(tmp_path / "clipseg", "clipseg")
    monkeypatch.setattr(WordModel, "find", lambda self, images, texts: [np.zeros((4, 4), np.float16)])
    client = TestClient(make_server(model, folder, tmp_path / "out", words=words), base_url="http://127.0.0.1")
    name = client.get("/api/images").json()["images"][0]["name"]
    answer = client.get("/api/words", params={"name": name, "text": "a bird"})
    assert answer.status_code == 400 and "nothing here is 'a bird'" in answer.json()["error"]


def test_without_such_a_network_there_is_no_field(editor):
    assert 'id="find"' not in editor.get("/edit").text and editor.get("/api/words").status_code == 404


def test_somebody_elses_newer_edit_is_not_run_over(editor):
    name = editor.get("/api/images").json()["images"][0]["name"]
    image = editor.get("/api/image", params={"name": name}).json()
    query = {"name": name, "height": image["height"], "width": image["width"], "base": ""}
    one, other = (bytes([value]) * (image["height"] * image["width"]) for value in (10, 20))
    assert editor.post("/api/edit", params=query, content=one).status_code == 200
    late = editor.post("/api/edit", params=query, content=other)
    assert late.status_code == 409 and "was saved in the meantime" in late.json()["error"]
    assert decoded(editor.get("/api/image", params={"name": name}).json()["drawn"])[0] == 10


@pytest.mark.parametrize(
    "change, status, said",
    [
        ({"height": 7}, 400, "a map of 7 x 256 has 1792 bytes"),
        ({"width": "wide"}, 400, "width must be a whole number up to 256, got 'wide'"),
        ({"height": 100000}, 400, "height must be a whole number up to 256"),
        ({"name": "train/cat/none.png"}, 404, "is not an image of the split 'train'"),
        ({"name": "../../../etc/passwd"}, 404, "is not an image of the split 'train'"),
    ],
)
def test_an_edit_that_is_none_is_refused_and_nothing_is_written(editor, folder, change, status, said):
    before = sorted(folder.rglob("*"))
    query = {"name": "train/cat/photo & 0 ü.png", "height": 192, "width": 256, **change}
    answer = editor.post("/api/edit", params=query, content=bytes(192 * 256))
    assert answer.status_code == status and said in answer.json()["error"]
    assert sorted(folder.rglob("*")) == before


def test_only_the_editors_own_page_may_write(editor, folder):
    query = {"name": "train/cat/photo & 0 ü.png", "height": 192, "width": 256}
    elsewhere = {"origin": "http://elsewhere.example"}
    for answer in (
        editor.post("/api/edit", params=query, content=bytes(192 * 256), headers=elsewhere),
        editor.delete("/api/edit", params=query, headers=elsewhere),
        editor.post("/api/repair", headers=elsewhere),
    ):
        assert answer.status_code == 403 and "only the editor's own page" in answer.json()["error"]
    own = {"origin": "http://127.0.0.1"}
    assert editor.post("/api/edit", params=query, content=bytes(192 * 256), headers=own).status_code == 200


def test_a_name_that_merely_resolves_to_this_machine_is_refused(model, tmp_path):
    app = make_server(model, None, tmp_path, hosts=["127.0.0.1", "localhost"])
    assert TestClient(app, base_url="http://localhost:7860").get("/live").status_code == 200
    assert TestClient(app, base_url="http://elsewhere.example").get("/live").status_code == 400


def test_only_pages_of_the_output_are_given_out(editor, tmp_path):
    (tmp_path / "out" / "audit").mkdir(parents=True)
    (tmp_path / "out" / "audit" / "audit.html").write_text("<html>the audit")
    (tmp_path / "out" / "audit" / "audit.json").write_text("{}")
    (tmp_path / "out" / "secret.json").write_text("{}")
    (tmp_path / "outside.html").write_text("outside")
    assert "<html" in editor.get("/results/audit/audit.html").text
    for path in ("secret.json", "../outside.html", "%2e%2e/outside.html", "audit/audit.json", "audit", "nothing.html"):
        assert editor.get(f"/results/{path}").status_code == 404, path


def test_the_audit_is_made_once_for_the_same_model_and_images(model, folder, tmp_path, monkeypatch):
    make_server(model, folder, tmp_path / "out", audited=True)
    monkeypatch.setattr(running, "audit", lambda *args, **options: pytest.fail("audited again"))
    make_server(model, folder, tmp_path / "out", audited=True)
    make_photograph(50).save(folder / "train" / "cat" / "new.png")
    with pytest.raises(pytest.fail.Exception, match="audited again"):
        make_server(model, folder, tmp_path / "out", audited=True)


# photographs that are dropped ----------------------------------------------------------------------------------------


def test_a_photograph_is_predicted_explained_and_predicted_with_a_map(live):
    found = live.post("/api/upload", params={"name": "a.png"}, content=file_of(make_photograph(1))).json()
    assert found["size"] == [96, 72] and (found["height"], found["width"]) == (192, 256)
    told = live.get("/api/model").json()
    assert told["labels"] == list(CLASSES) and told["own"] == told["methods"][0] == "model" and told["acts"]
    assert len(decoded(told["colours"])) == 3 * 256
    for method, target in (("model", None), ("grad_cam", 2), ("eigen_cam", 1)):
        query = {"upload": found["upload"], "method": method} | ({} if target is None else {"target": target})
        map = live.get("/api/map", params=query).json()
        values = decoded(map["values"], "<f4").reshape(map["shape"])
        assert values.min() == map["low"] and values.max() == map["high"] and len(decoded(map["drawn"])) == 192 * 256
    query = {"upload": found["upload"], "height": 192, "width": 256}
    dark, bright = (live.post("/api/predict", params=query, content=bytes([v]) * 192 * 256).json() for v in (0, 255))
    assert max(np.abs(np.subtract(dark["scores"], bright["scores"]))) > 1e-3
    with Image.open(io.BytesIO(live.get("/api/picture", params={"upload": found["upload"]}).content)) as picture:
        assert picture.size == (96, 72)


def test_a_turned_photograph_is_upright(live):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = file_of(make_photograph(1), "JPEG", exif=exif)
    assert live.post("/api/upload", content=content).json()["size"] == [72, 96]


def test_people_see_what_they_dropped_and_nothing_else(live):
    one, other = (
        live.post("/api/upload", content=file_of(make_photograph(seed, width=side))).json()
        for seed, side in ((1, 96), (2, 60))
    )
    assert one["upload"] != other["upload"] and len(one["upload"]) > 20
    for found, side in ((one, 96), (other, 60)):
        with Image.open(io.BytesIO(live.get("/api/picture", params={"upload": found["upload"]}).content)) as picture:
            assert picture.width == side
    for name in ("", "1", one["upload"][:-1]):
        answer = live.get("/api/picture", params={"upload": name})
        assert answer.status_code == 404 and answer.json()["error"].endswith("drop it again")


def half_a_png() -> bytes:
    content = file_of(make_photograph(1))
    return content[: len(content) // 2]


def a_wall() -> bytes:
    return file_of(Image.new("1", (10000, 5001)))


@pytest.mark.parametrize(
    "content, status, said",
    [
        (lambda: b"", 400, "cat.jpg cannot be read as an image: drop a JPEG, PNG"),
        (lambda: b"<html>not found</html>", 400, "cat.jpg cannot be read as an image"),
        (half_a_png, 400, "cat.jpg cannot be read as an image (image file is truncated"),
        (a_wall, 400, "cat.jpg has 10000 x 5001 pixels, and at most 50,000,000"),
        (lambda: bytes(uploads.MOST_BYTES + 1), 413, "cat.jpg is larger than the 20 MB that are taken"),
    ],
)
def test_a_bad_file_is_answered_in_a_sentence(live, content, status, said):
    answer = live.post("/api/upload", params={"name": "cat.jpg"}, content=content())
    assert answer.status_code == status and answer.json()["error"].startswith(said)


def test_more_bytes_than_were_announced_are_not_taken(live):
    answer = live.post("/api/upload", content=(bytes(2**20) for _ in range(21)))
    assert answer.status_code == 413


def test_a_map_that_cannot_be_is_answered_in_a_sentence(live):
    upload = live.post("/api/upload", content=file_of(make_photograph(1))).json()["upload"]
    for query, said in (
        ({"method": "magic"}, "map 'magic' is not one of model, "),
        ({"method": "attention_rollout"}, "attention"),
        ({"method": "grad_cam", "target": 3}, "target must be a whole number up to 2, got '3'"),
    ):
        answer = live.get("/api/map", params={"upload": upload, **query})
        assert answer.status_code == 400 and said in answer.json()["error"], answer.text


def test_without_a_dataset_there_is_no_editor(live):
    for path in ("/edit", "/api/images", "/api/image?name=a", "/api/repair", "/results/audit/audit.html"):
        assert live.get(path).status_code == 404, path
    assert live.get("/api/picture", params={"name": "a"}).status_code == 404
    assert 'href="/edit"' not in live.get("/live").text and live.get("/").url.path == "/live"


def test_a_page_asks_for_nothing_from_elsewhere(editor):
    for page in ("/edit", "/live"):
        answer = editor.get(page)
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert "http://" not in answer.text and "https://" not in answer.text
    assert json.loads(editor.get("/api/repair").text)["state"] == "none"


def test_a_port_that_is_taken_is_said():
    taken = running.listening("127.0.0.1", 0)
    taken.listen()
    with pytest.raises(ValueError, match="cannot listen at 127.0.0.1:.*: give another --port, or 0 for a free one"):
        running.listening("127.0.0.1", taken.getsockname()[1])
    taken.close()
