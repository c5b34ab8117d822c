"""Change what a vision model attends to: wrap a timm or Hugging Face backbone, fine-tune, measure, share."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import backbones, maps, metrics
from .backbones import UnsupportedBackbone
from .backbones.adapter import Backbone
from .heads import AttentionBranch, Head, list_heads, register_head
from .hub import CheckpointError, load
from .model import RefinedModel, RefinedOutput, wrap
from .objectives import (
    AttentionMining,
    GuidedInference,
    MapSupervision,
    Objective,
    list_objectives,
    register_objective,
)

if TYPE_CHECKING:
    from . import data
    from .evaluation import Evaluation, compare, evaluate
    from .training import TrainingConfig, finetune

__version__ = "0.1.0"

# Imported at first use: datasets, accelerate and torchmetrics take seconds, and a loaded model needs none of them.
_LATER = {
    "data": "data",
    "Evaluation": "evaluation",
    "compare": "evaluation",
    "evaluate": "evaluation",
    "TrainingConfig": "training",
    "finetune": "training",
}

__all__ = [
    "AttentionBranch",
    "AttentionMining",
    "AttentionMining",
    "Backbone",
    "CheckpointError",
    "Evaluation",
    "GuidedInference",
    "GuidedInference",
    "Head",
    "MapSupervision",
    "MapSupervision",
    "Objective",
    "RefinedModel",
    "RefinedOutput",
    "TrainingConfig",
    "UnsupportedBackbone",
    "backbones",
    "compare",
    "data",
    "evaluate",
    "finetune",
    "list_heads",
    "list_objectives",
    "load",
    "maps",
    "metrics",
    "register_head",
    "register_objective",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_LATER[name]}", __name__)
    return module if name == _LATER[name] else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
