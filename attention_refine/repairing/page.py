"""A repair as a page: a sentence, the same pictures before and after, three numbers; then every figure, and why so."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from attention_refine.auditing.looking import Entries
from attention_refine.auditing.page import TELLING, Drawer, Figure
from attention_refine.auditing.record import Audit
from attention_refine.core.files import atomic_text
from attention_refine.drawing.overlay import legend
from attention_refine.evaluation.judging import Judge
from attention_refine.repairing.changes import Change, percent, signed
from attention_refine.report.page import templates

Examined = tuple[Audit, Judge, Entries]


def write_page(
    path: Path,
    sentence: str,
    headline: Sequence[Change],
    changes: Sequence[Change],
    before: Examined,
    after: Examined | None,
    *,
    title: str,
    steps: Mapping[str, str] | None = None,
    why: str = "",
    config: Mapping[str, Any] | None = None,
    control: bool = True,
    names: tuple[str, str] = ("before", "after"),
    audits: tuple[str, str] = ("before/audit/audit.html", "after/audit/audit.html"),
) -> Path:
    """Write one self-contained HTML file, whole or not at all.

    Args:
        path: of the page.
        sentence: what the repair came to, from :func:`attention_refine.repairing.changes.sentence`.
        headline: the changes of the first screen.
        changes: of the two audits, from :func:`attention_refine.repairing.changes.changes`; empty without ``after``.
        before, after: from :func:`attention_refine.auditing.audit.examined`, of the same images; without ``after`` the
            page shows the one audit.
        steps: what was done: a heading and the code of each.
        why: this recipe, in plain lines.
        config: the recipe, shown folded up.
        control: whether ``before`` had as many updates on as many images as ``after``.
        names: what the two are called.
        audits: where their own pages are, seen from ``path``; those that are not there are not linked.
    """
    links = [
        (name, where) for name, where in zip(names, audits)
        if (path.parent / where).is_file() and (after is not None or name == names[0])
    ]  # fmt: skip
    text = templates("repairing", "report").get_template("repair.html.jinja").render(
        title=title,
        date=datetime.date.today().isoformat(),
        sentence=sentence,
        figures=pictures(before, after, names),
        headline=headline,
        changes=changes,
        before=before[0],
        after=after[0] if after else None,
        names=names,
        total=len(before[0].samples),
        not_looked_at=before[0].not_looked_at,
        steps=steps or {},
        why=[line for line in why.splitlines() if line],
        control=control,
        links=[(name, where.replace(os.sep, "/")) for name, where in links],
        config=yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True) if config else "",
        legend=legend(),
        percent=percent,
        signed=signed,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_text(path, text)
    return path


def pictures(before: Examined, after: Examined | None, names: tuple[str, str] = ("before", "after")) -> list[Figure]:
    """The pictures that the first audit chose, of the one model and then of the other: a typical image and a telling one.

    They are chosen without looking at the second model, so that they need not flatter it.
    """
    audit = before[0]
    flips = {name: audit.flips(name) for name in TELLING if name in audit.scenes}
    drawer = Drawer(*before)
    chosen = drawer.telling(flips)
    found = [(names[0], drawer.drawn(sample, what)) for sample, what in chosen]
    if after is not None:
        drawer, samples = Drawer(*after), {sample["position"]: sample for sample in after[0].samples}
        found += [(names[1], drawer.drawn(samples[sample["position"]], what)) for sample, what in chosen]
    return [replace(figure, caption=f"{name}: {figure.caption}") for name, figure in found]
