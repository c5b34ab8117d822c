"""Tables of the lines: means over seeds, differences to plain in the same seeds with intervals, Holm over a table."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from repeated import spread
from scipy import stats

from attention_refine.metrics import holm

from .registry import FIRST, METHODS

RESULTS = Path(__file__).resolve().parents[1] / "results" / "methods.jsonl"
Line = dict[str, Any]
REFERENCES = {name: (name, f"{name}, bfloat16") for name in FIRST}  # what their rows are called
UNANNOTATED = "nothing annotated"
SHOWN = {  # a line's key: the column, its factor; of all sets those that have it
    "overall": ("accuracy", 100),
    "agrees": ("where the shortcut holds", 100),
    "lies": ("where it lies", 100),
    "worst_group": ("worst group", 100),
    "macro_f1": ("macro F1", 100),
    "map_mask_correlation": ("map's correlation", 1),
    "map_energy_inside": ("energy inside", 1),
    "map_energy_on_cue": ("energy on the cue", 1),
    "map_max_box_acc": ("MaxBoxAcc", 100),
    "map_pxap": ("PxAP", 1),
    "map_map_average_precision": ("pixel AP", 1),
    "map_pointing_game": ("pointing game", 100),
    "map_insertion": ("insertion", 1),
    "map_deletion": ("deletion", 1),
    "map_road": ("ROAD", 1),
    "map_sparsity": ("sparsity", 1),
    "grad_cam_mask_correlation": ("Grad-CAM's correlation", 1),
    "grad_cam_energy_inside": ("its energy inside", 1),
    "relative": ("cost of an update", 1),
    "gmacs": ("GMACs", 1),
}
SHORT = (
    "overall",
    "lies",
    "worst_group",
    "map_mask_correlation",
    "map_energy_inside",
    "grad_cam_mask_correlation",
    "relative",
)
GLANCE = (  # what is seen of all sets at a glance, and of which
    ("lies", ("places3",)),
    ("overall", ("pets3", "cub20")),
    ("map_mask_correlation", ("places3", "pets3", "cub20")),
    ("map_energy_inside", ("places3", "pets3", "cub20")),
)
COMPARED = ("overall", "lies", "map_mask_correlation", "map_energy_inside")


def arm(line: Line) -> str:
    """What a row is called: the method, and what it is annotated with where that is masks or boxes, or could be; of what others
    are compared with, the precision, too."""
    annotation, name = line["annotation"], line["method"]
    if name in FIRST:
        return _reference(name, line)
    if annotation == "none" and METHODS[name].propagate:
        return f"{name}, {UNANNOTATED}"
    return name if annotation in ("none", "groups", "cues") else f"{name}, {annotation}"


def _reference(name: str, line: Line) -> str:
    return REFERENCES[name][line["mixed_precision"] == "bf16"]


def beside(arms: dict[str, dict[int, Line]], name: str, reference: str = "plain") -> dict[int, Line]:
    """``{seed: line}`` of what the lines of an arm are compared with: that of the same seed and precision, where there is one."""
    own = arms.get(name, {})
    pairs = {seed: arms.get(_reference(reference, line), {}).get(seed) for seed, line in own.items()}
    return {seed: line for seed, line in pairs.items() if line is not None}


def by_arm(lines: Iterable[Line]) -> dict[str, dict[int, Line]]:
    """``{arm: {seed: line}}`` of lines of one table, in the order of the registry."""
    found: dict[str, dict[int, Line]] = defaultdict(dict)
    order = [(name, annotation) for name, of in METHODS.items() for annotation in of.annotations]
    for line in sorted(lines, key=lambda line: (order.index((line["method"], line["annotation"])), line["seed"])):
        found[arm(line)][line["seed"]] = line
    return dict(found)


def split(lines: Iterable[Line]) -> dict[tuple[str, str, int | str], list[Line]]:
    """The lines of each set, network and number of labels: those that can stand in one table."""
    found: dict[tuple[str, str, int | str], list[Line]] = defaultdict(list)
    for line in lines:
        found[line["dataset"], line["network"], line["labels_per_class"]].append(line)
    return dict(found)


def values(lines: Iterable[Line], key: str) -> list[float]:
    return [line[key] for line in lines if line.get(key) is not None]


def table(lines: Sequence[Line], columns: Sequence[str] = tuple(SHOWN)) -> list[str]:
    """Markdown, an arm a row: mean ± standard deviation over its seeds."""
    arms = by_arm(lines)
    shown = [key for key in columns if any(values(of.values(), key) for of in arms.values())]
    closes = any(beside(arms, name, "ceiling") for name in arms)
    titles = ["method", "seeds", *(SHOWN[key][0] for key in shown), *(["closes of the distance"] if closes else [])]
    out = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, of in arms.items():
        cells = []
        for key in shown:
            found = [SHOWN[key][1] * value for value in values(of.values(), key)]
            cells.append(
                f"{statistics.mean(found):.2f}"
                if key in ("relative", "gmacs") and found
                else spread(found, SHOWN[key][1])
            )
        if closes:
            cells.append(closed(name, arms))
        out.append(f"| {name} | {_seeds(name, of)} | " + " | ".join(cells) + " |")
    return out


def _seeds(name: str, of: dict[int, Line]) -> str:
    """How many, and how many of them were trained in bfloat16 where the name does not say it."""
    fast = sum(line["mixed_precision"] == "bf16" for line in of.values())
    if not fast or name.endswith("bfloat16"):
        return str(len(of))
    return f"{len(of)}, bf16" if fast == len(of) else f"{len(of)}, {fast} bf16"


def controls(lines: Sequence[Line]) -> list[str]:
    """A sentence on maps that look at nothing, where a line has them: a random one's energy is the object's share."""
    of = [line for line in lines if "random_energy_inside" in line]
    if not of:
        return []
    shown = {
        (name, key): statistics.mean(values(of, f"{name}_{key}"))
        for name in ("random", "centre")
        for key in ("energy_inside", "mask_correlation", "max_box_acc")
    }
    return [
        f"*On these images a random map has energy inside {shown['random', 'energy_inside']:.3f}, the objects' share of them; a map of "
        f"the middle has energy inside {shown['centre', 'energy_inside']:.3f}, correlation {shown['centre', 'mask_correlation']:.3f} and "
        f"MaxBoxAcc {100 * shown['centre', 'max_box_acc']:.1f}.*",
        "",
    ]


def closed(name: str, arms: dict[str, dict[int, Line]]) -> str:
    """Of the distance from plain to the ceiling where the shortcut lies, seed by seed; 95 % Student interval of the mean."""
    plain, ceiling = beside(arms, name), beside(arms, name, "ceiling")
    shared = [seed for seed in arms[name] if seed in plain and seed in ceiling]
    if not shared or any(name in of for of in REFERENCES.values()):
        return "-"
    shares = [
        100 * (arms[name][seed]["lies"] - plain[seed]["lies"]) / (ceiling[seed]["lies"] - plain[seed]["lies"])
        for seed in shared
    ]
    mean, half = interval(shares)
    return f"{mean:.0f} %" if len(shares) < 2 else f"{mean:.0f} % [{mean - half:.0f}, {mean + half:.0f}]"


def interval(found: Sequence[float]) -> tuple[float, float]:
    """Mean and half of the 95 % Student interval; of one value none."""
    mean = statistics.mean(found)
    if len(found) < 2:
        return mean, 0.0
    return mean, float(stats.t.ppf(0.975, len(found) - 1)) * statistics.stdev(found) / math.sqrt(len(found))


def paired(arms: dict[str, dict[int, Line]], name: str, key: str) -> list[float]:
    """An arm minus plain of the same precision, of every seed in which both have the figure; in points where it is a share."""
    pairs = [(arms[name][seed].get(key), plain.get(key)) for seed, plain in beside(arms, name).items()]
    return [SHOWN[key][1] * (own - other) for own, other in pairs if own is not None and other is not None]


def differences(lines: Sequence[Line], columns: Sequence[str] = COMPARED) -> list[str]:
    """Markdown, an arm a row: the mean difference to plain in the same seeds with its 95 % Student interval.

    A star: the paired t test's p, corrected by Holm over all comparisons of the table, is below 0.05. Arms with one seed
    have no interval and are not tested.
    """
    arms = by_arm(lines)
    names = [name for name in arms if name not in REFERENCES["plain"]]
    found = {(name, key): paired(arms, name, key) for name in names for key in columns}
    tested = [each for each, pairs in found.items() if len(pairs) > 1 and statistics.stdev(pairs) > 0]
    sure = dict(zip(tested, holm([float(stats.ttest_1samp(found[each], 0).pvalue) for each in tested])))
    shown = [key for key in columns if any(found[name, key] for name in names)]
    out = ["| minus plain | " + " | ".join(SHOWN[key][0] for key in shown) + " |", "|---" * (1 + len(shown)) + "|"]
    for name in names:
        if any(found[name, key] for key in shown):
            cells = [_difference(found[name, key], SHOWN[key][1], sure.get((name, key), 1.0)) for key in shown]
            out.append(f"| {name} | " + " | ".join(cells) + " |")
    return out


def glance(lines: Iterable[Line], network: str) -> list[str]:
    """Markdown, an arm a row, of all sets: the mean difference to plain. Bold where its 95 % interval lies above 0, in italics
    where it lies below, and in brackets that of one seed."""
    kept = [line for line in lines if (line["network"], line["labels_per_class"]) == (network, "all")]
    sets = {dataset: by_arm(line for line in kept if line["dataset"] == dataset) for _, of in GLANCE for dataset in of}
    columns = [(key, dataset) for key, of in GLANCE for dataset in of]
    titles = ["minus plain", *(f"{dataset}: {SHOWN[key][0]}" for key, dataset in columns), SHOWN["relative"][0]]
    out = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name in by_arm(kept):
        cells = [_short(paired(sets[dataset], name, key), SHOWN[key][1]) for key, dataset in columns]
        if name in REFERENCES["plain"] or set(cells) == {"-"}:
            continue
        costs = [cost for arms in sets.values() for cost in values(arms.get(name, {}).values(), "relative")]
        out.append(f"| {name} | " + " | ".join([*cells, f"{statistics.mean(costs):.1f}" if costs else "-"]) + " |")
    return out


def _short(found: list[float], factor: int) -> str:
    if not found:
        return "-"
    mean, half = interval(found)
    text = f"{mean:+.{1 if factor == 100 else 2}f}"
    if len(found) < 2:
        return f"({text})"
    return f"**{text}**" if mean > half else f"*{text}*" if mean < -half else text


def _difference(pairs: list[float], factor: int, p: float) -> str:
    if not pairs:
        return "-"
    mean, half = interval(pairs)
    digits = 1 if factor == 100 else 3
    if len(pairs) < 2:
        return f"{mean:+.{digits}f}"
    return f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]" + "*" * (p < 0.05)
