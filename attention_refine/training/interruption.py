"""A run that is asked to end: it finishes its step, writes a checkpoint and says that it wants to be resumed.

Schedulers and machines on spot prices send SIGTERM, or SIGUSR1 some time before (``#SBATCH --signal=USR1@120``), and kill
what is left later. The run ends with :data:`RESUME_ME`, by which a script tells it from one that failed.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator

from attention_refine.training.config import TrainingError

RESUME_ME = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, try again
SIGNALS = tuple(name for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupted(SystemExit):
    """The run was asked to end and has left a checkpoint; the process ends with :data:`RESUME_ME` unless this is caught.

    Args:
        said: what happened, in a sentence.
    """

    def __init__(self, said: str):
        super().__init__(RESUME_ME)
        self.said = said

    def __str__(self) -> str:
        return self.said


@contextmanager
def lost_processes(accelerator: Accelerator, folder: str) -> Iterator[None]:
    """Say in a sentence that a process which this one works with is gone; what the libraries say of it names none.

    Raises:
        TrainingError: another process of the run, or a worker that loads images, has ended.
    """
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        if accelerator.num_processes > 1 and re.search(r"\bgloo\b|NCCL|[Cc]onnection (reset|closed)", reason):
            raise TrainingError(
                f"another of the run's {accelerator.num_processes} processes has ended, or does not answer "
                f"({reason[:200]}): what it said last is the cause. The checkpoints in {folder} are intact; start the run "
                "again with resume=True"
            ) from error
        if reason.startswith("DataLoader worker (pid"):  # said wherever the run is when one dies
            raise TrainingError(
                f"a worker process that loads images has ended ({reason}): memory that ran out is the usual cause. The "
                f"checkpoints in {folder} are intact; go on with resume=True and fewer num_workers"
            ) from error
        raise


class Request:
    """Whether a signal has come, on any process.

    Attributes:
        name: of the signal that this process got; None before.
    """

    def __init__(self) -> None:
        self.name: str | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals within the block; they are as they were afterwards. Only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def take(number: int, frame: Any) -> None:
            self.name = signal.Signals(number).name

        before = {name: signal.signal(getattr(signal, name), take) for name in SIGNALS}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(getattr(signal, name), handler)

    def made(self, accelerator: Accelerator) -> bool:
        """Whether one has come on any process: called by all of them at the same step, they have the same answer."""
        if accelerator.num_processes == 1:
            return self.name is not None
        here = torch.tensor(float(self.name is not None), device=accelerator.device)
        return bool(accelerator.reduce(here, "sum"))

    def obey(self, step: int, folder: str, main: bool) -> None:
        """End the run, whose checkpoint is written.

        Raises:
            Interrupted: always.
        """
        which = self.name or "a signal on another process"
        said = f"{which}: stopped after step {step}, {folder} holds all of it; resume=True goes on to the same weights"
        if main:
            print(said, file=sys.stderr, flush=True)
        raise Interrupted(said)
