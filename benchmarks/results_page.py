"""What is made of the pages named in PAGES: the figure, and all that stands between marks.

    python benchmarks/results_page.py            # after a run has added lines to benchmarks/results/, or a table was changed

``<!-- made: NAME -->`` to ``<!-- /made -->`` is written anew: from the lines in benchmarks/results/*.jsonl, or by taking
rows and columns out of a full table of docs/results.md, the one after ``<!-- table: NAME -->``. What stands outside the
marks is written by hand. tests/test_results_page.py holds pages, figure and lines together.
"""

from __future__ import annotations

import hashlib
import re
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import abn_width
import clips_table
import demo
import made_masks
import published
import zoo
from methods import figure as methods_figure
from methods import tables, validation
from methods.protocol import DATASETS, NETWORKS
from methods.registry import METHODS
from methods.tables import interval
from repeated import lines, spread

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / name
    for name in (
        "docs/results.md",
        "docs/benchmark.md",
        "docs/abn.md",
        "docs/propagate.md",
        "docs/repair.md",
        "docs/zoo.md",
        "docs/published.md",
        "README.md",
    )
]
FIGURE = ROOT / "docs" / "images" / "results.svg"
GLANCED = FIGURE.with_name("methods.svg")
SURE = 3  # seeds of which a sentence or a row of the README is made; tables show what there is
DRAWN_METHODS = (  # the others are in GLANCED
    "repair + abn",
    "plain",
    "ceiling",
    "repair",
    "repeated",
    "abn",
    "abn + mining",
    "brnpa",
    "made abn",
    "energy",
    "group DRO",
)
DRAWN = (tables.RESULTS, demo.RESULTS)
MADE = re.compile(r"(<!-- made: (.*?) -->\n).*?<!-- /made -->", re.DOTALL)


# full tables, and what is taken out of them ---------------------------------------------------------------------------


class Table(NamedTuple):
    titles: list[str]
    rows: list[dict[str, str]]

    def cell(self, column: str, **where: str) -> str:
        """The one cell of ``column`` whose row has those values; its mean and spread without what is in brackets."""
        found = [row for row in self.rows if all(row[title] == value for title, value in where.items())]
        if len(found) != 1:
            raise ValueError(f"{len(found)} rows have {where}; accepted are values of one row")
        return found[0][column].split(" (")[0]

    def mean(self, column: str, **where: str) -> str:
        return self.cell(column, **where).split(" ±")[0]


def full_table(name: str) -> Table:
    text = PAGES[0].read_text(encoding="utf-8").split(f"<!-- table: {name} -->")
    if len(text) != 2:
        raise ValueError(f"docs/results.md has {len(text) - 1} tables {name!r}; it needs one")
    block = text[1].strip().split("\n\n")[0].split("\n")
    titles, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block)
    return Table(titles, [dict(zip(titles, row)) for row in rows])


