"""Judging a model's predictions and maps: one pass over the data, every sample's values kept."""

from .comparison import Comparison, Difference, compare
from .config import EvaluationConfig
from .evaluate import evaluate
from .fewshot import FewShot, few_shot
from .gate import gate
from .judging import map_names
from .results import Evaluation
from .retrieval import Retrieval, retrieval

__all__ = [
    "Comparison",
    "Difference",
    "Evaluation",
    "EvaluationConfig",
    "FewShot",
    "Retrieval",
    "compare",
    "evaluate",
    "few_shot",
    "gate",
    "map_names",
    "retrieval",
]
