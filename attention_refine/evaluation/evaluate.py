"""``evaluate``: does a model predict well, and are its maps any good? One pass over the data, every sample kept."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset
from tqdm.auto import tqdm

from attention_refine import metrics
from attention_refine.data import fingerprint, is_numbered
from attention_refine.evaluation.batches import evaluation_batches
from attention_refine.evaluation.comparison import Comparison, Difference, compare
from attention_refine.evaluation.groups import group_columns
from attention_refine.evaluation.journal import Journal, digest
from attention_refine.evaluation.judging import Judge, MapFunction, map_names, map_sources
from attention_refine.evaluation.measures import ATTRIBUTED, COSTLY, MEASURES, chosen_measures, names_of
from attention_refine.evaluation.preparing import prepared_for
from attention_refine.evaluation.results import Evaluation, summarise
from attention_refine.maps.conditions import unwrapped
from attention_refine.metrics.measure import COLUMNS

__all__ = ["Comparison", "Difference", "Evaluation", "compare", "evaluate", "map_names"]

PERTURBATION_IMAGES = 100


def evaluate(
    model: nn.Module,
    dataset: Any,
    *,
    measures: Iterable[str] | Mapping[str, Mapping[str, Any]] | None = None,
    maps: Sequence[str] | Mapping[str, MapFunction | None] | None = None,
    groups: str | Sequence[str] | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    perturbation_images: int | None = None,
    perturbation_steps: int = 50,
    seed: int = 0,
    accelerator: Any = None,
    progress: bool = True,
    output: str | Path | None = None,
    resume: bool = False,
) -> Evaluation:
    """Judge a model's predictions and maps on a dataset.

    The maps explain the class that the model predicts. A head with ranked maps is judged by the first, one with a map
    a class by the predicted class's. A sample's values do not depend on the batch it came in, and the order is the
    dataset's.

    Args:
        model: a refined model, or any classifier.
        dataset: anything that :func:`attention_refine.data.as_prepared` takes: a folder, a ``datasets`` dataset, a list
            of (image, label), ..., prepared here with the model's preprocessing; or one already prepared.
            Its classes are matched with the model's by name, in any order and fewer than they if need be; the model
            chooses among all of its own.
        measures: names of :func:`attention_refine.list_measures`, or ``{name: options}`` with options of the function of
            that name in ``metrics``. By default accuracy (top-5 too beyond five classes) and macro F1,
            for several labels an image mean average precision; and for maps: mask correlation, IoU, box IoU, energy
            inside and the pointing game where there is ground truth, insertion and deletion.
        maps: what is judged: ``"model"`` (the default: the head's map, or Grad-CAM without one), any of
            :func:`attention_refine.list_maps`, the controls ``"random"`` and ``"centre"`` (:func:`map_names` lists
            them); or ``{name: function}`` with ``function(model, pixel_values, target) -> (B, 1, h, w)``, None for a
            listed name.
        groups: a column, or several, by whose values accuracy is told apart (``"place"``, ``["group", "aligned"]``); by
            default ``group`` where the dataset has it, and ``[]`` for none. The first is the one that
            ``worst_group_accuracy`` and ``group_gap`` (the best group's accuracy minus the worst's) are of. An image
            without a value counts in no group.
        batch_size: images a forward.
        num_workers: of the loader.
        perturbation_images: how many images the costly measures (insertion, deletion and their kin, attribution,
            randomisation) are taken on, spread evenly over the dataset (of a stream, the first); None for 100. 0 leaves
            these measures out.
        perturbation_steps: points of insertion and deletion: each costs that many forwards an image and map.
        seed: of the random control and the bootstrap.
        accelerator: an ``accelerate.Accelerator``: its processes share the images, and each returns the whole result.
        progress: show a bar on the main process.
        output: a folder that gets ``evaluation.json`` and ``samples.csv``; ``parts/`` in it keeps the images done so
            far.
        resume: continue an evaluation with the same model, data and settings that was cut short in ``output``.

    Raises:
        ValueError: an unknown measure or map, a measure that the network does not allow (it has no tokens to drop),
            ``resume`` without ``output`` or with another model, data or settings
            (:class:`~attention_refine.evaluation.journal.OtherEvaluation`), a map that is not finite, or a label outside
            the model's classes (naming the row).
        DataError: classes that the model does not have, with both lists; groups that the dataset does not have, or that
            are no names (naming the row); as :func:`attention_refine.data.prepare`, and for a file that cannot be read.
    """
    asked = PERTURBATION_IMAGES if perturbation_images is None else perturbation_images
    if batch_size < 1 or perturbation_steps < 1 or asked < 0:
        raise ValueError(
            "batch_size and perturbation_steps must be at least 1 and perturbation_images at least 0, "
            f"got {batch_size}, {perturbation_steps} and {asked}"
        )
    if resume and output is None:
        raise ValueError("resume=True needs output=, the folder of the evaluation to continue")
    model = unwrapped(model)
    if accelerator is not None:
        model.to(accelerator.device)
    dataset = prepared_for(model, dataset)
    stream = isinstance(dataset, IterableDataset)
    size = None if stream else len(dataset)
    if size == 0:
        raise ValueError("the dataset is empty: there is nothing to evaluate on")
    named = list(getattr(model, "labels", None) or [])
    classes = list(getattr(dataset, "class_names", None) or named)
    if is_numbered(classes) and len(named) == len(classes):
        classes = named
    multi_label = _is_multi_label(dataset)
    columns = group_columns(dataset, groups)
    chosen = chosen_measures(measures, len(classes), multi_label, grouped=bool(columns))
    taken = [name for name in columns if name in (*COLUMNS, *names_of(chosen, "labels"))]
    if taken:
        raise ValueError(f"groups={taken[0]!r} is a column that an evaluation has itself: rename it in the dataset")
    sources = map_sources(["model"] if maps is None else maps)
    if not names_of(chosen, "truth", "boxes", "cue", "map", "forwards", "sanity"):
        sources = {}
    judged = list(dict.fromkeys([*sources, *([ATTRIBUTED] if names_of(chosen, "attribution") else [])]))
    settings = {
        "measures": chosen, "maps": judged, "perturbation_images": asked, "seed": seed,
        "perturbation_steps": perturbation_steps, "classes": classes, "multi_label": multi_label, "images": size,
        **({"groups": columns} if columns else {}),
    }  # fmt: skip
    judge = Judge(
        model, chosen, sources, multi_label=multi_label, n_steps=perturbation_steps, seed=seed, classes=len(classes),
        perturbed=_spread(asked if names_of(chosen, *COSTLY) else 0, size),
    )  # fmt: skip
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator is not None else (0, 1)
    journal = None
    if output is not None:
        # The first process's facts: other machines may hold copies of the data that were made at other times.
        facts = _of_first(lambda: {**settings, "weights": digest(model), "data": fingerprint(dataset)}, rank, world)
        journal = Journal(Path(output), facts, resume, rank)
        wait = (lambda: None) if accelerator is None else accelerator.wait_for_everyone
        wait()  # old files are read by all before they go
        journal.begin()
        wait()  # and gone before new ones come

    records = dict(journal.done) if journal else {}
    done, total = (
        sum(position % world == rank for position in records),
        None if stream else len(range(rank, size, world)),
    )
    with tqdm(total=total, initial=done, desc="evaluating", unit="image", disable=not progress or rank > 0) as bar:
        for batch in evaluation_batches(dataset, rank, world, set(records), batch_size, num_workers, columns):
            found = judge(batch)
            if journal:
                journal.add(found)
            records |= found
            bar.update(len(found))
    records = _gathered(records, world)
    if size is not None and len(records) != size:
        raise RuntimeError(f"{len(records)} of {size} images came back from {world} processes: their datasets differ")
    if not records:
        raise ValueError("the dataset is empty: there is nothing to evaluate on")

    skipped = int(getattr(dataset, "skipped_count", 0))
    ordered = [records[position] for position in sorted(records)]
    evaluation = _result(ordered, settings, by_default=measures is None, skipped=skipped)
    if output is not None and rank == 0:
        evaluation.write(Path(output))
    return evaluation


def _is_multi_label(dataset: Any) -> bool:
    if hasattr(dataset, "is_multi_label"):
        return dataset.is_multi_label
    return torch.as_tensor(next(iter(dataset))["labels"]).ndim == 1


def _spread(count: int, size: int | None) -> Container:
    """Positions of ``count`` images spread evenly over the dataset: files often lie in the order of their classes."""
    if size is None:
        return range(count)
    count = min(count, size)
    return {i * size // count for i in range(count)}


def _of_first(found: Callable[[], Any], rank: int, world: int) -> Any:
    """The first process's value on all."""
    value = [found() if rank == 0 else None]
    if world > 1:
        torch.distributed.broadcast_object_list(value)
    return value[0]


def _gathered(records: dict[int, dict], world: int) -> dict[int, dict]:
    if world == 1:
        return records
    shares: list[Any] = [None] * world
    torch.distributed.all_gather_object(shares, records)
    return {position: record for share in shares for position, record in share.items()}


def _result(records: Sequence[dict], settings: dict, by_default: bool, skipped: int) -> Evaluation:
    samples = [record["sample"] for record in records]
    settings = {**settings, "images": len(samples)}
    if by_default:  # measures that nobody asked for, and that nothing can be said of
        measures, truth = settings["measures"], any(sample["truth"] for sample in samples)
        special = names_of(measures, "boxes", "cue")
        found = {m for m in special for n in settings["maps"] for s in samples if s.get(f"{n}/{m}") is not None}
        gone = set(special) - found | (set() if truth else set(names_of(measures, "truth")))
        columns = {f"{name}/{measure}" for name in settings["maps"] for measure in gone}
        samples = [{key: value for key, value in sample.items() if key not in columns} for sample in samples]
        settings["measures"] = {name: options for name, options in measures.items() if name not in gone}
    if not settings["classes"]:
        settings["classes"] = [str(i) for i in range(records[0]["classes"])]
    return Evaluation(summarise(samples, settings, skipped), samples, _mean_curves(records, settings), settings)


def _mean_curves(records: Sequence[dict], settings: dict) -> dict[str, Any]:
    curves: dict[str, Any] = {}
    for name in settings["maps"]:
        for measure in (each for each in settings["measures"] if MEASURES[each].curve is not None):
            found = [r["curves"][f"{name}/{measure}"] for r in records if f"{name}/{measure}" in r["curves"]]
            if found:
                band = metrics.bootstrap_band(torch.tensor([f["curve"] for f in found]), seed=settings["seed"])
                points = {"mean": band.value.tolist(), "low": band.low.tolist(), "high": band.high.tolist()}
                cell = {"fractions": found[0]["fractions"], **points, "level": band.level, "count": band.count}
                curves.setdefault(name, {})[measure] = cell
    return curves
