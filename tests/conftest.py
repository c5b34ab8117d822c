"""Shared fixtures: determinism, one thread, no network, and the optional folder of real photographs and weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Read at import by huggingface_hub, so before anything else: tests never reach a real Hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests run several at a time: a thread each, in the processes they start as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

# A busy machine is no failure.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[None]:
    """The scripts of benchmarks/ can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with ``data/`` and ``weights/`` (real photographs, real weights); the test skips where it is absent."""
    root = Path(os.environ.get("ATTENTION_REFINE_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))
    if not (root / "data").is_dir() or not (root / "weights").is_dir():
        pytest.skip(f"real photographs and weights are not at {root} (set ATTENTION_REFINE_SHARED)")
    return root
