"""What may be asked of a refined model by what lies below it: objectives, the Hub, export, pictures of one image.

:class:`~attention_refine.model.RefinedModel` is one. These are typed by its base, so that the model imports them and none
of them imports the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .core.registry import Registry

if TYPE_CHECKING:
    from .backbones.adapter import Backbone, Feature
    from .heads._base import Head
    from .output import RefinedOutput


class Refined(nn.Module):
    """A network with its head and objectives: the names; what stands behind them is in the model.

    Attributes:
        backbone: the wrapped network and its site.
        head: what makes the map, or ``None``.
        objectives: losses on the map, by name.
        labels: class names, in the order of the logits.
        preprocessing: how images are made ready for it.
        card: the README it was loaded with, or ``None``.
    """

    name: str
    backbone: Backbone
    head: Head | None
    objectives: nn.ModuleDict
    labels: list[str]
    preprocessing: dict[str, Any]
    card: str | None
    drawn_classifier: str | None

    def found_head(self) -> Head:
        """The head of a model that must have one.

        Raises:
            ValueError: it has none.
        """
        if self.head is None:
            raise ValueError("this model has no head, so a map cannot act on it; wrap it with head='abn', for example")
        return self.head

    if TYPE_CHECKING:

        @property
        def config(self) -> Any: ...

        @property
        def num_labels(self) -> int: ...

        def __call__(self, pixel_values: Tensor, labels: Tensor | None = None, **columns: Any) -> RefinedOutput: ...

        def run(
            self,
            pixel_values: Tensor,
            maps: Tensor | None = None,
            compute_aux: bool = True,
            keep: bool = True,
            twice: bool = False,
        ) -> RefinedOutput: ...

        def resume(self, feature: Feature, maps: Tensor | None = None) -> RefinedOutput: ...

        def perceive(self, feature: Feature, gain: Tensor | None = None) -> Tensor: ...

        def add_objective(self, objective: Any) -> None: ...

        def explain(
            self, pixel_values: Tensor, target: Any = None, method: str = "auto", prompt: str | None = None
        ) -> Tensor: ...

        def explained_by(self, method: str = "auto") -> str: ...

        def embed(self, pixel_values: Tensor) -> Tensor: ...

        def preprocess(self, image: Any) -> Tensor: ...

        def show(
            self, image: Any, target: int | str | None = None, method: str = "auto", whole: bool = False
        ) -> Any: ...

        def save_pretrained(self, folder: str | Path, **options: Any) -> None: ...

        def export_backbone(self, folder: str | Path) -> None: ...

        def push_to_hub(self, repo_id: str, **options: Any) -> Any: ...


# RefinedModel enters itself; a checkpoint's config says by ``model_type`` what is built. A process that only loads has not
# imported it.
models: Registry[Any] = Registry("model", home="attention_refine.model")


def saved(source: str | Path) -> Refined:
    """A saved model from a folder or the Hub, in evaluation mode, for what lies below the model; else ``ar.load``."""
    return models.named("attention_refine").from_pretrained(source)
