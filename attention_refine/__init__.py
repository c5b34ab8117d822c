"""Change what a vision model attends to: wrap a timm or Hugging Face backbone, fine-tune, measure, share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import hf_auto, moved
from .core.later import later
from .version import __version__

if TYPE_CHECKING:
    from . import backbones, data, heads, maps, metrics, objectives
    from .auditing.audit import Audit, audit
    from .backbones import UnsupportedBackbone, higher_resolution
    from .backbones.adapter import Backbone
    from .evaluation import Evaluation, EvaluationConfig, compare, few_shot
    from .evaluation.evaluate import evaluate
    from .evaluation.retrieval import retrieval
    from .heads import BRNPA, AttentionBranch, BilinearPooling, Head, list_heads, register_head
    from .hub import CheckpointError, load
    from .maps import list_maps, register_map
    from .mending.propagation import propagate
    from .mending.retraining import retrain_classifier
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
    from .prompting import zero_shot
    from .recipe.recommendation import Recommendation, recommend
    from .repairing.repair import Repair, repair
    from .training import TrainingConfig, find_learning_rate, finetune
    from .wrapping import wrap

# What is imported at its first use: torch takes seconds, datasets and accelerate further ones, and to look at a folder of
# images needs none of them.
_HOMES = {
    "Audit": "auditing",
    "audit": "auditing",
    "UnsupportedBackbone": "backbones",
    "higher_resolution": "backbones",
    "Backbone": "backbones.adapter",
    "Evaluation": "evaluation",
    "EvaluationConfig": "evaluation",
    "compare": "evaluation",
    "evaluate": "evaluation",
    "few_shot": "evaluation",
    "retrieval": "evaluation",
    "BRNPA": "heads",
    "AttentionBranch": "heads",
    "BilinearPooling": "heads",
    "Head": "heads",
    "list_heads": "heads",
    "register_head": "heads",
    "CheckpointError": "hub",
    "load": "hub",
    "list_maps": "maps",
    "register_map": "maps",
    "list_measures": "metrics",
    "register_measure": "metrics",
    "RefinedModel": "model",
    "DARC": "objectives",
    "AttentionConsistency": "objectives",
    "AttentionMining": "objectives",
    "ContrastivePretraining": "objectives",
    "Distillation": "objectives",
    "GroupDRO": "objectives",
    "GuidedInference": "objectives",
    "MapSupervision": "objectives",
    "Objective": "objectives",
    "Transplant": "objectives",
    "Triplet": "objectives",
    "list_objectives": "objectives",
    "register_objective": "objectives",
    "RefinedOutput": "output",
    "propagate": "mending.propagation",
    "Recommendation": "recipe.recommendation",
    "recommend": "recipe.recommendation",
    "Repair": "repairing",
    "repair": "repairing",
    "retrain_classifier": "mending.retraining",
    "TrainingConfig": "training",
    "find_learning_rate": "training",
    "finetune": "training",
    "wrap": "wrapping",
    "zero_shot": "prompting",
}
__getattr__ = later(__name__, _HOMES)

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
    "EvaluationConfig",
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
    "find_learning_rate",
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
    "zero_shot",
]


hf_auto.install()
moved.install()


def __dir__() -> list[str]:
    return sorted(__all__)
