"""``config.json``: everything that rebuilds a model but its weights, written, read as data from anywhere, and built."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..backbones.adapter import Backbone
from ..backbones.loading import num_classes
from ..backbones.rebuild import describe, rebuild
from ..backbones.sites import Site
from ..backbones.spec import BackboneSpec, NotRebuildable
from ..core.path_redaction import without_places
from ..heads._base import heads
from ..objectives._base import objectives
from ..objectives._teacher import OBJECT
from ..refined import Refined, models
from ..version import __version__
from .migration import of_today

CONFIG = "config.json"
FORMAT = 1
LARGEST_CONFIG = 16 * 2**20  # bytes
LONGEST_LABEL = 1000  # characters
LARGEST_NUMBER = 2**20  # of a layer's size or count; an image or a vocabulary has fewer
LARGEST_IMAGE = 2**13
LARGEST_RATE = 10_000  # frames a second, or from one frame of a clip to the next
_OPTIONAL = (dict, type(None))
_ENTRIES: dict[str, Any] = {
    "model_type": str,
    "format": int,
    "library_version": str,
    "backbone": dict,
    "site": _OPTIONAL,
    "head": _OPTIONAL,
    "objectives": list,
    "labels": list,
    "preprocessing": dict,
}


class CheckpointError(ValueError):
    """A folder or repo that is no whole checkpoint of this library; the message names the file and what is wrong."""


def model_config(model: Refined, training_layers: bool = True) -> dict[str, Any]:
    """Everything that rebuilds ``model`` but its weights.

    Args:
        training_layers: ``False`` leaves the objectives out, and with them the layers that only training needs.

    Raises:
        NotRebuildable: the backbone is a module that no library can build again, or a head or objective is not
            registered.
    """
    kept: list[Any] = list(model.objectives.values()) if training_layers else []
    for registry, parts in ((heads, [model.head] if model.head else []), (objectives, kept)):
        for part in parts:
            if not registry.holds(part):
                raise NotRebuildable(
                    f"{registry.kind} {part.name!r} is not registered, so a checkpoint of it could not be loaded; "
                    f"decorate {type(part).__name__} with ar.register_{registry.kind}({part.name!r})"
                )
    spec = model.backbone.spec or describe(model.backbone.net)  # the latter raises, saying why there is no spec
    return {
        "model_type": "attention_refine",
        "format": FORMAT,
        "library_version": __version__,
        "backbone": spec.to_dict(),
        "site": model.backbone.site.to_dict() if model.backbone.site else None,
        "head": model.head.to_dict() if model.head is not None else None,
        "objectives": [part.to_dict() for part in kept],
        "labels": model.labels,
        "preprocessing": model.preprocessing,
    }


def for_others(part: dict[str, Any]) -> dict[str, Any]:
    """A head's or objective's entry as other people get it.

    A teacher in a folder of this machine is of no use to them, and its path is nobody's business: it stands as an
    object, which has to be given again where the model is trained further.
    """
    teacher = part["options"].get("teacher")
    if isinstance(teacher, str) and without_places(teacher) != teacher:
        return {**part, "options": {**part["options"], "teacher": OBJECT}}
    return part


def to_json(config: dict[str, Any]) -> str:
    """The file's text, once it is sure that :func:`read_config` takes it.

    Raises:
        NotRebuildable: an option is no plain data, or outside what is read back.
    """
    try:
        text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise NotRebuildable(
            f"an option of the model is not plain data ({error}), so config.json cannot hold it; pass plain values"
        ) from error
    try:
        parse_config(text.encode(), CONFIG)
    except CheckpointError as error:
        raise NotRebuildable(f"the model could not be loaded again: {error}") from error
    return text


def read_config(path: Path) -> dict[str, Any]:
    """The config in a file, checked for what every config has.

    Raises:
        CheckpointError: no such file, or not a config that this library writes.
    """
    if not path.is_file() and any(path.parent.glob("*.safetensors")):
        raise CheckpointError(
            f"{path.parent} holds weights and no {CONFIG}, which transformers.Trainer does not write for a model of this "
            "library. Build the model as for the training, safetensors.torch.load_model(model, weights), then "
            "model.save_pretrained(folder); see docs/integration.md"
        )
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {CONFIG}: it is no saved model")
    check_size(path.stat().st_size, str(path))
    return parse_config(path.read_bytes(), str(path))


def check_size(size: int, where: str) -> None:
    if size > LARGEST_CONFIG:
        raise CheckpointError(
            f"{where} is {size / 2**20:.0f} MiB large; no config has more than 16 MiB, so it is not read"
        )


def parse_config(content: bytes, where: str) -> dict[str, Any]:
    """A config from bytes that may come from anywhere; ``where`` stands in the messages."""
    try:
        config = json.loads(content.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not JSON ({error}); it was cut short or edited") from error
    if not isinstance(config, dict) or config.get("model_type") != "attention_refine":
        found = type(config).__name__
        if isinstance(config, dict):
            found = str(config.get("model_type") or config.get("architecture"))
        raise CheckpointError(
            f"{where} describes {_shown(found)}, not a refined model; wrap it first: "
            f"ar.wrap({str(Path(where).parent)!r}, head=...)"
        )
    number = config.get("format")
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= FORMAT:
        raise CheckpointError(
            f"{where} is of format {_shown(number)}, this version reads {FORMAT}; upgrade attention-refine"
        )
    for key, kinds in _ENTRIES.items():
        if key not in config:
            raise CheckpointError(f"{where} lacks {key!r}; it was cut short or edited")
        if not isinstance(config[key], kinds):
            raise CheckpointError(f"{where}: {key!r} is {_shown(config[key])}, which no saved model has there")
    unknown = sorted(config.keys() - _ENTRIES.keys())
    if unknown:
        raise CheckpointError(
            f"{where} has an unknown entry {_shown(unknown[0])}; its entries are {', '.join(_ENTRIES)}"
        )
    _check_labels(config["labels"], where)
    _check_preprocessing(config["preprocessing"], where)
    for key in ("backbone", "site", "head"):
        _check_numbers(config[key], f"{where}: {key}")
    _check_numbers(config["objectives"], f"{where}: objectives", most=math.inf)
    try:
        return of_today(config)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 100 else f"{text[:80]}… ({len(text)} characters)"


def _check_labels(labels: list, where: str) -> None:
    if not labels:
        raise CheckpointError(f"{where}: there are no labels; a classifier has at least one")
    for label in labels:
        if not isinstance(label, str):
            raise CheckpointError(f"{where}: label {_shown(label)} is not text")
        if len(label) > LONGEST_LABEL:
            raise CheckpointError(
                f"{where}: a label has {len(label)} characters, more than the {LONGEST_LABEL} that are read; shorten it"
            )


def _check_preprocessing(values: dict[str, Any], where: str) -> None:
    size: Any = values.get("input_size")
    whole = isinstance(size, list) and len(size) in (3, 4) and all(type(side) is int for side in size)
    if not whole or not all(1 <= side <= LARGEST_IMAGE for side in size):
        raise CheckpointError(
            f"{where}: preprocessing input_size is {_shown(size)}; it must be [channels, height, width] (with "
            f"frames second for clips), each from 1 to {LARGEST_IMAGE}"
        )
    for key in ("mean", "std"):
        numbers: Any = values.get(key)
        fits = isinstance(numbers, list) and all(type(n) in (int, float) and abs(n) < math.inf for n in numbers)
        if not fits or len(numbers) != size[0] or (key == "std" and min(numbers) <= 0):
            raise CheckpointError(f"{where}: preprocessing {key} is {_shown(numbers)}; it must be {size[0]} numbers")
    share: Any = values.get("crop_pct")
    if type(share) not in (int, float) or not 0 < share <= 100:
        raise CheckpointError(f"{where}: preprocessing crop_pct is {_shown(share)}; it must be above 0")
    for key in ("interpolation", "crop_mode", "short"):
        if not isinstance(values.get(key, "center"), str):
            raise CheckpointError(f"{where}: preprocessing {key} is {_shown(values[key])}; it must be a name")
    for key in ("fps", "stride"):
        number = values.get(key)
        if number is not None and (type(number) not in (int, float) or not 0 < number <= LARGEST_RATE):
            raise CheckpointError(
                f"{where}: preprocessing {key} is {_shown(number)}; it must be above 0, at most {LARGEST_RATE}"
            )


def _check_numbers(value: Any, where: str, most: float = LARGEST_NUMBER) -> None:
    """Numbers that no layer has: they would only spend time and memory."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_numbers(inner, f"{where}.{key[:40]}", most)
    elif isinstance(value, list):
        for inner in value:
            _check_numbers(inner, where, most)
    elif isinstance(value, (int, float)) and not abs(value) <= min(most, 1e300):
        raise CheckpointError(f"{where} is {value:.4g}, larger than {most:.4g}, which no layer needs; refused")


def build(config: dict[str, Any]) -> Refined:
    """The model a config describes, with fresh weights and without probing."""
    spec = BackboneSpec.from_dict(config["backbone"])
    site = Site.from_dict(config["site"]) if config["site"] else None
    net = rebuild(spec)
    if num_classes(net) not in (None, len(config["labels"])):
        raise ValueError(f"the backbone has {num_classes(net)} classes but there are {len(config['labels'])} labels")
    if site is not None and site.name not in dict(net.named_modules()):
        raise ValueError(f"site {site.name!r} is not a module of {spec.name}")
    backbone = Backbone(net, spec, site, config["preprocessing"]["input_size"])
    head = heads.build(config["head"]["name"], config["head"]["options"]) if config["head"] else None
    made = [objectives.build(entry["name"], entry["options"]) for entry in config["objectives"]]
    model = models.build(config["model_type"], {
        "backbone": backbone, "head": head, "objective_list": made, "labels": config["labels"],
        "preprocessing": config["preprocessing"],
    })  # fmt: skip
    if head is not None:
        head.attach(backbone, model.num_labels, config["head"]["resolved"])
    for objective in made:
        objective.attach(model)
    return model
