"""Modules under their old names: importing one gives the module as it is called now, and says so, for one version."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

MOVED = {
    "backbones.cutting": "backbones.partial_forward",
    "backbones.scopes": "backbones.contexts",
    "evaluation.altered": "evaluation.sanity",
    "evaluation.perturbed": "evaluation.perturbation",
    "evaluation.whole_set": "evaluation.dataset_level",
    "hub.outline": "hub.meta_build",
    "hub.talking": "hub.retry",
    "metrics.baselines": "metrics._fills",
    "metrics.causal": "metrics.score_correlation",
    "metrics.drop": "metrics.confidence",
    "metrics.eraser": "metrics.rationale",
    "metrics.inputs": "metrics._maps",
    "metrics.judged": "metrics._judged",
    "metrics.measure": "metrics._registry",
    "metrics.modules": "metrics._modules",
    "metrics.per_sample": "metrics._per_sample",
    "metrics.removal": "metrics._stages",
    "metrics.scoring": "metrics._forward",
    "metrics.truth": "metrics.ground_truth",
    "metrics.volume": "metrics._volume",
    "objectives.gathering": "objectives.distributed",
}
GONE_IN = "0.2"


class OldNames(MetaPathFinder, Loader):
    """Finds the old names; asked last, so that a module that is there is itself."""

    def __init__(self) -> None:
        self._specs: dict[str, ModuleSpec | None] = {}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        return spec_from_loader(name, self) if package == "attention_refine" and rest in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"attention_refine.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(
            f"{spec.name} is {new} now; the old name goes with version {GONE_IN}", DeprecationWarning, stacklevel=2
        )
        module = import_module(new)
        self._specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """The module has run under its own name, which it keeps."""
        module.__spec__ = self._specs[module.__spec__.name]


def install() -> None:
    """Once a process."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
