"""Checkpoints written while training goes on: copied to main memory at their step, written by one thread.

What is written, and how, is :mod:`attention_refine.training.checkpoints`'s; nothing here touches a file.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class Writer:
    """A thread that writes, started for each write and joined before the next: never two at once.

    As a context it waits at its end, whatever ends it.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, write: Callable[[], Any]) -> None:
        """Write beside what follows, after an earlier write has ended.

        Raises:
            BaseException: what that one raised.
        """
        self.wait()

        def run() -> None:
            try:
                write()
            except BaseException as error:  # raised where the run goes on
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raise what a write that has ended raised; of one that goes on, nothing yet."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Let a write end, and raise what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self.wait()
        except Exception as unwritten:
            if error is None:
                raise
            logger.warning("the last checkpoint was not written either: %s", unwritten)


class Held(nn.Module):
    """The state of a model as it is now, in main memory, for :func:`safetensors.torch.save_model`.

    What shares memory in the model shares it here, so that the file is the model's own.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        storages: dict[tuple[int, int], torch.UntypedStorage] = {}

        def copied(value: Tensor) -> Tensor:
            own = value.untyped_storage()
            key = (own.data_ptr(), own.nbytes())
            if key not in storages:
                storages[key] = torch.UntypedStorage(own.nbytes()).copy_(own)
            place = (value.storage_offset(), value.size(), value.stride())
            return torch.empty(0, dtype=value.dtype).set_(storages[key], *place)

        with torch.no_grad():
            self.held = {name: copied(value) for name, value in model.state_dict().items()}

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return dict(self.held)