def markdown(titles: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(titles) + " |",
        "|---" * len(titles) + "|",
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def picked(name: str, columns: list[str], keep: Callable[[dict[str, str]], bool] = lambda row: True) -> list[str]:
    table = full_table(name)
    rows = [[row[column].split(" (")[0] for column in columns] for row in table.rows if keep(row)]
    return markdown([column or "arm" for column in columns], rows)


# what is made ---------------------------------------------------------------------------------------------------------


def methods(dataset: str) -> list[str]:
    """Of every network and number of labels with lines: a short table, and folded all measures and the differences."""
    out = []
    for (of_set, network, labels), found in tables.split(lines(tables.RESULTS)).items():
        if of_set != dataset:
            continue
        where = f"{network}, {'all labels' if labels == 'all' else f'{labels} labelled images a class'}"
        out += [f"**{where}**", "", *tables.table(found, tables.SHORT), "", *tables.controls(found)]
        out += folded(f"All measures: {where}", tables.table(found))
        if len(compared := tables.differences(found)) > 2:
            out += folded(f"Differences to plain in the same seeds: {where}", compared)
    return out or ["No cell is there yet."]


def described() -> list[str]:
    """What a method is, and with what it is run."""
    rows = [[name, of.says, ", ".join(of.annotations)] for name, of in METHODS.items()]
    return markdown(["method", "what", "annotation"], rows)


MENDING = (
    "plain", "ceiling", "repair", "repair + energy", "repair + abn", "repeated", "energy", "group balance", "group DRO",
    "DFR", "abn", "abn + mining", "brnpa", "input gradient",
)  # fmt: skip
MENDED = ("overall", "agrees", "lies", "worst_group", "map_mask_correlation", "map_energy_inside")


def repaired() -> list[str]:
    """A sentence for each kind of annotation, and the table of what mends a shortcut, of every network on places3."""
    out = []
    for (dataset, network, labels), found in tables.split(lines(tables.RESULTS)).items():
        if (dataset, labels) != ("places3", "all"):
            continue
        out += [*(f"* {sentence}" for sentence in _closings(network, found)), ""]
        of = [line for line in found if line["method"] in MENDING]
        out += [f"**places3, {network}**", "", *tables.table(of, MENDED), ""]
    return out


def folded(title: str, body: list[str]) -> list[str]:
    return ['<details markdown="1">', f"<summary>{title}</summary>", "", *body, "", "</details>", ""]


def _closings(network: str, found: list[dict[str, Any]]) -> list[str]:
    """Of each arm of annotations: how far it gets, where the place lies."""
    arms = tables.by_arm(found)
    out = []
    for name in (f"repair, {tables.UNANNOTATED}", "repair, masks 5 %", "repair, boxes 5 %"):
        of = {each: tables.beside(arms, name, each) for each in ("plain", "ceiling")}
        seeds = [seed for seed in of["plain"] if seed in of["ceiling"]]
        if len(seeds) < SURE:
            continue
        of["own"] = arms[name]
        lies = {each: statistics.mean(100 * of[each][seed]["lies"] for seed in seeds) for each in of}
        overall = statistics.mean(100 * (of["own"][seed]["overall"] - of["plain"][seed]["overall"]) for seed in seeds)
        fits = tables.values((arms[name][seed] for seed in seeds), "true_iou")
        made = f" The masks that it made fit the true ones with IoU {min(fits):.2f} to {max(fits):.2f}." if fits else ""
        given = f"From the {name.split()[1]} of 30 of 600 training images"
        given = "With nothing annotated" if name.endswith(tables.UNANNOTATED) else given
        out.append(
            f"**{given} {network} gets {tables.closed(name, arms)} of the way** from "
            f"a plain training to one without the shortcut, where the shortcut lies ({lies['plain']:.1f} to {lies['own']:.1f} %; "
            f"ceiling {lies['ceiling']:.1f} %), and {overall:+.1f} points overall ({len(seeds)} seeds).{made}"
        )
    return out


def demonstrated() -> list[str]:
    found = lines(demo.RESULTS)
    keys = {
        "lies": "right where the badge lies",
        "holds": "right where it tells the truth",
        "energy_on_cue": "share of the map on it",
    }
    rows = []
    for when, said in (("before", "before"), ("control", "trained on, not mended"), ("after", "mended, boxes of 5 %")):
        rows.append([said, str(len(found)), *(spread([100 * line[key][when] for line in found], 100) for key in keys)])
    return markdown(["", "seeds", *(f"{title}, %" for title in keys.values())], rows)


def _beside_plain(
    arms: dict[str, dict[int, dict[str, Any]]], name: str, keys: tuple[str, ...], factor: float
) -> tuple[dict[tuple[str, str], float], int]:
    """Means of an arm and of plain over the seeds that both have, and how many those are."""
    own, plain = arms.get(name, {}), tables.beside(arms, name)
    seeds = list(plain)
    means = {
        (which, key): statistics.mean(factor * of[seed][key] for seed in seeds)
        for which, of in (("own", own), ("plain", plain))
        for key in keys
        if seeds
    }
    return means, len(seeds)


def _both() -> list[tuple[str, tuple[dict[str, float], dict[str, float]], int]]:
    """What was annotated, means of plain and of *repair + abn* on places3, and of how many seeds."""
    arms = tables.by_arm(tables.split(lines(tables.RESULTS))["places3", NETWORKS[0], "all"])
    keys = ("lies", "overall", "map_energy_inside", "map_mask_correlation")
    found = []
    for arm in (tables.UNANNOTATED, "boxes 5 %"):
        means, seeds = _beside_plain(arms, f"repair + abn, {arm}", keys, 1)
        plain, own = ({key: means[which, key] for key in keys} for which in ("plain", "own"))
        found.append(
            (arm.replace(" ", " of ", 1) + " of the images" if arm != tables.UNANNOTATED else arm, (plain, own), seeds)
        )
    return found


def predicted_and_mapped() -> list[str]:
    """The same as a table."""
    rows = []
    for given, (plain, own), seeds in _both():
        cells = [
            f"{100 * plain['lies']:.1f} → **{100 * own['lies']:.1f} %**",
            f"{100 * plain['overall']:.1f} → {100 * own['overall']:.1f} %",
        ]
        cells += [f"{plain[key]:.3f} → **{own[key]:.3f}**" for key in ("map_energy_inside", "map_mask_correlation")]
        rows.append([given, *cells, str(seeds)])
    return markdown(
        ["", "right where the place lies", "right overall", "of the map on the animal", "map's correlation", "seeds"],
        rows,
    )


def gained() -> list[str]:
    """The table of the README: what was gained where, and what it cost elsewhere."""
    found = tables.split(line for line in lines(tables.RESULTS) if line["labels_per_class"] == "all")
    rows = []
    for given, (plain, own), seeds in _both():
        rows.append([
            f"[repair of predictions and map](docs/repair.md#predictions-and-map), {given}", "places3 (a shortcut), resnet18",
            "right where the shortcut lies", f"{100 * plain['lies']:.1f} %", f"**{100 * own['lies']:.1f} %**",
            f"share of the map on the animal {plain['map_energy_inside']:.3f} → **{own['map_energy_inside']:.3f}**; "
            f"correlation {plain['map_mask_correlation']:.3f} → {own['map_mask_correlation']:.3f}", str(seeds),
        ])  # fmt: skip
    for (dataset, network, _), of in found.items():
        arms = tables.by_arm(of)
        for arm in (tables.UNANNOTATED, "boxes 5 %") if dataset == "places3" else ():
            means, seeds = _beside_plain(arms, f"repair, {arm}", ("lies", "overall"), 100)
            if seeds < SURE:
                continue
            closed = tables.closed(f"repair, {arm}", arms)
            beside = f"overall {means['plain', 'overall']:.1f} → {means['own', 'overall']:.1f} %"
            if closed != "-":
                beside += f"; closes {closed} of the distance to a network that never saw it"
            given = arm if arm == tables.UNANNOTATED else f"{arm.replace(' ', ' of ', 1)} of the images"
            rows.append([
                f"[repair](docs/repair.md), {given}", f"places3 (a shortcut), {network}",
                "right where the shortcut lies", f"{means['plain', 'lies']:.1f} %", f"**{means['own', 'lies']:.1f} %**", beside,
                str(seeds),
            ])  # fmt: skip
    for (dataset, network, _), of in found.items():
        keys = ("map_energy_inside", "map_mask_correlation", "overall")
        mean, seeds = _beside_plain(tables.by_arm(of), f"made abn, {tables.UNANNOTATED}", keys, 1)
        if seeds:
            rows.append([
                f"[a map that learns made masks](docs/propagate.md), {tables.UNANNOTATED}", f"{dataset}, {network}",
                "share of the map on the object", f"{mean['plain', 'map_energy_inside']:.3f}",
                f"**{mean['own', 'map_energy_inside']:.3f}**",
                f"correlation {mean['plain', 'map_mask_correlation']:.3f} → {mean['own', 'map_mask_correlation']:.3f}; "
                f"accuracy {100 * mean['plain', 'overall']:.1f} → {100 * mean['own', 'overall']:.1f} %", str(seeds),
            ])  # fmt: skip
    shown = lines(demo.RESULTS)
    lies, holds = (
        {when: statistics.mean(100 * line[key][when] for line in shown) for when in ("before", "after")}
        for key in ("lies", "holds")
    )
    rows.append([
        "`demo`: repair, boxes 5 %", "made images with a badge", "right where the badge lies", f"{lies['before']:.1f} %",
        f"**{lies['after']:.1f} %**", f"where it tells the truth {holds['before']:.1f} → {holds['after']:.1f} %", str(len(shown)),
    ])  # fmt: skip
    parts, mining = full_table("brnpa"), full_table("mining")
    for network in ("resnet18", "resnet50"):
        where = {"data": "cub20", "backbone": network}
        rows.append([
            "[BR-NPA](docs/brnpa.md), finer grid", f"cub20 (20 birds), {network}", "accuracy", f"{parts.mean('accuracy', **where, arm='plain')} %",
            f"**{parts.mean('accuracy', **where, arm='high')} %**",
            f"box IoU of the map {parts.mean('box iou', **where, arm='plain')} → {parts.mean('box iou', **where, arm='high')}", "3",
        ])  # fmt: skip
    where = {"data": "pets3", "backbone": "resnet18"}
    rows.append([
        "[map supervision](docs/map_supervision.md), all masks", "pets3 (3 breeds), resnet18", "map's correlation with the animal",
        mining.mean("mask correlation", **where, arm="abn"), f"**{mining.mean('mask correlation', **where, arm='supervision')}**",
        f"accuracy {mining.mean('accuracy', **where, arm='abn')} → {mining.mean('accuracy', **where, arm='supervision')} %", "3",
    ])  # fmt: skip
    few = full_table("few labels")
    where = {"data": "cub20", "backbone": "resnet18", "setting": "4"}
    rows.append([
        "[consistency](docs/consistency.md) beside 4 labels a class", "cub20, resnet18", "map's correlation with the box",
        few.mean("mask correlation", **where, arm="supervised"), f"**{few.mean('mask correlation', **where, arm='both')}**",
        f"accuracy {few.mean('accuracy', **where, arm='supervised')} → {few.mean('accuracy', **where, arm='both')} %", "5",
    ])  # fmt: skip
    for dataset in ("pets3", "cub20"):
        arms = tables.by_arm(found.get((dataset, "resnet18", "all"), []))
        mean, seeds = _beside_plain(arms, "abn", ("map_mask_correlation", "overall"), 1)
        if seeds:
            rows.append([
                "[attention branch](docs/abn.md)", f"{dataset}, resnet18", "map's correlation with the animal",
                f"{mean['plain', 'map_mask_correlation']:.3f}", f"**{mean['own', 'map_mask_correlation']:.3f}**",
                f"accuracy {100 * mean['plain', 'overall']:.1f} → {100 * mean['own', 'overall']:.1f} %", str(seeds),
            ])  # fmt: skip
    return markdown(["what", "data, network", "measure", "without", "with", "beside it", "seeds"], rows)


def branched() -> list[str]:
    """The attention branch beside the plain network of the same seeds, on every set that has both."""
    rows = []
    for (dataset, network, labels), found in tables.split(lines(tables.RESULTS)).items():
        keys = ("overall", "map_mask_correlation", "map_energy_inside")
        mean, seeds = _beside_plain(tables.by_arm(found), "abn", keys, 1)
        if (network, labels) == ("resnet18", "all") and seeds:
            factors = {key: tables.SHOWN[key][1] for key in keys}
            cells = [
                spread([factors[key] * mean[which, key]], factors[key]) for key in keys for which in ("plain", "own")
            ]
            rows.append([dataset, str(seeds), *cells])
    columns = [f"{tables.SHOWN[key][0]}, {name}" for key in keys for name in ("plain", "abn")]
    return markdown(["set", "seeds", *columns], rows)


def masked() -> list[str]:
    """How well made masks fit the true ones of the training images, by what they were made of: of the lines the range."""
    rows = []
    for (dataset, network, labels), found in tables.split(lines(tables.RESULTS)).items():
        cells = []
        for annotation in ("masks 5 %", "boxes 5 %", "none"):
            fits = tables.values((line for line in found if line["annotation"] == annotation), "true_iou")
            cells.append(f"{min(fits):.2f} to {max(fits):.2f}" if fits else "-")
        if labels == "all" and set(cells) != {"-"}:
            rows.append([dataset, network, *cells])
    return markdown(["set", "network", "masks of 5 %", "boxes of 5 %", tables.UNANNOTATED], rows)


def masked_once() -> list[str]:
    """The same of one draw, with other features or networks."""
    arms: dict[tuple[str, str, str], dict[str, float]] = {}
    for line in lines(made_masks.RESULTS):
        arms.setdefault((line["dataset"], line["network"], line["features"]), {})[line["annotation"]] = line["true_iou"]
    rows = [
        [*key, *(f"{of[name]:.2f}" if name in of else "-" for name in ("boxes 5 %", "none"))]
        for key, of in arms.items()
    ]
    return markdown(["set", "network", "features", "boxes of 5 %", tables.UNANNOTATED], rows)


def made_maps() -> list[str]:
    """What a branch's map gains from made masks, on every set and network that has it."""
    out = []
    for (dataset, network, labels), found in tables.split(lines(tables.RESULTS)).items():
        of = [line for line in found if line["method"] in ("plain", "made abn")]
        if labels == "all" and any(line["method"] == "made abn" for line in of):
            out += [f"**{dataset}, {network}**", "", *tables.differences(of, ON_A_MAP), ""]
    return out


ON_A_MAP = ("overall", "map_mask_correlation", "map_energy_inside", "map_max_box_acc")
BLOCKS: dict[str, Callable[[], list[str]]] = {
    "repair places3": repaired,
    "branch": branched,
    "made masks": masked,
    "made masks, one draw": masked_once,
    "made maps": made_maps,
    "methods": described,
    "tried": lambda: [part for name in validation.DATASETS for part in (f"**{name}**", "", *validation.table(name), "")],
    "at a glance": lambda: tables.glance(lines(tables.RESULTS), NETWORKS[0]),
    **{f"methods {dataset}": partial(methods, dataset) for dataset in DATASETS},
    "demo": demonstrated,
    "abn width": lambda: abn_width.table(lines(abn_width.RESULTS)),
    "clips table": lambda: clips_table.tables(lines(clips_table.RESULTS)) or ["No run is finished yet."],
    "gained": gained,
    "predictions and map": predicted_and_mapped,
    "abn": lambda: picked(
        "abn", ["data", "method", "map", "accuracy", "mask correlation", "pointing game"], lambda row: row["backbone"] == "resnet18"
    ),
    "mining": lambda: picked(
        "mining", ["data", "arm", "accuracy", "mask correlation", "pointing game"], lambda row: row["backbone"] == "resnet18"
    ),
    "few labels": lambda: picked(
        "few labels", ["data", "arm", "accuracy", "mask correlation", "iou"],
        lambda row: row["setting"] == "4",
    ),
    "darc": lambda: picked(
        "darc", ["data", "arm", "accuracy", "mask correlation", "iou"],
        lambda row: row["data"] != "shapes" and row["arm"] in ("plain", "N 1", "N 3", "N 1, sides 2 to 10 %", "N 1, sides 30 to 50 %"),
    ),
    "brnpa": lambda: picked(
        "brnpa", ["data", "backbone", "arm", "accuracy", "mask correlation", "energy inside", "iauc"],
        lambda row: row["arm"] in ("plain", "low", "high"),
    ),
    "published": published.tables,
    "zoo": lambda: zoo.table(full_table),
    "zoo trained": lambda: zoo.table(full_table, trained=True),
}  # fmt: skip


def written(page: Path) -> str:
    """The page with every made block anew."""

    def block(found: re.Match[str]) -> str:
        name = found[2]
        if name not in BLOCKS:
            raise ValueError(f"{page.name}: {name!r} is not made; accepted: {', '.join(BLOCKS)}")
        return found[1] + "\n" + "\n".join(BLOCKS[name]()).strip("\n") + "\n\n<!-- /made -->"

    return MADE.sub(block, page.read_text(encoding="utf-8"))


# the figure -----------------------------------------------------------------------------------------------------------

COLOURS = {
    "plain": "#777777",
    "ceiling": "#2b8a3e",
    "abn": "#e8590c",
    "before": "#777777",
    "control": "#a98467",
    "after": "#1864ab",
}


def drawn_from() -> str:
    """Of the lines that the figure shows; the picture carries it."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in DRAWN)).hexdigest()


def draw(target: Path = FIGURE) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(2, 2, figsize=(11, 9.6), layout="constrained")
    axes = grid.flatten()
    found = [
        {**line, "arm": tables.arm(line)}
        for line in lines(tables.RESULTS)
        if line["labels_per_class"] == "all"
        and line["method"] in DRAWN_METHODS
        and not tables.arm(line).endswith("bfloat16")
    ]
    misled = [each for each in found if each["dataset"] == "places3"]
    _arms(axes[0], [each for each in misled if each["network"] == "resnet18"], "lies")
    axes[0].set(title="A shortcut, mended from a few annotations (places3, resnet18)")
    _arms(axes[1], [each for each in misled if each["network"] != "resnet18"], "lies")
    axes[1].set(title="The same, other networks")
    for axis in axes[:2]:
        axis.set_ylabel("right where the shortcut lies, %")
    _arms(axes[2], [each for each in found if each["dataset"] in ("pets3", "cub20")], "overall")
    axes[2].set(title="No shortcut is known (pets3, cub20)", ylabel="accuracy, %")
    for axis in axes[:3]:
        axis.set_xlabel("correlation of the map with the animal (size: CPU seconds)")
    shown = lines(demo.RESULTS)
    for when, said in (
        ("before", "before"),
        ("control", "trained on, not mended"),
        ("after", "mended from boxes of 5 %"),
    ):
        points = {key: [100 * line[key][when] for line in shown] for key in ("energy_on_cue", "lies")}
        _point(axes[3], points["energy_on_cue"], points["lies"], 80, COLOURS[when], said)
    axes[3].set(title="The demo: made images with a badge", xlabel="share of the map on the badge, % (left is better)",
                ylabel="right where the badge lies, %")  # fmt: skip
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.margins(0.12)
        axis.title.set_fontsize(11)
        _name(figure, axis)
    target.parent.mkdir(parents=True, exist_ok=True)
    matplotlib.rcParams |= {
        "svg.fonttype": "none",
        "svg.hashsalt": "results",
    }  # text stays text; the same lines, the same file
    figure.savefig(target, metadata={"Source": drawn_from(), "Date": None})
    plt.close(figure)


def _arms(axis: Any, found: list[dict[str, Any]], measure: str) -> None:
    several = len({(each["dataset"], each["network"]) for each in found}) > 1
    palette = iter(
        ["#1864ab", "#5f3dc4", "#0b7285", "#c2255c", "#d9480f", "#364fc7", "#087f5b", "#862e9c", "#495057"] * 3
    )
    colours: dict[str, str] = {}
    for key in dict.fromkeys((each["dataset"], each["network"], each["arm"]) for each in found):
        of = [each for each in found if (each["dataset"], each["network"], each["arm"]) == key]
        dataset, network, arm = key
        if arm not in colours:
            colours[arm] = COLOURS.get(arm) or next(palette)
        cost = statistics.mean(each["cpu_prepare"] + each["cpu_train"] for each in of)
        where = dataset if measure == "overall" else network.removesuffix("_patch16_224")
        label = f"{arm} ({where})" if several else arm
        _point(
            axis,
            [each["map_mask_correlation"] for each in of],
            [100 * each[measure] for each in of],
            cost / 2,
            colours[arm],
            label,
        )


def _point(axis: Any, across: list[float], up: list[float], size: float, colour: str, label: str) -> None:
    (x, half_x), (y, half_y) = interval(across), interval(up)
    axis.errorbar(x, y, half_y, half_x, color=colour, alpha=0.6, linewidth=1.2, capsize=2)
    axis.scatter([x], [y], s=size, color=colour, alpha=0.85, zorder=3, label=label)


def _name(figure: Any, axis: Any) -> None:
    """Every point's name beside it, towards the middle, and above the name below."""
    figure.canvas.draw()
    left, right = axis.get_xlim()
    below = -1e9
    points = [(*each.get_offsets()[0], each) for each in axis.collections if not each.get_label().startswith("_")]
    for x, y, each in sorted(points, key=lambda point: point[1]):
        on_right = x > (left + right) / 2
        at = max(axis.transData.transform((x, y))[1] + 6, below + 14)
        below = at
        axis.annotate(
            each.get_label(), (x, y), (-8 if on_right else 8, (at - axis.transData.transform((x, y))[1]) * 72 / figure.dpi),
            textcoords="offset points", ha="right" if on_right else "left", fontsize=8.5, color=each.get_facecolor()[0][:3],
        )  # fmt: skip


def main() -> None:
    for page in PAGES:
        text = written(page)
        if text != page.read_text(encoding="utf-8"):
            page.write_text(text, encoding="utf-8")
            print("written:", page.relative_to(ROOT))
    draw()
    methods_figure.draw(lines(tables.RESULTS), GLANCED, metadata={"Source": drawn_from(), "Date": None})
    print("drawn:", FIGURE.relative_to(ROOT), GLANCED.relative_to(ROOT))


if __name__ == "__main__":
    main()
