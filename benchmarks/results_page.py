"""What is made of docs/results.md, docs/abn.md, docs/zoo.md, docs/published.md and README.md: the figure, and all that stands between marks.

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
from pathlib import Path
from typing import Any, NamedTuple

import abn_width
import clips_table
import demo
import published
import repair
import zoo
from repeated import lines, spread
from scipy import stats

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("docs/results.md", "docs/abn.md", "docs/zoo.md", "docs/published.md", "README.md")]
FIGURE = ROOT / "docs" / "images" / "results.svg"
DRAWN = (repair.RESULTS, demo.RESULTS)
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


def repaired(dataset: str) -> list[str]:
    """A sentence, the short table and the full one, of every network that has lines."""
    found = [line for line in lines(repair.RESULTS) if line["dataset"] == dataset]
    out = []
    for network in dict.fromkeys(line["network"] for line in found):
        of = [line for line in found if line["network"] == network]
        if dataset == "places3":
            out += [*(f"* {sentence}" for sentence in _closings(network, of)), ""]
        head, rule, *rows = repair.table(of)[2:-1]
        titles, *cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in (head, *rows))
        wanted = ["arm", "seeds", "overall", "place lies", "worst group", "correlation of the map", "energy inside",
                  "Grad-CAM's correlation", "closes of the distance"]  # fmt: skip
        if dataset == "places3":
            wanted.remove("Grad-CAM's correlation")  # of the heads alone it is another
        kept = [titles.index(title) for title in wanted if title in titles]
        short = markdown([titles[column] for column in kept], [[row[column] for column in kept] for row in cells])
        out += [f"**{dataset}, {network}**", "", *short, ""]
        out += folded(f"All columns of {dataset}, {network}", [head, rule, *rows])
    return out


def folded(title: str, body: list[str]) -> list[str]:
    return ['<details markdown="1">', f"<summary>{title}</summary>", "", *body, "", "</details>", ""]


def _closings(network: str, of: list[dict[str, Any]]) -> list[str]:
    """Of each arm of annotations: how far it gets, where the place lies."""
    cells = {(each["arm"], each["seed"]): each for each in of}
    out = []
    for arm in ("masks 5 %", "boxes 5 %"):
        seeds = [seed for name, seed in cells if name == arm]
        if not seeds or not all((name, seed) in cells for name in ("plain", "ceiling") for seed in seeds):
            continue
        lies = {
            name: statistics.mean(100 * cells[name, seed]["lies"] for seed in seeds)
            for name in (arm, "plain", "ceiling")
        }
        overall = statistics.mean(
            100 * (cells[arm, seed]["overall"] - cells["plain", seed]["overall"]) for seed in seeds
        )
        closed = repair.closed(arm, seeds, cells)
        fits = [cells[arm, seed]["true_iou"] for seed in seeds if "true_iou" in cells[arm, seed]]
        made = (
            f" The masks that it made of them fit the true ones with IoU {min(fits):.2f} to {max(fits):.2f}."
            if fits
            else ""
        )
        out.append(
            f"**From the {arm.split()[0]} of 30 of 600 training images {network} gets {closed} of the way** from a plain training "
            f"to one without the shortcut, where the shortcut lies ({lies['plain']:.1f} to {lies[arm]:.1f} %; ceiling "
            f"{lies['ceiling']:.1f} %), and {overall:+.1f} points overall ({len(seeds)} seeds).{made}"
        )
    return out


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half of the 95 % Student interval; of one value none."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, 0.0
    return mean, float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


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


def gained() -> list[str]:
    """The table of the README: what was gained where, and what it cost elsewhere."""
    rows = []
    found = lines(repair.RESULTS)
    for network in dict.fromkeys(line["network"] for line in found if line["dataset"] == "places3"):
        cells = {
            (each["arm"], each["seed"]): each
            for each in found
            if (each["dataset"], each["network"]) == ("places3", network)
        }
        for arm in ("masks 5 %", "boxes 5 %", "masks 100 %"):
            seeds = [seed for name, seed in cells if name == arm and ("plain", seed) in cells]
            if not seeds:
                continue
            means = {
                (name, key): statistics.mean(100 * cells[name, seed][key] for seed in seeds)
                for name in (arm, "plain") for key in ("lies", "overall")
            }  # fmt: skip
            closed = repair.closed(arm, seeds, cells)
            beside = f"overall {means['plain', 'overall']:.1f} → {means[arm, 'overall']:.1f} %"
            if closed != "-":
                beside += f"; closes {closed} of the distance to a network that never saw it"
            rows.append([
                f"[repair](docs/repair.md), {arm.replace(' ', ' of ', 1)} of the images", f"places3 (a shortcut), {network}",
                "right where the shortcut lies", f"{means['plain', 'lies']:.1f} %", f"**{means[arm, 'lies']:.1f} %**", beside,
                str(len(seeds)),
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
        cells = {
            (each["arm"], each["seed"]): each
            for each in found
            if (each["dataset"], each["network"]) == (dataset, "resnet18")
        }
        seeds = [seed for name, seed in cells if name == "abn" and ("plain", seed) in cells]
        mean = {
            (name, key): statistics.mean(cells[name, seed][key] for seed in seeds)
            for name in ("abn", "plain") for key in ("map_mask_correlation", "overall")
        }  # fmt: skip
        rows.append([
            "[attention branch](docs/abn.md)", f"{dataset}, resnet18", "map's correlation with the animal",
            f"{mean['plain', 'map_mask_correlation']:.3f}", f"**{mean['abn', 'map_mask_correlation']:.3f}**",
            f"accuracy {100 * mean['plain', 'overall']:.1f} → {100 * mean['abn', 'overall']:.1f} %", str(len(seeds)),
        ])  # fmt: skip
    return markdown(["what", "data, network", "measure", "without", "with", "beside it", "seeds"], rows)


BLOCKS: dict[str, Callable[[], list[str]]] = {
    "repair places3": lambda: repaired("places3"),
    "repair pets3": lambda: repaired("pets3"),
    "repair cub20": lambda: repaired("cub20"),
    "demo": demonstrated,
    "abn width": lambda: abn_width.table(lines(abn_width.RESULTS)),
    "clips table": lambda: clips_table.tables(lines(clips_table.RESULTS)) or ["No run is finished yet."],
    "gained": gained,
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
    found = lines(repair.RESULTS)
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
    print("drawn:", FIGURE.relative_to(ROOT))


if __name__ == "__main__":
    main()
