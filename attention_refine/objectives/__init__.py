"""Objectives: losses the map must satisfy during training. One file, one paper."""

from .base import Objective, objectives
from .guided_inference import GuidedInference
from .mining import AttentionMining
from .supervision import MapSupervision

register_objective = objectives.register
list_objectives = objectives.names

__all__ = ["AttentionMining", "GuidedInference", "MapSupervision", "Objective", "list_objectives", "register_objective"]
