"""What rebuilds a backbone: a small, JSON-able description, with no weights and no code in it (see ``rebuild``)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

SOURCES = ("timm", "transformers", "torchvision")
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class NotRebuildable(ValueError):
    """The network cannot be described so that another process could build it."""


@dataclass(frozen=True)
class BackboneSpec:
    """A backbone by name and arguments.

    Args:
        source: ``"timm"``, ``"transformers"`` or ``"torchvision"``.
        name: timm architecture (``"resnet50"``), transformers class (``"ViTForImageClassification"``) or torchvision
            name.
        args: constructor arguments, or the transformers config as a dict.
        origin: where the weights came from (``"resnet50.a1_in1k"``, a Hub id); for people, never loaded again.
        preprocessing: ``input_size``, ``mean``, ``std``, ``interpolation``, ``crop_pct``.
        pooling: what makes a :class:`~attention_refine.backbones.pooling.PatchPooling` of it, where one was made.
        resolution: the :class:`~attention_refine.backbones.resolution.Resolution` it was changed to, where it was.
    """

    source: str
    name: str
    args: dict[str, Any]
    origin: str | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)
    pooling: dict[str, Any] | None = None
    resolution: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ValueError(f"backbone source {self.source!r} is not one of {', '.join(SOURCES)}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BackboneSpec:
        return cls(**values)


def library_of(net: nn.Module) -> str | None:
    """``"timm"``, ``"transformers"`` or ``"torchvision"``, whichever the network's class is from."""
    library = type(net).__module__.partition(".")[0]
    return library if library in SOURCES else None


def plain(args: dict[str, Any], what: str) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(args))
    except TypeError as error:
        raise NotRebuildable(
            f"{what} was built with an argument that is not plain data ({error}); pass plain values"
        ) from error
