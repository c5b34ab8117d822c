"""kill -9 of the editor at random moments: what it said was saved is there, and nothing is half-written."""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
from urllib.parse import urlencode

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the pages need attention-refine[app]")
pytest.importorskip("uvicorn", reason="the pages need attention-refine[app]")
from app_runs import edit_in_process, make_folder, make_model  # noqa: E402
from processes import server_of  # noqa: E402

from attention_refine import data  # noqa: E402
from attention_refine.app.collection import Collection  # noqa: E402

KILLS = 10
HEIGHT, WIDTH = 192, 256


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def asked(port: int, method: str, path: str, body: bytes | None = None) -> dict:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body)
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status == 200, content
    return json.loads(content)


def answering(port: int, within: float = 120) -> list[str]:
    """The images, once the editor is there."""
    until = time.monotonic() + within
    while True:
        try:
            return [image["name"] for image in asked(port, "GET", "/api/images")["images"]]
        except OSError:
            assert time.monotonic() < until, "the editor did not start"
            time.sleep(0.02)


def drawn(stroke: int) -> bytes:
    """A map that says which stroke it is of, all over: half of one and half of another would be seen."""
    return np.random.default_rng(stroke).integers(0, 256, HEIGHT * WIDTH, dtype=np.uint8).tobytes()


def test_no_saved_edit_is_lost_and_none_is_half_written(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    folder = make_folder(tmp_path / "photographs", 2)
    context, chance = server_of("app_runs"), random.Random(0)
    saved: dict[str, int] = {}  # the stroke of each image that was answered last, or lay there after a kill
    sent: dict[str, int] = {}  # the stroke of the one image, if any, that was sent after that and not answered
    stroke = answered = 0
    for kill in range(KILLS):
        port = free_port()
        editor = context.Process(
            target=edit_in_process, args=(str(tmp_path / "model"), str(folder), str(tmp_path / "out"), port)
        )
        editor.start()
        names = answering(port)
        killer = threading.Timer(chance.uniform(0.02, 0.6), editor.kill)
        killer.start()
        try:
            while True:
                stroke += 1
                name = names[stroke % len(names)]
                sent = {name: stroke}
                query = urlencode({"name": name, "height": HEIGHT, "width": WIDTH})
                asked(port, "POST", f"/api/edit?{query}", drawn(stroke))
                saved[name] = stroke
                answered, sent = answered + 1, {}
        except (OSError, http.client.HTTPException):
            pass
        editor.join(30)
        assert editor.exitcode == -9, f"the editor ended with {editor.exitcode}"
        collection = Collection(folder)
        assert len(collection) == 6, f"after kill {kill}"
        for name in names:
            found = collection.edit(name)[0]
            if found is None:
                assert name not in saved, f"{name}: stroke {saved[name]} is lost after kill {kill}"
                continue
            found = np.round(found * 255).astype(np.uint8).tobytes()
            may = [each for each in (saved.get(name), sent.get(name)) if each is not None and drawn(each) == found]
            assert may, f"{name} after kill {kill}: neither what was saved last nor what was sent"
            saved[name] = may[0]
    assert answered, "strokes are saved between the kills"
    print(f"{stroke} strokes sent, {answered} answered, {KILLS} kills")
    rows = data.load_dataset(folder, "train")
    assert sum(rows["edited"]) >= len(saved) and sorted(set(rows["label"])) == [0, 1, 2]
