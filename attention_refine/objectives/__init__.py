"""Objectives: losses the map must satisfy during training. One file, one paper."""

from .base import Objective, objectives
from .consistency import AttentionConsistency
from .contrastive import ContrastivePretraining
from .darc import DARC
from .distillation import Distillation
from .guided_inference import GuidedInference
from .mining import AttentionMining
from .supervision import MapSupervision
from .transplant import Transplant
from .triplet import Triplet

register_objective = objectives.register
list_objectives = objectives.names

__all__ = [
    "AttentionConsistency",
    "AttentionMining",
    "ContrastivePretraining",
    "DARC",
    "Distillation",
    "GuidedInference",
    "MapSupervision",
    "Objective",
    "Transplant",
    "Triplet",
    "list_objectives",
    "register_objective",
]
