"""What an evaluation has done so far, on disk, so that one cut short can be continued."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attention_refine.core.files import atomic_text, room_for
from attention_refine.data import difference


class OtherEvaluation(ValueError):
    """What is in the folder is of another model, other data or other settings; ``why`` says which."""

    def __init__(self, folder: Path, why: str):
        self.why = why
        super().__init__(
            f"the evaluation in {folder} cannot be continued, because {why}. Choose another output folder, or "
            "resume=False to start anew"
        )


class Journal:
    """Records of the images done, a line each, in ``folder/parts``.

    A line cut short by a kill is ignored, and its image done again. Every attempt of every process writes a file of
    its own, so that nothing is appended after a cut line.

    Args:
        settings: all that decides the values; kept beside the records. ``data`` in it is the dataset's fingerprint.
        resume: read what is there (it is ``done``, by position) instead of removing it.
        rank: of this process.

    Raises:
        OtherEvaluation: ``resume`` with other settings, naming the first that differs.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], resume: bool, rank: int):
        self.parts, self.rank, self.done = folder / "parts", rank, {}
        self.file: Path | None = None
        self.settings = json.loads(json.dumps(settings))
        self.goes_on = resume and (self.parts / "settings.json").exists()
        if self.goes_on:
            self._check(json.loads((self.parts / "settings.json").read_text(encoding="utf-8")), self.settings)
            self.done = self._read()

    def begin(self) -> None:
        """Remove what is not gone on with; the first process does, and all wait before it and before :meth:`add`."""
        if self.rank == 0 and not self.goes_on:
            shutil.rmtree(self.parts, ignore_errors=True)
            with room_for(self.parts):
                self.parts.mkdir(parents=True)
            atomic_text(self.parts / "settings.json", json.dumps(self.settings, indent=1))

    def add(self, records: Mapping[int, dict]) -> None:
        """Keep the records of a batch."""
        if self.file is None:
            attempt = len(list(self.parts.glob(f"{self.rank:04d}-*.jsonl")))
            self.file = self.parts / f"{self.rank:04d}-{attempt:04d}.jsonl"
        with room_for(self.file), self.file.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps([position, record]) + "\n" for position, record in records.items())

    def _read(self) -> dict[int, dict]:
        done = {}
        for file in sorted(self.parts.glob("*.jsonl")):
            for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
                try:
                    position, record = json.loads(line)
                except ValueError:  # cut short
                    continue
                done[position] = record
        return done

    def _check(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        differs = difference(before.get("data"), now.get("data"))
        if differs is not None:
            raise OtherEvaluation(self.parts.parent, f"its data differ: {differs}")
        for name, value in now.items():
            if name != "data" and before.get(name) != value:
                raise OtherEvaluation(self.parts.parent, f"its {name} differs")


def digest(model: nn.Module) -> str:
    """A short hash of every weight, so that one model's evaluation is not continued with another."""
    found = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
