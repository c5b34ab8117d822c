"""Two audits of the same images on one page: what a model leaned on, what was done about it, and what is left of that."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from attention_refine import metrics
from attention_refine.auditing.page import Figure, drawn_map
from attention_refine.auditing.scenes import SCENES
from attention_refine.evaluation.judging import Judge, map_sources
from attention_refine.evaluation.results import cell_of
from attention_refine.report.page import templates
from attention_refine.training.checkpoints import atomic_text

if TYPE_CHECKING:
    from attention_refine.auditing.audit import Audit

SHOWN = 2  # images on the first screen, each before and after
MORE = 6
Cell = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """A number before and after, on the same images: cells with ``value``, ``low`` and ``high`` (95 %, bootstrap).

    Attributes:
        title: what was measured.
        before, after: the two.
        difference: after minus before, paired.
        better: ``"higher"`` or ``"lower"``.
    """

    title: str
    before: Cell
    after: Cell
    difference: Cell
    better: str = "higher"

    @classmethod
    def of(cls, title: str, before: Tensor, after: Tensor, better: str = "higher", seed: int = 0) -> Change:
        """From a value an image, ``(n,)`` each."""
        test = metrics.paired_test(after, before, "permutation", seed=seed)
        difference = {"value": float(test.difference), "low": float(test.low), "high": float(test.high)}
        cells = (cell_of(metrics.bootstrap(each, seed=seed)) for each in (before, after))
        return cls(title, *cells, difference, better)

    @property
    def is_sure(self) -> bool:
        """Whether the difference's interval lies on the better side of 0."""
        return self.difference["low"] > 0 if self.better == "higher" else self.difference["high"] < 0

    def __str__(self) -> str:
        before, after = (
            f"{100 * c['value']:.1f} % ({100 * c['low']:.1f} to {100 * c['high']:.1f})"
            for c in (self.before, self.after)
        )
        return f"{self.title}: {before} before, {after} after"


def write_mended(
    path: str | Path,
    models: Sequence[nn.Module],
    audits: Sequence[Audit],
    items: Any,
    changes: Sequence[Change],
    *,
    title: str,
    sentence: str,
    steps: Mapping[str, str],
    links: Mapping[str, str],
    seed: int = 0,
) -> Path:
    """Write one self-contained HTML file, whole or not at all, and return its path.

    The first screen: a sentence, two images with the maps of both models (images that the first model has wrong, where
    its map is typical of those; the second was not looked at), and the changes.

    Args:
        models: before and after.
        audits: of the two, on the same images.
        items: the prepared images that were audited.
        changes: the numbers of the first screen.
        sentence: what happened.
        steps: what was done, a heading and the code of each.
        links: further pages, by what they are, relative to ``path``.
        seed: of the audits.
    """
    map = audits[0].settings["map"]
    judges = [
        Judge(model, {}, map_sources([map]), multi_label=False, perturbed=(), n_steps=1, seed=seed, classes=0)
        for model in models
    ]
    chosen = _chosen(audits)
    shared = [name for name in SCENES if all(name in audit.scenes for audit in audits)]
    text = templates("auditing", "report").get_template("mended.html.jinja").render(
        title=title,
        date=datetime.date.today().isoformat(),
        sentence=sentence,
        first=[f for at in chosen[:SHOWN] for f in _pair(judges, audits, items, at)],
        more=[f for at in chosen[SHOWN : SHOWN + MORE] for f in _pair(judges, audits, items, at)],
        changes=changes,
        scenes=[(SCENES[name], [audit.scenes[name] for audit in audits]) for name in shared],
        verdicts=[audit.verdict for audit in audits],
        steps=steps,
        links=links,
        total=len(audits[0].samples),
    )  # fmt: skip
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_text(path, text)
    return path


def _chosen(audits: Sequence[Audit]) -> list[int]:
    """Positions of images that the first model has wrong, the most typical of its maps first; then any others.

    They are chosen without looking at the second model, so that they need not flatter it.
    """
    before = audits[0].samples
    wrong = [sample["position"] for sample in before if not sample["correct"]]
    others = [sample["position"] for sample in before if sample["correct"]]

    def typical(positions: list[int]) -> list[int]:
        order = sorted(positions, key=lambda at: before[at]["energy"]["object"] or 0.0)
        from_middle = sorted(enumerate(order), key=lambda each: abs(each[0] - len(order) // 2))
        return [at for _, at in from_middle]

    return typical(wrong) + typical(others)


def _pair(judges: Sequence[Judge], audits: Sequence[Audit], items: Any, at: int) -> list[Figure]:
    figures = []
    for when, judge, audit in zip(("before", "after"), judges, audits):
        sample = audit.samples[at]
        classes = audit.settings["classes"]
        label, prediction = (classes[sample[key]] for key in ("label", "prediction"))
        picture = drawn_map(judge, items[at], audit.settings["map"], sample["index"])
        figures.append(Figure(picture, f"{label}, {when}", prediction, sample["correct"]))
    return figures
