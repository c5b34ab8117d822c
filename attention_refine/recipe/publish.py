"""From a config or a finished run to the Hub: train and judge what is not yet, write the card, push."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.path_redaction import without_places
from ..evaluation import Evaluation
from ..hub import CONFIG, Card, load, push_to_hub
from .building import load_split, prepare_evaluation
from .configs import shipped
from .run import run
from .schema import Recipe

PICTURES = 8


def publish(
    source: str, repo_id: str, overrides: Mapping[str, Mapping[str, Any]] | None = None, card: Card | None = None,
    **options: Any,
) -> Any:  # fmt: skip
    """Push what ``source`` names, with a card that says how it was made and how well it does.

    Args:
        source: a saved model's folder, a run's folder (its best model, else its last), or a config, as a file or by the
            name of one that is shipped: it is then trained, judged and reported on first.
        repo_id: ``"user/name"``.
        overrides: single fields of a config.
        card: fields that replace what is found out.
        options: as :func:`attention_refine.hub.push_to_hub` takes them.

    Returns:
        What :func:`attention_refine.hub.push_to_hub` returns.

    Raises:
        ValueError: no such folder or config, or one that cannot be run.
        PushError: the Hub refused.
    """
    folder = Path(source)
    if folder.is_dir():
        model_path, recipe = _model_in(folder), _recipe_near(folder)
        evaluation = next((Evaluation.from_json(f) for f in _near(folder, "evaluation.json")), None)
        command = "attention-refine finetune recipe.yaml" if recipe else None
    else:
        recipe = Recipe.load(shipped(source), {key: dict(value) for key, value in (overrides or {}).items()})
        done = run(recipe)
        model_path, evaluation = done.model_path, done.evaluation
        command = " ".join(["attention-refine finetune", shlex.quote(Path(source).name), *_written(overrides or {})])
    model = load(model_path)
    found = Card(evaluation=evaluation, command=command)
    if recipe is not None:
        found = replace(
            found,
            config=without_places(recipe.to_dict()),
            dataset=without_places(recipe.data.source),
            split=recipe.data.test_split,
            images=_pictures(recipe, model),
        )
    given = {name: value for name, value in vars(card).items() if value} if card else {}
    return push_to_hub(model, repo_id, card=replace(found, **given), **options)


def _model_in(folder: Path) -> Path:
    for place in (folder, folder / "best", folder / "last"):
        if (place / CONFIG).is_file():
            return place
    raise ValueError(f"{folder} holds no saved model: neither {CONFIG} nor a run's best/ or last/")


def _near(folder: Path, name: str) -> list[Path]:
    """The run's file of that name: in the folder, or above it where the folder is the run's best or last model."""
    places = [folder, folder.parent] if folder.name in ("best", "last") else [folder]
    return [place / name for place in places if (place / name).is_file()]


def _recipe_near(folder: Path) -> Recipe | None:
    return next((Recipe.load(file) for file in _near(folder, "recipe.yaml")), None)


def _pictures(recipe: Recipe, model: Any) -> list[Any]:
    """Images spread over the test split, as the model sees them; none where the data is not here."""
    if recipe.data.test_split is None:
        return []
    try:
        split = load_split(recipe.data, recipe.data.test_split, model.labels)
    except (ValueError, OSError):
        return []
    items = prepare_evaluation(recipe, model, split)
    count = min(PICTURES, len(items))
    return [items[position * len(items) // count]["pixel_values"] for position in range(count)]


def _written(overrides: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"--{section}.{key} {shlex.quote(str(without_places(value)))}"
        for section, values in overrides.items()
        for key, value in values.items()
    ]
