"""A repair in a process of its own: how far it is, how it ended, and that there is one at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tqdm import tqdm

from attention_refine.app import repairs as module
from attention_refine.app.repairs import BAR, Repairs

DONE = """
import pathlib, sys, time
from tqdm import tqdm
out = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
(out / "words").write_text("\\n".join(sys.argv[1:]))
print("a recipe")
with tqdm(total=4, desc="finetune", unit="step") as bar:
    for _ in range(4):
        time.sleep(0.02), bar.update()
    bar.write("epoch 1 of 1: loss 0.4")
(out / "repair.html").write_text("<html>")
print("\\nMended: much.\\nmodel: here\\nreport: there")
"""
FAILS = "import sys; print('warning: something', file=sys.stderr); sys.exit('attention-refine: there is no test split')"
TICKS = """
import sys, time
from pathlib import Path
from tqdm import tqdm
out = Path(sys.argv[sys.argv.index("--output") + 1])
for tick in tqdm(range(10_000), mininterval=0):
    (out / "ticks").write_text(str(tick))
    time.sleep(0.02)
"""
KILLED = """
import os, runpy, signal, sys, time
from pathlib import Path
found = runpy.run_path(sys.argv[3])["Repairs"]("model", "images", "train", sys.argv[1], command=[sys.executable, "-c", sys.argv[2]])
found.start()
while not (Path(sys.argv[1]) / "repair-1" / "ticks").exists():
    time.sleep(0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""
LASTS = "import time; print('begun', flush=True); time.sleep(60)"


def repairs(output: Path, script: str, **options) -> Repairs:
    return Repairs("model", "images", "train", output, command=[sys.executable, "-c", script], **options)


def ended(found: Repairs, within: float = 60) -> dict:
    until = time.monotonic() + within
    while (state := found.state())["state"] == "running" and time.monotonic() < until:
        time.sleep(0.02)
    return state


def test_a_bar_is_read_as_it_is_drawn():
    for done in (0, 3, 20):
        drawn = tqdm.format_meter(done, 20, 1.5, prefix="finetune", unit="step", postfix="epoch=1")
        found = BAR.search(drawn)
        assert found["stage"] == "finetune" and int(found["done"]) == done and int(found["total"]) == 20
    assert BAR.search("epoch 3 of 40: loss 0.412, accuracy 0.867") is None


def test_a_repair_says_how_far_it_is_and_what_came_of_it(tmp_path):
    found = repairs(
        tmp_path, DONE, goal="map", recipe="r.yaml", limit=7,
        overrides={"training": {"epochs": 3, "optimizer": "sgd"}, "model": {"head": None}},
    )  # fmt: skip
    assert found.state()["state"] == "none" and found.state()["pages"] == []
    found.start()
    state = ended(found)
    assert state["state"] == "done" and state["sentence"] == "Mended: much." and state["page"] == "repair-1/repair.html"
    assert (state["stage"], state["done"], state["total"]) == ("finetune", 4, 4)
    assert state["pages"] == ["repair-1/repair.html"] and "a recipe" in state["lines"]
    words = (tmp_path / "repair-1" / "words").read_text().splitlines()
    assert words == [
        "repair", "model", "--goal", "map", "--data.source", "images", "--data.train_split", "train", "--recipe", "r.yaml",
        "--limit", "7", "--training.epochs", "3", "--training.optimizer", "sgd", "--model.head", "null", "--output",
        str(tmp_path / "repair-1"),
    ]  # fmt: skip
    found.start()
    assert ended(found)["pages"] == ["repair-1/repair.html", "repair-2/repair.html"]
    assert repairs(tmp_path, DONE).state()["pages"] == ["repair-1/repair.html", "repair-2/repair.html"], "another start"


def test_a_repair_that_fails_says_why(tmp_path):
    found = repairs(tmp_path, FAILS)
    found.start()
    state = ended(found)
    assert (state["state"], state["sentence"], state["pages"]) == ("failed", "there is no test split", [])


def test_one_at_a_time_and_it_can_be_stopped(tmp_path):
    found = repairs(tmp_path, LASTS)
    found.stop()
    found.start()
    with pytest.raises(ValueError, match="a repair is running already"):
        found.start()
    assert found.state()["state"] == "running"
    process = found._process.pid
    found.stop()
    assert ended(found)["state"] == "stopped"
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    found.start(), found.stop()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["repair-1", "repair-2"]


def test_a_repair_ends_when_the_editor_is_killed(tmp_path):
    # The module by its file: the package would take seconds to import.
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), TICKS, module.__file__], timeout=300)
    assert killed.returncode == -9
    ticks = tmp_path / "repair-1" / "ticks"
    for _ in range(40):
        before = ticks.read_text()
        time.sleep(0.5)
        if ticks.read_text() == before:
            return
    pytest.fail("it goes on")
