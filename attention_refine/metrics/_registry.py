"""Measures by name: :func:`register_measure` enters a function, and evaluation, reports and cards read the registry."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..core.registry import Registry, check_choice, check_name

NEEDS = ("labels", "truth", "boxes", "cue", "volume", "map", "forwards", "attribution")
SCORED = ("target", "score", "batch_size")
STEPPED = (*SCORED, "n_steps")
TAKES = (*STEPPED, "labels")
# Columns that an image of an evaluation has by itself.
COLUMNS = ("index", "file", "label", "prediction", "score", "correct", "truth", "correct_top5", "logits")

measures: Registry[Measure] = Registry("measure")
list_measures = measures.names


@dataclass(frozen=True)
class Measure:
    """One number a sample; for some of what needs labels or boxes, one a data set.

    Attributes:
        title: how a table calls it.
        better: whether higher values are; None where neither direction is better by itself.
        needs: what it is of. ``"labels"``: prediction against label, ``function(logits, labels, **options) -> (B,)``.
            ``"truth"``: map against mask or filled boxes, ``function(maps (B, 1, h, w), mask
            (B, 1, H, W) of 0 and 1, **options) -> (B,)``. ``"boxes"``: map against boxes, ``function(maps, boxes,
            image_size, **options)``. ``"cue"``: map against what should not be looked at, as ``"truth"``. ``"volume"``: a
            clip's map against its masks, frame by frame, ``function(maps (B, 1, t, h, w), mask (B, 1, T, H, W),
            **options) -> (B,)``; NaN for pictures. ``"map"``: the map alone, ``function(maps, **options)``.
            ``"forwards"``: the map against the model, by forwards of altered images, ``function(net, pixel_values, maps,
            **options)``. ``"attribution"``: the model's integrated gradients against
            the mask, as ``"truth"``. ``"groups"`` (predictions by groups of images) and ``"sanity"`` (the map against that
            of an altered model) are the evaluation's own.
        function: None for what the evaluation makes itself.
        reads: what of the function's result is the value, a path of attributes; empty for the result itself.
        curve: what of it has ``.curve`` and ``.fractions``; None without a curve.
        takes: of ``"forwards"``, what else the function is given by keyword, of :data:`TAKES`.
        correct_only: count only images that are classified rightly.
        multi_label: whether it is for several labels an image, or for one; None for both.
        column: of ``"labels"``, where an image's value stands; empty for a figure of the whole set.
        summary: a line on it.
    """

    title: str
    better: bool | None
    needs: str
    function: Callable[..., Any] | None = None
    reads: str = ""
    curve: str | None = None
    takes: tuple[str, ...] = ()
    correct_only: bool = False
    multi_label: bool | None = None
    column: str = ""
    summary: str = ""


def register_measure(
    name: str | None = None,
    *,
    title: str,
    better: bool | None,
    needs: str,
    reads: str = "",
    curve: str | None = None,
    takes: Iterable[str] = (),
    correct_only: bool = False,
    multi_label: bool | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: ``evaluate`` measures with the function where its name is among ``measures``; reports show it.

    A sample's value is a finite number, or NaN where there is none. Samples of a batch do not know of each other.

    Args:
        name: the function's own where None. A name is taken once.
        title, better, needs, reads, curve, takes, correct_only, multi_label: as :class:`Measure` has them.

    Raises:
        ValueError: a name that is taken, or that is no identifier; a ``needs`` or ``takes`` that nothing gives.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        called = name or function.__name__
        owner = f"register_measure({called!r})"
        check_name("measure", called, COLUMNS)
        check_choice(owner, "needs", needs, NEEDS)
        for each in takes:
            check_choice(owner, "takes", each, TAKES)
        summary = " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())
        column = called if needs == "labels" else ""
        made = Measure(
            title, better, needs, function, reads, curve, tuple(takes), correct_only, multi_label, column, summary
        )
        measures.enter(called, made, function)
        return function

    return add


def described(name: str) -> Measure:
    """The measure of that name; one that is not registered here, in an evaluation read from a file, has its name alone."""
    return measures.entries.get(name) or Measure(name.replace("_", " "), None, "map", column=name)
