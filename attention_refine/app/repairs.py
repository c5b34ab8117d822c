"""A repair that the page starts: the command ``attention-refine repair`` in a process of its own, and how far it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What tqdm draws: "finetune:  45%|████▌     | 9/20 [00:03<00:04, ...]".
BAR = re.compile(r"(?P<stage>[^\r\n|]*?):\s+\d+%\|[^|]*\|\s*(?P<done>\d+)/(?P<total>\d+)")
COMMAND = (sys.executable, "-m", "attention_refine.cli")
SAID = 5  # seconds that a process has to end when it is told to
Overrides = Mapping[str, Mapping[str, Any]]


class Repairs:
    """One repair at a time. Each writes to a folder of its own, ``repair-1``, ``repair-2``, ... in ``output``.

    Should the server be killed, the repair ends with it: its output has nowhere to go.

    Args:
        model: folder of the saved model.
        source: folder of images.
        split: the one to train on.
        output: folder for the repairs.
        goal, recipe, limit, overrides: as :func:`attention_refine.repair` takes them.
        command: what takes the words of the command line.
    """

    def __init__(
        self,
        model: str | Path,
        source: str | Path,
        split: str,
        output: str | Path,
        *,
        goal: str = "accuracy",
        recipe: str | None = None,
        limit: int | None = None,
        overrides: Overrides | None = None,
        command: Sequence[str] = COMMAND,
    ):
        self.output = Path(output)
        self._words = [*command, "repair", str(model), "--goal", goal]
        self._words += ["--data.source", str(source), "--data.train_split", split]
        self._words += ["--recipe", recipe] if recipe else []
        self._words += ["--limit", str(limit)] if limit else []
        for section, keys in (overrides or {}).items():
            for name, value in keys.items():
                self._words += [f"--{section}.{name}", value if isinstance(value, str) else json.dumps(value)]
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._stopped = False
        self._folder: Path | None = None
        self._stage, self._done, self._total = "", 0, 0
        self._lines: list[str] = []
        self._errors: list[str] = []
        self._readers: list[threading.Thread] = []

    def start(self) -> None:
        """Begin a repair.

        Raises:
            ValueError: one is running.
        """
        with self._lock:
            if self._running:
                raise ValueError("a repair is running already: wait for it, or stop it")
            self._folder = self.output / f"repair-{1 + max(self._numbers(), default=0)}"
            self._folder.mkdir(parents=True)
            self._stage, self._done, self._total, self._lines, self._errors = "starting", 0, 0, [], []
            self._stopped = False
            package = str(Path(__file__).parents[2])  # the same library, wherever it was imported from
            path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
            environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "PYTHONPATH": path}
            self._process = subprocess.Popen(
                [*self._words, "--output", str(self._folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                encoding="utf-8", errors="replace", env=environment,
            )  # fmt: skip
            self._readers = [
                threading.Thread(target=self._read_lines, args=(self._process.stdout,), daemon=True),
                threading.Thread(target=self._read_bars, args=(self._process.stderr,), daemon=True),
            ]
            for reader in self._readers:
                reader.start()

    def stop(self) -> None:
        """End a repair that is running; what it wrote stays."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        self._stopped = True
        process.terminate()
        try:
            process.wait(SAID)
        except subprocess.TimeoutExpired:
            process.kill()

    def state(self) -> dict[str, Any]:
        """``state`` (``none``, ``running``, ``done``, ``failed``, ``stopped``), ``stage``, ``done`` of ``total``, ``lines``,
        and when it is done ``sentence`` and ``page``, seen from ``output``; when it failed ``sentence`` says why."""
        process = self._process
        pages = [f"repair-{number}/repair.html" for number in sorted(self._numbers())]
        found: dict[str, Any] = {
            "state": "none", "stage": "", "done": 0, "total": 0, "lines": [], "sentence": "",
            "pages": [page for page in pages if (self.output / page).is_file()],
        }  # fmt: skip
        if process is None:
            return found
        found |= {"stage": self._stage, "done": self._done, "total": self._total, "lines": self._lines[-6:]}
        code = process.poll()
        if code is None:
            return {**found, "state": "running"}
        for reader in self._readers:
            reader.join(SAID)
        if self._stopped:
            return {**found, "state": "stopped", "sentence": "Stopped."}
        if code != 0:
            last = next((line for line in reversed(self._errors) if line), f"it ended with {code}")
            return {**found, "state": "failed", "sentence": last.removeprefix("attention-refine: ")}
        said = [
            "",
            "",
            "",
            *(line for line in self._lines if line),
        ]  # its last three: the sentence, the model, the report
        assert self._folder is not None, "start makes it"
        return {**found, "state": "done", "sentence": said[-3], "page": f"{self._folder.name}/repair.html"}

    @property
    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _numbers(self) -> list[int]:
        found = self.output.glob("repair-*")
        return [int(number) for path in found if (number := path.name.removeprefix("repair-")).isdecimal()]

    def _read_lines(self, stream: Any) -> None:
        for line in stream:
            self._lines.append(line.rstrip())

    def _read_bars(self, stream: Any) -> None:
        # Universal newlines: a bar's carriage return ends a line, so each drawing of it is one.
        for line in stream:
            bar = BAR.search(line)
            if bar:
                self._stage, self._done, self._total = bar["stage"].strip(), int(bar["done"]), int(bar["total"])
            else:
                self._errors.append(line.strip())
                del self._errors[:-50]
