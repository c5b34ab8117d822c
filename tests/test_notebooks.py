"""Every notebook runs from the top, with a few training steps, and is committed with its outputs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FEW = {**os.environ, "ATTENTION_REFINE_NOTEBOOK_STEPS": "3"}
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def kernel():
    """One for all of them, which has imported the package once."""
    pytest.importorskip("nbclient")
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=FEW)
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, kernel):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))  # nothing of the one before
    # processes that are forked off want a kernel that has started nothing yet
    fresh = any("notebook_launcher(" in cell.source for cell in notebook.cells)
    nbclient.NotebookClient(notebook, timeout=600, **({} if fresh else {"km": kernel})).execute(env=FEW)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_executed_and_without_errors(path):
    nbformat = pytest.importorskip("nbformat")
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
