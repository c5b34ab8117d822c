"""One YAML file, one run: the sections, what they build, the run, the shipped configs, and which of them to take."""

from .building import build_model, load_split, load_splits, prepare_evaluation, prepare_training
from .configs import shipped, shipped_lines, shipped_names
from .run import Run, judge, report, run, shown_objects, trained
from .schema import DataOptions, EvaluationOptions, ModelOptions, Recipe, merged, read_yaml
from .search import Search, SearchOptions
from .search import line as search_line

__all__ = [
    "DataOptions",
    "EvaluationOptions",
    "ModelOptions",
    "Recipe",
    "Run",
    "Search",
    "SearchOptions",
    "build_model",
    "judge",
    "load_split",
    "load_splits",
    "merged",
    "prepare_evaluation",
    "prepare_training",
    "read_yaml",
    "report",
    "run",
    "search_line",
    "shipped",
    "shipped_lines",
    "shipped_names",
    "shown_objects",
    "trained",
]
