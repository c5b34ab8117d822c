"""A loader whose worker processes say why they do not start."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from attention_refine.data.labels import DataError


class Loader(DataLoader):
    """torch's ``DataLoader``.

    Raises:
        DataError: from iterating, where worker processes are started anew (``spawn``, ``forkserver``) and something of
            the dataset cannot be sent to them, or is not found by them.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch names a private class
        try:
            yield from super().__iter__()
        except Exception as error:
            said = self._said(error)
            if said is None:
                raise
            raise DataError(f"{said}; or num_workers=0 in place of {self.num_workers}") from error

    def _said(self, error: Exception) -> str | None:
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
