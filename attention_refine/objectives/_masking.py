"""Hide what the map shows and ask again: what attention mining and guided inference have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..backbones import reading_site
from ..core.registry import check_choice
from ..maps import normalize
from ..maps._conditions import full_precision
from ..maps._second_order import twice_differentiable
from ._base import Objective

if TYPE_CHECKING:
    from ..heads._base import Head
    from ..output import RefinedOutput
    from ..refined import Refined

SCORES = ("auto", "softmax", "sigmoid", "logit")
STATISTICS = ("freeze_stats", "eval", "train")
GRADIENTS = ("all", "map_only")
NORMS = ("auto", "none", "minmax")
LIVE = 5.0  # beyond this argument a sigmoid's slope is under 3 % of its steepest


@dataclass(frozen=True)
class HidingConfig:
    """Options of every objective that hides what the map shows.

    Args:
        slope: of the mask at its threshold.
        map_norm: ``"none"`` takes the map as it is, ``"minmax"`` stretches each to [0, 1]; ``"auto"`` stretches
            Grad-CAM only.
        score: ``"softmax"``, ``"sigmoid"`` or ``"logit"`` of the true classes; ``"auto"`` is softmax for one label an
            image and sigmoid for several.
        bn_second_pass: batch norm on what is left: ``"freeze_stats"`` normalises by the batch and leaves the running
            statistics alone, ``"eval"`` normalises by those, ``"train"`` also updates them.
        am_grad: ``"all"`` lets the loss reach the map and every weight of the second pass, ``"map_only"`` the map.
        second_order: Grad-CAM only; differentiate its weights too.
        site: without a head, where the map is read: a module's name, or ``"auto"``.
        area_penalty: weight of the mean of the mask, against hiding everything; 0 is the papers'.
        start_step: training passes before it begins; their loss is 0 and nothing runs twice.
        weight: of the loss in the total.
    """

    slope: float = 10.0
    map_norm: str = "auto"
    score: str = "auto"
    bn_second_pass: str = "freeze_stats"
    am_grad: str = "all"
    second_order: bool = False
    site: str = "auto"
    area_penalty: float = 0.0
    start_step: int = 0
    weight: float = 1.0

    def __post_init__(self) -> None:
        owner = type(self).__name__.removesuffix("Config")
        check_choice(owner, "map_norm", self.map_norm, NORMS)
        check_choice(owner, "score", self.score, SCORES)
        check_choice(owner, "bn_second_pass", self.bn_second_pass, STATISTICS)
        check_choice(owner, "am_grad", self.am_grad, GRADIENTS)
        if self.slope <= 0:
            raise ValueError(f"{owner}: slope must be above 0, got {self.slope}")
        for name in ("weight", "area_penalty", "start_step"):
            if getattr(self, name) < 0:
                raise ValueError(f"{owner}: {name} must be 0 or more, got {getattr(self, name)}")


def soft_mask(maps: Tensor, threshold: float | Tensor, slope: float) -> Tensor:
    """``T(A) = sigmoid(slope (A - threshold))``: near 1 where the map is above the threshold, differentiable."""
    return torch.sigmoid(slope * (maps - threshold))


def multi_hot(labels: Tensor, classes: int) -> Tensor:
    """``(B, classes)`` float, 1 for the classes of an image, from indices ``(B,)`` or multi-hot labels."""
    if labels.ndim == 1:
        return nn.functional.one_hot(labels.long(), classes).float()
    return (labels > 0).float()


def class_score(logits: Tensor, positive: Tensor, score: str, multi_label: bool) -> Tensor:
    """``(B,)``: the sum of the scores of an image's ``positive`` classes, in float32."""
    logits = full_precision(logits)
    if score == "auto":
        score = "sigmoid" if multi_label else "softmax"
    scores = {"softmax": lambda: logits.softmax(1), "sigmoid": logits.sigmoid, "logit": lambda: logits}[score]()
    return (scores * positive).sum(1)


