"""One YAML file, one run: what is wrapped, on which data, trained how and judged by what.

``hub_configs/`` holds ready ones. The command line is made from these fields, so a file, the command and this page cannot
disagree.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
import typing
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml

from .backbones.sites import UnsupportedBackbone
from .core import typed_words
from .core.files import atomic_file
from .core.options import Options, option
from .core.path_redaction import marked
from .data import (
    Prepared,
    class_names,
    is_numbered,
    load_dataset,
    load_unlabeled,
    match_classes,
    prepare,
    split_few_labels,
    split_train_validation,
)
from .data.matching import class_places
from .evaluation import Evaluation, evaluate, map_names
from .evaluation.finding import LAST
from .evaluation.journal import OtherEvaluation
from .heads import list_heads
from .heads._base import heads
from .hub import load
from .mending.propagation import propagation
from .metrics import list_measures
from .model import RefinedModel
from .objectives import list_objectives
from .objectives._base import objectives
from .report import galleries, strips, write_report
from .training import TrainingConfig, finetune, make_accelerator
from .wrapping import wrap


@dataclass
class ModelOptions(Options):
    """What is wrapped."""

    backbone: str = option("resnet50.a1_in1k", "timm name, Hugging Face id or folder")
    pretrained: bool | str = option(
        True, "published weights (true), fresh ones (false), or the path of a safetensors file"
    )
    checkpoint: str | None = option(
        None, "folder or Hub id of a model saved by this library to go on from, with its own backbone and head"
    )
    head: str | dict | None = option(
        None, "head by name, or {name: ..., option: value}; none for a plain fine-tune", names=list_heads
    )
    objectives: list[str | dict] = option(
        [], "objectives, each by name or {name: ..., option: value}", names=list_objectives
    )
    image_size: int | None = option(None, "side in pixels; the backbone's own if not given", at_least=8)
    frames: int | None = option(None, "of clips: how many frames; the backbone's own if not given", at_least=1)
    fps: float | None = option(None, "of clips: frames a second", above=0)
    stride: int | None = option(None, "of clips, in place of fps: every how many frames of the file", at_least=1)
    short: str | None = option(None, "what shorter videos are filled up with: hold (the last frame), or loop")
    resolution: int = option(1, "by how much finer the last grid is to be, from the same weights: 2, 4", at_least=1)
    teacher: dict | None = option(
        None, "a teacher to train first, on the same data: the keys of this section that differ for it, such as "
        "{resolution: 1}; the distillation objective then learns from it",
    )  # fmt: skip


@dataclass
class DataOptions(Options):
    """Which images."""

    source: str = option("shapes", "folder, Hub dataset id, or 'shapes' for the embedded dataset")
    train_split: str = option("train", "split to train on")
    validation: float | str = option(0.2, "share of the training split kept for validation, or the name of a split")
    images_per_class: int | None = option(
        None, "labelled training images of each class, drawn by the seed; all if not given", at_least=1
    )
    unlabeled: str | None = option(
        None, "images without labels beside them: a source as above, 'shapes:train' for example, or 'rest' for those "
        "that images_per_class leaves out",
    )  # fmt: skip
    unlabeled_split: str = option("train", "split of the unlabelled images")
    test_split: str | None = option("test", "split for the last look; none to leave it out")
    label_column: str | None = option(None, "column of the labels, if not 'label' or 'labels'")
    image_column: str | None = option(None, "column of the images, if not 'image'")
    group_column: str | None = option(
        None, "column whose values are the groups that accuracy is told apart by; 'group' where there is one"
    )
    box_format: str = option(
        "xywh", "boxes as x, y, width, height (xywh), or left, top, right, bottom (xyxy)", choices=("xywh", "xyxy")
    )
    mask_values: int | list[int] | None = option(
        None, "pixel values of masks that are object; all but 0 and void if not given"
    )
    void: int | list[int] | None = option(
        None, "pixel values of masks that are void: 128 if not given, 255 in PASCAL VOC"
    )
    media: str = option(
        "auto", "which files of a folder: images, videos, or what it holds", choices=("auto", "image", "video")
    )
    clips: int = option(1, "clips of each video over which a prediction is averaged", at_least=1)
    revision: str | None = option(None, "revision of a Hub dataset")
    augment: str = option("default", "augmentation of the training images", choices=("default", "jitter", "none"))
    smallest_crop: float = option(0.35, "smallest share of the image that a random crop keeps", above=0, at_most=1)
    on_error: str = option(
        "raise", "an image that cannot be read: raise, or skip and count it", choices=("raise", "skip")
    )
    propagate: dict | None = option(
        None, "a model to train first, on the training images that have masks or boxes, whose maps become the masks of "
        "the others: {model: ..., training: ...} with the keys that differ for it, rounds, and options of "
        "attention_refine.propagate (cut, flip, method ...); with method: segmenter nothing is trained for it",
    )  # fmt: skip


@dataclass
class EvaluationOptions(Options):
    """How the result is judged."""

    perturbation_images: int = option(
        100, "images of the test split for insertion and deletion; 0 for none", at_least=0
    )
    perturbation_steps: int = option(20, "points of the insertion and deletion curves", at_least=2)
    batch_size: int = option(32, "images at a time", at_least=1)
    measures: list[str] | dict | None = option(
        None, "measures by name, or {name: {option: value}}; the usual ones if not given", names=list_measures
    )
    groups: list[str] | None = option(
        None, "columns by whose values accuracy is told apart, the first for the worst group; if not given 'group', "
        "which data.group_column fills",
    )  # fmt: skip
    maps: list[str] = option(["model"], "maps that are judged", names=map_names)


@dataclass
class Recipe:
    """A whole run; :meth:`load` reads it from YAML."""

    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)

    @classmethod
    def sections(cls) -> dict[str, type[Options]]:
        """The config class of each section."""
        return {each.name: each.default_factory for each in fields(cls)}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "config") -> Recipe:
        """A recipe from nested plain values; a section or key that does not exist is refused by name.

        Raises:
            ValueError: naming ``where``, the section and the key.
        """
        sections = cls.sections()
        unknown = sorted(set(values) - set(sections))
        if unknown:
            raise ValueError(f"{where}: section {unknown[0]!r} is not one of {', '.join(sections)}")
        made = {}
        for name, kind in sections.items():
            given = values.get(name) or {}
            if not isinstance(given, dict):
                raise ValueError(f"{where}: section {name!r} must hold keys and values, not {given!r}")
            try:
                made[name] = kind.from_dict(given)
            except ValueError as error:
                raise ValueError(f"{where}: section {name!r}: {error}") from error
        return cls(**made)

    @classmethod
    def load(cls, path: str | Path, overrides: dict[str, dict[str, Any]] | None = None) -> Recipe:
        """A recipe from a YAML file, single fields overridden."""
        return cls.from_dict(merged(read_yaml(path), overrides or {}), where=str(path))

    def to_dict(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name).to_dict() for each in fields(self)}

    def to_yaml(self) -> str:
        """The file's text; folders that are here begin with ``./``, so that they are no ids of the Hub later on."""
        values = self.to_dict()
        values |= {section: marked(values[section]) for section in ("model", "data")}
        values["training"]["output_dir"] = marked(values["training"]["output_dir"])
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ValueError: no such file, not YAML, or not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"config {path} does not exist")
    try:
        hints = {section: typing.get_type_hints(kind) for section, kind in Recipe.sections().items()}
        values = typed_words.read_fields(path.read_text(encoding="utf-8"), hints)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"config {path} is not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"config {path} must hold sections with keys and values, not a {type(values).__name__}")
    return values


