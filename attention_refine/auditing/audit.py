"""``audit``: what does a model lean on? Its maps, its groups, and images put together to find out."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset

from attention_refine import metrics
from attention_refine.auditing.looking import Entries, Known, look
from attention_refine.auditing.page import write_page
from attention_refine.auditing.record import PARTS, Audit, Cell
from attention_refine.auditing.scenes import SCENES
from attention_refine.auditing.verdict import not_looked_at, verdict
from attention_refine.data import match_classes
from attention_refine.evaluation.evaluate import evaluate
from attention_refine.evaluation.judging import Judge, map_sources
from attention_refine.evaluation.preparing import prepared_for
from attention_refine.evaluation.results import cell_of, number
from attention_refine.refined import Refined


def audit(
    model: Refined,
    dataset: Any,
    output: str | Path | None = None,
    *,
    places: Any = None,
    map: str = "model",
    groups: str | Sequence[str] | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    seed: int = 0,
    progress: bool = True,
    title: str | None = None,
) -> Audit:
    """Find out what a model leans on: the object, a cue, or the place.

    Where masks or boxes say what the object is, and cue boxes what should not be looked at, the share of the map on each
    is measured and images are put together: the object on a place of its own class and on one of any class, alone on
    black, gone; the cue removed, or another class's put in (:mod:`attention_refine.auditing.scenes`). A column
    ``group`` tells accuracy apart. What the data does not have is not looked at, and said.

    Accuracy on other places tells of a lean only where places go with classes in ``places``: on a test set whose places
    are mixed already ``gaps["place"]`` is 0 for any model, and ``gaps["believed"]``, which asks the model itself what it
    takes the place for, is what to read; or give the training images as ``places``.

    Args:
        model: a refined model (one without a head, ``ar.wrap(net)``, is audited by its Grad-CAM).
        dataset: as :func:`attention_refine.evaluate` takes it, but no stream: images meet others.
        output: a folder that gets ``audit.html``, ``audit.json`` and ``samples.csv``.
        places: images, prepared or not, from which places are taken; by default ``dataset``.
        map: the map that is looked at, as ``evaluate(maps=[...])`` names it: the model's own by default.
        groups: as :func:`attention_refine.evaluate` takes them.
        limit: so many images, spread evenly over the dataset; None for all. An image with a mask costs about nine
            forwards, with a cue two more.
        batch_size: images a forward. A sample's values do not depend on it.
        num_workers: of the loaders.
        seed: of the partners that images are put together with, and the bootstrap.
        progress: show bars.
        title: of the page.

    Raises:
        ValueError: a stream, a network that is not wrapped, a limit below 1, and what ``evaluate`` raises.
        DataError: as ``evaluate``.
    """
    found, judge, entries = examined(
        model, dataset, places=places, map=map, groups=groups, limit=limit, batch_size=batch_size,
        num_workers=num_workers, seed=seed, progress=progress,
    )  # fmt: skip
    if output is not None:
        write(found, judge, entries, Path(output), title or "Audit: what the model looks at")
    return found


def write(found: Audit, judge: Judge, entries: Entries, output: Path, title: str) -> None:
    """``audit.html``, ``audit.json`` and ``samples.csv`` of what :func:`examined` gave, into a folder."""
    found.to_json(output / "audit.json")
    found.evaluation.to_csv(output / "samples.csv")
    write_page(output / "audit.html", found, judge, entries, title=title)


def examined(
    model: Refined,
    dataset: Any,
    *,
    places: Any = None,
    map: str = "model",
    groups: str | Sequence[str] | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Audit, Judge, Entries]:
    """:func:`audit`, and what its pictures are drawn with. Arguments and errors as there."""
    if isinstance(dataset, IterableDataset) or type(dataset).__name__ == "IterableDataset":
        raise ValueError(
            "an audit puts images together, so it needs them by number: load the dataset without streaming"
        )
    if getattr(model, "preprocessing", None) is None:
        raise ValueError(f"{type(model).__name__} does not say its preprocessing: audit ar.wrap(network, labels=[...])")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, or None for all images, got {limit}")
    items = _limited(prepared_for(model, dataset), limit)
    evaluation = evaluate(
        model, items, maps=[map], groups=groups, batch_size=batch_size, num_workers=num_workers, perturbation_images=0,
        seed=seed, progress=progress,
    )  # fmt: skip
    known = Known(
        [_first(sample["label"]) for sample in evaluation.samples],
        [sample.get(f"{map}/energy_inside") is not None for sample in evaluation.samples],
        [sample.get(f"{map}/energy_on_cue") is not None for sample in evaluation.samples],
    )
    lenders, known_lenders = items, known
    if places is not None:
        lenders = match_classes(prepared_for(model, places), getattr(items, "class_names", ()), "the audited images")
        known_lenders = _known(lenders)
    entries = Entries(items, lenders, known, known_lenders, seed)
    judge = Judge(
        model, {}, map_sources([map]), multi_label=evaluation.settings["multi_label"], perturbed=(), n_steps=1,
        seed=seed, classes=0,
    )  # fmt: skip
    records = look(model, judge, map, entries, batch_size, num_workers, progress) if len(entries) else {}
    samples = [_sample(position, sample, records.get(position)) for position, sample in enumerate(evaluation.samples)]
    settings = {
        "map": map, "seed": seed, "limit": limit, "images": len(samples), "classes": evaluation.settings["classes"],
        "other_places": places is not None, "boxes": _only_boxes(items, known.objects), "made": _made(items),
    }  # fmt: skip
    scenes, gaps = _scene_figures(samples, seed), _gaps(samples, seed)
    found = Audit(
        "", [], _shares(samples, "energy", seed), _shares(samples, "area", seed), scenes, gaps, evaluation, samples,
        settings,
    )  # fmt: skip
    found.verdict, found.not_looked_at = verdict(found), not_looked_at(found)
    return found, judge, entries


def _limited(items: Any, limit: int | None) -> Any:
    if limit is None or limit >= len(items):
        return items
    chosen = [i * len(items) // limit for i in range(limit)]
    if not hasattr(items, "rows"):
        return [items[at] for at in chosen]
    fewer = copy.copy(items)
    fewer.rows = [items.rows[at] for at in chosen]
    return fewer


def _known(items: Any) -> Known:
    """Read of the images themselves, where they are not judged."""
    labels, objects = [], []
    for at in range(len(items)):
        item = items[at]
        label = torch.as_tensor(item["labels"])
        labels.append(_first(label.nonzero().flatten().tolist() if label.ndim else int(label)))
        objects.append("mask" in item and bool(metrics.usable(item["mask"][None])[0]))
    return Known(labels, objects, [False] * len(labels))


def _only_boxes(items: Any, objects: Sequence[bool]) -> bool:
    """Whether the objects are known as boxes, which bring a rim of their place along."""
    first = next((at for at, is_known in enumerate(objects) if is_known), None)
    if first is None:
        return False
    rows = getattr(items, "dataset", None)
    return "boxes" in items[first] and "mask" not in (getattr(rows, "column_names", None) or ())


def _made(items: Any) -> int:
    """Images whose mask a model made (``mask_source``)."""
    rows = getattr(items, "dataset", None)
    if rows is None or "mask_source" not in rows.column_names:
        return 0
    sources = rows["mask_source"]
    return sum(sources[row] in ("model", "words") for row in items.rows)


def _first(label: Any) -> int | None:
    return (label[0] if label else None) if isinstance(label, list) else label


def _sample(position: int, sample: Mapping[str, Any], record: Mapping[str, Any] | None) -> dict[str, Any]:
    kept = {key: sample[key] for key in ("index", "file", "label", "prediction", "score", "correct")}
    nothing = {"energy": dict.fromkeys(PARTS), "area": dict.fromkeys(PARTS), "scenes": {}}
    return {"position": position, **kept, **(record or nothing)}


def _shares(samples: Sequence[Mapping[str, Any]], what: str, seed: int) -> dict[str, Cell]:
    cells = {}
    for part in PARTS:
        values = [s[what][part] for s in samples if s["energy"][part] is not None]
        if values:
            cells[part] = cell_of(metrics.bootstrap(torch.tensor(values, dtype=torch.float64), seed=seed))
    return cells if set(cells) - {"rest"} else {}


def _scene_figures(samples: Sequence[Mapping[str, Any]], seed: int) -> dict[str, dict[str, Any]]:
    figures = {}
    for scene in SCENES:
        of = [sample for sample in samples if scene in sample["scenes"]]
        if not of:
            continue
        before = torch.tensor([float(s["correct"]) for s in of])
        after = torch.tensor([float(s["scenes"][scene]["correct"]) for s in of])
        changed = torch.tensor([float(s["scenes"][scene]["prediction"] != s["prediction"]) for s in of])
        figures[scene] = {
            "accuracy": cell_of(metrics.bootstrap(after, seed=seed)),
            "original": cell_of(metrics.bootstrap(before, seed=seed)),
            "difference": _paired(after, before, seed),
            "changed": cell_of(metrics.bootstrap(changed, seed=seed)),
        }
    return figures


def _gaps(samples: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Cell]:
    found = {}
    both = [s["scenes"] for s in samples if "mixed_same" in s["scenes"] and "mixed_rand" in s["scenes"]]
    if both:
        same, rand = (
            torch.tensor([float(scenes[name]["correct"]) for scenes in both]) for name in ("mixed_same", "mixed_rand")
        )
        found["place"] = _paired(same, rand, seed)
    believed = _believed([s for s in samples if "mixed_rand" in s["scenes"]], seed)
    return found | ({"believed": believed} if believed else {})


def _believed(samples: Sequence[Mapping[str, Any]], seed: int) -> Cell | None:
    """Whether predictions follow what the model takes the place for; None where no class has places of both kinds.

    Which place an image got was drawn without looking, so that within a class nothing else sets the two kinds apart.
    """
    if not samples:
        return None
    scenes = [sample["scenes"]["mixed_rand"] for sample in samples]
    agrees = torch.tensor([_share_a_class(scene["place"], s["label"]) for scene, s in zip(scenes, samples)])
    labels = torch.tensor([_first(sample["label"]) for sample in samples])
    right = torch.tensor([float(scene["correct"]) for scene in scenes], dtype=torch.float64)
    kinds, count = 2 * labels + agrees, 2 * (int(labels.max()) + 1)

    def sides(rows: torch.Tensor) -> torch.Tensor:
        """Accuracy where the place agrees and where it lies; a class weighs n m / (n + m) of its n and m images."""
        number = torch.bincount(kinds[rows], minlength=count).double().view(-1, 2)
        hits = torch.bincount(kinds[rows], weights=right[rows], minlength=count).view(-1, 2)
        both = (number > 0).all(1)
        number, hits = number[both], hits[both]
        weight = number.prod(1, keepdim=True) / number.sum(1, keepdim=True)
        return (weight * hits / number).sum(0).flip(0) / weight.sum()

    every = torch.arange(len(samples))
    there, lying = sides(every).tolist()
    if math.isnan(there):
        return None
    cell = cell_of(metrics.bootstrap_statistic(lambda rows: sides(rows)[0] - sides(rows)[1], every, seed=seed))
    return cell | {"agrees": there, "lies": lying}


def _share_a_class(prediction: Any, label: Any) -> bool:
    return bool(set(prediction) & set(label)) if isinstance(label, list) else prediction == label


def _paired(a: torch.Tensor, b: torch.Tensor, seed: int) -> Cell:
    test = metrics.paired_test(a, b, "permutation", seed=seed)
    names = ("low", "high", "p_value", "count", "excluded")
    return {"value": number(test.difference), **{name: number(getattr(test, name)) for name in names}}
