"""Objectives: losses the map must satisfy during training. One file, one paper."""

from .base import Objective, objectives
from .mining import AttentionMining

register_objective = objectives.register
list_objectives = objectives.names

__all__ = ["AttentionMining", "Objective", "list_objectives", "register_objective"]
