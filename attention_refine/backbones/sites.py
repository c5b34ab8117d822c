"""Where a map can act on a network, found by running it: no table of families, no test on names.

A *site* is a module whose output is a spatial grid that everything flows through (the cut test: force it to another
image's value and the logits are that image's) and whose locations the logits feel (the sensitivity test: scale the
locations and the logits move). The search runs once, when a model is wrapped; the answer is stored in the config.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ..layouts import Layout
from .contexts import own_randomness, quiet
from .outputs import feature_of
from .probe import MECHANISMS, Probe, UnsupportedBackbone
from .trace import Candidate

# Relative change of the logits under a gain of 1 + U(0, 1) below which a site counts as one the logits do not feel.
# Class-token networks score 0 to 0.02 where patches are scaled, a real site 0.05 to 1.
FELT = 0.03
# The same for the class row of the attention, which a network that never computes such attention leaves at rounding.
ATTENDED = 1e-5
# Where there is no such attention either: pooled features that are much alike everywhere, normalised after pooling.
FAINT = 1e-3
STEM = 1 / 3  # of the forward pass: a change of resolution before it is patch embedding, not a last stage
TRIES = 8  # modules asked at one resolution
RESERVE = 12  # forwards kept for what comes after the search for the last cut


@dataclass(frozen=True)
class Site:
    """The module whose output a map acts on.

    Args:
        name: the module's name in the network (``"layer3"``).
        layout: how its output is laid out.
        mechanism: ``"scale"`` multiplies the feature by the gain; ``"attention"`` adds the log of the gain to the class
            row of every later attention.
    """

    name: str
    layout: Layout
    mechanism: str = "scale"

    def __post_init__(self) -> None:
        if self.mechanism not in MECHANISMS:
            raise ValueError(f"mechanism {self.mechanism!r} is not one of {', '.join(MECHANISMS)}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Site:
        return cls(values["name"], Layout(**values["layout"]), values["mechanism"])


def find_site(net: nn.Module, pixel_values: Tensor, where: str = "before_last_stage") -> Site:
    """The site a head should act on.

    The order tried is: the output before the last change of resolution, where ABN puts it, unless a norm that follows
    undoes the scale; the last grid before pooling; the class row of the attention in the last quarter of the blocks;
    the last grid once more, where the logits feel it faintly.

    Args:
        net: any classifier.
        pixel_values: an example batch, used for its shape, device and type only.
        where: ``"before_last_stage"``, or ``"last"`` to start from the last grid before pooling; ``"last_grid"`` is the
            last one whether or not the logits feel it, for a head that pools and classifies by itself.

    Raises:
        UnsupportedBackbone: none of them moves the logits.
    """
    with quiet(net), own_randomness(pixel_values.device):
        probe = Probe(net, pixel_values)
        last = _last_cut(probe)
        if last is None:
            raise UnsupportedBackbone(_no_site(net, probe))
        if where == "last_grid":
            last = _inside(probe, last)
            return Site(last.name, last.layout)
        found = _before_last_stage(probe, last) if where == "before_last_stage" else None
        found = found or _on_last_grid(probe, last, FELT) or _in_attention(probe) or _on_last_grid(probe, last, FAINT)
        if found is None:
            raise UnsupportedBackbone(_no_site(net, probe))
        return found


def _last_cut(probe: Probe) -> Candidate | None:
    """The last module that everything flows through; the outermost of those that end together comes first."""
    for candidate in reversed(probe.candidates):
        if probe.left <= RESERVE:
            break
        if probe.is_cut(candidate):
            return candidate
    return None


def _inside(probe: Probe, last: Candidate) -> Candidate:
    """The same feature where it is read: a container may return it beside what it pooled from it."""
    feature = feature_of(last.output)
    for candidate in reversed(probe.candidates):
        same = feature_of(candidate.output)
        if same.shape == feature.shape and same.equal(feature) and probe.is_cut(candidate) and probe.is_read(candidate):
            return candidate
    return last


def _before_last_stage(probe: Probe, last: Candidate) -> Site | None:
    earlier = [c for c in probe.candidates if c.cells > last.cells and c.felt and c.position > STEM]
    if not earlier:
        return None
    resolution = min(c.cells for c in earlier)
    stage = [item for item in enumerate(earlier) if item[1].cells == resolution]
    stage.sort(key=lambda item: (item[1].depth, -item[0]))
    for _, candidate in stage[:TRIES]:
        if probe.is_cut(candidate):
            # A constant gain is what a norm that follows undoes, and what batch norm or none lets through.
            constant = probe.first.new_full((), 1.5)
            return Site(candidate.name, candidate.layout) if probe.effect(candidate, constant) > FELT else None
    return None


def _on_last_grid(probe: Probe, last: Candidate, threshold: float) -> Site | None:
    tries = [c for c in reversed(probe.candidates) if c.grid == last.grid and c.felt][:TRIES]
    candidate = next((c for c in tries if probe.is_cut(c) and probe.is_read(c)), None)
    # The last one decides: felt too little there, what follows normalises it or reads one token.
    if candidate and probe.effect(candidate) > threshold:
        return Site(candidate.name, candidate.layout)
    return None


def _in_attention(probe: Probe) -> Site | None:
    for run in _runs_of_blocks(probe):
        # a quarter of the blocks after the site; the last one alone where they attend with a query of their own
        for index in dict.fromkeys((len(run) - 1 - max(1, len(run) // 4), len(run) - 1)):
            if (
                probe.left > 2
                and probe.is_cut(run[index])
                and probe.effect(run[index], mechanism="attention") > ATTENDED
            ):
                return Site(run[index].name, run[index].layout, "attention")
    return None


def _runs_of_blocks(probe: Probe) -> Iterator[list[Candidate]]:
    """Numbered siblings (``blocks.0``, ``blocks.1`` …) with one grid, last to finish first: a transformer's blocks."""
    runs: dict[tuple[str, tuple[int, ...]], list[Candidate]] = {}
    for candidate in probe.candidates:
        match = re.fullmatch(r"(.+)\.\d+", candidate.name)
        if match:
            key = (match.group(1), candidate.grid)
            runs[key] = [*runs.pop(key, []), candidate]  # reinserted: the order is that of the last member
    return (run for run in reversed(list(runs.values())) if len(run) > 1)


