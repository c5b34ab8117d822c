"""The weights of the best epoch in ``best/``, and of those that may still become it in ``candidates/``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from attention_refine.training.checkpoints import atomic_folder, weights_damage
from attention_refine.training.choosing import Choice
from attention_refine.training.masters import stored_as


class BestModels:
    """The folders of a run's best models; used by the main process alone.

    ``candidates/`` is used where a second monitor has a say, and goes when the run ends.

    Args:
        types: what some values are saved as, by name, see :func:`attention_refine.training.masters.stored_as`.
    """

    def __init__(self, output: Path, types: Mapping[str, torch.dtype] = MappingProxyType({})):
        self.best, self.candidates, self.types = output / "best", output / "candidates", types

    def held(self, best_step: int | None, kept: list[int]) -> list[int]:
        """Of the steps that were kept, those whose weights are still there: ``best/`` is ``best_step``'s."""
        there = [step for step in kept if weights_damage(self._of(step) / "model.safetensors") is None]
        return sorted({*there, *([] if best_step is None else [best_step])})

    def keep(self, model: nn.Module, step: int, before: int | None, choice: Choice) -> None:
        """Save what a choice keeps, after the evaluation at ``step``; ``before`` was the best until then."""
        if choice.several and step in choice.kept:
            self._save(model, self._of(step))
        if choice.step not in (None, before):
            if choice.step == step:
                self._save(model, self.best)
            else:
                _copy(self._of(choice.step), self.best)
        kept = {self._of(each).name for each in choice.kept}
        for folder in self.candidates.glob("step-*"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def finish(self) -> None:
        """Leave ``best/`` alone."""
        shutil.rmtree(self.candidates, ignore_errors=True)

    def _of(self, step: int) -> Path:
        return self.candidates / f"step-{step:08d}"

    def _save(self, model: Any, folder: Path) -> None:
        with atomic_folder(folder) as temporary, stored_as(model, self.types):
            model.save_pretrained(temporary)


def _copy(source: Path, target: Path) -> None:
    with atomic_folder(target) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)
