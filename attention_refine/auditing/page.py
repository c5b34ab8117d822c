"""An audit as a page: the verdict and two pictures first, then the numbers, the flips and the worst images."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import torch
from PIL import Image

from attention_refine.auditing.looking import Entries, Entry, scenes
from attention_refine.auditing.record import Audit
from attention_refine.auditing.scenes import SCENES
from attention_refine.core.files import atomic_text
from attention_refine.drawing.overlay import denormalize, legend, outline, overlay
from attention_refine.evaluation.judging import Judge
from attention_refine.report.gallery import CUE_LINE
from attention_refine.report.page import templates

TELLING = ("cue_moved", "mixed_rand", "cue_removed", "mixed_same")  # scenes whose flips say what the model leans on
SHOWN = 6
DRAWN = 256  # pixels: smaller images are enlarged about so far, for lines that are thin beside them


@dataclass(frozen=True)
class Figure:
    """A picture and what stands under it; ``correct`` colours the prediction, None where there is none."""

    picture: Image.Image
    caption: str
    prediction: str = ""
    correct: bool | None = None
    note: str = ""


def write_page(path: Path, audit: Audit, judge: Judge, entries: Entries, *, title: str) -> Path:
    """Write one self-contained HTML file, whole or not at all."""
    drawer = Drawer(audit, judge, entries)
    flips = {name: audit.flips(name) for name in TELLING if name in audit.scenes}
    text = templates("auditing", "report").get_template("audit.html.jinja").render(
        title=title,
        date=datetime.date.today().isoformat(),
        audit=audit,
        total=len(audit.samples),
        accuracy=next(iter(audit.evaluation.summary["classification"].values()), None),
        pair=drawer.pair(flips),
        scene_titles=SCENES,
        groups=audit.evaluation.summary.get("groups", {}),
        strips=drawer.strips(),
        flips={name: drawer.flipped(name, of[:SHOWN]) for name, of in flips.items() if of},
        flip_lists={name: [drawer.line(sample) for sample in of] for name, of in flips.items()},
        worst=[drawer.seen(sample, drawer.away(sample)) for sample in audit.worst(SHOWN)],
        settings=json.dumps({**audit.settings, "classes": len(audit.settings["classes"])}, indent=2),
        legend=legend(),
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_text(path, text)
    return path


def drawn_map(judge: Judge, item: Mapping[str, Any], map: str, index: int) -> Image.Image:
    """An image in grey under its map, the object's edge in white and the cue's in red; a small image enlarged."""
    pixels = item["pixel_values"][None].to(judge.device)
    _, maps = judge.look(pixels, torch.tensor([index]))
    times = max(1, DRAWN // max(pixels.shape[2:]))
    grey = denormalize(pixels, judge.preprocessing).convert("L")
    grey = grey.resize((grey.width * times, grey.height * times), Image.Resampling.BICUBIC)
    picture = overlay(grey, maps[map][0], 0.55)
    for name, colour in (("mask", (255, 255, 255)), ("cue", CUE_LINE)):
        if item.get(name) is not None:
            region = item[name].repeat_interleave(times, -1).repeat_interleave(times, -2)
            picture = outline(picture, region, colour=colour)
    return picture


class Drawer:
    """Draws an audit's images, with the items and the partners that it had."""

    def __init__(self, audit: Audit, judge: Judge, entries: Entries):
        self.audit, self.judge, self.entries = audit, judge, entries
        self.classes = audit.settings["classes"]
        self.number = {position: number for number, position in enumerate(entries.positions)}
        self.preprocessing = judge.preprocessing

    def pair(self, flips: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Figure]:
        """What the model looks at, on a typical image, and the scene that tells most about it."""
        return [self.drawn(*each) for each in self.telling(flips)]

    def telling(self, flips: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[Mapping[str, Any], str]]:
        """The samples of :meth:`pair`, each with the name of its scene, or with a caption where it is as it is."""
        samples = self.audit.samples
        known = [s for s in samples if s["energy"]["object"] is not None] or samples
        mostly = 2 * sum(bool(s["correct"]) for s in known) >= len(known)  # right or wrong, as a typical image is
        known = [s for s in known if bool(s["correct"]) == mostly]
        known = sorted(known, key=lambda s: s["energy"]["object"] or 0.0)
        typical = known[len(known) // 2]
        first = (typical, "the map, on a typical image")
        drops = {name: self.audit.scenes[name]["difference"]["value"] for name, of in flips.items() if of}
        if drops:
            against = {name: drop for name, drop in drops.items() if name != "mixed_same"} or drops
            name = min(against, key=lambda each: against[each])
            # First of all one that is taken for what its new place is taken for.
            told = [s for s in flips[name] if s["scenes"][name].get("place") == s["flipped_to"]] or flips[name]
            return [first, (told[0], name)]
        scene = next((name for name in TELLING if name in typical["scenes"]), None)
        if scene is not None:
            return [first, (typical, scene)]
        wrong = [sample for sample in self.audit.worst(1) if sample["position"] != typical["position"]]
        return [first, *((sample, "the worst image") for sample in wrong)]

    def drawn(self, sample: Mapping[str, Any], what: str) -> Figure:
        """A sample in a scene of that name, or as it is under that caption."""
        return self.scene(sample, what) if what in SCENES else self.seen(sample, what)

    def strips(self, count: int = 3) -> list[list[Figure]]:
        """The scenes of a few images spread over those that have any."""
        of = [sample for sample in self.audit.samples if sample["scenes"]]
        chosen = [of[i * len(of) // count] for i in range(min(count, len(of)))]
        return [
            [self.seen(sample, "as it is"), *(self.scene(sample, name) for name in SCENES if name in sample["scenes"])]
            for sample in chosen
        ]

    def flipped(self, scene: str, samples: Sequence[Mapping[str, Any]]) -> list[Figure]:
        """Each image with its map, and the scene that is taken for something else."""
        return [figure for sample in samples for figure in (self.seen(sample, "as it is"), self.scene(sample, scene))]

    def seen(self, sample: Mapping[str, Any], caption: str) -> Figure:
        """The image in grey under its map, the object's edge in white and the cue's in red."""
        drawn = drawn_map(
            self.judge, self.entries.items[sample["position"]], self.audit.settings["map"], sample["index"]
        )
        words, right = self.names(sample["prediction"]), sample["correct"]
        return Figure(drawn, f"{self.names(sample['label'])}: {caption}", words, right, self.where(sample))

    def scene(self, sample: Mapping[str, Any], name: str) -> Figure:
        """The image that was put together, as the model saw it."""
        entry: Entry = self.entries[self.number[sample["position"]]]
        mean, std = (torch.tensor(self.preprocessing[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        _, images = scenes([entry], -mean / std)[name]
        found = sample["scenes"][name]
        caption = f"{self.names(sample['label'])}: {SCENES[name].title.lower()}"
        return Figure(
            denormalize(images, self.preprocessing), caption, self.names(found["prediction"]), found["correct"]
        )

    def away(self, sample: Mapping[str, Any]) -> str:
        shares = [
            f"{100 * value:.0f} % of the map on the {part}"
            for part, value in sample["energy"].items()
            if value is not None and part != "rest"
        ]
        return ", ".join(shares) or f"score {sample['score']:.2f}"

    def names(self, classes: int | Sequence[int]) -> str:
        several = classes if isinstance(classes, list) else [classes]
        return ", ".join(self.classes[at] for at in several) or "nothing"

    def where(self, sample: Mapping[str, Any]) -> str:
        return f"row {sample['index']}" + (f", {PurePath(sample['file']).name}" if sample["file"] else "")

    def line(self, sample: Mapping[str, Any]) -> str:
        return f"{self.where(sample)}: {self.names(sample['prediction'])} → {self.names(sample['flipped_to'])}"
