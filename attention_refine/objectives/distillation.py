r"""Knowledge distillation (Hinton et al., 2015, arXiv 1503.02531), as BR-NPA's high-resolution student learns.

A frozen teacher, the low-resolution model, says how alike the classes are in an image; the student's softened
prediction is to be the teacher's:

.. math::

    L = \lambda \alpha T^2 \, KL(softmax(t / T) \,\|\, softmax(s / T)) + (1 - \alpha) \, CE

with teacher and student logits ``t`` and ``s``, temperature ``T``, interpolation :math:`\alpha` and, over the batch,
the mean. BR-NPA's script has ``T = 1`` and :math:`\alpha = 1`, without the labels; the defaults here are a middle way,
``T = 4`` and :math:`\alpha = 0.5`. Images with several labels: the Kullback-Leibler divergence of each class's sigmoid,
averaged over the classes, as their classification loss is.

Two terms may join it: the cosine distance of the features at the site, location by location, and the squared difference
of the maps; the finer of two grids is averaged down to the other.

The teacher is no part of the student: its weights are neither trained nor saved with it. A teacher given by folder or
Hub id is stored as that id and loaded at the first step that needs it. One given as an object is stored as the word
``"object"``: such a student loads and predicts anywhere, and needs its teacher given again to be trained further.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones import logits_of
from ..backbones.contexts import quiet
from ..backbones.precision import precision
from ..core.registry import check_choice
from ..maps._conditions import full_precision
from ..refined import Refined
from ._base import Objective, objectives
from ._masking import site_for
from ._teacher import Teacher

if TYPE_CHECKING:
    from ..output import RefinedOutput


@dataclass(frozen=True)
class DistillationConfig:
    """Options of :class:`Distillation`.

    Args:
        teacher: folder or Hub id of a model saved by this library, or a model object: one of this library's, or any
            network that takes the same images and gives logits.
        temperature: T; above 1 softens both predictions.
        interpolation: :math:`\\alpha`, the share of the teacher; the labels' losses keep the rest.
        score: ``"softmax"``, or ``"sigmoid"`` for several labels an image; ``"auto"`` goes by the labels (softmax for
            images without).
        feature_weight: weight of the features' distance; 0 leaves it out. The two sites need as many channels.
        map_weight: weight of the maps' squared difference; 0 leaves it out. Both models need a head; where they make as
            many maps they are compared one by one, else the largest at each location.
        teacher_size: side in pixels that the images are resized to for the teacher; by default they stay as they are.
        site: without a head, where the student's features are read, for ``feature_weight``.
        weight: :math:`\\lambda`, of the teacher's term.
    """

    teacher: Any = None
    temperature: float = 4.0
    interpolation: float = 0.5
    score: str = "auto"
    feature_weight: float = 0.0
    map_weight: float = 0.0
    teacher_size: int | None = None
    site: str = "auto"
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_choice("Distillation", "score", self.score, ("auto", "softmax", "sigmoid"))
        if self.temperature <= 0:
            raise ValueError(f"Distillation: temperature must be above 0, got {self.temperature}")
        if not 0 <= self.interpolation <= 1:
            raise ValueError(f"Distillation: interpolation must be between 0 and 1, got {self.interpolation}")
        for name in ("feature_weight", "map_weight", "weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"Distillation: {name} must be 0 or more, got {getattr(self, name)}")
        if self.teacher_size is not None and self.teacher_size < 1:
            raise ValueError(f"Distillation: teacher_size must be at least 1, got {self.teacher_size}")


@objectives.register("distillation")
class Distillation(Objective):
    """The student's losses against a frozen teacher. Options: :class:`DistillationConfig`.

    Losses: ``distillation``, and with their weights ``distillation_features`` and ``distillation_maps``. The
    classification losses count ``1 - interpolation`` while it acts. Measure: ``distillation_agreement``, the share of
    images whose predicted class is the teacher's.
    """

    config_class = DistillationConfig
    needs_labels = False

    def __init__(self, teacher: Any = None, **options: Any):
        given = Teacher("Distillation", teacher)
        super().__init__(teacher=given.source, **options)
        self._teacher = given  # no module: its weights are not counted, trained or saved as the student's

    @property
    def task_weight(self) -> float:
        return 1 - self.config.interpolation

    def weight_of(self, loss: str) -> float:
        weights = {"distillation_features": self.config.feature_weight, "distillation_maps": self.config.map_weight}
        return weights.get(loss, self.config.interpolation * self.weight)

    def attach(self, model: Refined) -> None:
        if self.config.teacher is None:
            raise ValueError(
                "Distillation: there is no teacher; pass teacher=, a folder or Hub id of a saved model, or a model"
            )
        if self.config.map_weight and model.head is None:
            raise ValueError("Distillation: map_weight compares the heads' maps, and this model has no head")
        if self.config.feature_weight:
            site_for(model, self.config.site, "Distillation")
        if self._teacher.network is not None:
            self._teacher.check_classes(model, self._teacher.network)
            self._check(self._teacher.network)

    def teacher(self, model: Refined) -> nn.Module:
        """The teacher, loaded at the first call and where the model is; its own flags are never changed.

        Raises:
            ValueError: the model was saved with a teacher that was an object, or the teacher does not fit it.
        """
        return self._teacher.of(model, self._check)

    def _check(self, teacher: nn.Module) -> None:
        for option, part in (("feature_weight", "backbone"), ("map_weight", "head")):
            if getattr(self.config, option) and getattr(teacher, part, None) is None:
                raise ValueError(f"Distillation: {option} needs a teacher with a {part} of this library; wrap it first")
        if self.config.feature_weight and isinstance(teacher, Refined) and teacher.backbone.site is None:
            raise ValueError("Distillation: feature_weight needs a teacher with a head, or an objective with a site")

    def forward(self, model: Refined, batch: dict[str, Any], output: RefinedOutput) -> dict[str, Tensor]:
        logits, feature, maps = self._ask(model, batch["pixel_values"])
        if logits.shape != output.logits.shape:
            raise ValueError(
                f"Distillation: the teacher's logits are {tuple(logits.shape)}, "
                f"the student's {tuple(output.logits.shape)}"
            )
        labels = batch["labels"]
        sigmoid = (
            self.config.score == "sigmoid" or self.config.score == "auto" and labels is not None and labels.ndim > 1
        )
        agreeing = (logits.argmax(1) == output.logits.argmax(1)).float().mean()
        output.measures["distillation_agreement"] = agreeing
        losses = {"distillation": divergence(output.logits, logits, self.config.temperature, sigmoid)}
        if self.config.feature_weight:
            assert feature is not None, "_check refuses a teacher without a site"
            losses["distillation_features"] = feature_distance(output.site_feature.grid, feature)
        if self.config.map_weight:
            assert maps is not None, "_check refuses a teacher without a head"
            losses["distillation_maps"] = map_distance(output.head_maps, maps)
        return losses

    @torch.no_grad()
    def _ask(self, model: Refined, pixel_values: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The teacher's logits, its feature at the site and its maps, in evaluation mode."""
        teacher = self.teacher(model)
        pixels = as_seen_by(teacher, model, pixel_values, self.config.teacher_size)
        pixels = pixels.to(precision(teacher, pixels))
        with quiet(teacher):
            inside = self.config.feature_weight or self.config.map_weight
            if not (inside and isinstance(teacher, Refined)) or teacher.backbone.site is None:
                return logits_of(teacher(pixels)), None, None
            output = teacher.run(pixels, compute_aux=False)
        return output.logits, output.site_feature.grid, output.maps


