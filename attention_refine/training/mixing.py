"""Mixup and cutmix: each image of a labelled batch is mixed with its neighbour, and what is known of both moves along.

Images 2k and 2k + 1 of a batch are mixed with each other; the order of the images is random, and two processes of four
images have the neighbours that one process of eight has. What is drawn (whether, which of the two, share and box) is one
for all batches of a step, a function of (seed, epoch, step), as timm's ``Mixup`` draws it in its mode ``"batch"``.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from attention_refine.training.batches import Batch
from attention_refine.training.config import TrainingConfig, TrainingError
from attention_refine.training.image_kinds import objectives_of
from attention_refine.training.strategies import Part

PLACES = ("mask", "edited_map", "cue")  # of the image's pixels: a box can be cut out of them
ANNOTATIONS = (*PLACES, "edited", "boxes", "mask_confidence")
MOVED = (*ANNOTATIONS, "index", "update")
_MIXES = 3  # keeps these draws apart from those of strategies.py


@dataclass(frozen=True)
class Mix:
    """What is drawn for a step: the neighbour's share of an image, and the box it comes in, or None for all over.

    Args:
        box: top, bottom, left, right in pixels, the ends excluded.
    """

    share: float
    box: tuple[int, int, int, int] | None = None


def mixes(config: TrainingConfig) -> bool:
    """Whether a run mixes its images."""
    return config.mixup_alpha > 0 or config.cutmix_alpha > 0


def mixed_parts(parts: list[Part], config: TrainingConfig, epoch: int, step: int) -> list[Part]:
    """The batches of a step with the labelled ones mixed, where the config says so."""
    if not mixes(config):
        return parts
    size = parts[0].batches[0]["pixel_values"].shape[-2:]
    mix = draw(config, epoch, step, size)
    if mix is None:
        return parts
    return [
        replace(part, batches=[mixed(each, mix) if "labels" in each else each for each in part.batches])
        for part in parts
    ]


def draw(config: TrainingConfig, epoch: int, step: int, size: tuple[int, int]) -> Mix | None:
    """What is drawn for images of that height and width; None where they stay as they are."""
    generator = np.random.default_rng((config.seed, epoch, step, _MIXES))
    if generator.random() >= config.mixup_prob:
        return None
    cut = config.cutmix_alpha > 0
    if cut and config.mixup_alpha > 0:
        cut = generator.random() < config.mixup_switch_prob
    alpha = config.cutmix_alpha if cut else config.mixup_alpha
    share = 1 - generator.beta(alpha, alpha)
    if not cut:
        return Mix(share)
    centre = (int(generator.integers(size[0])), int(generator.integers(size[1])))
    top, bottom, left, right = box = cut_box(size, share, centre)
    return Mix((bottom - top) * (right - left) / (size[0] * size[1]), box)


def cut_box(size: tuple[int, int], share: float, centre: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box of the image's proportions and that share of its area, as far as it lies inside: top, bottom, left, right."""
    ends: list[int] = []
    for side, middle in zip(size, centre):
        cut = int(side * share**0.5)
        ends += [max(middle - cut // 2, 0), min(middle + (cut + 1) // 2, side)]
    top, bottom, left, right = ends
    return top, bottom, left, right


def mixed(batch: Batch, mix: Mix) -> Batch:
    """A labelled batch whose images hold their neighbours' share; the last of an odd number stays as it is.

    With a box, masks, edited maps and cues get the neighbour's in it, and an image counts as edited where both were;
    boxes go, as what is left of one is none, and a mask has them filled in. Without one, annotations go. Multi-hot labels
    are mixed; beside class indices come ``mixed_classes`` (B,), the neighbours', and ``mixed_share``, their share.

    Raises:
        TrainingError: a mask or map of another size than its image.
    """
    labels, pixels = batch["labels"], batch["pixel_values"]
    other = torch.arange(len(labels)) ^ 1
    other = other.clamp_max(len(labels) - 1)
    made = dict(batch)
    if mix.box is None:
        made = {name: value for name, value in batch.items() if name not in ANNOTATIONS}
        made["pixel_values"] = torch.lerp(pixels, pixels[other], mix.share)
    else:
        made.pop("boxes", None)
        for name in ("pixel_values", *PLACES):
            if name in batch:
                made[name] = _pasted(name, batch[name], other, mix.box, pixels.shape[-2:])
        if "edited" in batch:
            made["edited"] = torch.minimum(batch["edited"], batch["edited"][other])
        if "mask_confidence" in batch:
            made["mask_confidence"] = torch.lerp(batch["mask_confidence"], batch["mask_confidence"][other], mix.share)
    if labels.is_floating_point():
        made["labels"] = torch.lerp(labels, labels[other], mix.share)
    else:
        made |= {"mixed_classes": labels[other], "mixed_share": torch.tensor(mix.share, dtype=torch.float32)}
    return made


def _pasted(name: str, values: Tensor, other: Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    if values.shape[-2:] != size:
        raise TrainingError(
            f"cutmix cuts the same box out of images and {name}s, and these are {tuple(values.shape[-2:])} beside images "
            f"of {tuple(size)}: bring them to the image's size, or leave cutmix_alpha out"
        )
    top, bottom, left, right = box
    made = values.clone()
    made[..., top:bottom, left:right] = values[other][..., top:bottom, left:right]
    return made


def check_mixing(model: nn.Module, config: TrainingConfig) -> None:
    """Refuse to mix what has no meaning once mixed.

    Raises:
        TrainingError: naming the option, who reads what of an image, and the remedy.
    """
    if not mixes(config):
        return
    asked = "mixup_alpha" if config.mixup_alpha else "cutmix_alpha"
    said = f"{asked}={getattr(config, asked)}"
    if config.strategy == "finetune":
        raise TrainingError(f"{said} mixes labelled images, and strategy='finetune' takes no labels: leave it out")
    accepted = inspect.signature(model.forward).parameters
    if "mixed_classes" not in accepted:
        raise TrainingError(
            f"{said} gives an image two classes, and {type(model).__name__}.forward takes no mixed_classes and "
            "mixed_share: wrap it with attention_refine.wrap, or add them to its loss"
        )
    for name, each in objectives_of(model).items():
        reads = set(each.reads) | set(each.annotations)
        strange = sorted(reads - set(MOVED))
        if each.needs_labels or strange:
            what = "the class of an image" if each.needs_labels else " and ".join(strange)
            raise TrainingError(f"{said} does not go with {name}: it reads {what}, and a mixed image has two of it: "
                                "leave one of them out")  # fmt: skip
        read = [column for column in ANNOTATIONS if column in reads]
        if config.mixup_alpha and read:
            raise TrainingError(
                f"{said} does not go with {name}: it reads {', '.join(read)} of an image, and of two images laid over each "
                "other a mask or map has no meaning. Use cutmix_alpha, which cuts them with the image, or leave one out"
            )
        if config.cutmix_alpha and tuple(each.annotations) == ("boxes",):
            raise TrainingError(
                f"{said} does not go with {name}: it reads boxes, and what a cut leaves of one is none. Use "
                "target='mask', where boxes are filled in, or leave one out"
            )
