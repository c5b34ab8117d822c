"""Objectives: losses the map must satisfy during training. One file or folder, one paper; what they share begins with an underscore.

For objectives of your own there are :func:`class_map`, :func:`site_for`, :func:`map_targets`, :func:`on_grid`,
:func:`multi_hot` and :func:`second_pass`.
"""

from ._annotations import map_targets, on_grid
from ._base import Objective, objectives
from ._masking import class_map, multi_hot, second_pass, site_for
from .consistency import AttentionConsistency, AttentionConsistencyConfig
from .contrastive import ContrastivePretraining, ContrastivePretrainingConfig
from .darc import DARC, DARCConfig
from .distillation import Distillation, DistillationConfig
from .group_dro import GroupDRO, GroupDROConfig
from .guided_inference import GuidedInference, GuidedInferenceConfig
from .mining import AttentionMining, AttentionMiningConfig
from .supervision import MapSupervision, MapSupervisionConfig
from .transplant import Transplant, TransplantConfig
from .triplet import Triplet, TripletConfig

register_objective = objectives.register
list_objectives = objectives.names

__all__ = [
    "AttentionConsistency",
    "AttentionConsistencyConfig",
    "AttentionMining",
    "AttentionMiningConfig",
    "ContrastivePretraining",
    "ContrastivePretrainingConfig",
    "DARC",
    "DARCConfig",
    "Distillation",
    "DistillationConfig",
    "GroupDRO",
    "GroupDROConfig",
    "GuidedInference",
    "GuidedInferenceConfig",
    "MapSupervision",
    "MapSupervisionConfig",
    "Objective",
    "Transplant",
    "TransplantConfig",
    "Triplet",
    "TripletConfig",
    "class_map",
    "list_objectives",
    "map_targets",
    "multi_hot",
    "on_grid",
    "register_objective",
    "second_pass",
    "site_for",
]
