"""The options of DARC, checked when they are given."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.registry import check_choice
from .._masking import STATISTICS
from .decoder import DECODERS, FUSES
from .map_sources import SOURCES
from .rectangles import SAMPLING


@dataclass(frozen=True)
class DARCConfig:
    """Options of :class:`~attention_refine.objectives.darc.DARC`.

    Args:
        iterations: N, occlusions of each batch in one step.
        task: what the task's own pass sees: ``"clean"``, the image, or ``"occluded"``, in training the first occlusion:
            N passes in place of N + 1.
        size: shortest and longest side of a rectangle, as a share of the image's side; uniform between.
        rectangles: how many an image, each time.
        min_cells: cells of the feature that a side covers at least; 0 for any size.
        sampling: ``"random"``, or by the map so far: ``"strong"`` hides where it is large, ``"weak"`` where small.
        seed: ``None`` draws from torch's generator in training. A number draws from it and the image's pixels, the same
            on any number of processes. In evaluation the pixels decide in both cases.
        source: where the map comes from: ``"head"``, ``"grad_cam"``, ``"class_attention"`` (transformers), ``"block"``
            (squeeze-and-excitation and other attention blocks of the backbone); ``"auto"`` is the head or Grad-CAM.
        block: the block's module, or ``"auto"`` for the last before the site.
        start: :math:`a_0`: ``"clean"``, the map of the task's own pass, or ``"uniform"``, 0.5 everywhere.
        momentum: :math:`\\lambda`, the share of the recomputed map, above 0 and at most 1.
        decoder: ``"transposed"`` convolutions, or ``"shuffle"``, a light one.
        width: channels after the decoder's first convolution.
        fuse: how the map enters: ``"residual"`` ``(1 + a) F``, or ``"concat"``, as a further channel.
        grad: ``"all"``, or ``"map"``: the feature is a constant to the decoder, and the loss moves the map alone.
        second_order: Grad-CAM only; differentiate its weights too.
        site: without a head, where the feature is read: a module's name, or ``"auto"``.
        bn_second_pass: batch norm on occluded images: ``"freeze_stats"`` normalises by the batch and leaves the running
            statistics alone, ``"eval"`` normalises by those, ``"train"`` also updates them.
        perceptual_weight: of the distance between features of the image and of the one with the prediction filled in.
        contrast_weight: of InfoNCE between predicted and true regions; the other images of the batch are the negatives.
        temperature: of InfoNCE.
        start_step: training passes before it begins; their loss is 0 and nothing is occluded.
        weight: of the loss in the total.
    """

    iterations: int = 1
    task: str = "clean"
    size: tuple[float, float] = (0.3, 0.5)
    rectangles: int = 1
    min_cells: float = 2.0
    sampling: str = "random"
    seed: int | None = None
    source: str = "auto"
    block: str = "auto"
    start: str = "clean"
    momentum: float = 0.5
    decoder: str = "transposed"
    width: int = 256
    fuse: str = "residual"
    grad: str = "all"
    second_order: bool = True
    site: str = "auto"
    bn_second_pass: str = "freeze_stats"
    perceptual_weight: float = 0.0
    contrast_weight: float = 0.0
    temperature: float = 0.1
    start_step: int = 0
    weight: float = 10.0

    def __post_init__(self) -> None:
        choices = {
            "task": ("clean", "occluded"), "sampling": SAMPLING, "source": SOURCES, "start": ("clean", "uniform"),
            "decoder": DECODERS, "fuse": FUSES, "grad": ("all", "map"), "bn_second_pass": STATISTICS,
        }  # fmt: skip
        for name, accepted in choices.items():
            check_choice("DARC", name, getattr(self, name), accepted)
        sides = self.size if isinstance(self.size, (tuple, list)) else (self.size,)
        if len(sides) != 2 or not 0 < sides[0] <= sides[1] < 1:
            raise ValueError(
                f"DARC: size={self.size!r} must be (shortest, longest), shares with 0 < shortest <= longest < 1"
            )
        object.__setattr__(self, "size", tuple(sides))  # a list, from a file
        for name in ("iterations", "rectangles", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"DARC: {name} must be at least 1, got {getattr(self, name)}")
        for name in ("min_cells", "perceptual_weight", "contrast_weight", "start_step", "weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"DARC: {name} must be 0 or more, got {getattr(self, name)}")
        if not 0 < self.momentum <= 1:
            raise ValueError(f"DARC: momentum must be above 0 and at most 1, got {self.momentum}")
        if self.temperature <= 0:
            raise ValueError(f"DARC: temperature must be above 0, got {self.temperature}")
