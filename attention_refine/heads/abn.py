r"""Attention Branch Network (Fukui et al., CVPR 2019, arXiv 1812.10025).

A branch looks at the feature ``g`` before the last stage and makes one map ``M`` and its own class scores; the
perception branch, the rest of the backbone, sees the feature scaled by the map:

.. math:: g' = (1 + M) \odot g, \qquad L = L_{att} + L_{per}

with both losses cross-entropy (binary for multi-label) and the prediction taken from perception alone. The branch is a
copy of the last stage at stride 1, then batch norm, 1x1 convolution to the classes, batch norm, ReLU, and from there a
3x3 convolution to one channel, batch norm and sigmoid (the map) and a 1x1 convolution with global pooling (the scores).

Where this differs from the paper, and why:

* The map fades in over ``fade_in_steps`` training steps, :math:`g' = (1 + sM) \odot g` with :math:`s` from 0 to 1, so
  that a freshly wrapped pretrained network is still that network. ``fade_in_steps=0`` is the paper's form.
* The copied stage keeps its pretrained weights; ``stage_init="scratch"`` is the paper's.
* The convolution to the map starts positive, so that the map starts bright where the classes respond. Drawn with either
  sign, as the paper's is, it needs a long training to turn round: ``map_init="normal"``.
* The fresh batch norms of the branch (not those of the copied stage) start with the statistics of a few drawn images.
  Without any, an untrained map is 1 everywhere; with them it lies on objects before any training. Training counts on
  from there; ``calibrate=False`` starts them at mean 0 and variance 1.
* The 1x1 convolution makes at least 32 and at most 128 channels, where the paper has one a class. With a few classes a
  channel each is too narrow to keep where the object is: trained on three, the map fell to a correlation of 0.3 with
  the animals, and rose to 0.6 with 32 channels. ``hidden_channels="classes"`` is the paper's. The scores are those of
  the mean response, which is the mean of the scores.
* The map is made by a 3x3 convolution as in the authors' code (and their published numbers); the paper's text says 1x1:
  ``map_kernel=1``.
* Where a norm or a class token after the site would cancel the scale, the site moves to the last grid before pooling or
  the map acts on the class row of the attention (see :mod:`attention_refine.backbones.sites`). No stage follows such a
  site, or none that runs at stride 1: then the branch is ``"light"``, without the copied stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.adapter import Backbone
from ..backbones.contexts import own_randomness, quiet
from ..backbones.stages import StageTwin, twin_of_last_stage
from ..core.registry import check_choice
from ..maps._conditions import full_precision
from ._base import Head, heads, mean_gain

MIN_HIDDEN = 32  # channels of the branch unless asked for fewer: the map of three does not find the object
MAX_HIDDEN = 128  # and unless asked for more: with 1000 classes it would outweigh a small network
# Of the mean over channels, at calibrating: a channel silent on the drawn images would be magnified 300 times elsewhere.
LEAST_VARIANCE = 0.01


@dataclass(frozen=True)
class AttentionBranchConfig:
    """Options of :class:`AttentionBranch`.

    Args:
        site: module whose output the map acts on, or ``"auto"``.
        mechanism: ``"scale"``, ``"attention"``, or ``None`` for what suits the site.
        branch: ``"twin"`` (the paper's copy of the last stage at stride 1), ``"light"`` (none), or ``"auto"``: the twin
            where the backbone has one.
        stage_init: ``"copy"`` keeps the pretrained weights in the twin, ``"scratch"`` draws new ones.
        maps: ``"shared"``, one map for all classes, or ``"per_class"``: a map for each, ``g'_k = (1 + M_k) g``, logit
            ``k`` from pass ``k`` (costs the part after the site once per class).
        combine: ``"residual"`` ``(1 + M) g`` or ``"product"`` ``M g``.
        map_kernel: 3, or 1.
        map_init: how the convolution to the map starts: ``"positive"``, bright where the classes respond, or
            ``"normal"`` (the paper's), where as many maps start bright on the background as on the object.
        hidden_channels: channels the 1x1 convolution makes: ``None`` for the number of classes but at least
            ``MIN_HIDDEN`` and at most ``MAX_HIDDEN``, ``"classes"`` for the number of classes however many (the paper's), or a number.
        fade_in_steps: training passes over which the map comes in, of accumulated batches one; 0 for at once.
        weight: weight of the attention branch's own classification loss.
        calibrate: ``wrap`` sets the statistics of the branch's own norms from a few images that it draws; ``False``
            leaves them at 0 and 1.
    """

    site: str = "auto"
    mechanism: str | None = None
    branch: str = "auto"
    stage_init: str = "copy"
    maps: str = "shared"
    combine: str = "residual"
    map_kernel: int = 3
    map_init: str = "positive"
    hidden_channels: int | str | None = None
    fade_in_steps: int = 100
    weight: float = 1.0
    calibrate: bool = True

    def __post_init__(self) -> None:
        check_choice("AttentionBranch", "branch", self.branch, ("auto", "twin", "light"))
        check_choice("AttentionBranch", "stage_init", self.stage_init, ("copy", "scratch"))
        check_choice("AttentionBranch", "maps", self.maps, ("shared", "per_class"))
        check_choice("AttentionBranch", "combine", self.combine, ("residual", "product"))
        check_choice("AttentionBranch", "map_kernel", self.map_kernel, (1, 3))
        check_choice("AttentionBranch", "map_init", self.map_init, ("normal", "positive"))
        check_choice("AttentionBranch", "mechanism", self.mechanism, (None, "scale", "attention"))
        if self.fade_in_steps < 0:
            raise ValueError(f"AttentionBranch: fade_in_steps must be 0 or more, got {self.fade_in_steps}")
        if self.weight < 0:
            raise ValueError(f"AttentionBranch: weight must be 0 or more, got {self.weight}")
        if isinstance(self.hidden_channels, str):
            check_choice("AttentionBranch", "hidden_channels", self.hidden_channels, ("classes", "a number"))
        elif self.hidden_channels is not None and self.hidden_channels < 1:
            raise ValueError(f"AttentionBranch: hidden_channels must be at least 1, got {self.hidden_channels}")


def attention_gain(maps: Tensor, strength: Tensor | float = 1.0, combine: str = "residual") -> Tensor:
    """What the feature is multiplied by: ``1 + s M``, or ``1 + s (M - 1)``, which is ``M`` at full strength."""
    change = maps if combine == "residual" else maps - 1
    return 1 + change if isinstance(strength, float) and strength == 1 else 1 + strength * change


@heads.register("abn")
class AttentionBranch(Head):
    """The attention branch and the attention mechanism of ABN. Options: :class:`AttentionBranchConfig`."""

    config_class = AttentionBranchConfig
    has_aux = True

    def attach(self, backbone: Backbone, num_classes: int, resolved: dict[str, Any] | None = None) -> None:
        stage, site = None, backbone.found_site()
        if resolved is None:
            with torch.no_grad(), quiet(backbone.net):
                example = backbone.example()
                feature = backbone.features(example).grid
                if self.config.branch != "light":
                    stage = twin_of_last_stage(backbone.net, site, feature, example)
                if stage is None and self.config.branch == "twin":
                    raise ValueError(
                        f"branch='twin' is not possible at {site.name!r}: no stage with weights follows it "
                        "that runs at stride 1; use branch='light'"
                    )
            wide = feature.shape[1] if stage is None else _channels(stage, feature)
            hidden = {"classes": num_classes, None: min(max(num_classes, MIN_HIDDEN), MAX_HIDDEN)}.get(
                self.config.hidden_channels, self.config.hidden_channels
            )
            resolved = {"channels": wide, "hidden": hidden, "stages": stage.names if stage else []}
        elif resolved["stages"]:
            stage = StageTwin.of(backbone.net, site, resolved["stages"])
        self.resolved = resolved
        if stage is not None and self.config.stage_init == "scratch":
            stage.apply(_reset)
        self.config = replace(self.config, branch="twin" if stage else "light")
        hidden = resolved.get("hidden", self.config.hidden_channels or num_classes)  # older checkpoints do not say it
        self._build(stage, resolved["channels"], hidden, num_classes, site.layout.grid_rank)
        parameter = next(backbone.net.parameters())
        self.to(parameter.device, parameter.dtype)

    def _build(self, stage: StageTwin | None, channels: int, hidden: int, num_classes: int, grid_rank: int) -> None:
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if grid_rank == 2 else (nn.Conv3d, nn.BatchNorm3d)
        kernel = self.config.map_kernel
        self.per_class = self.config.maps == "per_class"
        self.num_maps = num_classes if self.per_class else 1
        self.stage = stage if stage is not None else nn.Identity()
        self.response = nn.Sequential(norm(channels), conv(channels, hidden, 1, bias=False), norm(hidden), nn.ReLU())
        first = conv(hidden, self.num_maps, kernel, padding=kernel // 2, bias=False)
        self.to_map = nn.Sequential(first, norm(self.num_maps))
        self.to_logits = conv(hidden, num_classes, 1, bias=False)
        for part in (self.response, self.to_map, self.to_logits):
            part.apply(_reset)
        if self.config.map_init == "positive":
            with torch.no_grad():
                first.weight.abs_()
        self.register_buffer("begun_steps", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def calibrate(self, backbone: Backbone, images: Callable[[], Tensor]) -> None:
        if not self.config.calibrate:
            return
        with quiet(backbone.net), quiet(self), own_randomness(next(self.parameters()).device):
            features = [self.stage(backbone.features(image).grid) for image in images().split(1)]  # little memory
            signal = torch.cat(features)
            for module in (*self.response, *self.to_map):
                if isinstance(module, _NORMS) and module.running_var is not None:
                    momentum, module.momentum = module.momentum, 1.0  # all at once, and nothing of what was there
                    module.train()(signal)
                    module.eval().momentum = momentum
                    module.running_var.clamp_(min=LEAST_VARIANCE * module.running_var.mean())
                signal = module(signal)

    def forward(
        self, feature: Tensor, maps: Tensor | None = None, compute_aux: bool = True
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The refined feature, the map, and the branch's logits ``{"attention": (B, classes)}``.

        Args:
            feature: ``(B, C, h, w)``, or ``(B, C, t, h, w)`` of a clip.
            maps: ``(B, K, h, w)`` (clips ``(B, K, t, h, w)``) that replace the branch's own: the branch is not run
                then, there are no auxiliary logits, and the map acts at full strength.
            compute_aux: False leaves the branch's logits out.

        Returns:
            With per-class maps the refined feature is the mean over classes; the model runs perception once for each.
        """
        if maps is not None:
            return self._refine(feature, self.gain(maps, given=True)), maps, {}
        self.count()
        response = self.response(self.stage(feature))
        maps = torch.sigmoid(full_precision(self.to_map(response)))  # a bf16 map has 8 bits
        aux_logits = {"attention": self._classify(response)} if compute_aux else {}
        return self._refine(feature, self.gain(maps)), maps, aux_logits

    def _classify(self, response: Tensor) -> Tensor:
        """The mean over the locations first: a 1x1 convolution without bias commutes with it, and costs h w times."""
        pooled = response.flatten(2).mean(2)
        return F.linear(pooled, self.to_logits.weight.flatten(1))

    def strength(self) -> Tensor | float:
        """How far the mechanism has come in: 0 for a fresh head, 1 after ``fade_in_steps`` training steps."""
        if self.config.fade_in_steps == 0:
            return 1.0
        # the step under way does not count yet
        finished = self.begun_steps - 1 if self.training else self.begun_steps
        return (finished / self.config.fade_in_steps).clamp(0.0, 1.0)

    def has_come_in(self) -> bool:
        """After ``fade_in_steps`` training steps, and at least one."""
        return int(self.begun_steps) >= max(1, self.config.fade_in_steps)

    def gain(self, maps: Tensor, given: bool = False) -> Tensor:
        """``(B, K, h, w)`` that multiplies feature or class token's attention; a given map acts at full strength."""
        return attention_gain(maps, 1.0 if given else self.strength(), self.config.combine)

    @staticmethod
    def _refine(feature: Tensor, gain: Tensor) -> Tensor:
        return feature * mean_gain(gain).to(feature.dtype)


_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def _channels(stage: StageTwin, feature: Tensor) -> int:
    with quiet(stage):
        return stage(feature).shape[1]


def _reset(module: nn.Module) -> None:
    """New weights as the authors draw them: normal by fan-out for convolutions, 1 and 0 for norms."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif callable(reset := getattr(module, "reset_parameters", None)):
        reset()
