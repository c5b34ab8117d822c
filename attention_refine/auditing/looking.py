"""One pass over the images whose object or cue is known: where the map's energy goes, and what the scenes are taken for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from attention_refine import metrics
from attention_refine.auditing.partners import Candidates
from attention_refine.auditing.scenes import ON_PLACES, object_on, place_of, with_cue_of, without_cue
from attention_refine.backbones import logits_of
from attention_refine.backbones.contexts import quiet
from attention_refine.data.loader import Loader
from attention_refine.evaluation.judging import Judge
from attention_refine.refined import Refined

Item = Mapping[str, Any]
SALT = {"mixed_same": 1, "mixed_rand": 2, "cue_moved": 3}


@dataclass
class Known:
    """What is known of each image, by position: its class (the first of several), its object, its cue."""

    labels: list[int | None]
    objects: list[bool]
    cues: list[bool]


@dataclass
class Entry:
    """An image and those it is put together with, by scene."""

    position: int
    row: int
    item: Item
    has_object: bool
    has_cue: bool
    partners: dict[str, tuple[int, Item]] = field(default_factory=dict)


class Entries(Dataset):
    """The images of which something is known, each with its partners.

    Args:
        items: prepared images.
        places: where other places come from; ``items`` themselves, or others with ``known_places`` of them.
        known, known_places: of either, classes counted alike.
        seed: of the partners.
    """

    def __init__(self, items: Any, places: Any, known: Known, known_places: Known, seed: int):
        self.items, self.places, self.known, self.seed = items, places, known, seed
        self.itself = places is items
        self.positions = [at for at, either in enumerate(zip(known.objects, known.cues)) if any(either)]
        self.lenders = Candidates.among(known_places.labels, known_places.objects)
        self.cues = Candidates.among(known.labels, known.cues)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, number: int) -> Entry:
        at = self.positions[number]
        item, label = self.items[at], self.known.labels[at]
        row = int(item.get("index", at))
        entry = Entry(at, row, item, self.known.objects[at], self.known.cues[at])
        wanted: dict[str, tuple[Candidates, list[int], Any]] = {}
        if entry.has_object:
            wanted["mixed_same"] = self.lenders, [] if label is None else [label], self.places
            wanted["mixed_rand"] = self.lenders, sorted(self.lenders.of_class), self.places
        if entry.has_cue:
            wanted["cue_moved"] = self.cues, [c for c in sorted(self.cues.of_class) if c != label], self.items
        for scene, (candidates, classes, source) in wanted.items():
            itself = at if source is self.items else None
            partner = candidates.draw(row, self.seed, SALT[scene], classes, itself)
            if partner is not None:
                entry.partners[scene] = partner, source[partner]
        return entry


def look(
    model: Refined, judge: Judge, map_name: str, entries: Entries, batch_size: int, num_workers: int, progress: bool
) -> dict[int, dict[str, Any]]:
    """``{position: record}`` of every entry.

    A record holds ``energy`` (shares of the map on ``object``, ``cue`` and ``rest``, None where not known), ``area``
    (shares of the image), and ``scenes``: ``{scene: {"prediction", "correct", "partner"}}``, with ``place``, the
    prediction for the partner's place alone, in ``mixed_rand``.
    """
    records: dict[int, dict[str, Any]] = {}
    loader = Loader(entries, batch_size=batch_size, collate_fn=list, num_workers=num_workers)
    with quiet(model), tqdm(total=len(entries), desc="auditing", unit="image", disable=not progress) as bar:
        for batch in loader:
            records |= _batch(model, judge, map_name, batch)
            bar.update(len(batch))
    return records


def _batch(model: Refined, judge: Judge, map_name: str, entries: Sequence[Entry]) -> dict[int, dict[str, Any]]:
    pixels = _stacked(entries, "pixel_values").to(judge.device)
    index = torch.tensor([entry.row for entry in entries])
    _, maps = judge.look(pixels, index)
    found = [{"scenes": {}} | shares for shares in _energies(maps[map_name], entries)]
    black = _black(model, pixels)
    for scene, (rows, images) in scenes(entries, black).items():
        logits = _logits(model, images.to(judge.device))
        labels = torch.stack([torch.as_tensor(entries[row].item["labels"]) for row in rows])
        right = metrics.correct(logits, labels).bool().tolist()
        for row, prediction, is_right in zip(rows, predictions(logits, labels.ndim == 2), right):
            partner = entries[row].partners.get(scene)
            if scene == "partner_place":
                found[row]["scenes"]["mixed_rand"]["place"] = prediction
                continue
            entry = {"prediction": prediction, "correct": is_right, "partner": partner and partner[0]}
            found[row]["scenes"][scene] = entry
    return {entry.position: record for entry, record in zip(entries, found)}


def scenes(entries: Sequence[Entry], black: Tensor) -> dict[str, tuple[list[int], Tensor]]:
    """Every scene that can be made: the rows it is made for and its images; ``partner_place`` follows ``mixed_rand``.

    Args:
        black: ``(1, 3, 1, 1)``, black as the model takes it.
    """
    made: dict[str, tuple[list[int], Tensor]] = {}
    rows = [row for row, entry in enumerate(entries) if entry.has_object]
    if rows:
        images, mask = _of(entries, rows, "pixel_values"), _of(entries, rows, "mask")
        made["object_alone"] = rows, object_on(images, mask == 1, black.cpu())
        made["place_alone"] = rows, place_of(images, mask != 0)
    for scene in ON_PLACES:
        rows = [row for row, entry in enumerate(entries) if scene in entry.partners]
        if rows:
            others = [entries[row].partners[scene][1] for row in rows]
            places = place_of(_items(others, "pixel_values"), _items(others, "mask") != 0)
            images = object_on(_of(entries, rows, "pixel_values"), _of(entries, rows, "mask") == 1, places)
            made[scene] = rows, images
            if scene == "mixed_rand":
                made["partner_place"] = rows, places
    rows = [row for row, entry in enumerate(entries) if entry.has_cue]
    if rows:
        made["cue_removed"] = rows, without_cue(_of(entries, rows, "pixel_values"), _of(entries, rows, "cue"))
    rows = [row for row, entry in enumerate(entries) if "cue_moved" in entry.partners]
    if rows:
        others = [entries[row].partners["cue_moved"][1] for row in rows]
        made["cue_moved"] = (
            rows,
            with_cue_of(
                _of(entries, rows, "pixel_values"), _of(entries, rows, "cue"),
                _items(others, "pixel_values"), _items(others, "cue"),
            ),
        )  # fmt: skip
    return made


def predictions(logits: Tensor, several: bool) -> list[Any]:
    """The predicted class of each row, or the list of those above one half."""
    if several:
        return [row.nonzero().flatten().tolist() for row in logits > 0]
    return logits.argmax(1).tolist()


def _logits(model: Refined, images: Tensor) -> Tensor:
    with torch.no_grad():
        return logits_of(model(images)).float().cpu()


def _black(model: Refined, pixels: Tensor) -> Tensor:
    mean, std = (pixels.new_tensor(model.preprocessing[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return -mean / std


def _energies(maps: Tensor, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """``energy`` and ``area`` of each image."""
    nothing = torch.zeros(1, *entries[0].item["pixel_values"].shape[-2:], dtype=torch.uint8)
    mask = torch.stack([e.item["mask"] if e.has_object else nothing for e in entries]).to(maps.device)
    cue = torch.stack([e.item["cue"] if e.has_cue else nothing for e in entries]).to(maps.device)
    rest = ((mask == 0) & (cue != 1)).to(torch.uint8).masked_fill(mask == 255, 255)
    regions = {"object": mask, "cue": cue, "rest": rest}
    energy = {name: metrics.energy_inside(maps, region).tolist() for name, region in regions.items()}
    valid = (mask != 255).flatten(1).sum(1).clamp_min(1)
    area = {name: ((region == 1).flatten(1).sum(1) / valid).tolist() for name, region in regions.items()}
    found = []
    for row, entry in enumerate(entries):
        known = {"object": entry.has_object, "cue": entry.has_cue, "rest": True}
        record = {}
        for name, values in (("energy", energy), ("area", area)):
            record[name] = {
                part: value if known[part] and (value := values[part][row]) == value else None for part in regions
            }
        found.append(record)
    return found


def _of(entries: Sequence[Entry], rows: Sequence[int], key: str) -> Tensor:
    return _items([entries[row].item for row in rows], key)


def _items(items: Sequence[Item], key: str) -> Tensor:
    return torch.stack([torch.as_tensor(item[key]) for item in items])


def _stacked(entries: Sequence[Entry], key: str) -> Tensor:
    return _items([entry.item for entry in entries], key)
