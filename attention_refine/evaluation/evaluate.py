"""``evaluate``: does a model predict well, and are its maps any good? One pass over the data, every sample kept."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset
from tqdm.auto import tqdm

from attention_refine import metrics
from attention_refine.core.options import taking
from attention_refine.data import fingerprint, is_numbered
from attention_refine.evaluation.batches import evaluation_batches
from attention_refine.evaluation.comparison import Comparison, Difference, compare
from attention_refine.evaluation.config import EvaluationConfig, Settings
from attention_refine.evaluation.groups import group_columns
from attention_refine.evaluation.journal import Journal, digest
from attention_refine.evaluation.judging import Judge, MapFunction, map_names, map_sources
from attention_refine.evaluation.measures import ATTRIBUTED, COSTLY, MEASURES, chosen_measures, names_of
from attention_refine.evaluation.preparing import prepared_for
from attention_refine.evaluation.results import Evaluation, summarise
from attention_refine.maps._conditions import unwrapped
from attention_refine.metrics._registry import COLUMNS

__all__ = ["Comparison", "Difference", "Evaluation", "EvaluationConfig", "compare", "evaluate", "map_names"]

NOTHING = "the dataset is empty: there is nothing to evaluate on"


@taking(EvaluationConfig)
def evaluate(
    model: nn.Module,
    dataset: Any,
    config: EvaluationConfig | None = None,
    *,
    num_workers: int = 0,
    seed: int = 0,
    accelerator: Any = None,
    progress: bool = True,
    output: str | Path | None = None,
    resume: bool = False,
    **options: Any,
) -> Evaluation:
    """Judge a model's predictions and maps on a dataset: one pass, every image's values kept (docs/evaluation.md).

    The maps explain the class that the model predicts: of ranked maps the first, of one a class that class's. An image's
    values do not depend on the batch it came in, and the order is the dataset's.

    Args:
        model: a refined model, or any classifier.
        dataset: a folder, or anything that :func:`attention_refine.data.as_prepared` takes. Its classes meet the model's
            by name, in any order and fewer if need be; the model chooses among all of its own.
        config: what is judged; the defaults where None.
        options: fields of :class:`EvaluationConfig` by keyword, over those of ``config``: ``measures``, names of
            :func:`attention_refine.list_measures` or ``{name: options}``; ``maps``, names of :func:`map_names`, or
            ``{name: function}`` with ``function(model, pixel_values, target) -> (B, 1, h, w)``; ``groups``;
            ``batch_size``; ``perturbation_images``; ``perturbation_steps``. None is the default.
        num_workers: processes of the loader.
        seed: of the random control and the bootstrap.
        accelerator: its processes share the images, and each returns the whole result.
        progress: show a bar on the main process.
        output: a folder for ``evaluation.json`` and ``samples.csv``, and for the images done so far.
        resume: continue there what was cut short with the same model, data and settings.

    Raises:
        ValueError: what is unknown, out of range or does not fit the network; nothing to ``resume``; a map that is not
            finite; a label outside the classes. DataError: other classes, no such groups, a file that cannot be read.
        TypeError: a keyword that is no field.
    """
    asked = _asked(config, options)
    if resume and output is None:
        raise ValueError("resume=True needs output=, the folder of the evaluation to continue")
    model = unwrapped(model)
    if accelerator is not None:
        model.to(accelerator.device)
    dataset = prepared_for(model, dataset)
    settings, sources = _settings(model, dataset, asked, seed)
    judge = _judge(model, settings, sources)
    journal = None if output is None else _journal(Path(output), settings, model, dataset, resume, accelerator)
    loading = {"batch_size": asked.batch_size, "num_workers": num_workers}
    records = _records(judge, dataset, settings, journal, accelerator, progress, loading)
    skipped = int(getattr(dataset, "skipped_count", 0))
    evaluation = _result(records, settings, by_default=asked.measures is None, skipped=skipped)
    if output is not None and _place(accelerator)[0] == 0:
        evaluation.write(Path(output))
    return evaluation


def _asked(config: EvaluationConfig | None, options: Mapping[str, Any]) -> EvaluationConfig:
    """The config with the keywords over it, where any iterable will do for a list, and a name for groups."""
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(given.get("groups"), str):
        given["groups"] = [given["groups"]]
    for name, value in given.items():
        if isinstance(value, Iterable) and not isinstance(value, str):
            given[name] = dict(value) if isinstance(value, Mapping) else list(value)
    return replace(config or EvaluationConfig(), **given)


def _place(accelerator: Any) -> tuple[int, int]:
    """This process's number, and how many there are."""
    return (0, 1) if accelerator is None else (accelerator.process_index, accelerator.num_processes)


