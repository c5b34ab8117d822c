"""What every objective is: a loss the map must satisfy during training, inert at inference."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, ValuesView
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..core.registry import Registry, checked_options, show_options

if TYPE_CHECKING:
    from ..output import RefinedOutput
    from ..refined import Refined

objectives: Registry[type[Objective]] = Registry("objective")


class Objective(nn.Module):
    """Adds losses during training; may own training-only layers, made by :meth:`attach`.

    Attributes:
        needs_labels: whether unlabelled images are passed over.
        second_order: whether it differentiates a gradient, so that the forward pass must be twice differentiable.
        takes_gradients: whether its loss is made of gradients in the network, of the first order or the second, such as
            Grad-CAM; a model in shards cannot give them.
        own_passes: whether it makes its own forward passes and takes nothing from the model's. A training step of such
            objectives alone, without labels or head, then makes no other; its ``output.logits`` are theirs, if any.
        annotations: columns of the batch of which an image needs one to take part (``mask``, ``boxes``, ``edited_map``,
            ``cue``); empty where every image does.
        reads: columns of the batch that it takes something from where they are there, beside ``pixel_values``, ``labels``
            and ``smoothing``. Trainers that drop what no signature names keep them.
        adds: columns that it puts there itself, in :meth:`prepare` or for the next update on the same images
            (``output.carried``). No two objectives of a model add the same.
        least_images: so many images a batch needs, of all processes, for the loss to say anything.
        compares_images: whether the loss of an image depends on which others are in the batch, of all processes.
        needs_embedding: whether it reads ``output.embedding``, (B, D), what the classifier is given.
    """

    name: str
    config_class: type[Any]
    needs_labels = True
    second_order = False
    takes_gradients = False
    own_passes = False
    annotations: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    adds: tuple[str, ...] = ()
    least_images = 1
    compares_images = False
    needs_embedding = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        show_options(cls)

    def __init__(self, **options: Any):
        super().__init__()
        self.config = checked_options(self.config_class, options, type(self).__name__)

    @property
    def weight(self) -> float:
        """Weight of the objective's losses in the total."""
        return self.config.weight

    def weight_of(self, loss: str) -> float:
        """Weight of one of the objective's losses, by its name; ``weight`` for all of them unless overridden."""
        return self.weight

    @property
    def task_weight(self) -> float:
        """What the classification losses are multiplied by while this objective acts."""
        return 1.0

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "options": asdict(self.config)}

    def attach(self, model: Refined) -> None:
        """Make training-only layers for this model; nothing by default."""

    def prepare(self, model: Refined, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch the model is to see when this objective's losses are computed; as it is, by default.

        What it adds, columns named in ``adds``, is there for :meth:`forward`; nothing is kept on the module between the
        two.
        """
        return batch

    def forward(self, model: Refined, batch: dict[str, Any], output: RefinedOutput) -> dict[str, Tensor]:
        """Scalar losses by name, each to be minimised.

        ``batch`` holds ``pixel_values``, ``labels`` where there are any, the ``smoothing`` of the labels, and every
        further column; ``output.feature`` is the backbone's :class:`~attention_refine.backbones.adapter.Feature`, to
        resume from without a second full pass, or ``None`` in a model without a head whose backbone has no site.
        Numbers that are not losses go into ``output.measures``, further predictions into ``output.aux_logits``.
        """
        raise NotImplementedError


class Objectives(nn.ModuleDict):
    """A model's, by name."""

    if TYPE_CHECKING:

        def __getitem__(self, name: str) -> Objective: ...

        def items(self) -> ItemsView[str, Objective]: ...

        def values(self) -> ValuesView[Objective]: ...


def check_adds(objective_list: Iterable[Objective]) -> None:
    """Refuse two objectives that put a column of one name into the batch: each would read the other's.

    Raises:
        ValueError: naming both and the column.
    """
    owner: dict[str, str] = {}
    for objective in objective_list:
        for column in objective.adds:
            if column in owner:
                raise ValueError(
                    f"objectives {owner[column]!r} and {objective.name!r} both add a column {column!r} to the batch: "
                    "rename one in its adds, prepare and forward"
                )
            owner[column] = objective.name
