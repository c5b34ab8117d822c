"""The methods: a row says what is put on the plain training. To add one is to add a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file
from torch import nn
from torchvision.transforms import v2

import attention_refine as ar

from .protocol import NETWORKS, Cell, is_transformer

SHORTCUT = ("places3", "shapes")  # sets with a known shortcut, and the same images without it
EVERYWHERE = ("places3", "pets3", "cub20", "shapes")
CONVOLUTIONAL = tuple(network for network in NETWORKS if not is_transformer(network))
FIRST = ("plain", "ceiling")  # every other cell is compared with these, trained in the same precision
FEW = ("boxes 5 %", "masks 5 %")
MADE = ("boxes 5 %", "none", "masks 5 %")  # with nothing annotated masks are made of what stands out
SHARES = tuple(f"{kind} {share} %" for share in (5, 100, 25, 1) for kind in ("boxes", "masks"))


@dataclass(frozen=True)
class Then:
    """A second part of the training: the last third of the updates, at a small learning rate, as ATCON is trained."""

    objectives: Callable[[], list[ar.Objective]] = list
    strategy: str = "combined"


@dataclass(frozen=True)
class Method:
    """What differs from the plain training.

    Attributes:
        says: a sentence for the table.
        annotations: those it is run with, the one that tells most first.
        head, objectives: made anew for every cell; the objectives know its annotation.
        training: fields of TrainingConfig.
        resolution: how much finer the last grid is.
        augment: a recipe of its own, given the image's size.
        network: makes another network of the published weights' file.
        propagate: a segmenter makes masks for all images of those that are annotated, or of what stands out.
        taught: distilled from the same network without the finer grid, trained first.
        then: a second part.
        retrain: the last layer is fitted anew on equal groups.
        datasets, networks: where it can be run.
    """

    says: str
    annotations: tuple[str, ...] = ("none",)
    head: Callable[[Cell], ar.Head] | None = None
    objectives: Callable[[Cell], list[ar.Objective]] | None = None
    training: dict[str, Any] = field(default_factory=dict)
    resolution: int = 1
    augment: Callable[[int], Any] | None = None
    network: Callable[[str, Path], nn.Module] | None = None
    propagate: bool = False
    taught: bool = False
    then: Then | None = None
    retrain: bool = False
    datasets: tuple[str, ...] = EVERYWHERE
    networks: tuple[str, ...] = NETWORKS


def share(cell: Cell) -> float:
    """Of the images that are annotated, 0 to 1."""
    return float(cell.annotation.split()[1]) / 100


def target(cell: Cell) -> str:
    return "mask" if cell.annotation.startswith("masks") else "boxes"


def rate(cell: Cell) -> float:
    """Weight of a loss that only annotated images have, as it is divided by all images of the batch: 20 at 5 %, 1 at all."""
    return min(20.0, 1 / share(cell))


def branch(cell: Cell) -> ar.Head:
    return ar.AttentionBranch(fade_in_steps=20)


def parts(cell: Cell) -> ar.Head:
    return ar.BRNPA()


def _energy(cell: Cell) -> list[ar.Objective]:
    return [ar.MapSupervision(norm="energy", target=target(cell), weight=rate(cell))]


def _transplant() -> ar.Objective:
    return ar.Transplant(replace=True, copies=0.75)


def _agreement(weight: float = 1.0) -> ar.Objective:
    return ar.AttentionConsistency(detach_mask=True, weight=weight)


def _strong(size: int) -> Any:
    return v2.Compose([
        v2.RandomResizedCrop(size, scale=(0.25, 1.0), antialias=True), v2.RandomHorizontalFlip(), v2.TrivialAugmentWide(),
    ])  # fmt: skip


def _squeezed(network: str, weights: Path) -> nn.Module:
    """Squeeze and excitation (Hu et al. 2018) in every block, on the published weights; the gates start at 1, nearly."""
    net = timm.create_model(network, block_args={"attn_layer": "se"})
    net.load_state_dict(load_file(weights), strict=False)
    for name, gate in net.named_modules():
        if name.endswith(".se"):
            nn.init.zeros_(gate.fc2.weight)
            nn.init.constant_(gate.fc2.bias, 6.0)  # sigmoid(6) = 0.9975
    return net


METHODS: dict[str, Method] = {
    "plain": Method("fine-tuned, nothing else"),
    "ceiling": Method("plain, trained on the same objects without the shortcut", datasets=SHORTCUT),
    # controls
    "repeated": Method(
        "plain, six images of a batch from those that are annotated", FEW[:1], training={"annotated_per_batch": 6}
    ),
    "two parts": Method("plain, then at ATCON's learning rate", then=Then()),
    "label smoothing": Method("plain, labels smoothed by 0.1", training={"label_smoothing": 0.1}),
    "strong augmentation": Method("plain, crops from a quarter on, TrivialAugment", augment=_strong),
    "cutmix": Method("plain, CutMix 1.0", training={"cutmix_alpha": 1.0}),
    "squeeze and excitation": Method("plain, a channel gate in every block", network=_squeezed, networks=("resnet18", "resnet50")),
    # without annotation
    "abn": Method("attention branch", head=branch),
    "abn + mining": Method("attention branch, mining loss 0.01", head=branch, objectives=lambda cell: [ar.AttentionMining(weight=0.01)]),
    "guided inference": Method(
        "mining on Grad-CAM (GAIN), after a third of the updates",
        objectives=lambda cell: [ar.GuidedInference(start_step=cell.steps // 3)],
    ),
    "brnpa": Method("ranked parts at the network's grid", head=parts),
    "brnpa, finer": Method("ranked parts on a grid twice as fine", head=parts, resolution=2, networks=CONVOLUTIONAL),
    "brnpa, distilled": Method("the finer one, taught by the usual one", head=parts, resolution=2, taught=True, networks=CONVOLUTIONAL),
    "bilinear": Method("bilinear attention pooling", head=lambda cell: ar.BilinearPooling()),
    "consistency, then": Method("ATCON, the last third without labels", then=Then(lambda: [_agreement()], "finetune")),
    "consistency, beside": Method("ATCON beside the labels in the last third", then=Then(lambda: [_agreement()])),
    "consistency, alternated": Method("ATCON and the labels in turn in the last third", then=Then(lambda: [_agreement()], "alternated")),
    "darc": Method("attention branch, DARC", head=branch, objectives=lambda cell: [ar.DARC()]),
    "contrastive, consistency": Method(
        "contrastive beside the labels, in the last third ATCON, too", objectives=lambda cell: [ar.ContrastivePretraining(weight=0.1)],
        then=Then(lambda: [_agreement()]),
    ),
    "triplet": Method(
        "ranked parts, triplet loss 0.02", head=parts, objectives=lambda cell: [ar.Triplet(margin="soft", weight=0.02)],
        training={"images_of_a_class": 4},
    ),
    "abn + consistency": Method("attention branch, then ATCON beside the labels", head=branch, then=Then(lambda: [_agreement()])),
    "abn + cutmix": Method("attention branch, CutMix 1.0", head=branch, training={"cutmix_alpha": 1.0}),
    # from masks or boxes
    "repair": Method(
        "masks for all from a segmenter, objects on other images' places", (*MADE, "masks 100 %"),
        objectives=lambda cell: [_transplant()], propagate=True,
    ),
    "repair + energy": Method(
        "repair, and the energy loss on the made masks", MADE,
        objectives=lambda cell: [_transplant(), ar.MapSupervision(norm="energy", target="mask", weight=2.0)], propagate=True,
    ),
    "repair + abn": Method(
        "repair, and a branch whose map learns the made masks", MADE, head=branch,
        objectives=lambda cell: [_transplant(), ar.MapSupervision(norm="bce", target="mask", weight=10.0)], propagate=True,
    ),
    "made energy": Method(
        "the energy loss on masks for all from a segmenter", MADE,
        objectives=lambda cell: [ar.MapSupervision(norm="energy", target="mask", weight=2.0)], propagate=True,
    ),
    "made abn": Method(
        "a branch whose map learns masks for all from a segmenter", MADE, head=branch,
        objectives=lambda cell: [ar.MapSupervision(norm="bce", target="mask", weight=10.0)], propagate=True,
    ),
    "energy": Method("Grad-CAM's energy on what is annotated", SHARES, objectives=_energy),
    "l2": Method(
        "Grad-CAM as what is annotated, squared", SHARES,
        objectives=lambda cell: [ar.MapSupervision(norm="l2", target=target(cell), weight=rate(cell) / 4)],
    ),
    "abn, bce": Method(
        "a branch whose map learns what is annotated", SHARES, head=branch,
        objectives=lambda cell: [ar.MapSupervision(norm="bce", target=target(cell), weight=3 * rate(cell))],
    ),
    "input gradient": Method(
        "RRR: no gradient outside of what is annotated", ("masks 100 %", "boxes 5 %"),
        objectives=lambda cell: [ar.MapSupervision(norm="input_gradient", target=target(cell), weight=0.001 * rate(cell))],
    ),
    "cue avoidance": Method(
        "Grad-CAM's energy off the cue", ("cues",), datasets=("shapes",),
        objectives=lambda cell: [ar.MapSupervision(norm="energy", target="cue", weight=2.0)],
    ),
    # from groups
    "group balance": Method("every group as often", ("groups",), training={"balance": "group"}, datasets=("places3",)),
    "group DRO": Method("the worst group counts most", ("groups",), objectives=lambda cell: [ar.GroupDRO()], datasets=("places3",)),
    "DFR": Method("plain, the last layer fitted anew on equal groups", ("groups",), retrain=True, datasets=("places3",)),
}  # fmt: skip
