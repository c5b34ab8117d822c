"""A Space: four files, a front matter that the Hub takes, and an app that runs as it was written."""

from __future__ import annotations

import ast
import http.client
import os
import socket
import subprocess
import sys
import time

import pytest
import yaml

pytest.importorskip("starlette", reason="the pages need attention-refine[app]")
pytest.importorskip("uvicorn", reason="the pages need attention-refine[app]")
from app_runs import make_model  # noqa: E402
from huggingface_hub import SpaceCard  # noqa: E402

import attention_refine as ar  # noqa: E402
from attention_refine.app import write_space  # noqa: E402
from attention_refine.cli import main  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    make_model().save_pretrained(folder)
    return folder


def test_a_saved_model_goes_along(model, tmp_path, capsys):
    assert main(["space", str(model), str(tmp_path / "space"), "--title", 'Cats "and" dogs']) == 0
    space = tmp_path / "space"
    assert f"hf upload USER/NAME {space} --repo-type space" in capsys.readouterr().out
    assert sorted(path.name for path in space.iterdir()) == [
        ".gitattributes", "Dockerfile", "README.md", "app.py", "model", "requirements.txt",
    ]  # fmt: skip
    card = SpaceCard.load(space / "README.md").data
    assert (card.title, card.sdk, card.app_port) == ('Cats "and" dogs', "docker", 7860)
    assert len(card.short_description) <= 60, "what the Hub takes"
    assert ar.load(space / "model").labels == ar.load(model).labels
    assert f"attention-refine[app]=={ar.__version__}" in (space / "requirements.txt").read_text().splitlines()


def test_a_model_on_the_hub_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr("attention_refine.app.space.load", lambda source: ar.load(model))
    space = write_space("user/cats", tmp_path / "space")
    front = yaml.safe_load((space / "README.md").read_text().split("---")[1])
    assert front["models"] == ["user/cats"] and front["title"] == "cats" and not (space / "model").exists()
    (called,) = [node for node in ast.walk(ast.parse((space / "app.py").read_text())) if isinstance(node, ast.Call)]
    assert ast.unparse(called) == "serve('user/cats', host='0.0.0.0', port=7860)"


def test_a_folder_that_holds_something_is_left_alone(model, tmp_path, capsys):
    (tmp_path / "thesis.pdf").write_text("mine")
    assert main(["space", str(model), str(tmp_path)]) == 1
    assert "is not empty: name a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.pdf"]


def test_the_app_runs_as_it_was_written(model, tmp_path):
    space = write_space(model, tmp_path / "space")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    text = (space / "app.py").read_text()
    (space / "app.py").write_text(text.replace("port=7860", f"port={port}").replace("0.0.0.0", "127.0.0.1"))
    package = os.path.dirname(os.path.dirname(ar.__file__))
    running = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=space,
        env={**os.environ, "PYTHONPATH": package},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stdout.readline() == f"open http://127.0.0.1:{port}/ (Ctrl+C ends it)\n"
        for _ in range(200):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                connection.request("GET", "/live")
                answer = connection.getresponse()
                break
            except OSError:
                time.sleep(0.05)
        assert answer.status == 200 and b"Drop images here" in answer.read()
    finally:
        running.terminate()
        assert running.wait(30) in (0, -15)
