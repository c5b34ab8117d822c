"""Every notebook runs from the top, with a few training steps, on its own data and on a folder of photographs, and is
committed small, with its outputs."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FEW = {**os.environ, "ATTENTION_REFINE_NOTEBOOK_STEPS": "3"}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SWITCH = re.compile(r"^(DATA, NETWORK.*) = .*$", re.MULTILINE)  # the line that says which data and network
EVERY_TIME = ("03", "10")  # on photographs; the others too by `pytest -m sweep`
CLIPS = ("11",)  # no photographs
BOXED = ("09",)  # photographs some of which have boxes


@pytest.fixture(scope="module")
def kernel():
    """One for all of them, which has imported the package once."""
    pytest.importorskip("nbclient")
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=FEW)
    yield manager
    manager.shutdown_kernel(now=True)


def run(notebook, kernel) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))  # nothing of the one before
    # processes that are forked off want a kernel that has started nothing yet
    fresh = any("notebook_launcher(" in cell.source for cell in notebook.cells)
    nbclient.NotebookClient(notebook, timeout=600, **({} if fresh else {"km": kernel})).execute(env=FEW)


def code_of(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, kernel):
    nbformat = pytest.importorskip("nbformat")
    run(nbformat.read(path, as_version=4), kernel)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Class folders with names, numbers of classes and sizes of their own, and no masks."""
    from PIL import ImageOps

    from attention_refine import shapes

    folder = tmp_path_factory.mktemp("photographs")
    for split, count in (("train", 36), ("test", 18)):
        for number, row in enumerate(shapes.make(split, n=count, size=64)):
            place = folder / split / ("heron", "Bengal cat", "sofa")[row["label"] % 3]
            place.mkdir(parents=True, exist_ok=True)
            ImageOps.pad(row["image"], (120 + number, 90), color="gray").save(place / f"{number}.jpg")
    return folder


def on_photographs() -> list:
    """The notebooks that have the line, those that are tried less often marked so."""
    chosen = [
        path for path in NOTEBOOKS if not path.stem.startswith(CLIPS + BOXED) and '"DATA, NETWORK' in path.read_text()
    ]
    often = {path for path in chosen if path.stem.startswith(EVERY_TIME)}
    return [pytest.param(path, id=path.stem, marks=() if path in often else pytest.mark.sweep) for path in chosen]


def test_the_notebooks_with_the_line_are_found():
    found = on_photographs()
    assert len(found) == 9  # 01 to 08, and 10
    assert sum(not each.marks for each in found) == len(EVERY_TIME)


def switched(notebook, **values) -> None:
    """Put values of one's own into the one line that says which data and network."""
    found = 0
    for cell in code_of(notebook):
        line = SWITCH.search(cell.source)
        if line is not None:
            chosen = ", ".join(repr(values[name]) for name in line[1].split(", "))
            cell.source = SWITCH.sub(lambda line, chosen=chosen: f"{line[1]} = {chosen}", cell.source)
            found += 1
    assert found == 1


@pytest.mark.parametrize("path", on_photographs())
def test_one_line_switches_it_to_photographs_without_masks(path, kernel, photographs):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    switched(notebook, DATA=str(photographs), NETWORK="resnet18", PRETRAINED=False, SIZE=96, SITE="auto")
    run(notebook, kernel)


@pytest.mark.sweep
def test_one_line_switches_looking_mending_and_proving_to_photographs_with_boxes(kernel, photographs, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    folder = shutil.copytree(photographs, tmp_path / "boxed")
    files = sorted((folder / "train").glob("*/*.jpg"))[::3]
    rows = [{"file_name": str(file.relative_to(folder / "train")), "bbox": [[40, 20, 40, 40]]} for file in files]
    (folder / "train" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notebook = nbformat.read(next(path for path in NOTEBOOKS if path.stem.startswith(BOXED)), as_version=4)
    switched(notebook, DATA=str(folder), NETWORK="resnet18", PRETRAINED=False, SIZE=96)
    run(notebook, kernel)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_executed_and_small_without_errors_warnings_and_paths(path):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    cells = code_of(notebook)
    assert all(cell.execution_count for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)
    said = nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=outputs)]))
    assert not re.search(r"(?<![\w.])/(tmp|home|root|work|Users|usr)/|Warning", said)
    assert path.stat().st_size <= 350_000
    assert sum(each.stat().st_size for each in NOTEBOOKS) <= 3_000_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_begins_with_the_picture_that_it_ends_with_and_every_link_is_alive(path):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    if "DATA, NETWORK" in "".join(cell.source for cell in code_of(notebook)):  # and ends with that picture
        picture = f"../docs/images/notebook_{path.stem[:2]}.webp"
        assert picture in texts[0] and (path.parent / picture).stat().st_size <= 60_000
        assert any("image/png" in output.get("data", {}) for output in notebook.cells[-1].get("outputs", []))
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", "\n".join(texts))):
        file = (path.parent / link.partition("#")[0]).resolve()
        if not link.startswith("https:") and not (file.is_relative_to(ROOT) and file.is_file()):
            dead.append(link)
    assert not dead
