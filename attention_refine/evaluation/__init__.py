"""Judging a model's predictions and maps: one pass over the data, every sample's values kept."""

from .comparison import Comparison, Difference, compare
from .evaluate import evaluate
from .judging import map_names
from .results import Evaluation

__all__ = ["Comparison", "Difference", "Evaluation", "compare", "evaluate", "map_names"]
