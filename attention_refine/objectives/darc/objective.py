r"""DARC, dynamic attention map refinement through iterative contrastive prediction.

Hide a rectangle of the image and have it predicted from what the network and its map see of the rest. With the image
``x``, the hidden pixels ``o``, the network ``f`` up to the site and a decoder ``D``,

.. math::

    x'_i &= (1 - o_i) \odot x                                                             & (3.1) \\
    a_{i+1} &= AttentionMechanism(f(x'_i), a_i) = (1 - \lambda) \, a_i + \lambda \, A(f(x'_i))   & (3.4) \\
    L_i &= MSE_{o_i}(D(f(x'_i), a_{i+1}), x)                                              & (3.2) \\
    \theta_{i+1} &= \theta_i - \eta \nabla_\theta L_i                                       & (3.4)

for ``i = 0 ... N - 1``. The text is a brief, without architecture, data or settings. What was chosen, and why:

* The loop is inside one step: ``iterations`` occlusions of a batch, one update by the mean of their losses. The loop as
  written, with the update inside, is ``TrainingConfig(updates_per_batch=N)`` with ``iterations=1``.
* The decoder reads the map that was just recomputed, with the older ones as constants: from the older one alone no
  gradient would reach what makes the map. It reads ``(1 + a) F``, so that a zero map keeps a gradient.
* Only hidden pixels count, each image by their mean. Hidden pixels are 0 in normalised space, the mean colour.
* The image is occluded after it is augmented, so geometry and colour are the same for image, hole and target.
* Of a clip the rectangle is hidden in every frame, a tube: what is hidden in one frame alone the next one shows. The
  decoder makes of each moment of the feature the frames that it stands for.
* A rectangle covers at least ``min_cells`` of the feature's cells a side: the text reports a failure at small ones.
* "Contrastive prediction" names no contrastive term. InfoNCE on the hidden regions is ``contrast_weight``, a comparison
  of features in place of pixels ``perceptual_weight``; both are off.
* The task's own pass sees the whole image; ``task="occluded"`` gives it ``x'_0``, which saves a pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...backbones.contexts import quiet
from ...maps._conditions import full_precision
from .._base import objectives
from .._masking import Delayed, second_pass, site_for
from .config import DARCConfig
from .decoder import fused, make_decoder
from .map_sources import FromOutput, GradCam, make_source, on_grid
from .rectangles import Occlusion
from .regions import feature_errors, info_nce, pixel_errors, pooled

if TYPE_CHECKING:
    from ...output import RefinedOutput
    from ...refined import Refined

EMBEDDING = 128  # channels in which regions are compared


@dataclass(frozen=True)
class Rounds:
    """The iterations on one batch, first to last along the first axis (N); of clips with time before the sides.

    Attributes:
        hidden: ``(N, B, 1, H, W)`` bool, the occlusions.
        reconstruction: ``(N, B, 3, H, W)``, the decoder's images; they mean something where hidden.
        maps: ``(N + 1, B, 1, h, w)``, ``a_0`` to ``a_N``.
        errors: ``(N, B)``, the mean squared error over hidden pixels.
        decoded: ``(N, B, C, h, w)``, what the decoder read.
    """

    hidden: Tensor
    reconstruction: Tensor
    maps: Tensor
    errors: Tensor
    decoded: Tensor


@objectives.register("darc")
class DARC(Delayed):
    """The prediction loss of eq. 3.2 over N occlusions. Options: :class:`DARCConfig`.

    Losses: ``darc``; ``darc_perceptual`` and ``darc_contrast`` where they have a weight. Measures: ``darc_first`` and
    ``darc_last``, the loss of the first and last iteration; ``darc_change``, the mean of ``|a_N - a_{N-1}|``;
    ``darc_hidden``, the share of pixels hidden. Needs no labels.
    """

    config_class = DARCConfig
    reads = ("update",)
    adds = ("darc_image", "darc_hidden", "darc_map", "darc_holes")
    needs_labels = False

    def attach(self, model: Refined) -> None:
        config, backbone = self.config, model.backbone
        site_for(model, config.site, "DARC")
        self.source = make_source(model, config.source, config.block, config.second_order)
        self.takes_gradients = isinstance(self.source, GradCam)
        self.second_order = self.source.second_order and config.task == "occluded"  # of the task's own pass
        if config.task == "occluded" and not isinstance(self.source, FromOutput):
            raise ValueError(
                f"DARC: task='occluded' reads the map off the task's own pass, which source={config.source!r} cannot; "
                "use task='clean', or source='head' or 'grad_cam'"
            )
        with torch.no_grad(), quiet(backbone.net):
            example = backbone.example()
            channels, *grid = backbone.features(example).grid.shape[1:]
        *time, down, across = (side / cells for side, cells in zip(example.shape[2:], grid))
        least = (config.min_cells * down, config.min_cells * across)
        self.occlusion = Occlusion(config.size, config.rectangles, least, config.sampling, config.seed or 0)
        self.occlusion.sides(example.shape[-2:])  # what hides too much or nothing is said now
        read = channels + (config.fuse == "concat")
        self.decoder = make_decoder(
            config.decoder, read, max(down, across), config.width, math.ceil(time[0]) if time else None
        )  # fmt: skip
        if config.contrast_weight:
            self.predicted, self.true = nn.Linear(read, EMBEDDING), nn.Linear(channels, EMBEDDING)
        parameter = next(backbone.net.parameters())
        self.to(parameter.device, parameter.dtype)

    def weight_of(self, loss: str) -> float:
        extra = {"darc_perceptual": self.config.perceptual_weight, "darc_contrast": self.config.contrast_weight}
        return extra.get(loss, self.weight)

    def prepare(self, model: Refined, batch: dict[str, Any]) -> dict[str, Any]:
        """With ``task="occluded"``, in training: the first occlusion in place of the image, which is kept beside it."""
        if self.config.task == "clean" or not self.training or self.begun_steps < self.config.start_step:
            return batch
        image = batch["pixel_values"]
        hidden = self._hide(batch, image, 0, batch.get("darc_map"))
        return {**batch, "pixel_values": image.masked_fill(hidden, 0.0), "darc_image": image, "darc_hidden": hidden}

    def forward(self, model: Refined, batch: dict[str, Any], output: RefinedOutput) -> dict[str, Tensor]:
        nothing = output.logits.new_zeros((), dtype=torch.float32)
        extra = [name for name in ("darc_perceptual", "darc_contrast") if self.weight_of(name)]
        if self.waits():
            output.measures.update(dict.fromkeys(("darc_first", "darc_last", "darc_change", "darc_hidden"), nothing))
            return dict.fromkeys(["darc", *extra], nothing)
        rounds = self.rounds(model, batch, output)
        by_iteration = rounds.errors.detach().mean(1)
        output.measures["darc_first"], output.measures["darc_last"] = by_iteration[0], by_iteration[-1]
        output.measures["darc_change"] = (rounds.maps[-1] - rounds.maps[-2]).detach().abs().mean()
        output.measures["darc_hidden"] = rounds.hidden.float().mean()
        carried = {"darc_map": rounds.maps[-1].detach(), "darc_holes": rounds.hidden.transpose(0, 1)}
        output.carried = {**(output.carried or {}), **carried}
        losses = {"darc": rounds.errors.mean()}
        if extra:
            losses.update(self._extra(model, batch, output, rounds))
        return losses

    def rounds(self, model: Refined, batch: dict[str, Any], output: RefinedOutput) -> Rounds:
        """The N iterations on a batch of which ``output`` is the task's own pass.

        Occlusions that do not depend on the map go through the network as one batch. From an earlier update on the same
        batch come the columns ``darc_map`` ``(B, 1, h, w)``, which is then ``a_0``, ``darc_holes`` ``(B, N, 1, H, W)``,
        hidden again unless the map decides, so that the loss is one function of the weights, and ``update``, how many
        there were.
        """
        config, labels, image = self.config, batch["labels"], batch.get("darc_image", batch["pixel_values"])
        hidden, features, fresh = [], [], []
        if "darc_image" in batch and isinstance(self.source, FromOutput):
            hidden, features = [batch["darc_hidden"]], [output.site_feature.grid]
            fresh = [on_grid(self.source.from_output(model, output, labels), output.site_feature.grid)]
        maps = [self._start(model, batch, output, fresh)]
        maps += [self._mix(maps[-1], made) for made in fresh]
        with second_pass(model, config.bn_second_pass, "all"):
            while len(hidden) < config.iterations:
                first, at_once = len(hidden), config.iterations - len(hidden) if config.sampling == "random" else 1
                found = [self._hide(batch, image, first + k, maps[-1]) for k in range(at_once)]
                seen = torch.cat([image.masked_fill(each, 0.0) for each in found])
                repeated = None if labels is None else torch.cat([labels] * at_once)
                feature, made = self.source(model, seen, repeated)
                hidden += found
                features += feature.grid.chunk(at_once)
                for each in on_grid(made, feature.grid).chunk(at_once):
                    maps.append(self._mix(maps[-1], each))
        grid = torch.cat(features)
        decoded = fused(grid.detach() if config.grad == "map" else grid, torch.cat(maps[1:]), config.fuse)
        reconstruction = self.decoder(decoded, tuple(image.shape[2:]))
        where, count = torch.cat(hidden), config.iterations
        errors = pixel_errors(reconstruction, torch.cat([image] * count), where)
        folded = [each.unflatten(0, (count, len(image))) for each in (where, reconstruction, errors, decoded)]
        return Rounds(folded[0], folded[1], torch.stack(maps), folded[2], folded[3])

    def map_of(self, model: Refined, batch: dict[str, Any], output: RefinedOutput) -> Tensor:
        """The source's map of the whole image, ``(B, 1, h, w)`` on its own grid."""
        if isinstance(self.source, FromOutput):
            return self.source.from_output(model, output, batch["labels"])
        with second_pass(model, self.config.bn_second_pass, "all"):
            return self.source(model, batch["pixel_values"], batch["labels"])[1]

    def _start(self, model: Refined, batch: dict[str, Any], output: RefinedOutput, fresh: list[Tensor]) -> Tensor:
        """``a_0 (B, 1, h, w)`` on the feature's grid, a constant."""
        feature = output.site_feature
        if batch.get("darc_map") is not None:
            return on_grid(full_precision(batch["darc_map"]), feature.grid)
        if self.config.start == "uniform":
            return feature.grid.new_full((len(feature.grid), 1, *feature.grid.shape[2:]), 0.5, dtype=torch.float32)
        if fresh:
            return fresh[0].detach()
        with torch.no_grad():
            maps = self.map_of(model, batch, output)
        return on_grid(maps, feature.grid).detach()

    def _mix(self, before: Tensor, made: Tensor) -> Tensor:
        """Equation 3.4: the recomputed map, and of the one before, a constant, what momentum leaves."""
        return (1 - self.config.momentum) * before.detach() + self.config.momentum * made

    def _hide(self, batch: dict[str, Any], image: Tensor, iteration: int, maps: Tensor | None) -> Tensor:
        """``(B, 1, H, W)`` bool: what an iteration hides; where no map is known yet, at random."""
        if self.config.sampling == "random" and batch.get("darc_holes") is not None:
            return batch["darc_holes"][:, iteration]
        by_generator = self.training and self.config.seed is None
        return self.occlusion.hide(image, maps, None if by_generator else (batch.get("update", 0), iteration))

    def _extra(self, model: Refined, batch: dict[str, Any], output: RefinedOutput, rounds: Rounds) -> dict[str, Tensor]:
        """The terms that compare regions with those of the feature of the whole image, a constant."""
        config, image = self.config, batch.get("darc_image", batch["pixel_values"])
        truth = output.site_feature.grid.detach()
        if "darc_image" in batch:
            with torch.no_grad(), second_pass(model, config.bn_second_pass, "all"):
                truth = model.backbone.features(image).grid
        hidden, count = rounds.hidden.flatten(0, 1), len(rounds.hidden)
        losses = {}
        if config.perceptual_weight:
            filled = torch.where(rounds.hidden, rounds.reconstruction.to(image.dtype), image).flatten(0, 1)
            with second_pass(model, config.bn_second_pass, "map_only"):  # the network is constant: the decoder learns
                found = model.backbone.features(filled).grid
            losses["darc_perceptual"] = feature_errors(found, torch.cat([truth] * count), hidden).mean()
        if config.contrast_weight:
            predicted = self.predicted(pooled(rounds.decoded.flatten(0, 1), hidden)).chunk(count)
            true = self.true(pooled(torch.cat([truth] * count), hidden)).chunk(count)
            nce = [info_nce(*pair, config.temperature).mean() for pair in zip(predicted, true)]
            losses["darc_contrast"] = torch.stack(nce).mean()
        return losses
