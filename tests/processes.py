"""Processes that tests start: two that work together, and ones that are killed."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def in_two_processes(script: Path, *arguments: str | Path) -> None:
    """Run a script under torchrun on two processes of one thread each; it may import what lies beside it and here."""
    torchrun(script, *arguments, PYTHONPATH=os.pathsep.join(map(str, [script.parent, TESTS, TESTS.parent])))


def torchrun(*words: str | Path, **variables: str | None) -> str:
    """What two processes of one thread each print; variables of the environment are set, or taken away by None."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    environment = {name: value for name, value in environment.items() if value is not None}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    done = subprocess.run([*launch, *words], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def server_of(module: str) -> multiprocessing.context.BaseContext:
    """Processes that start with everything that ``module`` imports, so that killing one costs milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    with pytest.MonkeyPatch.context() as patch:  # the server looks for what it imports first on its own path
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
        multiprocessing.forkserver.ensure_running()
    return context


def die(server: multiprocessing.context.BaseContext, function: Callable[..., object], *arguments: object) -> int:
    """The exit status of a function in a process of :func:`server_of`'s."""
    process = server.Process(target=function, args=arguments)
    process.start()
    process.join(300)
    assert process.exitcode is not None
    return process.exitcode
