"""The commands of the pages: what they print, what they refuse, and that the other's page is one of theirs."""

from __future__ import annotations

import builtins

import pytest

pytest.importorskip("starlette", reason="the pages need attention-refine[app]")
pytest.importorskip("uvicorn", reason="the pages need attention-refine[app]")
pytest.importorskip("httpx", reason="starlette's test client needs httpx")
import uvicorn  # noqa: E402
from app_runs import make_folder, make_model  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from attention_refine.cli import main  # noqa: E402


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder, as training leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    make_model().save_pretrained(folder / "best")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photographs"), 2)


@pytest.fixture
def started(monkeypatch):
    """Applications that would have been served."""
    apps = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: apps.append((self.config.app, sockets[0])))
    yield apps
    for _, listener in apps:
        listener.close()


def asked(app, path: str):
    return TestClient(app, base_url="http://127.0.0.1").get(path)


def test_edit_opens_the_editor_and_serve_the_live_page_each_with_the_other(run, folder, tmp_path, started, capsys):
    out = str(tmp_path / "out")
    assert main(["edit", str(run), str(folder), "--output", out, "--port", "0", "--limit", "3"]) == 0
    printed = capsys.readouterr().out
    assert "6 images, 0 with an edited map\nopen http://127.0.0.1:" in printed and "whoever" not in printed
    assert main(["serve", str(run), "--data", str(folder), "--output", out, "--port", "0", "--limit", "3"]) == 0
    assert main(["serve", str(run), "--port", "0"]) == 0
    (editor, listener), (both, _), (live, _) = started
    assert listener.getsockname()[0] == "127.0.0.1", "nobody else is let in unless asked"
    for app, first in ((editor, "/edit"), (both, "/live"), (live, "/live")):
        page = asked(app, "/")
        assert page.url.path == first and "<h1>mine</h1>" in page.text
    for app in (editor, both):
        assert 'href="/edit"' in asked(app, "/live").text and 'href="/live"' in asked(app, "/edit").text
        assert asked(app, "/results/audit/audit.html").status_code == 200
        assert asked(app, "/api/images").json()["images"][0]["wrong"] is not None
        assert asked(app, "/api/images").json()["images"][5]["wrong"] is None, "the audit looked at three"
    assert asked(live, "/edit").status_code == 404
    elsewhere = TestClient(editor, base_url="http://elsewhere.example")
    assert elsewhere.get("/edit").status_code == 400


def test_who_lets_others_in_is_told_so(run, started, capsys):
    assert main(["serve", str(run), "--port", "0", "--host", "0.0.0.0"]) == 0
    assert "listening at 0.0.0.0: whoever reaches this machine can use the page" in capsys.readouterr().out
    assert TestClient(started[0][0], base_url="http://anywhere.example").get("/live").status_code == 200


@pytest.mark.parametrize(
    "words, said",
    [
        (["edit", "RUN", "nowhere"], "'nowhere' is not a folder: the editor writes maps beside images"),
        (["edit", "RUN", "FOLDER", "--split", "validation"], "has no split 'validation': it has train, test"),
        (["edit", "RUN", "FOLDER", "--training.output_dir", "x"], "give that in place of --training.output_dir"),
        (["serve", "RUN", "--host", "203.0.113.7"], "cannot listen at 203.0.113.7:7860"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(run, folder, tmp_path, started, capsys, words, said):
    words = [{"RUN": str(run), "FOLDER": str(folder)}.get(word, word) for word in words]
    assert main([*words, "--output", str(tmp_path / "out")] if words[0] == "edit" else words) == 1
    assert said in capsys.readouterr().err and started == []


def test_without_the_extra_its_installation_is_said(run, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **options):
        if name == "uvicorn":
            raise ImportError("No module named 'uvicorn'", name="uvicorn")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["serve", str(run)]) == 1
    assert "the pages need uvicorn: pip install 'attention-refine[app]'" in capsys.readouterr().err


def test_another_model_than_of_these_classes_is_refused(folder, tmp_path, started, capsys):
    make_model(labels=["apple", "pear"]).save_pretrained(tmp_path / "fruit")
    assert main(["edit", str(tmp_path / "fruit"), str(folder), "--output", str(tmp_path / "out"), "--port", "0"]) == 1
    error = capsys.readouterr().err
    assert "apple" in error and "owl" in error and started == []
