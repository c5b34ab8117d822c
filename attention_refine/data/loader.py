"""A loader whose worker processes say why they do not start, and on which rows one ended or hangs."""

from __future__ import annotations

import multiprocessing
import re
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader

from attention_refine.data.labels import DataError

SHOWN = 16  # rows that a message names


class Loader(DataLoader):
    """torch's ``DataLoader``.

    Raises:
        DataError: from iterating, where worker processes are started anew (``spawn``, ``forkserver``) and something of
            the dataset cannot be sent to them, or is not found by them; where one ends, or gives nothing within
            ``timeout`` seconds, naming the rows that are waited for.
    """

    def __init__(self, dataset: Any, *, num_workers: int = 0, timeout: float = 0, **options: Any):
        self._waited: _Noted | None = None
        if options.get("batch_sampler") is not None:
            options["batch_sampler"] = self._waited = _Noted(options["batch_sampler"])
        super().__init__(dataset, num_workers=num_workers, timeout=timeout if num_workers else 0, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names a private class
        came = False
        try:
            for batch in super().__iter__():
                came = True
                if self._waited is not None:
                    self._waited.batches.popleft()
                yield batch
        except Exception as error:
            said = (None if came else self._not_started(error)) or self._lost(error)
            if said is None:
                raise
            raise DataError(f"{said}; or num_workers=0 in place of {self.num_workers}") from error

    def _not_started(self, error: Exception) -> str | None:
        method = multiprocessing.get_start_method()
        if not self.num_workers or isinstance(error, DataError) or method == "fork":
            return None
        reason = " ".join(str(error).split())
        if re.search(r"pickl|local object", reason):
            return (
                f"the dataset cannot be sent to worker processes, which are started by {method!r} here ({reason}): give a "
                "function that a module defines, or functools.partial of one, in place of a lambda or a function inside "
                "another"
            )
        if "exited unexpectedly" in reason:
            return (
                f"worker processes, which {method!r} starts anew, ended as they began ({reason}): put what a script does "
                "under if __name__ == '__main__', and define datasets and functions in a module, not in a notebook"
            )
        return None

    def _lost(self, error: Exception) -> str | None:
        handing = isinstance(
            error, (ConnectionError, EOFError)
        )  # a worker holds the memory of a batch until it is fetched
        if not self.num_workers or not (handing or isinstance(error, RuntimeError)):
            return None
        reason = " ".join(str(error).split())
        if reason.startswith("Caught "):  # raised in a worker, by what reads the images
            return None
        if handing:
            reason = f"{type(error).__name__} as it handed a batch over"
        if handing or re.match(r"DataLoader worker \(pid", reason):
            return (
                f"a worker process that loads images has ended ({reason}){self.waited()}: memory that ran out is the usual "
                "cause of a kill, an image that crashes its decoder of another signal. Use fewer workers, look at the image"
            )
        if reason.startswith("DataLoader timed out"):
            return (
                f"a worker process that loads images has given nothing for {self.timeout:g} seconds{self.waited(1)}: look "
                "at what it reads (a disk or a server that does not answer), or allow more with worker_timeout"
            )
        return None

    def waited(self, most: int | None = None) -> str:
        """The rows of the batches that workers were asked for, the first ``most`` of them; nothing where they are not known."""
        if self._waited is None or not self._waited.batches:
            return ""
        rows = [_row(each) for batch in islice(self._waited.batches, most) for each in batch]
        return f" at one of the rows {', '.join(rows[:SHOWN])}{', ...' if len(rows) > SHOWN else ''}"


class _Noted:
    """Batches of rows, with those that were asked for and have not come yet."""

    def __init__(self, made: Any):
        self.made = made
        self.batches: deque[Any] = deque()

    def __iter__(self) -> Iterator[Any]:
        self.batches.clear()
        for batch in self.made:
            self.batches.append(batch)
            yield batch

    def __len__(self) -> int:
        return len(self.made)


def _row(asked: Any) -> str:
    """The number of a row; of a stream's also the file that it was read from."""
    if not isinstance(asked, tuple):
        return str(asked)
    number, cells = asked
    paths = (cell.get("path") for cell in cells.values() if isinstance(cell, dict))
    return " ".join([str(number), *(f"({path})" for path in paths if path)][:2])