def divergence(student: Tensor, teacher: Tensor, temperature: float, sigmoid: bool = False) -> Tensor:
    """``T^2 KL(teacher || student)``, mean over the batch; over classes a sum (softmax) or a mean (sigmoid)."""
    s, t = full_precision(student) / temperature, full_precision(teacher).detach() / temperature
    if not sigmoid:
        return temperature**2 * F.kl_div(s.log_softmax(1), t.log_softmax(1), reduction="batchmean", log_target=True)
    p = t.sigmoid()
    parts = p * (F.logsigmoid(t) - F.logsigmoid(s)) + (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return temperature**2 * parts.mean()


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """``1 - cosine`` of the vectors at each location, ``(B, C, h, w)`` each, mean over locations and batch."""
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"Distillation: the student's feature has {student.shape[1]} channels, the teacher's {teacher.shape[1]}; "
            "take the same backbone at both resolutions, or map_weight, which needs none"
        )
    student, teacher = on_one_grid(full_precision(student), full_precision(teacher).detach())
    return (1 - F.cosine_similarity(student, teacher, dim=1, eps=1e-6)).mean()


def map_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of maps ``(B, K, h, w)``; of the largest at each location where their numbers differ."""
    if student.shape[1] != teacher.shape[1]:
        student, teacher = student.amax(1, keepdim=True), teacher.amax(1, keepdim=True)
    student, teacher = on_one_grid(full_precision(student), full_precision(teacher).detach())
    return (student - teacher).square().mean()


def on_one_grid(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both on the coarser of their grids, side by side, by averaging."""
    grid = [min(sides) for sides in zip(first.shape[2:], second.shape[2:])]
    pool: Callable[..., Tensor] = F.adaptive_avg_pool2d if len(grid) == 2 else F.adaptive_avg_pool3d
    return pool(first, grid), pool(second, grid)


def as_seen_by(teacher: nn.Module, model: Refined, pixel_values: Tensor, size: int | None) -> Tensor:
    """The student's images normalised as the teacher's preprocessing says, and at its size if one is given."""
    theirs = getattr(teacher, "preprocessing", None)
    if theirs is not None:
        ours = model.preprocessing
        shape = (1, -1, *[1] * (pixel_values.ndim - 2))
        mean, std, their_mean, their_std = (
            pixel_values.new_tensor(source[key]).view(shape) for source in (ours, theirs) for key in ("mean", "std")
        )
        if not (torch.equal(mean, their_mean) and torch.equal(std, their_std)):
            pixel_values = (pixel_values * std + mean - their_mean) / their_std
    if size is None or size == pixel_values.shape[-1] == pixel_values.shape[-2]:
        return pixel_values
    frames = pixel_values if pixel_values.ndim == 4 else pixel_values.transpose(1, 2).flatten(0, 1)
    frames = F.interpolate(frames, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return frames if pixel_values.ndim == 4 else frames.unflatten(0, (len(pixel_values), -1)).transpose(1, 2)
