"""Write docs/registered.md, the tables of what is registered: ``python docs/tables.py``."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import attention_refine as ar
from attention_refine.heads._base import heads
from attention_refine.metrics._registry import described
from attention_refine.objectives._base import objectives

PAGE = Path(__file__).with_name("registered.md")
BETTER = {True: "high", False: "low", None: ""}


def tables() -> str:
    """The page: heads, objectives, maps and measures, a row each, those of one's own too where they are registered."""
    parts = [
        ("Heads", ("name", "class", "what it is"), [_of_class(*item) for item in sorted(heads.entries.items())]),
        (
            "Objectives",
            ("name", "class", "reads", "what it is"),
            [_of_class(name, cls, _columns(cls)) for name, cls in sorted(objectives.entries.items())],
        ),
        ("Maps", ("name", "kind", "of a class", "can be trained", "what it is"), [_of_map(n) for n in ar.list_maps()]),
        ("Measures", ("name", "title", "better", "needs", "what it is"), [_of_measure(n) for n in ar.list_measures()]),
    ]
    page = "# What is registered\n\nWritten by `python docs/tables.py`; your own is added as [extending.md](extending.md) says.\n"
    for title, head, rows in parts:
        lines = [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]
        page += f"\n## {title}\n" + "\n".join(lines) + "\n"
    return page


def _row(cells) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _said(docstring: str) -> str:
    """The first paragraph of a docstring, as Markdown."""
    text = " ".join(docstring.partition("\n\n")[0].split()).partition(" Options: ")[0]
    return re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"`\1`", text.replace("``", "`"))


def _columns(cls: type) -> str:
    return ", ".join(f"`{name}`" for name in cls.reads)


def _of_class(name: str, cls: type, *cells: str) -> list[str]:
    return [f"`{name}`", f"`{cls.__name__}`", *cells, _said(inspect.getdoc(cls) or "")]


def _of_map(name: str) -> list[str]:
    made = ar.maps.by_name(name)
    yes = {True: "yes", False: ""}
    return [f"`{name}`", made.kind, yes[made.per_class], yes[made.differentiable], _said(made.summary)]


def _of_measure(name: str) -> list[str]:
    made = described(name)
    return [f"`{name}`", made.title, BETTER[made.better], made.needs, _said(made.summary)]


if __name__ == "__main__":
    PAGE.write_text(tables(), encoding="utf-8")
