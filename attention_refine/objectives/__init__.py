"""Objectives: losses the map must satisfy during training. One file, one paper.

For objectives of your own there are :func:`class_map`, :func:`site_for`, :func:`map_targets`, :func:`on_grid`,
:func:`multi_hot` and :func:`second_pass`.
"""

from .annotations import map_targets, on_grid
from .base import Objective, objectives
from .consistency import AttentionConsistency
from .contrastive import ContrastivePretraining
from .darc import DARC
from .distillation import Distillation
from .guided_inference import GuidedInference
from .hiding import class_map, multi_hot, second_pass, site_for
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
    "class_map",
    "list_objectives",
    "map_targets",
    "multi_hot",
    "on_grid",
    "register_objective",
    "second_pass",
    "site_for",
]
