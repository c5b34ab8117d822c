"""What an evaluation is asked for, as a recipe, a call and a report share it, and what its result keeps of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from attention_refine.core.options import Options, option
from attention_refine.evaluation.judging import map_names
from attention_refine.metrics import list_measures


@dataclass
class EvaluationConfig(Options):
    """What :func:`attention_refine.evaluate` judges, and on how many images."""

    perturbation_images: int = option(
        100, "images that the costly measures are taken on, such as insertion and deletion, spread evenly; 0 for none",
        at_least=0,
    )  # fmt: skip
    perturbation_steps: int = option(50, "points of the insertion and deletion curves, a forward each", at_least=1)
    batch_size: int = option(32, "images at a time; an image's values do not depend on it", at_least=1)
    measures: list[str] | dict | None = option(
        None, "measures by name, or {name: {option: value}}; if not given the usual ones that fit the labels, the groups "
        "and the ground truth", names=list_measures,
    )  # fmt: skip
    groups: list[str] | None = option(
        None, "columns by whose values accuracy is told apart, the first for the worst group; if not given 'group', where "
        "there is one",
    )  # fmt: skip
    maps: list[str] | dict = option(["model"], "maps that are judged", names=map_names)


class _Asked(TypedDict):
    measures: dict[str, dict[str, Any]]
    maps: list[str]
    perturbation_images: int
    perturbation_steps: int
    seed: int
    classes: list[str]
    multi_label: bool
    images: int | None


class Settings(_Asked, total=False):
    """:attr:`Evaluation.settings <attention_refine.Evaluation>`: what was asked, as it was understood of this dataset.

    ``measures`` with their options, ``maps`` and ``groups`` are those that were judged, ``classes`` the names of the
    classes, ``images`` how many there were (None of a stream that is not through), ``groups`` absent where there are none.
    """

    groups: list[str]