def check_site(
    net: nn.Module,
    pixel_values: Tensor,
    name: str,
    mechanism: str | None = None,
    where: str = "before_last_stage",
) -> Site:
    """The site a user asked for by name, put to the same tests as one that was found.

    With ``where="last_grid"`` the logits need not feel a map there: the head that asks makes its own.

    Raises:
        UnsupportedBackbone: the module does not exist, its output is no grid, something flows past it, or the logits
            do not feel a map there.
    """
    if name not in dict(net.named_modules()):
        raise UnsupportedBackbone(
            f"site {name!r} is not a module of the backbone; try {find_site(net, pixel_values).name!r}"
        )
    with quiet(net), own_randomness(pixel_values.device):
        probe = Probe(net, pixel_values)
        candidate = next((c for c in probe.candidates if c.name == name), None)
        if candidate is None:
            usable = ", ".join(repr(c.name) for c in probe.candidates[-4:])
            raise UnsupportedBackbone(f"the output of {name!r} is not a spatial grid; modules that give one: {usable}")
        if not probe.is_cut(candidate):
            raise UnsupportedBackbone(
                f"not everything flows through {name!r}: part of the network goes past it; leave site='auto'"
            )
        if where == "last_grid":
            return Site(name, candidate.layout)
        for tried in (mechanism,) if mechanism else MECHANISMS:
            if probe.effect(candidate, mechanism=tried) > (FELT if tried == "scale" else ATTENDED):
                return Site(name, candidate.layout, tried)
    raise UnsupportedBackbone(
        f"a map at {name!r} would not move the logits (mechanism {mechanism or 'scale or attention'}): "
        "a normalisation undoes it or the class token ignores it; leave site='auto' or pool patches with pool='avg'"
    )


def _no_site(net: nn.Module, probe: Probe) -> str:
    return (
        f"{type(net).__name__} at {'x'.join(map(str, probe.image_size))} has no module that every signal passes and "
        "whose locations move the logits; use a larger image, pool patches instead of the class token (pool='avg'), or "
        "name one with site=..."
    )


_READING: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Site]] = WeakKeyDictionary()


def reading_site(net: nn.Module, pixel_values: Tensor) -> Site:
    """The module whose output is the last grid the logits still depend on: where Grad-CAM reads.

    For a convolutional network that is the last stage; for a transformer that pools its class token, the input of the
    last block. Found by one forward and backward and a few cut tests on one image, then remembered for the network. A
    wrapped model is read inside its backbone.
    """
    wrapped = getattr(getattr(net, "backbone", None), "net", None)
    if isinstance(wrapped, nn.Module):
        site = reading_site(wrapped, pixel_values)
        return replace(site, name=f"backbone.net.{site.name}")
    known = _READING.setdefault(net, {})
    size = tuple(pixel_values.shape[1:])
    if size not in known:
        with quiet(net), own_randomness(pixel_values.device):
            probe = Probe(net, pixel_values[:1])
            for candidate in reversed(probe.candidates):
                if probe.left > 1 and candidate.felt and probe.is_cut(candidate) and probe.is_read(candidate):
                    known[size] = Site(candidate.name, candidate.layout)
                    break
            else:
                raise UnsupportedBackbone(_no_site(net, probe))
    return known[size]
