"""Objectives: losses the map must satisfy during training. One file, one paper."""

from .base import Objective, objectives

register_objective = objectives.register
list_objectives = objectives.names

__all__ = ["Objective", "list_objectives", "register_objective"]
