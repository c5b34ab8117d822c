"""One recipe, run: wrap, train, evaluate and report."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..core.files import atomic_file
from ..data import class_names, describe
from ..evaluation import Evaluation, evaluate
from ..evaluation.finding import LAST
from ..evaluation.journal import OtherEvaluation
from ..hub import load
from ..mending.propagation import SEGMENTERS, propagate, propagation
from ..refined import Refined
from ..report import galleries, strips, write_report
from ..training import TrainingConfig, TrainingResult, finetune, make_accelerator
from .building import build_model, load_splits, prepare_evaluation, prepare_training
from .schema import ModelOptions, Recipe


@dataclass
class Run:
    """What :func:`run` leaves: the trained model, where it lies, how it was judged and on which images (if any)."""

    model: Refined
    history: list[dict[str, Any]]
    model_path: Path
    report_path: Path
    evaluation: Evaluation | None
    test: Any


def run(recipe: Recipe, splits: dict[str, Any] | None = None) -> Run:
    """Wrap, train, evaluate and report, into ``recipe.training.output_dir``.

    Args:
        recipe: the whole run.
        splits: from :func:`load_splits`, to share them between runs; loaded here if not given.
    """
    accelerator = make_accelerator(recipe.training)
    splits = splits or load_splits(recipe.data, recipe.training.seed)
    model, result = trained(recipe, splits, accelerator)
    output = Path(recipe.training.output_dir)
    if accelerator.is_main_process:
        with atomic_file(output / "recipe.yaml") as path:
            path.write_text(recipe.to_yaml(), encoding="utf-8")
    evaluation = None
    if "test" in splits:
        evaluation = judge(recipe, model, splits["test"], output, accelerator)
        if result.best_path is not None and result.best_step != result.steps:
            _judge_last(recipe, result.last_path, splits["test"], output, accelerator)
    done = Run(
        model=model,
        history=result.history,
        model_path=Path(result.best_path or result.last_path),
        report_path=output / "report.html",
        evaluation=evaluation,
        test=splits.get("test"),
    )
    if accelerator.is_main_process:
        title = f"{output.name} on {recipe.data.source}"
        report({output.name: done}, done.report_path, title=title, config=recipe.to_dict())
    return done


def trained(
    recipe: Recipe, splits: dict[str, Any], accelerator: Any, on_epoch: Callable[[dict[str, float]], None] | None = None
) -> tuple[Refined, TrainingResult]:
    """The recipe's model after training, with what has to be trained before it; nothing is judged on test images.

    Args:
        splits: from :func:`load_splits`.
        on_epoch: as :func:`attention_refine.finetune` takes it.
    """
    if recipe.data.propagate is not None:
        splits = {**splits, "train": _propagated(recipe, splits, accelerator)}
    options = recipe.model if recipe.model.teacher is None else _taught(recipe, splits)
    torch.manual_seed(recipe.training.seed)  # the fresh classifier and head
    model = build_model(options, class_names(splits["train"]))
    unlabeled = splits.get("unlabeled")
    result = finetune(
        model,
        prepare_training(recipe, model, splits["train"]),
        recipe.training,
        eval_dataset=prepare_evaluation(recipe, model, splits["validation"]),
        unlabeled=None if unlabeled is None else prepare_training(recipe, model, unlabeled, labeled=False),
        accelerator=accelerator,
        on_epoch=on_epoch,
    )
    return model, result


def _judge_last(recipe: Recipe, path: str, split: Any, output: Path, accelerator: Any) -> None:
    """The last model's cheap measures, where it is another than the best one: ``compare`` shows both."""
    quick = replace(recipe, evaluation=replace(recipe.evaluation, perturbation_images=0))
    judge(quick, load(path, device=accelerator.device), split, output / LAST, accelerator)


def _taught(recipe: Recipe, splits: dict[str, Any]) -> ModelOptions:
    """The model section of the student, its teacher trained, judged and saved in ``<output_dir>/teacher``."""
    plain = [{"name": entry} if isinstance(entry, str) else entry for entry in recipe.model.objectives]
    if not any(entry.get("name") == "distillation" and not entry.get("teacher") for entry in plain):
        raise ValueError(
            "model.teacher trains a teacher, and no objective would learn from it: add {name: distillation} to "
            "model.objectives, without a teacher of its own"
        )
    values = recipe.model.to_dict() | {"teacher": None}
    teacher = ModelOptions.from_dict(values | {"objectives": []} | (recipe.model.teacher or {}))
    folder = str(Path(recipe.training.output_dir) / "teacher")
    done = run(replace(recipe, model=teacher, training=replace(recipe.training, output_dir=folder)), splits)
    made = [entry | {"teacher": str(done.model_path)} if entry["name"] == "distillation" else entry for entry in plain]
    return ModelOptions.from_dict(values | {"objectives": made})


PROPAGATION = (
    "model", "training", "rounds", "cut", "flip", "method", "min_confidence", "image_size", "segmenter", "seed", "batch_size"
)  # fmt: skip


