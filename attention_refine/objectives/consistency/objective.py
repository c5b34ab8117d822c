r"""Attention consistency, ATCON (Mirzazadeh et al., *ATCON: Attention Consistency for Vision Models*, WACV 2023).

Two ways of asking a network where it looks should agree. No label is needed: with the top class of each image,

.. math::

    A_{GC}(x) &= \textstyle\sum_k \alpha_k f_k, \quad
        \alpha_k = \frac{1}{Z} \sum_{ij} \partial \hat y / \partial f_{k,ij}                        & (3, 4) \\
    A_{GB}(x) &= \partial \hat y / \partial x \text{ by the guided rule}                            & (5) \\
    P &= 1 / (1 + \exp(-(A_{GB} - \mu) / \sigma))                                                   & (6) \\
    L_A &= -h(A_{GC}(x), A_{GC}(P \odot x)), \quad h \text{ Pearson's correlation}                  & (1, 2)

What the paper leaves open, and how it is settled here: the score is the logit; :math:`A_{GB}` is the sum over the
colour channels of its magnitude, as in the published code; :math:`\sigma` is the standard deviation (the text says
variance, with which the mask is almost binary: ``mask_norm="variance"``). Pearson is taken of the maps themselves, not
of sigmoids of them (``squash=True`` is the code's). Batch norm uses its running statistics and dropout is off, as
there; padding is the network's own, where the code reflects the image.

A gradient of a gradient is not cheap, so ``P`` is held constant (``detach_mask=False`` is the paper's exact form); where pooling and a linear layer
follow the site Grad-CAM's weights are those of the layer, and nothing is differentiated twice any more.

Under the same class stand its relatives, one map of an image compared over ``compare="views"`` (Guo et al. 2019),
``"layers"`` (Wang et al. 2019) or ``"models"``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ... import maps
from ...backbones.compiling import not_compiled
from ...backbones.contexts import without_checkpointing
from ...core.registry import check_choice
from ...maps._site import module_name
from .._base import Objective, objectives
from .._masking import site_for
from .._teacher import Teacher
from .correlation import CORRELATIONS, correlation
from .matching import MASK_NORMS, MATCHINGS, Classes, MapChoice, Pairs, at_a_site, check_map, matched
from .siblings import over_layers, over_models, over_views

if TYPE_CHECKING:
    from ...output import RefinedOutput
    from ...refined import Refined

COMPARISONS = ("maps", "views", "layers", "models")


@dataclass(frozen=True)
class AttentionConsistencyConfig:
    """Options of :class:`AttentionConsistency`.

    Args:
        compare: ``"maps"``, two maps of an image (ATCON); else ``first`` alone, over two ``"views"`` of it, at two
            ``"layers"``, or from two ``"models"``.
        first: the map of :mod:`attention_refine.maps` that is compared, or ``"head"`` for the head's own.
        second: the map it is compared with, or by: guided backprop, ``"integrated_gradients"`` (5 steps),
            ``"smooth_grad"``, ``"gradient"`` …
        first_options, second_options: of these maps, by name, such as ``{"rule": "strict"}``.
        matching: ``"mask"``, the first map before and after the second has masked the image (the paper's);
            ``"cam_mask"``, the other way round (the paper advises against it); ``"upsampling"``, the first resized to
            the second; ``"pooling"``, the second pooled to the grid of the first.
        pool: for ``"pooling"``, ``"max"`` (the paper's) or ``"avg"`` (its code's).
        correlation: ``"pearson"``, ``"cross_correlation"`` or ``"ssim"``.
        squash: sigmoids of the standardised maps are compared, as in the code.
        mask_norm: ``"std"``; ``"variance"``, equation 6 as printed; ``"code"``, by ``mask_slope`` and ``mask_offset``.
        mask_slope: for ``"code"``, its ``w``: 8 (guided backprop), 32 (Grad-CAM), 100 (integrated gradients).
        mask_offset: for ``"code"``, standard deviations above the mean at which the mask is a half.
        detach_mask: the fast mode: the mask is a constant. Its loss is the same, its gradient is not, and no training
            told the two apart. By default wherever there is a mask; ``False`` is the paper's exact gradient.
        classes: ``"top1"``, the class predicted for the image; ``"topk"``, the first ``topk``; ``"labels"``, the true
            one or ones, for which alone labels are needed. Several classes of an image count equally.
        topk: for ``"topk"``.
        site: where Grad-CAM is read: a module's name, or ``"auto"``.
        temporal_weights: Grad-CAM on clips, ``"per_frame"`` (the paper's code) or ``"global"``.
        view_flip: for ``"views"``, the probability of a horizontal flip.
        view_scale: for ``"views"``, smallest and largest side of what is seen, in sides of the image: below 1 it is
            cropped, above 1 it shrinks.
        view_shift: for ``"views"``, move what is seen about; False keeps it in the middle.
        layers: for ``"layers"``, two modules' names.
        teacher: for ``"models"``, the folder or Hub id of the second model, which stays as it is; or pass the model
            itself to :class:`AttentionConsistency`.
        weight: of the loss: 1 alone; the paper's code takes 0.2 beside the classification loss.
    """

    compare: str = "maps"
    first: str = "grad_cam"
    second: str = "guided_backprop"
    first_options: dict[str, Any] = field(default_factory=dict)
    second_options: dict[str, Any] = field(default_factory=dict)
    matching: str = "mask"
    pool: str = "max"
    correlation: str = "pearson"
    squash: bool = False
    mask_norm: str = "std"
    mask_slope: float = 8.0
    mask_offset: float = 0.5
    detach_mask: bool | None = None
    classes: str = "top1"
    topk: int = 3
    site: str = "auto"
    temporal_weights: str = "per_frame"
    view_flip: float = 0.5
    view_scale: tuple[float, float] = (0.6, 1.0)
    view_shift: bool = True
    layers: tuple[str, str] | None = None
    teacher: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        owner = "AttentionConsistency"
        for name in ("view_scale", "layers"):  # a file's lists
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check_choice(owner, "compare", self.compare, COMPARISONS)
        check_map(owner, "first", self.first, self.first_options)
        check_map(owner, "second", self.second, self.second_options)
        check_choice(owner, "matching", self.matching, MATCHINGS)
        check_choice(owner, "pool", self.pool, ("max", "avg"))
        check_choice(owner, "correlation", self.correlation, CORRELATIONS)
        check_choice(owner, "mask_norm", self.mask_norm, MASK_NORMS)
        check_choice(owner, "classes", self.classes, ("top1", "topk", "labels"))
        check_choice(owner, "temporal_weights", self.temporal_weights, ("per_frame", "global"))
        if self.mask_slope <= 0:
            raise ValueError(f"{owner}: mask_slope must be above 0, got {self.mask_slope}")
        if self.topk < 1:
            raise ValueError(f"{owner}: topk must be at least 1, got {self.topk}")
        if self.weight < 0:
            raise ValueError(f"{owner}: weight must be 0 or more, got {self.weight}")
        masks = self.compare == "maps" and self.matching in ("mask", "cam_mask")
        if self.detach_mask is None:
            object.__setattr__(self, "detach_mask", masks)
        if self.detach_mask and not masks:
            raise ValueError(f"{owner}: detach_mask=True needs a mask: compare='maps', matching='mask' or 'cam_mask'")
        if not 0 <= self.view_flip <= 1:
            raise ValueError(f"{owner}: view_flip is a probability, 0 to 1, got {self.view_flip}")
        if len(self.view_scale) != 2 or not 0 < self.view_scale[0] <= self.view_scale[1]:
            raise ValueError(f"{owner}: view_scale must be two rising numbers above 0, got {self.view_scale}")
        if (self.teacher is None) == (self.compare == "models"):
            raise ValueError(
                f"{owner}: teacher={self.teacher!r} with compare={self.compare!r}; 'models', and it alone, takes a "
                "model, or the folder or Hub id of one"
            )
        if self.compare == "layers" and self.first not in at_a_site():
            raise ValueError(
                f"{owner}: compare='layers' needs a map that is read at a layer, first={self.first!r} is not one of "
                f"{', '.join(at_a_site())}"
            )
        if (self.layers is None) == (self.compare == "layers") or self.layers is not None and len(self.layers) != 2:
            raise ValueError(f"{owner}: layers={self.layers} with compare={self.compare!r}; 'layers' takes two names")


@objectives.register("consistency")
class AttentionConsistency(Objective):
    """Attention consistency, the mean over images of ``-h``. Options: :class:`AttentionConsistencyConfig`.

    Loss: ``consistency``. Measures: ``consistency_degenerate``, the share of the images (of their classes) that had a
    constant map, which adds 0 to the loss; ``consistency_exact``, 1 where the gradient goes through the mask and 0
    where it is held constant.

    Args:
        teacher: for ``compare="models"``, a network of the same classes, or where it is saved. A network that is given
            is not part of the model: it is neither trained nor saved, and a loaded model must be given it again.
        options: the others.

    Raises:
        ValueError: an unknown or contradictory option.
    """

    config_class = AttentionConsistencyConfig
    own_passes = True
    takes_gradients = True

    def __init__(self, teacher: nn.Module | str | None = None, **options: Any):
        given = Teacher("AttentionConsistency", teacher)
        super().__init__(teacher=given.source, **options)
        self._teacher = given
        self.needs_labels = self.config.classes == "labels"

    def attach(self, model: Refined) -> None:
        """Find the site, and read once, in a black image, what no network is sure to have: refused here, not later."""
        config = self.config
        if self._teacher.network is not None:
            self._teacher.check_classes(model, self._teacher.network)
        names = [config.first, config.second] if config.compare == "maps" else [config.first]
        if "head" in names and model.head is None:
            raise ValueError("AttentionConsistency: the map 'head' needs a head, and this model has none")
        for named in config.layers or (() if config.site == "auto" else (config.site,)):
            module_name(model, named)
        if config.site == "auto" and config.layers is None and model.head is None and set(names) & set(at_a_site()):
            site_for(model, "auto", "AttentionConsistency")
        for name in names:
            if name != "head" and maps.by_name(name).of_some_networks:
                maps.by_name(name)(model, model.backbone.example())

    @not_compiled  # a compiled graph cannot be differentiated twice
    def forward(self, model: Refined, batch: dict[str, Any], output: RefinedOutput) -> dict[str, Tensor]:
        pixels = batch["pixel_values"]
        classes = Classes(self.config.classes, self.config.topk, batch["labels"], model.num_labels)
        with without_checkpointing(model):  # a checkpointed part runs again outside the contexts of these passes
            pairs = self._pairs(model, pixels, classes)
        if output.logits is None:
            output["logits"] = classes.logits
        h, silent = correlation(pairs.a, pairs.b, self.config.correlation, self.config.squash)
        if pairs.silent is not None:
            silent = silent | pairs.silent
        output.measures["consistency_degenerate"] = (silent * pairs.share).sum() / len(pixels)
        output.measures["consistency_exact"] = h.new_tensor(float(not self.config.detach_mask))
        return {"consistency": -(h.masked_fill(silent, 0.0) * pairs.share).sum() / len(pixels)}

    def _pairs(self, model: Refined, pixels: Tensor, classes: Classes) -> Pairs:
        config = self.config
        first, second = self._choice("first", model), self._choice("second", model)
        if config.compare == "maps":
            return matched(model, pixels, classes, first, second, config)
        if config.compare == "views":
            return over_views(model, pixels, classes, first, config, at_random=self.training)
        if config.compare == "layers":
            return over_layers(model, pixels, classes, first, config.layers)
        return over_models(model, self._teacher.of(model), pixels, classes, first, config.site)

    def _choice(self, which: str, model: Refined) -> MapChoice:
        name, options, site = getattr(self.config, which), getattr(self.config, f"{which}_options"), self.config.site
        if name == "grad_cam":
            options = {"temporal_weights": self.config.temporal_weights, **options}
        if site == "auto" and model.head is None and model.backbone.site is not None:  # the one that was stored
            site = replace(model.backbone.site, name=f"backbone.net.{model.backbone.site.name}")
        return MapChoice(name, options, site)