def _settings(
    model: nn.Module, dataset: Any, asked: EvaluationConfig, seed: int
) -> tuple[Settings, dict[str, MapFunction | None]]:
    """What is asked of this model and dataset, which the result keeps; and the maps to judge, a function each."""
    size = None if isinstance(dataset, IterableDataset) else len(dataset)
    if size == 0:
        raise ValueError(NOTHING)
    named = list(getattr(model, "labels", None) or [])
    classes = list(getattr(dataset, "class_names", None) or named)
    if is_numbered(classes) and len(named) == len(classes):
        classes = named
    multi_label = _is_multi_label(dataset)
    columns = group_columns(dataset, asked.groups)
    chosen = chosen_measures(asked.measures, len(classes), multi_label, grouped=bool(columns))
    taken = [name for name in columns if name in (*COLUMNS, *names_of(chosen, "labels"))]
    if taken:
        raise ValueError(f"groups={taken[0]!r} is a column that an evaluation has itself: rename it in the dataset")
    sources = map_sources(asked.maps)
    if not names_of(chosen, "truth", "boxes", "cue", "map", "forwards", "sanity"):
        sources = {}
    judged = list(dict.fromkeys([*sources, *([ATTRIBUTED] if names_of(chosen, "attribution") else [])]))
    settings: Settings = {
        "measures": chosen, "maps": judged, "perturbation_images": asked.perturbation_images, "seed": seed,
        "perturbation_steps": asked.perturbation_steps, "classes": classes, "multi_label": multi_label, "images": size,
    }  # fmt: skip
    if columns:
        settings["groups"] = columns
    return settings, sources


def _judge(model: nn.Module, settings: Settings, sources: Mapping[str, MapFunction | None]) -> Judge:
    costly = settings["perturbation_images"] if names_of(settings["measures"], *COSTLY) else 0
    return Judge(
        model, settings["measures"], sources, multi_label=settings["multi_label"], seed=settings["seed"],
        n_steps=settings["perturbation_steps"], classes=len(settings["classes"]),
        perturbed=_spread(costly, settings["images"]),
    )  # fmt: skip


def _journal(
    output: Path, settings: Settings, model: nn.Module, dataset: Any, resume: bool, accelerator: Any
) -> Journal:
    """The images done so far, in the folder; begun by all processes together."""
    rank, world = _place(accelerator)
    # The first process's facts: other machines may hold copies of the data that were made at other times.
    facts = _of_first(lambda: {**settings, "weights": digest(model), "data": fingerprint(dataset)}, rank, world)
    journal = Journal(output, facts, resume, rank)
    wait = (lambda: None) if accelerator is None else accelerator.wait_for_everyone
    wait()  # old files are read by all before they go
    journal.begin()
    wait()  # and gone before new ones come
    return journal


def _records(
    judge: Judge, dataset: Any, settings: Settings, journal: Journal | None, accelerator: Any, progress: bool,
    loading: Mapping[str, int],
) -> list[dict]:  # fmt: skip
    """Every image's record in the dataset's order, of all processes."""
    (rank, world), size = _place(accelerator), settings["images"]
    records = dict(journal.done) if journal else {}
    done = sum(position % world == rank for position in records)
    total = None if size is None else len(range(rank, size, world))
    batches = evaluation_batches(dataset, rank, world, set(records), groups=settings.get("groups", ()), **loading)
    with tqdm(total=total, initial=done, desc="evaluating", unit="image", disable=not progress or rank > 0) as bar:
        for batch in batches:
            found = judge(batch)
            if journal:
                journal.add(found)
            records |= found
            bar.update(len(found))
    records = _gathered(records, world)
    if size is not None and len(records) != size:
        raise RuntimeError(f"{len(records)} of {size} images came back from {world} processes: their datasets differ")
    if not records:
        raise ValueError(NOTHING)
    return [records[position] for position in sorted(records)]


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


def _result(records: Sequence[dict], settings: Settings, by_default: bool, skipped: int) -> Evaluation:
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


def _mean_curves(records: Sequence[dict], settings: Settings) -> dict[str, Any]:
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
