"""One YAML file, one run: what is wrapped, on which data, trained how and judged by what.

``hub_configs/`` holds ready ones. The command line is made from these fields, so a file, the command and this page cannot
disagree.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ..core import typed_words
from ..core.options import Options, option
from ..core.path_redaction import marked
from ..evaluation import EvaluationConfig
from ..heads import list_heads
from ..objectives import list_objectives
from ..training import TrainingConfig


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
    annotated: float | None = option(
        None, "share of the annotated training images of each class that keep their masks, boxes and edited maps, drawn by "
        "the seed; all if not given", above=0, at_most=1,
    )  # fmt: skip
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
    cache_images: str | None = option(
        None, "folder that keeps each training image decoded, as small as random crops allow, so that later epochs decode "
        "none; 0.6 MB an image at 224 pixels",
    )  # fmt: skip
    on_error: str = option(
        "raise", "an image that cannot be read: raise, or skip and count it", choices=("raise", "skip")
    )
    propagate: dict | None = option(
        None, "a model to train first, on the training images that have masks or boxes, whose maps become the masks of "
        "the others: {model: ..., training: ...} with the keys that differ for it, rounds, and options of "
        "attention_refine.propagate (cut, flip, method ...); with method: segmenter nothing is trained for it",
    )  # fmt: skip


@dataclass
class EvaluationOptions(EvaluationConfig):
    """How the result is judged: an :class:`~attention_refine.EvaluationConfig` with fewer points of the curves."""

    perturbation_steps: int = option(20, "points of the insertion and deletion curves, a forward each", at_least=2)


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
        hints = typing.get_type_hints(cls)
        return {each.name: hints[each.name] for each in fields(cls)}

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
        made: dict[str, Any] = {}
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
