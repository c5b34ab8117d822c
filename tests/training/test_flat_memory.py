"""A run does not grow: hundreds of steps in a process of their own, and a growth of 32 KiB a step is seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RUNS = """
import json, flat_memory
plain = flat_memory.measured(480, 8, workers=0)
print(json.dumps([plain, flat_memory.measured(480, 8, leak=32768), flat_memory.measured(48, 4, workers=2)]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of an epoch is asked of Linux")
def test_memory_threads_and_files_stay_as_they_are():
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), str(BENCHMARKS.parent)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", RUNS], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    plain, leaking, workers = json.loads(done.stdout.splitlines()[-1])
    assert plain["spread"] < 0.02 and plain["growth_kib_a_step"] < 4
    assert leaking["growth_kib_a_step"] > 12
    for found in (plain, workers):
        assert found["threads_late"] <= found["threads_early"] and found["files_late"] <= found["files_early"]
        assert found["children_after"] == 0