def merged(values: dict[str, Any], overrides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """``values`` with single keys of its sections replaced."""
    out = dict(values)
    for section, keys in overrides.items():
        out[section] = {**(out.get(section) or {}), **keys}
    return out


def load_splits(options: DataOptions, seed: int = 0) -> dict[str, Any]:
    """The datasets of a run: ``train``, ``validation`` and, if wanted, ``test``, all with the training classes.

    ``unlabeled``, if wanted, has no classes that count. Validation images are never among the others.
    """
    columns = _columns(options)
    train = load_dataset(options.source, options.train_split, **columns)
    names = class_names(train)
    splits = {}
    if isinstance(options.validation, str):
        splits["train"] = train
        splits["validation"] = load_dataset(options.source, options.validation, class_names=names, **columns)
    else:
        splits["train"], splits["validation"] = split_train_validation(train, options.validation, seed)
    rest = None
    if options.images_per_class is not None:
        splits["train"], rest = split_few_labels(splits["train"], options.images_per_class, seed)
    if options.unlabeled == "rest":
        if rest is None or len(rest) == 0:
            raise ValueError("data.unlabeled 'rest' takes what images_per_class leaves out, and it leaves out nothing")
        splits["unlabeled"] = rest
    elif options.unlabeled is not None:
        splits["unlabeled"] = load_unlabeled(
            options.unlabeled,
            options.unlabeled_split,
            image_column=options.image_column,
            revision=options.revision,
            media=options.media,
        )
    if options.test_split:
        splits["test"] = load_dataset(options.source, options.test_split, class_names=names, **columns)
    return splits


def build_model(options: ModelOptions, labels: list[str]) -> RefinedModel:
    """The wrapped model a recipe asks for, its classifier fresh for ``labels``, or the saved one it goes on from.

    A saved model keeps its backbone, head and size; its objectives are the recipe's.

    Raises:
        ValueError: the backbone cannot carry a head.
        DataError: a class that the saved model does not know; in which order it has them does not count.
    """
    made = [_made(objectives, entry) for entry in options.objectives]
    if options.checkpoint is not None:
        model = load(options.checkpoint)
        class_places(labels, model.labels, f"the checkpoint {options.checkpoint!r}")
        model.objectives.clear()
        for objective in made:
            model.add_objective(objective)
        return model
    try:
        return wrap(
            options.backbone,
            head=_made(heads, options.head) if options.head else None,
            objectives=made,
            labels=labels,
            pretrained=options.pretrained,
            preprocessing=_preprocessing(options),
            resolution=options.resolution,
        )
    except UnsupportedBackbone as error:
        raise ValueError(f"backbone {options.backbone!r}: {error}") from error


def _preprocessing(options: ModelOptions) -> dict[str, Any] | None:
    """What the options say of the size and the sampling of what the model is shown."""
    sampling = {name: getattr(options, name) for name in ("fps", "stride", "short")}
    sampling = {name: value for name, value in sampling.items() if value is not None}
    side, frames = options.image_size, options.frames
    if frames is None and side is None:
        return sampling or None
    if frames is not None and side is None:
        raise ValueError("model.frames needs model.image_size beside it: together they are the size of a clip")
    return {"input_size": [3, *([] if frames is None else [frames]), side, side], **sampling}


def _made(registry: Any, entry: str | dict[str, Any]) -> Any:
    if isinstance(entry, str):
        return registry.build(entry)
    options = dict(entry)
    if "name" not in options:
        raise ValueError(f"a {registry.kind} given with options needs its name: {{name: {registry.names()[0]}, ...}}")
    return registry.build(options.pop("name"), options)


def prepare_training(recipe: Recipe, model: RefinedModel, split: Any, labeled: bool = True) -> Prepared:
    """A split ready to train on: augmented, from the run's seed; with its labels, matched by name, or without."""
    prepared = prepare(
        split,
        model.preprocessing,
        train=True,
        labeled=labeled,
        augment=recipe.data.augment,
        scale=(recipe.data.smallest_crop, 1.0),
        on_error=recipe.data.on_error,
        seed=recipe.training.seed,
        progress=recipe.training.progress,
    )
    return match_classes(prepared, model.labels) if labeled else prepared


def prepare_evaluation(recipe: Recipe, model: RefinedModel, split: Any) -> Prepared:
    """A split ready to be judged: the centre of each image, its classes matched with the model's by name."""
    prepared = prepare(
        split, model.preprocessing, on_error=recipe.data.on_error, progress=recipe.training.progress,
        clips=recipe.data.clips,
    )  # fmt: skip
    return match_classes(prepared, model.labels)


# Running one ----------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What :func:`run` leaves: the trained model, where it lies, how it was judged and on which images (if any)."""

    model: RefinedModel
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
    if recipe.data.propagate is not None:
        splits = {**splits, "train": _propagated(recipe, splits, accelerator)}
    options = recipe.model if recipe.model.teacher is None else _taught(recipe, splits)
    torch.manual_seed(recipe.training.seed)  # the fresh classifier and head
    model = build_model(options, class_names(splits["train"]))
    output = Path(recipe.training.output_dir)
    unlabeled = splits.get("unlabeled")
    result = finetune(
        model,
        prepare_training(recipe, model, splits["train"]),
        recipe.training,
        eval_dataset=prepare_evaluation(recipe, model, splits["validation"]),
        unlabeled=None if unlabeled is None else prepare_training(recipe, model, unlabeled, labeled=False),
        accelerator=accelerator,
    )
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
    teacher = ModelOptions.from_dict(values | {"objectives": []} | recipe.model.teacher)
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
    given = dict(recipe.data.propagate)
    unknown = sorted(given.keys() - set(PROPAGATION))
    if unknown:
        raise ValueError(f"data.propagate: key {unknown[0]!r} is not one of {', '.join(PROPAGATION)}")
    if given.get("method") == "segmenter":
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
        raise ValueError(f"data.propagate: method 'segmenter' trains no model: leave {unused[0]!r} out")
    plain = {"teacher": None, "head": None, "objectives": [], "resolution": 1}
    options = ModelOptions.from_dict(recipe.model.to_dict() | plain | (given.pop("model", None) or {}))
    folder = Path(recipe.training.output_dir) / "propagate"
    model = build_model(options, class_names(train))
    return _masks(model, train, folder, recipe, accelerator, {"seed": recipe.training.seed} | given)


def _masks(
    model: RefinedModel, train: Any, folder: Path, recipe: Recipe, accelerator: Any, given: dict[str, Any]
) -> Any:
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
    judged = {name: done for name, done in runs.items() if done.evaluation is not None}
    evaluations = {name: done.evaluation for name, done in judged.items()}
    models = {name: done.model for name, done in judged.items()}
    test = next(iter(judged.values())).test if judged else None
    return write_report(
        path,
        evaluations,
        histories={name: done.history for name, done in runs.items()},
        galleries=_drawn(galleries, models, test, evaluations) if judged else None,
        strips=_drawn(strips, models, test) if judged else None,
        title=title,
        config=config,
    )


def _drawn(draw: Callable[..., dict[str, Any]], *of: Any) -> dict[str, Any]:
    try:
        return draw(*of)
    except (ValueError, OSError, RuntimeError) as error:
        warnings.warn(f"the report has no pictures of {draw.__name__}: {' '.join(str(error).split())}", stacklevel=2)
        return {}


def judge(recipe: Recipe, model: RefinedModel, split: Any, output: Path, accelerator: Any = None) -> Evaluation:
    """The recipe's evaluation of a model on one split; ``evaluation.json`` and ``samples.csv`` go to ``output``.

    The processes of an ``accelerate.Accelerator`` share the images. A resumed run takes from ``output`` what is there
    already, of the same model, data and settings; else it judges anew.
    """
    options = recipe.evaluation
    judged = partial(
        evaluate,
        model,
        prepare_evaluation(recipe, model, split),
        measures=options.measures,
        maps=options.maps,
        groups=options.groups,
        batch_size=options.batch_size,
        perturbation_images=options.perturbation_images,
        perturbation_steps=options.perturbation_steps,
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


def load_split(options: DataOptions, split: str, labels: list[str]) -> Any:
    """One split of a recipe's data, its labels those of a model; its own where the model's were never named."""
    names = None if is_numbered(labels) else labels
    return load_dataset(options.source, split, class_names=names, **_columns(options))


def _columns(options: DataOptions) -> dict[str, Any]:
    """How the source is read, as :func:`load_dataset` takes it."""
    names = ("label_column", "image_column", "group_column", "box_format", "mask_values", "void", "revision", "media")
    return {name: getattr(options, name) for name in names}


def shipped_names() -> list[str]:
    """The configs that come with the package."""
    folder = files("attention_refine.hub_configs")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def shipped_lines() -> list[str]:
    """Each shipped config with what it says of itself: the first sentence of its comment."""
    width = max(map(len, shipped_names()))
    return [f"{name:{width}}  {_first_sentence(shipped(name).read_text(encoding='utf-8'))}" for name in shipped_names()]


def _first_sentence(text: str) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("# ") and not line.startswith("#   "), text.splitlines())
    comment = " ".join(line[2:].strip() for line in lines)
    return re.split(r"(?<!al)[.:](?:\s|$)", comment, maxsplit=1)[0]


def shipped(name: str) -> Path:
    """The path of a config: a file, or the name of one that comes with the package."""
    if Path(name).is_file():
        return Path(name)
    if name.removesuffix(".yaml") in shipped_names():
        return Path(str(files("attention_refine.hub_configs") / f"{name.removesuffix('.yaml')}.yaml"))
    close = difflib.get_close_matches(name, shipped_names(), n=3)
    raise ValueError(
        f"config {name!r} is neither a file nor a shipped config{'; close: ' + ', '.join(close) if close else ''}"
    )