def one_class_each(positive: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The images' classes taken apart, first, second and so on: ``(classes (B,), positive (B, classes))``.

    An image that has no further class comes with an arbitrary one and a ``positive`` of zeros.
    """
    most = max(1, int(positive.sum(1).max()))
    values, order = positive.sort(dim=1, descending=True, stable=True)
    for value, classes in zip(values[:, :most].unbind(1), order[:, :most].unbind(1)):
        yield classes, nn.functional.one_hot(classes, positive.shape[1]) * value[:, None]


@contextmanager
def second_pass(model: Refined, batch_norm: str, gradient: str) -> Iterator[None]:
    """The conditions of a further forward pass in the same training step; every flag is restored.

    The head's own step counter stands still.

    Args:
        batch_norm: ``"freeze_stats"`` normalises as the first pass does and leaves the running statistics alone,
            ``"eval"`` uses the running statistics, ``"train"`` also updates them. Layers in evaluation mode stay so.
        gradient: ``"map_only"`` holds the parameters constant in this pass.
    """
    norms: list[nn.Module] = [
        m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training
    ]
    flag, norms = {
        "freeze_stats": ("track_running_stats", [m for m in norms if m.track_running_stats]),
        "eval": ("training", [m for m in norms if m.running_mean is not None]),
        "train": ("training", []),
    }[batch_norm]
    constant = [p for p in model.parameters() if p.requires_grad] if gradient == "map_only" else []
    counting = model.head if model.head is not None and model.head.training else None
    try:
        if counting is not None:
            counting.training = False  # the flag, not .eval(): its layers stay as they are
        for norm in norms:
            setattr(norm, flag, False)
        for parameter in constant:
            parameter.requires_grad_(False)
        yield
    finally:
        if counting is not None:
            counting.training = True
        for norm in norms:
            setattr(norm, flag, True)
        for parameter in constant:
            parameter.requires_grad_(True)


def grad_cam_at_site(model: Refined, output: RefinedOutput, positive: list[Tensor], second_order: bool) -> list[Tensor]:
    """``ReLU(sum_k w_k F_k)`` at the site for sums of logits, ``(B, 1, h, w)`` each, inside the graph.

    ``w_k`` is the mean over locations of the gradient of ``(logits * positive).sum(1)``. The forward pass already made
    is used where its graph reaches the feature; else (a frozen extractor, no gradients wanted) what comes after the
    site runs once more.

    Args:
        positive: ``(B, classes)``, one for each map.
        second_order: differentiate through ``w`` too; False holds it constant.
    """
    with torch.enable_grad():
        grid, logits = output.site_feature.grid, output.logits
        if not (grid.requires_grad and logits.requires_grad):
            grid = grid.detach().requires_grad_()
            with second_pass(model, "freeze_stats", "all"), twice_differentiable(enabled=second_order):
                logits = model.resume(output.site_feature.with_grid(grid)).logits
        made = []
        for wanted in positive:
            total = (logits * wanted.to(logits.dtype)).sum()
            (gradient,) = torch.autograd.grad(total, grid, retain_graph=True, create_graph=second_order)
            weights = gradient.flatten(2).mean(2).reshape(*gradient.shape[:2], *[1] * (gradient.ndim - 2))
            cam = full_precision(weights) * full_precision(output.site_feature.grid)
            made.append(cam.sum(1, keepdim=True).relu())
        return made


def scaled(maps: Tensor, norm: str, from_head: bool) -> Tensor:
    """Maps on the scale of the threshold: a head's as they are, Grad-CAM by its minimum and maximum, or as ``norm``."""
    if norm == "none" or norm == "auto" and from_head:
        return maps
    return normalize(maps, "minmax")


def of_class(maps: Tensor, classes: Tensor) -> Tensor:
    """Each image's map of one class, ``(B, 1, h, w)``, from maps of every class."""
    return maps[torch.arange(len(maps), device=maps.device), classes][:, None]


def class_map(model: Refined, output: RefinedOutput, labels: Tensor | None, second_order: bool = True) -> Tensor:
    """One map an image, ``(B, 1, h, w)``, 0 or more, not scaled, inside the graph.

    The head's: of parts the largest at each location, of a map for each class the mean over the image's classes.
    Without a head, Grad-CAM of the sum of the logits of its classes, at the site that :func:`site_for` found.

    Args:
        output: what an objective's ``forward`` is given.
        labels: ``(B,)`` or multi-hot ``(B, classes)``; ``None`` for a head alone: the largest of its maps.
        second_order: Grad-CAM only; differentiate its weights too. The objective's ``second_order`` must say so.
    """
    if model.head is None:
        assert labels is not None, "without a head a map is of classes"
        return grad_cam_at_site(model, output, [multi_hot(labels, output.logits.shape[1])], second_order)[0]
    return of_labels(model.head, output.head_maps, labels)


def of_labels(head: Head, maps: Tensor, labels: Tensor | None) -> Tensor:
    """``(B, 1, h, w)`` of a head's maps ``(B, K, h, w)``: as :func:`class_map`; without labels the largest."""
    if labels is None or not head.per_class or maps.shape[1] == 1:
        return maps.amax(1, keepdim=True)
    positive = multi_hot(labels, maps.shape[1])
    share = positive / positive.sum(1, keepdim=True).clamp_min(1)
    return (maps * share.reshape(*share.shape, *[1] * (maps.ndim - 2))).sum(1, keepdim=True)


def site_for(model: Refined, site: str = "auto", owner: str = "the objective") -> None:
    """Give a model without a head the site where its map is read; refuse one that differs from the site it has.

    Raises:
        ValueError: the site is taken elsewhere, or is no place to read a map (``UnsupportedBackbone``).
    """
    backbone = model.backbone
    if backbone.site is None:
        with torch.enable_grad():
            found = reading_site(backbone.net, backbone.example()) if site == "auto" else backbone.locate(site)
        backbone.site = found
    elif site not in ("auto", backbone.site.name):
        taken = "the head's" if model.head is not None else "another objective's"
        raise ValueError(f"{owner}: site={site!r}, but {taken} site is {backbone.site.name!r}; leave site='auto'")


class Delayed(Objective):
    """An objective that begins after ``config.start_step`` training steps: first train, then refine, in one run."""

    begun_steps: Tensor

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.register_buffer("begun_steps", torch.zeros((), dtype=torch.long))

    def waits(self) -> bool:
        """Whether this pass comes before the start; counts it in training. In evaluation nothing waits."""
        if not self.training or self.config.start_step == 0:
            return False
        self.begun_steps += 1
        return bool(self.begun_steps <= self.config.start_step)
