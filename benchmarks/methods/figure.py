"""Every method's differences to plain in one picture: a row a method, a column a measure, a mark a set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .protocol import NETWORKS
from .tables import GLANCE, REFERENCES, SHOWN, Line, by_arm, interval, paired, split

LEAST = {100: 4.0, 1: 0.05}  # how far a column reaches at least
LOOKS = {"places3": ("#1864ab", "o"), "pets3": ("#d9480f", "s"), "cub20": ("#2b8a3e", "D")}


def draw(
    lines: Sequence[Line], target: Path, network: str = NETWORKS[0], metadata: dict[str, Any] | None = None
) -> None:
    """Of all labelled images, the methods that have a line in one of the sets; one seed is a hollow mark, without a bar."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sets = {
        dataset: by_arm(of)
        for (dataset, name, labels), of in split(lines).items()
        if (name, labels) == (network, "all")
    }
    of_sets = [line for line in lines if line["dataset"] in LOOKS and line["dataset"] in sets]
    names = [
        name
        for name in by_arm(of_sets)
        if name not in REFERENCES["plain"] and any(name in arms for arms in sets.values())
    ]
    figure, axes = plt.subplots(
        1, len(GLANCE), figsize=(13, 1.2 + 0.27 * len(names)), sharey=True, layout="constrained"
    )
    for axis, (key, datasets) in zip(axes, GLANCE):
        centres = [LEAST[SHOWN[key][1]]]
        for place, dataset in enumerate(datasets):
            colour, marker = LOOKS[dataset]
            for row, name in enumerate(names):
                found = paired(sets.get(dataset, {}), name, key)
                if not found:
                    continue
                (mean, half), y = interval(found), row + 0.22 * (place - (len(datasets) - 1) / 2)
                centres.append(abs(mean))
                axis.errorbar(mean, y, xerr=half or None, color=colour, linewidth=1.1, alpha=0.75)
                axis.scatter(
                    mean, y, 26, marker=marker, edgecolors=colour, facecolors=colour if half else "white", zorder=3
                )
        axis.axvline(0, color="#777777", linewidth=1)
        axis.set_title(f"{SHOWN[key][0]}{', points' if SHOWN[key][1] == 100 else ''}", fontsize=10.5)
        axis.grid(alpha=0.25)
        reach = 1.25 * max(centres)
        axis.set_xlim(max(-reach, axis.get_xlim()[0]), min(reach, axis.get_xlim()[1]))  # bars may leave
    axes[0].set_yticks(range(len(names)), names, fontsize=9)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    marks = [
        plt.Line2D([], [], color=colour, marker=marker, linestyle="", label=each)
        for each, (colour, marker) in LOOKS.items()
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(LOOKS), fontsize=9, frameon=False)
    figure.suptitle(
        f"Minus the plain network in the same seeds ({network}); bars: 95 % intervals; hollow: one seed", fontsize=11
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "methods"}
    figure.savefig(target, metadata=metadata)
    plt.close(figure)
