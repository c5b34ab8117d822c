"""What may be asked of a refined model by what lies below it: objectives, the Hub, export, pictures of one image.

:class:`~attention_refine.model.RefinedModel` is one. These are typed by this protocol, so that the model imports them
and none of them imports the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from .core.registry import Registry

if TYPE_CHECKING:
    from .backbones.adapter import Backbone
    from .heads._base import Head
    from .output import RefinedOutput


class Refined(Protocol):
    """A network with its head and objectives, besides what every ``nn.Module`` has.

    Attributes:
        backbone: the wrapped network and its site.
        head: what makes the map, or ``None``.
        objectives: losses on the map, by name.
        labels: class names, in the order of the logits.
        preprocessing: how images are made ready for it.
        card: the README it was loaded with, or ``None``.
    """

    backbone: Backbone
    head: Head | None
    objectives: nn.ModuleDict
    labels: Sequence[str]
    preprocessing: dict[str, Any]
    card: str | None
    training: bool

    @property
    def num_labels(self) -> int: ...

    def __call__(self, pixel_values: Tensor, labels: Tensor | None = None, **columns: Any) -> RefinedOutput: ...

    def explain(self, pixel_values: Tensor, target: Any = None, method: str = "auto") -> Tensor:
        """``(B, K, H, W)``, a map at image size."""

    def explained_by(self, method: str = "auto") -> str:
        """The map that :meth:`explain` shows for a method."""


# RefinedModel enters itself; a checkpoint's config says by ``model_type`` what is built. A process that only loads has not
# imported it.
models = Registry("model", home="attention_refine.model")


def saved(source: str | Path) -> Refined:
    """A saved model from a folder or the Hub, in evaluation mode, for what lies below the model; else ``ar.load``."""
    return models.named("attention_refine").from_pretrained(source)
