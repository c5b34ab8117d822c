r"""Transplanted objects: the same object on another image's surroundings is still the same class.

Where a class and its surroundings go together in the training data, a network learns either. Images whose object is
known (an edited map, a mask, boxes, or what :func:`attention_refine.propagate` found) break the tie: the object of image
``i`` with mask :math:`a_i`, its edge softened, is put on image ``j`` of the batch,

.. math::

    x_{ij} = a_i \, \hat{x}_i + (1 - a_i) \, \hat{x}_j, \quad
    L = L_{task}(X, y) + \gamma \frac{1}{B} \sum_{(i, j)} L_{task}(x_{ij}, y_i)

where :math:`\hat{x}_j` is ``j`` with its own object covered by what surrounds it, as far as that object is known. It is
the training form of the Backgrounds Challenge (Xiao et al. 2021, *Noise or Signal*) and of counterfactual augmentation;
what is called *mixed-rand* there draws the surroundings from any class, as this does by default.

A region known to mislead (``cue``: a badge, a ruler, a watermark) is treated likewise: the donor's is covered, and the
receiver's put in its place. An image of which only the cue is known is copied as a whole with its cue so exchanged.

The sum over the copies is divided by the size of the batch, so that an image's say is the same in any batch and on any
number of processes; the copies themselves are made within a process's batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.classification_loss import classification_loss
from ..core.registry import check_choice
from ..drawing.compositing import FILLS, extent, fill_in, grown, moved, softened
from ..maps import resize
from ..maps._conditions import full_precision
from ._annotations import TARGETS, columns_of, map_targets
from ._base import Objective, objectives
from ._masking import NORMS, STATISTICS, class_map, scaled, second_pass, site_for
from ._waiting import Waiting

if TYPE_CHECKING:
    from ..output import RefinedOutput
    from ..refined import Refined

CUES = ("swapped", "removed", "left")
ENOUGH = 8  # copies from which their own batch statistics are better than the running ones


@dataclass(frozen=True)
class TransplantConfig:
    """Options of :class:`Transplant`.

    Args:
        copies: of each image whose object (or cue) is known; a fraction is a chance, so 0.5 copies half of them.
        replace: put the copies in their images' places before the model sees the batch, in training mode only: no
            further pass, as many images and updates as without. There is no loss of the objective's own then; the
            losses of the batch are those of the copies, and ``copies`` is at most 1.
        target: what the object is taken from: ``"edited"``, ``"mask"`` or ``"boxes"``; ``"auto"`` takes of each image
            the first of these that it has.
        threshold: from which value of an edited map a location is object.
        min_confidence: images whose column ``mask_confidence`` is lower are not copied; their object is still covered.
        other_class: put objects on images of another class only; without it on any other image.
        covered_only: put objects on images only whose own object is known, and so covered.
        cover: of the receiver's object and of cues: ``"smooth"``, ``"mirror"`` (see
            :func:`attention_refine.drawing.compositing.fill_in`) or ``"none"``, which leaves what the donor's object does not
            hide.
        feather: pixels over which the object's edge falls off, to each side.
        move: largest shift of the object, as a share of the image's side; it stays inside the image. 0 leaves it at its
            own place.
        cues: where the batch has the column ``cue``: ``"swapped"`` (the donor's is covered, the receiver's put on top),
            ``"removed"`` (both covered) or ``"left"`` (cues are surroundings like any other).
        objectives: names of further objectives of the model, such as ``"map_supervision"``, that are computed on the
            copies too, with their own weights, inside the loss ``transplant``.
        map_agreement: weight of the mean squared difference between the maps of an image and of its copy; 0 leaves it
            out.
        prediction_agreement: weight of the Jensen-Shannon divergence between the predictions of an image and of its
            copy, in nats; 0 leaves it out.
        bn_second_pass: batch norm on the copies: ``"freeze_stats"`` normalises by the copies and leaves the running
            statistics alone, ``"eval"`` normalises by those, ``"train"`` also updates them; ``"auto"`` is
            ``"freeze_stats"`` from eight copies on, and ``"eval"`` for fewer, which are no batch to take statistics of.
        reduction: over the copies, ``"batch"`` (their sum divided by the images of the batch) or ``"mean"``.
        map_norm, second_order, site: of the map that is compared, as in
            :class:`~attention_refine.objectives.supervision.MapSupervisionConfig`.
        weight: :math:`\\gamma`.
    """

    copies: float = 1.0
    replace: bool = False
    target: str = "auto"
    threshold: float = 0.5
    min_confidence: float = 0.0
    other_class: bool = False
    covered_only: bool = False
    cover: str = "smooth"
    feather: int = 2
    move: float = 0.0
    cues: str = "swapped"
    objectives: tuple[str, ...] = ()
    map_agreement: float = 0.0
    prediction_agreement: float = 0.0
    bn_second_pass: str = "auto"
    reduction: str = "batch"
    map_norm: str = "auto"
    second_order: bool = True
    site: str = "auto"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.objectives, str):
            raise ValueError(f"Transplant: objectives must be a list of names, got {self.objectives!r}")
        object.__setattr__(self, "objectives", tuple(self.objectives))
        for name, choices in (
            ("target", ("auto", *TARGETS)), ("cover", FILLS), ("cues", CUES), ("reduction", ("batch", "mean")),
            ("bn_second_pass", ("auto", *STATISTICS)), ("map_norm", NORMS),
        ):  # fmt: skip
            check_choice("Transplant", name, getattr(self, name), choices)
        if self.copies <= 0:
            raise ValueError(f"Transplant: copies must be above 0, got {self.copies}; leave the objective out for none")
        if self.replace and self.copies > 1:
            raise ValueError(f"Transplant: with replace=True copies must be at most 1, got {self.copies}")
        if self.replace and (self.map_agreement or self.prediction_agreement or self.objectives):
            raise ValueError(
                "Transplant: with replace=True an image and its copy are never seen together: leave map_agreement, "
                "prediction_agreement and objectives out (other objectives see the copies as they see any image)"
            )
        for name in ("threshold", "min_confidence", "move"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"Transplant: {name} must be between 0 and 1, got {getattr(self, name)}")
        for name in ("feather", "map_agreement", "prediction_agreement", "weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"Transplant: {name} must be 0 or more, got {getattr(self, name)}")
        if "transplant" in self.objectives:
            raise ValueError("Transplant: objectives names others to compute on the copies, not 'transplant' itself")


@dataclass(frozen=True)
class Region:
    """What is known of a batch's images: all ``(B, 1, H, W)``, of clips ``(B, 1, T, H, W)``, in {0, 1} but the last.

    Attributes:
        object: the object.
        hidden: what is covered where the image receives another's object: the object and what is void.
        cue: what misleads.
        has_object, has_cue: ``(B,)`` bool.
    """

    object: Tensor
    hidden: Tensor
    cue: Tensor
    has_object: Tensor
    has_cue: Tensor


@objectives.register("transplant")
class Transplant(Objective):
    """The class loss on copies whose object stands on other surroundings. Options: :class:`TransplantConfig`.

    Losses: ``transplant`` (with a head its own predictions' losses included), and where asked for ``transplant_maps``
    and ``transplant_predictions``; none with ``replace``. Measure: ``transplant_copies``, copies as a share of the batch.

    With several labels an image, a copy has the donor's classes, and the receiver's as well where its objects are not
    covered. A copy is put together in float32, from torch's CPU generator, without a gradient.
    """

    config_class = TransplantConfig

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.waiting = Waiting()
        columns = columns_of(self.config.target)
        self.annotations = columns if self.config.cues == "left" else (*columns, "cue")

    reads = (*TARGETS.values(), "cue", "edited", "mask_confidence", "index", "update")
    adds = ("transplanted",)

    def attach(self, model: Refined) -> None:
        from_cam = self.config.map_agreement > 0 and model.head is None
        self.takes_gradients = from_cam
        self.second_order = from_cam and self.config.second_order
        if from_cam:
            site_for(model, self.config.site, "Transplant")

    def weight_of(self, loss: str) -> float:
        own = {
            "transplant_maps": self.config.map_agreement,
            "transplant_predictions": self.config.prediction_agreement,
        }
        return own.get(loss, self.weight)

    def prepare(self, model: Refined, batch: dict[str, Any]) -> dict[str, Any]:
        """With ``replace`` the batch with copies in it, and the column ``transplanted`` (B,) that says where."""
        if not (self.config.replace and model.training):
            return batch
        region = self._regions(batch)
        donors, receivers = self._pairs(batch, region)
        flags = torch.zeros(len(batch["pixel_values"]), dtype=torch.bool, device=batch["pixel_values"].device)
        if len(donors) == 0:
            return {**batch, "transplanted": flags}
        made, _ = self._copies(batch, region, donors, receivers)
        replaced = dict(batch)
        for name, value in made.items():
            there = batch.get(name)
            if name == "boxes":
                boxes = dict(zip(donors.tolist(), value))
                replaced[name] = [boxes.get(row, old) for row, old in enumerate(batch[name])]
            elif isinstance(there, Tensor) and there.shape[1:] == value.shape[1:]:
                replaced[name] = there.clone().index_copy_(0, donors.to(there.device), value.to(there))
            elif isinstance(there, Tensor):
                raise ValueError(
                    f"Transplant: column {name!r} is {tuple(there.shape)} and its images are of "
                    f"{tuple(batch['pixel_values'].shape[2:])} pixels: with replace=True they must agree"
                )
        return {**replaced, "transplanted": flags.index_fill_(0, donors, True)}

    def forward(self, model: Refined, batch: dict[str, Any], output: RefinedOutput) -> dict[str, Tensor]:
        if self.config.replace:
            flags = batch.get("transplanted")
            output.measures["transplant_copies"] = (
                output.logits.new_zeros((), dtype=torch.float32) if flags is None else flags.float().mean()
            )
            return {}
        wanted = {
            "transplant": True,
            "transplant_maps": self.config.map_agreement > 0,
            "transplant_predictions": self.config.prediction_agreement > 0,
        }
        nothing = output.logits.new_zeros((), dtype=torch.float32)
        losses = {name: nothing for name, is_wanted in wanted.items() if is_wanted}
        region = self._regions(batch)
        donors, receivers = self._pairs(batch, region)
        images, copies = len(batch["pixel_values"]), len(donors)
        output.measures["transplant_copies"] = nothing + copies / images
        if copies == 0:
            return losses
        made, by = self._copies(batch, region, donors, receivers)
        share = copies / images if self.config.reduction == "batch" else 1.0
        seen = self._look(model, made)
        losses["transplant"] = share * self._class_loss(model, made, seen)
        if "transplant_predictions" in losses:
            apart = divergence(output.logits[donors], seen.logits, batch["labels"].ndim > 1)
            losses["transplant_predictions"] = share * apart.mean()
        if "transplant_maps" in losses:
            apart = self._map_distance(model, batch, output, made, seen, donors, by)
            losses["transplant_maps"] = share * apart.mean()
        return losses

    def _regions(self, batch: dict[str, Any]) -> Region:
        region = regions(batch, self.config.target, self.config.threshold, self.config.cues != "left")
        if (region.has_object | region.has_cue).any():
            self.waiting.over = True
        elif self.training:
            self.waiting.saw_none(self.name, self.annotations, batch)
        return region

    def _pairs(self, batch: dict[str, Any], region: Region) -> tuple[Tensor, Tensor]:
        """Whose object, and on whose surroundings: rows ``(N,)`` each, drawn from torch's CPU generator."""
        config, labels = self.config, batch["labels"]
        device, images = labels.device, len(labels)
        allowed = ~torch.eye(images, dtype=torch.bool, device=device)
        if config.other_class:
            same = labels[:, None] == labels if labels.ndim == 1 else (labels[:, None] * labels).sum(2) > 0
            allowed = allowed & ~same
        if config.covered_only:
            allowed = allowed & region.has_object
        ready = (region.has_object | region.has_cue) & allowed.any(1)
        if batch.get("mask_confidence") is not None:
            ready = ready & (batch["mask_confidence"].to(device) >= config.min_confidence)
        times = (config.copies + torch.rand(images)).long().to(device)  # the whole part, and one more by chance
        donors = torch.arange(images, device=device).repeat_interleave(times * ready)
        draws = torch.rand(len(donors), images).to(device)
        return donors, draws.masked_fill(~allowed[donors], -1).argmax(1)

    @torch.no_grad()
    def _copies(
        self, batch: dict[str, Any], region: Region, donors: Tensor, receivers: Tensor
    ) -> tuple[dict[str, Any], Tensor]:
        """The copies as a batch, with the columns that moved along, and by how many pixels ``(N, 2)`` each moved."""
        config = self.config
        pixels = full_precision(batch["pixel_values"])
        swapped, kept_cue = config.cues == "swapped", region.cue[receivers]
        whole = ~region.has_object[donors]  # only the cue is known: all of the image is kept
        own = region.object[donors]
        by = self._shifts(own, whole)
        own = moved(own, by, "zeros")
        clean = self._covered(pixels[donors], region.cue[donors])
        place = self._covered(pixels[receivers], torch.maximum(region.hidden[receivers], kept_cue))
        alpha = softened(own, config.feather).masked_fill(over_pixels(whole, own), 1.0)
        image = place * (1 - alpha) + alpha * moved(clean, by)
        if swapped:
            on_top = softened(kept_cue, config.feather)
            image = image * (1 - on_top) + on_top * pixels[receivers]
        else:
            kept_cue = torch.zeros_like(kept_cue)
        made = {
            "pixel_values": image.to(batch["pixel_values"]),
            "labels": self._labels(batch["labels"], region, donors, receivers, whole),
            "smoothing": batch.get("smoothing", 0.0),
            "cue": kept_cue.to(torch.uint8),
        }
        return made | _moved_targets(batch, own, whole, donors, by), by

    def _covered(self, pixels: Tensor, hole: Tensor) -> Tensor:
        """Images with a region filled; the filling begins outside the region's soft edge, so that nothing shows."""
        return fill_in(pixels, softened(grown(hole, self.config.feather), self.config.feather), self.config.cover)

    def _shifts(self, own: Tensor, whole: Tensor) -> Tensor:
        """``(N, 2)`` whole pixels, down and right, that leave the object inside the image."""
        if self.config.move == 0:
            return torch.zeros(len(own), 2, dtype=torch.long, device=own.device)
        first, after = extent(own).reshape(-1, 2, 2).unbind(2)
        sides = torch.tensor(own.shape[-2:], device=own.device)
        most = (self.config.move * sides).long()
        low, high = torch.maximum(-most, -first), torch.minimum(most, sides - after)
        draws = torch.rand(len(own), 2).to(own.device)
        found = low + (draws * (high - low + 1)).long()
        return found.masked_fill(whole[:, None], 0)

    def _labels(self, labels: Tensor, region: Region, donors: Tensor, receivers: Tensor, whole: Tensor) -> Tensor:
        if labels.ndim == 1:
            return labels[donors]
        covered = region.has_object[receivers] & (self.config.cover != "none")
        left = labels[receivers] * (~(covered | whole))[:, None]
        return torch.maximum(labels[donors], left.to(labels))

    def _look(self, model: Refined, made: dict[str, Any]) -> RefinedOutput:
        statistics = self.config.bn_second_pass
        if statistics == "auto":
            statistics = "freeze_stats" if len(made["labels"]) >= ENOUGH else "eval"
        also = self._also(model)
        twice = self.second_order or any(objective.second_order for objective in also)
        with second_pass(model, statistics, "all"):
            if model.backbone.site is None:
                return model(made["pixel_values"], compute_losses=False)
            return model.run(made["pixel_values"], keep=bool(also or self.config.map_agreement), twice=twice)

    def _also(self, model: Refined) -> list[Objective]:
        also = [model.objectives[name] for name in self.config.objectives if name in model.objectives]
        for name in self.config.objectives:
            if name not in model.objectives:
                has = ", ".join(each for each in model.objectives if each != "transplant") or "no other"
                raise ValueError(f"Transplant: objectives names {name!r}, and this model has {has}")
        return [each for each in also if isinstance(each, Objective)]

    def _class_loss(self, model: Refined, made: dict[str, Any], seen: RefinedOutput) -> Tensor:
        """The mean over the copies of what the model itself minimises: class losses, and objectives if asked for."""
        labels, smoothing = made["labels"], made["smoothing"]
        total = classification_loss(seen.logits, labels, smoothing)
        for logits in seen.aux_logits.values():
            total = total + model.found_head().weight * classification_loss(logits, labels, smoothing)
        for objective in self._also(model):
            for name, value in objective(model, made, seen).items():
                total = total + objective.weight_of(name) * value
        return total

    def _map_distance(
        self, model: Refined, batch: dict[str, Any], output: RefinedOutput, made: dict[str, Any],
        seen: RefinedOutput, donors: Tensor, by: Tensor,
    ) -> Tensor:  # fmt: skip
        """``(N,)``: the mean squared difference of the maps, the image's moved as its object was."""

        def one(source: RefinedOutput, labels: Tensor) -> Tensor:
            maps = class_map(model, source, labels, self.config.second_order)
            maps = scaled(maps, self.config.map_norm, from_head=model.head is not None)
            return resize(full_precision(maps), tuple(batch["pixel_values"].shape[2:]))

        there = moved(one(output, batch["labels"])[donors], by)
        return (there - one(seen, made["labels"])).square().flatten(1).mean(1)


def regions(batch: dict[str, Any], target: str, threshold: float, cues: bool) -> Region:
    """What a batch's columns say of its images, at the size of ``pixel_values`` (B, C, H, W).

    Of clips ``(B, C, T, H, W)`` each frame has its own regions; what is drawn once holds for all frames.
    """
    pixels = batch["pixel_values"]
    size = tuple(pixels.shape[2:])
    found, known, given = map_targets(batch, target)
    found, known = (_at_size(each, size) for each in (found, known))
    own = ((found >= threshold) & (known > 0) & over_pixels(given > 0, found)).float()
    has_object = own.flatten(1).amax(1) > 0
    hidden = torch.maximum(own, ((known == 0) & over_pixels(has_object, own)).float())
    cue = torch.zeros_like(own)
    if cues and batch.get("cue") is not None:
        cue = _at_size((batch["cue"].to(pixels.device) == 1).float(), size)
    return Region(own, hidden, cue, has_object, cue.flatten(1).amax(1) > 0)


def over_pixels(flags: Tensor, of: Tensor) -> Tensor:
    """``(B,)`` flags against ``(B, C, ...)``."""
    return flags.reshape(-1, *[1] * (of.ndim - 1))


def _at_size(mask: Tensor, size: tuple[int, ...]) -> Tensor:
    """A mask at the size of its images; one for all frames of a clip in each of them."""
    if mask.ndim == 4 and len(size) == 3:
        mask = mask[:, :, None]
    return F.interpolate(mask, size, mode="nearest-exact")


def divergence(first: Tensor, second: Tensor, several: bool) -> Tensor:
    """``(N,)``: Jensen-Shannon divergence of the predictions of two sets of logits ``(N, classes)``, in nats.

    Of the softmax, between 0 and ln 2; for ``several`` labels the mean over the classes of that of each sigmoid.
    """
    first, second = (full_precision(each) for each in (first, second))
    if several:
        first, second = (torch.stack([each, torch.zeros_like(each)], 2) for each in (first, second))
    logs = [each.log_softmax(-1) for each in (first, second)]
    middle = torch.logsumexp(torch.stack(logs), 0) - torch.log(torch.tensor(2.0)).to(first)
    apart = torch.stack([(each.exp() * (each - middle)).sum(-1) for each in logs]).sum(0) / 2
    return apart.mean(1) if several else apart


def _moved_targets(
    batch: dict[str, Any], own: Tensor, whole: Tensor, donors: Tensor, by: Tensor
) -> dict[str, Tensor | list[Tensor]]:
    """The columns that say where the object of a copy is; of an image copied whole those that it had."""
    columns: dict[str, Any] = {}
    mask = own.to(torch.uint8)
    kept = torch.full_like(mask, 255)
    if batch.get("mask") is not None:
        given = batch["mask"][donors].to(mask)
        given = given[:, None] if given.ndim == 3 else given
        kept = given if given.shape == mask.shape else _at_size(given.float(), tuple(own.shape[2:])).to(mask)
    columns["mask"] = torch.where(over_pixels(whole, mask), kept, mask)
    if batch.get("edited_map") is not None:
        maps = full_precision(batch["edited_map"])[donors].to(own.device)
        maps = resize(maps, tuple(own.shape[-(maps.ndim - 2) :]))  # a drawing for all frames stays one
        columns["edited_map"] = moved(maps, by, "zeros")
        flags = batch.get("edited")
        columns["edited"] = torch.ones(len(donors), dtype=torch.bool) if flags is None else flags[donors]
    if batch.get("boxes") is not None:
        offset = by.flip(1).repeat(1, 2)
        columns["boxes"] = [batch["boxes"][i] + d.to(batch["boxes"][i]) for i, d in zip(donors.tolist(), offset)]
    return columns
