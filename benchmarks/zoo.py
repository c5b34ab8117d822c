"""The zoo: every config of hub_configs/, what it gained here, or which data it waits for. Written by results_page.py."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from methods import tables
from repeated import lines

import attention_refine as ar

CONFIGS = Path(__file__).parents[1] / "hub_configs"
WAITS = {
    "path/to/cub200_2010": "CUB-200 (2010)", "path/to/CUB_200_2011": "CUB-200-2011", "path/to/stanford_dogs": "Stanford Dogs",
    "path/to/VOCdevkit/VOC2012": "PASCAL VOC 2012", "path/to/VOCdevkit/VOC2007": "PASCAL VOC 2007",
    "path/to/Market-1501-v15.09.15": "Market-1501", "ILSVRC/imagenet-1k": "ImageNet",
    "path/to/cifar-100-binary": "CIFAR-100", "path/to/waterbird_complete95_forest2water2": "Waterbirds-95",
    "path/to/waterbird_1.0_forest2water2": "Waterbirds-100", "path/to/spawrious224": "Spawrious",
    "path/to/bg_challenge": "ImageNet-9",
}  # fmt: skip
OWN = {"path/to/folder": "your folder", "shapes": "embedded images", "clips": "embedded clips"}
Tables = Callable[[str], Any]


def _by_protocol(
    name: str, dataset: str = "places3", key: str = "lies", says: str = "right where the shortcut lies"
) -> Callable[[Tables], str | None]:
    """Of ResNet-18 in per cent, beside the plain networks of the same seeds and precision; None while there is no line."""

    def said(_: Tables) -> str | None:
        found = tables.split(lines(tables.RESULTS)).get((dataset, "resnet18", "all"), [])
        arms = tables.by_arm(found)
        pairs = [(arms[name][seed].get(key), of.get(key)) for seed, of in tables.beside(arms, name).items()]
        pairs = [(100 * mine, 100 * other) for mine, other in pairs if mine is not None and other is not None]
        if not pairs:
            return None
        own, plain = (statistics.mean(each) for each in zip(*pairs))
        against = "" if name == "plain" else f" against {plain:.1f}"
        return f"{dataset}, {says}: {own:.1f}{against} %"

    return said


def _beside(
    table: str, column: str, arm: str, other: str, says: str, unit: str = "", **where: str
) -> Callable[[Tables], str]:
    def said(full: Tables) -> str:
        found = full(table)
        key = next(title for title in ("arm", "method", "model", "") if title in found.titles)
        own, against = (found.mean(column, **where, **{key: name}) for name in (arm, other))
        return f"{says}: {own} against {against}{unit}"

    return said


CUB = {"data": "cub20", "backbone": "resnet18"}
PETS = {"data": "pets3", "backbone": "resnet18"}
# What was measured with the config as it is, or by a benchmark in its form; docs/results.md has the rest of it.
GAINS: dict[str, Callable[[Tables], str | None]] = {
    "abn_resnet18_folder": _beside("abn", "mask correlation", "abn", "plain", "cub20, map's correlation", **CUB, map="model"),
    "abn_shapes": _beside("shapes", "accuracy", "abn", "plain", "right where the cue lies", " %"),
    "brnpa_folder": _beside("brnpa", "accuracy", "high", "plain", "cub20, accuracy", " %", **CUB),
    "brnpa_distilled_folder": _beside("brnpa", "accuracy", "distilled", "plain", "cub20, accuracy", " %", **CUB),
    "consistency_folder": _beside(
        "few labels", "mask correlation", "both", "supervised", "cub20, 4 labels a class, map's correlation", **CUB, setting="4"
    ),
    "darc_folder": _beside("darc", "mask correlation", "N 1, sides 30 to 50 %", "plain", "pets3, map's correlation", **PETS),
    "energy_folder": _by_protocol("energy, masks 5 %"),
    "group_dro_folder": _by_protocol("group DRO"),
    "mining_folder": _beside("mining", "mask correlation", "mining", "abn", "cub20, map's correlation", **CUB),
    "plain_folder": _by_protocol("plain"),
    "plain_shapes": lambda full: f"right where the cue lies: {full('shapes').mean('accuracy', model='plain')} %",
    "propagate_map_folder": _by_protocol("made abn, boxes 5 %", "cub20", "map_max_box_acc", "MaxBoxAcc"),
    "r3d18_clips": lambda _: "learns the badge: 19.5 % at test, chance 20 %",
    "repair_folder": _by_protocol("repair, masks 5 %"),
    "repair_map_folder": _by_protocol("repair + abn, boxes 5 %"),
    "supervision_folder": lambda _: "4 masks of 24 photographs, map's correlation: 0.63 to 0.70, no control",
    "supervision_shapes": _beside(
        "edited maps", "cue broken", "map supervision", "abn", "edited maps of 5 %, right where the cue lies", " %"
    ),
}  # fmt: skip


@cache
def millions(backbone: str) -> str:
    """Parameters of the network without its classifier."""
    import timm

    if timm.is_model(backbone):
        with torch.device("meta"):
            net = timm.create_model(backbone, num_classes=0)
    else:
        net = ar.wrap(backbone, pretrained=False, num_labels=2).backbone.net
    return f"{sum(parameter.numel() for parameter in net.parameters()) / 1e6:.1f} M"


def _model(name: str) -> dict[str, Any]:
    """The model section, with the backbone of the config that it goes on from."""
    model = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))["model"]
    if "checkpoint" in model:
        before = _model(Path(model["checkpoint"]).parts[1])
        model = {"head": before.get("head"), **model, "backbone": before["backbone"]}
    return model


def _refiners(model: dict[str, Any]) -> str:
    entries = [model.get("head"), *model.get("objectives", [])]
    return ", ".join(each["name"] if isinstance(each, dict) else each for each in entries if each) or "plain"


def table(full: Tables, trained: bool = False) -> list[str]:
    """Markdown, a config a row: those with a gain first. ``trained`` leaves out what was not measured here."""
    rows: dict[bool, list[str]] = {True: [], False: []}
    for file in sorted(CONFIGS.glob("*.yaml")):
        name, source = file.stem, yaml.safe_load(file.read_text(encoding="utf-8"))["data"]["source"]
        gain = GAINS[name](full) if name in GAINS else None
        data = OWN.get(source) or WAITS[source]
        said = gain or (f"not trained: waits for {data}" if source in WAITS else "not measured")
        model = _model(name)
        size = f"{model['backbone']}, {millions(model['backbone'])}"
        cells = [f"`{name}`", _refiners(model), data, said, size, f"`you/{name.replace('_', '-')}`"]
        rows[gain is not None].append("| " + " | ".join(cells) + " |")
    out = ["| config | head, objectives | data | gain here | network, size | hub id |", "|---" * 6 + "|"]
    return out + rows[True] + ([] if trained else rows[False])