def _propagated(recipe: Recipe, splits: dict[str, Any], accelerator: Any) -> Any:
    """The training images with masks for all of them, by models trained first in ``<output_dir>/propagate/round-<n>``.

    Each round's model learns from the masks of the round before; what people annotated stays theirs throughout.
    """
    given = dict(recipe.data.propagate or {})
    unknown = sorted(given.keys() - set(PROPAGATION))
    if unknown:
        raise ValueError(f"data.propagate: key {unknown[0]!r} is not one of {', '.join(PROPAGATION)}")
    if given.get("method") in SEGMENTERS:
        return _segmented(recipe, given, splits["train"], accelerator)
    rounds = given.pop("rounds", 1)
    if not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"data.propagate: rounds must be a whole number of 1 or more, got {rounds!r}")
    model = ModelOptions.from_dict(recipe.model.to_dict() | {"teacher": None} | (given.pop("model", None) or {}))
    training = recipe.training.to_dict() | (given.pop("training", None) or {})
    train = splits["train"]
    for number in range(1, rounds + 1):
        folder = Path(recipe.training.output_dir) / "propagate" / f"round-{number}"
        stage = replace(
            recipe,
            model=model,
            data=replace(recipe.data, propagate=None),
            training=TrainingConfig.from_dict(training | {"output_dir": str(folder)}),
        )
        done = run(stage, {**splits, "train": train})
        train = _masks(done.model, splits["train"], folder, recipe, accelerator, given)
    return train


def _segmented(recipe: Recipe, given: dict[str, Any], train: Any, accelerator: Any) -> Any:
    """The training images with masks from a segmenter on the features of a network that nobody trained for them."""
    unused = sorted(given.keys() & {"training", "rounds"})
    if unused:
        raise ValueError(f"data.propagate: method {given['method']!r} trains no model: leave {unused[0]!r} out")
    folder = Path(recipe.training.output_dir) / "propagate"
    model = _bare(recipe, given.pop("model", None), class_names(train))
    return _masks(model, train, folder, recipe, accelerator, {"seed": recipe.training.seed} | given)


def _bare(recipe: Recipe, own: dict[str, Any] | None, labels: list[str]) -> Refined:
    """The network of a recipe without what is put on it, as it is before any training."""
    plain: dict[str, Any] = {"teacher": None, "head": None, "objectives": [], "resolution": 1}
    return build_model(ModelOptions.from_dict(recipe.model.to_dict() | plain | (own or {})), labels)


def shown_objects(recipe: Recipe, rows: Any) -> Any:
    """Images to judge on, with masks of what stands out in them where the recipe trains on such masks; else as they are.

    Only images of which none has a mask or box get them: they say of themselves that a model made them.
    """
    given = dict(recipe.data.propagate or {})
    known = describe(rows)
    if given.get("method") != "unsupervised" or known.masks or known.boxes:
        return rows
    model = _bare(recipe, given.pop("model", None), class_names(rows))
    return propagate(model, rows, progress=recipe.training.progress, **{"seed": recipe.training.seed} | given)


def _masks(model: Refined, train: Any, folder: Path, recipe: Recipe, accelerator: Any, given: dict[str, Any]) -> Any:
    """The rows with the masks that a model gives; the first process makes them, the others read its maps."""
    progress = recipe.training.progress and accelerator.is_main_process
    with accelerator.main_process_first():
        found = propagation(model, train, cache=folder / "maps", progress=progress, **given)
        if accelerator.is_main_process:
            with atomic_file(folder / "propagation.json") as path:
                path.write_text(json.dumps(found.to_dict(), indent=1))
    return found.dataset


def report(runs: dict[str, Run], path: Path, title: str, config: dict[str, Any] | None = None) -> Path:
    """One page on one or several runs that were judged on the same images.

    Pictures that cannot be drawn are left out with a warning: the numbers of a finished run are never lost to them.
    """
    evaluations = {name: done.evaluation for name, done in runs.items() if done.evaluation is not None}
    models = {name: runs[name].model for name in evaluations}
    test = runs[next(iter(models))].test if models else None
    return write_report(
        path,
        evaluations,
        histories={name: done.history for name, done in runs.items()},
        galleries=_drawn(galleries, models, test, evaluations) if models else None,
        strips=_drawn(strips, models, test) if models else None,
        title=title,
        config=config,
    )


def _drawn(draw: Callable[..., dict[str, Any]], *of: Any) -> dict[str, Any]:
    try:
        return draw(*of)
    except (ValueError, OSError, RuntimeError) as error:
        warnings.warn(f"the report has no pictures of {draw.__name__}: {' '.join(str(error).split())}", stacklevel=2)
        return {}


def judge(recipe: Recipe, model: Refined, split: Any, output: Path, accelerator: Any = None) -> Evaluation:
    """The recipe's evaluation of a model on one split; ``evaluation.json`` and ``samples.csv`` go to ``output``.

    The processes of an ``accelerate.Accelerator`` share the images. A resumed run takes from ``output`` what is there
    already, of the same model, data and settings; else it judges anew.
    """
    judged = partial(
        evaluate,
        model,
        prepare_evaluation(recipe, model, split),
        recipe.evaluation,
        seed=recipe.training.seed,
        progress=recipe.training.progress,
        output=output,
        accelerator=accelerator,
    )
    try:
        return judged(resume=recipe.training.resume)
    except OtherEvaluation as error:  # a trained model is not in question: only its numbers are old
        warnings.warn(f"{output} is judged anew, because {error.why}", stacklevel=2)
        return judged(resume=False)
