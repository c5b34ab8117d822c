"""What a recipe is made of: its datasets, its model, and the splits made ready for it."""

from __future__ import annotations

from typing import Any

from ..backbones.sites import UnsupportedBackbone
from ..data import (
    class_names,
    is_numbered,
    keep_annotations,
    load_dataset,
    load_unlabeled,
    match_classes,
    prepare,
    split_few_labels,
    split_train_validation,
)
from ..data.class_matching import class_places
from ..heads._base import heads
from ..hub import load
from ..objectives._base import objectives
from ..refined import Refined
from ..wrapping import wrap
from .schema import DataOptions, ModelOptions, Recipe


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
    if options.annotated is not None:
        splits["train"] = keep_annotations(splits["train"], options.annotated, seed)
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


def build_model(options: ModelOptions, labels: list[str]) -> Refined:
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


def prepare_training(recipe: Recipe, model: Refined, split: Any, labeled: bool = True) -> Any:
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
        cache_images=recipe.data.cache_images,
    )
    return match_classes(prepared, model.labels) if labeled else prepared


def prepare_evaluation(recipe: Recipe, model: Refined, split: Any) -> Any:
    """A split ready to be judged: the centre of each image, its classes matched with the model's by name."""
    prepared = prepare(
        split, model.preprocessing, on_error=recipe.data.on_error, progress=recipe.training.progress,
        clips=recipe.data.clips,
    )  # fmt: skip
    return match_classes(prepared, model.labels)


def load_split(options: DataOptions, split: str, labels: list[str]) -> Any:
    """One split of a recipe's data, its labels those of a model; its own where the model's were never named."""
    names = None if is_numbered(labels) else labels
    return load_dataset(options.source, split, class_names=names, **_columns(options))


def _columns(options: DataOptions) -> dict[str, Any]:
    """How the source is read, as :func:`load_dataset` takes it."""
    names = ("label_column", "image_column", "group_column", "box_format", "mask_values", "void", "revision", "media")
    return {name: getattr(options, name) for name in names}
