"""Change what a vision model attends to: wrap a timm or Hugging Face backbone, fine-tune, measure, share."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import backbones, heads, hf_auto, maps, metrics, moved, objectives
from .backbones import UnsupportedBackbone, higher_resolution
from .backbones.adapter import Backbone
from .heads import BRNPA, AttentionBranch, BilinearPooling, Head, list_heads, register_head
from .hub import CheckpointError, load
from .maps import list_maps, register_map
from .metrics import list_measures, register_measure
from .model import RefinedModel
from .objectives import (
    DARC,
    AttentionConsistency,
    AttentionMining,
    ContrastivePretraining,
    Distillation,
    GroupDRO,
    GuidedInference,
    MapSupervision,
    Objective,
    Transplant,
    Triplet,
    list_objectives,
    register_objective,
)
from .output import RefinedOutput
from .version import __version__
from .wrap import wrap

if TYPE_CHECKING:
    from . import data
    from .auditing import Audit, audit
    from .evaluation import Evaluation, compare, evaluate, few_shot, retrieval
    from .propagation import propagate
    from .recommendation import Recommendation, recommend
    from .repairing import Repair, repair
    from .retraining import retrain_classifier
    from .training import TrainingConfig, finetune


# Imported at first use: datasets, accelerate and torchmetrics take seconds, and a loaded model needs none of them.
_LATER = {
    "clips": "clips",
    "data": "data",
    "Audit": "auditing",
    "audit": "auditing",
    "Evaluation": "evaluation",
    "compare": "evaluation",
    "evaluate": "evaluation",
    "few_shot": "evaluation",
    "propagate": "propagation",
    "Recommendation": "recommendation",
    "recommend": "recommendation",
    "Repair": "repairing",
    "repair": "repairing",
    "retrain_classifier": "retraining",
    "retrieval": "evaluation",
    "TrainingConfig": "training",
    "finetune": "training",
}

__all__ = [
    "BRNPA",
    "AttentionBranch",
    "AttentionConsistency",
    "AttentionMining",
    "Audit",
    "DARC",
    "Backbone",
    "BilinearPooling",
    "CheckpointError",
    "ContrastivePretraining",
    "Distillation",
    "Evaluation",
    "GroupDRO",
    "GuidedInference",
    "Head",
    "MapSupervision",
    "Objective",
    "Recommendation",
    "RefinedModel",
    "RefinedOutput",
    "Repair",
    "TrainingConfig",
    "Transplant",
    "Triplet",
    "UnsupportedBackbone",
    "__version__",
    "audit",
    "backbones",
    "compare",
    "data",
    "evaluate",
    "few_shot",
    "finetune",
    "heads",
    "higher_resolution",
    "list_heads",
    "list_maps",
    "list_measures",
    "list_objectives",
    "load",
    "maps",
    "metrics",
    "objectives",
    "propagate",
    "recommend",
    "register_head",
    "register_map",
    "register_measure",
    "register_objective",
    "repair",
    "retrain_classifier",
    "retrieval",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_LATER[name]}", __name__)
    return module if name == _LATER[name] else getattr(module, name)


hf_auto.install()
moved.install()


def __dir__() -> list[str]:
    return sorted(__all__)
