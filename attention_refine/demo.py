"""The demo: a plain network, what it leans on, the same network mended from a few boxes, and what it leans on then.

All of it is made of public functions, on the embedded dataset (:mod:`attention_refine.embedded.shapes`), whose background holds a
badge that goes with the class in training and not at test. Nothing is told about the badge: the mending gets boxes round
the *objects* of 5 % of the training images.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from .auditing import Audit
from .auditing.audit import examined, write
from .core.files import atomic_file
from .embedded import shapes
from .evaluation import Evaluation, evaluate
from .mending.propagation import Propagation, propagation
from .objectives import Transplant
from .recipe import Recipe, build_model, prepare_training, shipped
from .refined import Refined
from .repairing.changes import Change
from .repairing.changes import changes as of_audits
from .repairing.page import Examined, write_page
from .training import TrainingConfig, finetune

SIDE = 96  # pixels that images are drawn with; the network sees 64. Drawn with 64 some seeds lost where the badge holds
SHARE = 0.05  # of the training images get a box
EPOCHS = 5  # of mending
COPIES = 0.5  # of the images go on other images' places; the rest keep the badge as weak evidence (chosen on seed 5)
AUDITED = 240  # images that the audits put together anew; the numbers are of all test images
QUICK = {"train": 96, "test": 24, "test_intact": 24}

STEPS = {
    "1. Boxes round the objects of 5 % of the training images become masks for all": """\
rows = data.load_dataset("folder", "train")          # bbox in metadata.jsonl where there is one
masks = ar.propagate(model, rows, method="segmenter")""",
    "2. Trained further with objects put on other images' places": """\
model.add_objective(ar.Transplant(replace=True, copies=0.5))
ar.finetune(model, masks, ar.TrainingConfig(epochs=5, learning_rate=3e-3, output_dir="mended"))""",
}


@dataclass
class Told:
    """What :func:`tell` leaves, by ``"before"`` and ``"after"``; ``where_it_holds`` are evaluations of ``test_intact``."""

    models: dict[str, Refined]
    audits: dict[str, Audit]
    where_it_lies: dict[str, Evaluation]
    where_it_holds: dict[str, Evaluation]
    changes: list[Change]
    masks: Propagation
    boxes: int
    report: Path


def demo(output: str | Path = "attention-refine-demo", seed: int = 0, quick: bool = False) -> Path:
    """Train, look, mend and prove, and write ``report.html``, both audits and the checkpoints.

    Args:
        output: folder; ``plain/`` and ``mended/`` in it hold the two models (``last/``) and their audits.
        seed: of the order of the images, the augmentation, the fresh weights and which images have a box.
        quick: a few steps and images, to see that everything works; the numbers mean nothing then.

    Returns:
        The path of the report.
    """
    return tell(output, seed, quick).report


def tell(output: str | Path, seed: int = 0, quick: bool = False, progress: bool = True) -> Told:
    """:func:`demo`, with everything that it made."""
    output = Path(output)
    rows = {
        split: shapes.make(split, QUICK[split] if quick else None, size=SIDE)
        for split in ("train", "test", "test_intact")
    }
    options = {"seed": seed, "overwrite": True, "progress": progress, "mixed_precision": "auto"} | (
        {"max_steps": 3} if quick else {}
    )
    recipe = Recipe.load(shipped("plain_shapes"), {"training": {"output_dir": str(output / "plain"), **options}})

    torch.manual_seed(seed)  # the fresh network
    plain = build_model(recipe.model, list(shapes.CLASSES))
    finetune(plain, prepare_training(recipe, plain, unannotated(rows["train"])), recipe.training)
    plain = plain.eval()
    before = look(plain, rows["test"], output / "plain" / "audit", seed, progress)
    _say(progress, "look", before[0].verdict)

    few = boxed(rows["train"], seed)
    boxes = sum(box is not None for box in few["bbox"])
    mended, masks = mend(plain, few, recipe, output / "mended", seed, progress)
    _say(progress, "mend", f"boxes of {boxes} images became masks of {len(few)} (IoU with the boxes {masks.iou:.2f})")
    after = look(mended, rows["test"], output / "mended" / "audit", seed, progress)
    _say(progress, "prove", after[0].verdict)

    models = {"before": plain, "after": mended}
    lies = {when: judged(model, rows["test"], seed) for when, model in models.items()}
    holds = {when: judged(model, rows["test_intact"], seed) for when, model in models.items()}
    changes = changed(lies, holds, seed)
    for change in changes:
        _say(progress, "", str(change))
    with atomic_file(output / "numbers.json") as path:
        path.write_text(json.dumps([asdict(change) for change in changes], indent=1))
    report = write_page(
        output / "report.html", sentence(changes, boxes, len(few)), changes, of_audits(before[0], after[0], seed),
        before, after, title="Look, mend, prove", steps=STEPS, control=False,
        audits=("plain/audit/audit.html", "mended/audit/audit.html"),
    )  # fmt: skip
    return Told(models, {"before": before[0], "after": after[0]}, lies, holds, changes, masks, boxes, report)


def unannotated(rows: datasets.Dataset) -> datasets.Dataset:
    """Images and labels alone."""
    return rows.select_columns(["image", "label"])


def boxed(rows: datasets.Dataset, seed: int, share: float = SHARE) -> datasets.Dataset:
    """Images and labels, and the boxes of a share of the images, as many of each class (one at least)."""
    rng, labels, kept = np.random.default_rng(seed), np.array(rows["label"]), set()
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        kept.update(rng.choice(of_class, max(1, round(share * len(of_class))), replace=False).tolist())
    boxes = [box if row in kept else None for row, box in enumerate(rows["bbox"])]
    return unannotated(rows).add_column("bbox", boxes, feature=rows.features["bbox"])


def mend(
    model: Refined, few: datasets.Dataset, recipe: Recipe, output: Path, seed: int, progress: bool = True
) -> tuple[Refined, Propagation]:
    """The model trained further on objects that were put on other images' places; the masks of them all from the few."""
    masks = propagation(model, few, method="segmenter", flip=False, seed=seed, progress=progress)
    mended = copy.deepcopy(model)
    mended.add_objective(Transplant(replace=True, copies=COPIES))
    finetune(mended, prepare_training(recipe, mended, masks.dataset), further(recipe.training, output))
    return mended.eval(), masks


