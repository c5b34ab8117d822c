"""The model that ``wrap`` makes: backbone, head, objectives, and what is done with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from .backbones.adapter import Backbone, Feature
from .backbones.classifier import LastLinear
from .backbones.partial_forward import Reached
from .core.model_inputs import (
    Watched,
    check_labels,
    check_labels_left,
    check_maps,
    check_pixels,
    given_maps,
    name_also,
    naming_columns,
    one_image,
    refuse_checkpointing,
    unknown_columns,
    warn_unread,
)
from .heads._base import Action, Head
from .maps._second_order import twice_differentiable
from .model_uses import ModelUses
from .objectives._base import Objective, Objectives, check_adds
from .output import RefinedOutput
from .refined import models
from .total_loss import losing_without_labels, total_loss, wanted_objectives


@models.register("attention_refine")
class RefinedModel(ModelUses):
    """A backbone whose map is made, used and trained. Built by :func:`wrap` or :meth:`from_pretrained`.

    How it is explained, shown, saved and sent stands in :class:`~attention_refine.model_uses.ModelUses`.

    Attributes:
        backbone: the wrapped network and its site.
        head: what makes the map, or ``None``.
        objectives: losses on the map, by name.
        labels: class names, in the order of the logits.
        preprocessing: ``input_size``, ``mean``, ``std``, ``interpolation``, ``crop_pct``.
        card: the README it was loaded with, or ``None``.
        drawn_classifier: checksum of the backbone's classifier where ``wrap`` drew it anew, by which
            :func:`attention_refine.finetune` sees that nothing has trained it since; else ``None``.
    """

    card: str | None = None
    drawn_classifier: str | None = None
    accepts_loss_kwargs, main_input_name = True, "pixel_values"  # this and the next: what transformers.Trainer asks for
    gradient_checkpointing_enable = activation_checkpointing_enable = refuse_checkpointing

    def __init__(
        self,
        backbone: Backbone,
        head: Head | None,
        objective_list: Iterable[Objective],
        labels: Sequence[str],
        preprocessing: dict[str, Any],
    ):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.objectives: Objectives = Objectives()
        for objective in objective_list:
            if objective.name in self.objectives:
                raise ValueError(f"objective {objective.name!r} is given twice; give it once, with one set of options")
            self.objectives[objective.name] = objective
            name_also(RefinedModel.forward, objective.reads)
        check_adds(self.objectives.values())
        self.labels = [str(label) for label in labels]
        self.preprocessing = dict(preprocessing)

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    @naming_columns
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        maps: Tensor | None = None,
        compute_losses: bool | None = None,
        smoothing: float = 0.0,
        objectives: Sequence[str] | None = None,
        compute_aux: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **columns: Any,
    ) -> RefinedOutput:
        """Predict, and with labels or in training compute the losses.

        Args:
            pixel_values: ``(B, 3, H, W)``, normalised as ``preprocessing`` says.
            labels: ``(B,)`` class indices, or ``(B, classes)`` multi-hot.
            maps: ``(B, 1 or K, h, w)``, a map in place of the head's own; resized to the site's grid.
            compute_losses: force the losses on or off; by default on with labels or in training mode.
            smoothing: of the labels, for the classification losses.
            objectives: names of those to compute; by default all, or without labels all that need none.
            compute_aux: force the auxiliary predictions on or off; by default they are made where losses are.
            num_items_in_batch: labels in all batches of an optimiser step, as transformers.Trainer counts them: ``loss``
                is then this batch's part of the mean over them.
            columns: further columns of the batch, for objectives that want them; one that is none of this library's and
                that nothing reads is named in a warning.

        Raises:
            TypeError: pixels or labels that are no tensor.
            ValueError: maps for a model without a head, of another shape or outside [0, 1]; an unknown objective; labels
                that Trainer counted and did not pass on, where a head or objectives need them.
            RuntimeError: objectives that take a gradient, in inference mode.
        """
        check_pixels(self, pixel_values, self.preprocessing)
        check_labels(labels, self.labels)
        if num_items_in_batch is not None:
            check_labels_left(labels, losing_without_labels(self))
        if compute_losses is None:
            compute_losses = labels is not None or self.training
        if compute_aux is None:
            compute_aux = compute_losses
        if maps is not None and not self.found_head().classifies:
            check_maps(maps)
        wanted = wanted_objectives(self.objectives, objectives, labels) if compute_losses else []
        batch = {"pixel_values": pixel_values, "labels": labels, "smoothing": smoothing, **columns}
        unknown = unknown_columns(columns, self.objectives.values())
        read: set[str] = set()
        for objective in wanted:
            batch = objective.prepare(self, Watched(batch, read) if unknown else batch)
        output = self._pass_for(wanted, batch, maps, compute_aux)
        if compute_losses:
            batch = Watched(batch, read) if unknown else batch
            output.losses, output.loss = total_loss(self, wanted, batch, output, smoothing)
        if num_items_in_batch is not None and output.loss is not None and labels is not None:
            output.loss = output.loss * (labels.numel() / num_items_in_batch)
        if unknown - read:
            warn_unread(unknown - read)
        return _for_the_caller(output)

    def _pass_for(
        self, wanted: list[Objective], batch: dict[str, Any], maps: Tensor | None, compute_aux: bool
    ) -> RefinedOutput:
        """The pass of the network that the objectives need, with nothing kept or made that none of them reads."""
        pixel_values, labels = batch["pixel_values"], batch["labels"]
        alone = self.training and labels is None and wanted and all(objective.own_passes for objective in wanted)
        embeds = any(objective.needs_embedding for objective in wanted)
        if embeds:
            self._check_one_embedding()
        single = self.training and pixel_values.shape[0] == 1
        with one_image() if single else nullcontext(), LastLinear() if embeds else nullcontext() as last:
            if self.head is None and alone:
                output = RefinedOutput(aux_logits={}, losses={}, measures={})
            elif self.head is None and not (wanted and self.backbone.site):
                output = RefinedOutput(logits=self.backbone(pixel_values), aux_logits={}, losses={}, measures={})
            else:
                twice = any(objective.second_order for objective in wanted)
                output = self.run(pixel_values, maps, compute_aux, keep=bool(wanted), twice=twice)
        if last is not None:
            output.embedding = self._embedding(output, last)
        return output

    def run(
        self,
        pixel_values: Tensor,
        maps: Tensor | None = None,
        compute_aux: bool = True,
        keep: bool = True,
        twice: bool = False,
    ) -> RefinedOutput:
        """One pass of the network, the head acting on its way; no losses.

        Args:
            maps, compute_aux: as in :meth:`forward`.
            keep: the output has its ``feature``, from which :meth:`resume` and :meth:`perceive` may go on.
            twice: the head and what follows the site can be differentiated twice.
        """
        found: list[tuple[Feature, Action | None]] = []

        def act(feature: Feature) -> tuple[Tensor, Tensor | None]:
            with twice_differentiable() if twice else nullcontext():  # a head may have attention of its own
                action = self._act(feature, maps, compute_aux)
            found.append((feature, action))
            if action is not None and not action.needs_backbone and not torch.compiler.is_compiling():
                raise Reached(feature)  # what follows has no part in the prediction; a graph leaves it out by itself
            return (feature.grid, None) if action is None else (action.feature, action.gain)

        again = keep or self.head is not None and self.head.per_class
        try:
            logits = self.backbone(pixel_values, act, again, after=(twice_differentiable,) if twice else ())
        except Reached:
            logits = None
        with twice_differentiable() if twice else nullcontext():  # a pass for each further map
            return self._output(*found[0], logits, keep)

    def resume(self, feature: Feature, maps: Tensor | None = None) -> RefinedOutput:
        """What follows from a feature at the site: the map, made or given, and the prediction; without the losses."""
        action = self._act(feature, maps, compute_aux=True)
        if action is None:
            return self._output(feature, None, self.backbone.resume(feature))
        rest = self.backbone.resume(feature.with_grid(action.feature), action.gain) if action.needs_backbone else None
        return self._output(feature, action, rest)

    def perceive(self, feature: Feature, gain: Tensor | None = None) -> Tensor:
        """Logits of a feature as it stands, partly hidden for example: no map is put on it before.

        Args:
            gain: as in :meth:`Backbone.resume <attention_refine.backbones.adapter.Backbone.resume>`.
        """
        if self.head is not None and self.head.classifies:
            return self.resume(feature).logits
        return self.backbone.resume(feature, gain=gain)

    def _act(self, feature: Feature, maps: Tensor | None, compute_aux: bool) -> Action | None:
        if self.head is None:
            return None
        if maps is not None:
            maps = given_maps(maps, feature.grid, self.head.num_maps)
        return self.head.act(feature.grid, self.backbone.found_site().mechanism, maps, compute_aux)

    def _output(
        self, feature: Feature, action: Action | None, backbone: Tensor | None, keep: bool = True
    ) -> RefinedOutput:
        """What a pass gave, from the backbone's logits; with per-class maps, logit ``k`` comes from a pass of map ``k``."""
        kept = feature if keep else None
        if action is None:
            assert backbone is not None, "without a head nothing else classifies"
            return RefinedOutput(logits=backbone, aux_logits={}, losses={}, measures={}, feature=kept)
        logits = action.predict(backbone)
        if self.head is not None and action.others:
            passes, mechanism = [logits], self.backbone.found_site().mechanism
            for other in action.others:
                grid, gain = self.head.put(feature.grid, other, mechanism)
                passes.append(self.backbone.resume(feature.with_grid(grid), gain))
            logits = torch.stack([each[:, k] for k, each in enumerate(passes)], dim=1)
        return RefinedOutput(
            logits=logits,
            maps=action.maps,
            map_scores=action.scores,
            aux_logits=action.aux_logits,
            losses={},
            measures={},
            feature=kept,
            embedding=action.embedding,
        )

    def extra_repr(self) -> str:
        site = self.backbone.site
        return (
            f"site={site.name!r}, mechanism={site.mechanism!r}, classes={self.num_labels}"
            if site
            else f"classes={self.num_labels}"
        )


def _for_the_caller(output: RefinedOutput) -> RefinedOutput:
    """The output without what only objectives read."""
    told = {key: value for key, value in output.items() if key not in ("feature", "embedding")}
    if output.loss is None and len(told) == len(output):
        return output
    return RefinedOutput(**told)  # anew, as a loss that came later would not be the first entry