def further(training: TrainingConfig, output: Path) -> TrainingConfig:
    """How the mended model is trained. The last epoch counts: validation images hold the badge too, and would mislead."""
    return replace(training, epochs=EPOCHS, output_dir=str(output))


def look(model: Refined, rows: datasets.Dataset, output: Path, seed: int, progress: bool) -> Examined:
    found = examined(model, rows, limit=AUDITED, seed=seed, progress=progress)
    write(*found, output, title=f"Audit: {output.parent.name} network")
    return found


def judged(model: Refined, rows: datasets.Dataset, seed: int) -> Evaluation:
    return evaluate(
        model, rows, measures=["accuracy", "energy_inside", "energy_on_cue"], perturbation_images=0, seed=seed,
        progress=False,
    )  # fmt: skip


def changed(lies: dict[str, Evaluation], holds: dict[str, Evaluation], seed: int) -> list[Change]:
    """The three numbers: accuracy where the badge lies and where it holds, and the map's energy on a lying badge."""

    def change(name: str, title: str, of: dict[str, Evaluation], column: str, higher: bool = True) -> Change:
        return Change.of(name, title, of["before"].values(column), of["after"].values(column), higher, seed)

    return [
        change("lies", "Right where the badge lies", lies, "correct"),
        change("holds", "Right where the badge tells the truth", holds, "correct"),
        change("energy_on_cue", "Share of the map on the badge", lies, "model/energy_on_cue", False),
    ]


def sentence(changes: list[Change], boxes: int, images: int) -> str:
    """What came of it; a gain within its interval of 0 is none."""
    lies, holds, energy = changes
    if not lies.better:
        return (
            f"Boxes round the objects of {boxes} of {images} training images did not mend this network: where the badge "
            f"lies {_percent(lies.after)} are right, {_percent(lies.before)} before."
        )
    away = ", its map goes off the badge" if energy.better else ""
    kept = "falls to" if holds.better is False else "stays right on"
    return (
        f"Mended with boxes round the objects of {boxes} of {images} training images, a network that read the badge is "
        f"right on {_percent(lies.after)} of the images whose badge lies instead of {_percent(lies.before)}{away}, and "
        f"where the badge tells the truth it {kept} {_percent(holds.after)} ({_percent(holds.before)} before)."
    )


def _percent(cell: Mapping[str, Any]) -> str:
    return f"{100 * cell['value']:.0f}\u00a0%"


def _say(progress: bool, step: str, text: str) -> None:
    if progress:
        print(f"{step:6} {text}".rstrip(), flush=True)
