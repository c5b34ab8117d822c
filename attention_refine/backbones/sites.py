"""Where a map can act on a network, found by running it: no table of families, no test on names.

A *site* is a module whose output is a spatial grid that everything flows through (the cut test: force it to another
image's value and the logits are that image's) and whose locations the logits feel (the sensitivity test: scale the
locations and the logits move). The search runs once, when a model is wrapped; the answer is stored in the config.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..layouts import MAX_PREFIX, Layout, from_grid, grid_of, to_grid, token_grid
from .attention import ClassRowGain
from .outputs import first_tensor, logits_of, with_first_tensor

MECHANISMS = ("scale", "attention")
# Relative change of the logits under a gain of 1 + U(0, 1) below which a site counts as one the logits do not feel.
# Class-token networks score 0 to 0.02 where patches are scaled, a real site 0.05 to 1.
FELT = 0.03


class UnsupportedBackbone(ValueError):
    """The network has no usable site; the message says why and what to do."""


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

    def __post_init__(self):
        if self.mechanism not in MECHANISMS:
            raise ValueError(f"mechanism {self.mechanism!r} is not one of {', '.join(MECHANISMS)}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Site:
        return cls(values["name"], Layout(**values["layout"]), values["mechanism"])


def infer_layout(raw: Tensor, image_size: tuple[int, ...]) -> Layout | None:
    """The layout of a raw feature of an image of ``image_size``, or ``None`` where it is no grid of at least 2 cells.

    A 4-D feature is ``NCHW`` when its last two sides have the image's aspect ratio, else ``NHWC`` when the middle two
    have; a 3-D one is tokens with the fewest prefix tokens that leave such a grid. Clips (``image_size`` of three)
    likewise with time.
    """
    height, width = image_size[-2:]

    def tiles(h: int, w: int) -> bool:
        return h * w > 1 and h <= height and w <= width and abs(w - h * width / height) <= (1 if height != width else 0)

    if len(image_size) == 2 and raw.ndim == 4:
        if tiles(*raw.shape[2:]):
            return Layout("NCHW")
        if tiles(*raw.shape[1:3]):
            return Layout("NHWC")
    if len(image_size) == 3 and raw.ndim == 5:
        if tiles(*raw.shape[3:]) and raw.shape[2] <= image_size[0]:
            return Layout("NCTHW")
        if tiles(*raw.shape[2:4]) and raw.shape[1] <= image_size[0]:
            return Layout("NTHWC")
    if raw.ndim == 3:
        for prefix in range(min(MAX_PREFIX, raw.shape[1] - 3)):
            layout = Layout("NLC", prefix, grid_rank=len(image_size))
            try:
                if len(image_size) == 2:
                    token_grid(raw.shape[1] - prefix, image_size)
                else:
                    grid_of(raw, layout, image_size)
            except ValueError:
                continue
            return layout
    return None


def image_size_of(pixel_values: Tensor) -> tuple[int, ...]:
    """``(H, W)`` of a batch of images ``(B, C, H, W)``, or ``(T, H, W)`` of clips ``(B, C, T, H, W)``."""
    return tuple(pixel_values.shape[2:])


@contextmanager
def quiet(net: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, every module's own training flag restored afterwards, also after an exception."""
    flags = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def output_hook(module: nn.Module, hook) -> Iterator[None]:
    """``hook(module, args, output)`` on one module's forward, removed afterwards; what it returns replaces the output."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@dataclass
class _Candidate:
    name: str
    layout: Layout
    grid: tuple[int, ...]
    output: Any
    felt: bool = False


class _Probe:
    """Two images of noise through the network, and the questions a search asks of it."""

    def __init__(self, net: nn.Module, pixel_values: Tensor):
        self.net = net
        self.image_size = image_size_of(pixel_values)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn((2, *pixel_values.shape[1:]), generator=generator).to(pixel_values)
        self.first, self.second = noise[:1], noise[1:]
        self.candidates = self._trace()
        self.logits = self._logits(self.first)
        self.apart = (self._logits(self.second) - self.logits).norm().clamp_min(1e-30)

    def _logits(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            return logits_of(self.net(image)).float()

    def _trace(self) -> list[_Candidate]:
        """Modules that ran once and returned a grid, in the order they finished, with whether the logits feel it."""
        found: list[_Candidate] = []
        runs: dict[str, int] = {}

        def record(name):
            def hook(module, args, output):
                runs[name] = runs.get(name, 0) + 1
                raw = first_tensor(output)
                if raw is None or not raw.is_floating_point() or raw.shape[0] != 1:
                    return
                layout = infer_layout(raw, self.image_size)
                if layout is not None:
                    found.append(_Candidate(name, layout, grid_of(raw, layout, self.image_size), output))

            return hook

        handles = [module.register_forward_hook(record(name)) for name, module in self.net.named_modules() if name]
        try:
            with torch.enable_grad():
                logits = logits_of(self.net(self.first.clone().requires_grad_()))
        finally:
            for handle in handles:
                handle.remove()
        found = [candidate for candidate in found if runs[candidate.name] == 1]
        if not logits.requires_grad:
            raise UnsupportedBackbone("the network's logits do not depend on its input differentiably")
        raws = [first_tensor(candidate.output) for candidate in found]
        tracked = [i for i, raw in enumerate(raws) if raw.requires_grad]
        weights = torch.linspace(1, 2, logits.numel(), device=logits.device).view_as(logits)
        gradients = torch.autograd.grad((logits * weights).sum(), [raws[i] for i in tracked], allow_unused=True)
        for i, gradient in zip(tracked, gradients):
            if gradient is not None:
                on_grid = to_grid(gradient, found[i].layout, self.image_size)
                found[i].felt = bool(on_grid.abs().sum() > 1e-9 * gradient.abs().sum())
        for candidate in found:  # keep values, not the graph
            raw = first_tensor(candidate.output)
            candidate.output = with_first_tensor(candidate.output, raw.detach().clone())
        return found

    def is_cut(self, candidate: _Candidate) -> bool:
        """Whether the second image's logits become the first's once the candidate's output is the first's."""
        with output_hook(self.net.get_submodule(candidate.name), lambda *_: _copy(candidate.output)):
            forced = self._logits(self.second)
        return bool((forced - self.logits).norm() <= 1e-3 * self.apart)

    def effect(self, candidate: _Candidate, gain: Tensor, mechanism: str = "scale") -> float:
        """Relative change of the first image's logits when the candidate's locations are scaled by ``gain``."""
        if mechanism == "attention":
            with ClassRowGain(gain, candidate.layout.prefix) as mode:
                moved = self._logits(self.first)
            if not mode.calls:
                return 0.0
        else:

            def scale(module, args, output):
                raw = first_tensor(output)
                feature = to_grid(raw, candidate.layout, self.image_size) * gain
                return with_first_tensor(output, from_grid(feature, raw, candidate.layout))

            with output_hook(self.net.get_submodule(candidate.name), scale):
                moved = self._logits(self.first)
        spread = (self.logits - self.logits.mean()).norm().clamp_min(1e-30)
        return float((moved - self.logits).norm() / spread)

    def random_gain(self, candidate: _Candidate) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return (1 + torch.rand((1, 1, *candidate.grid), generator=generator)).to(self.first)


def _copy(output: Any) -> Any:
    return with_first_tensor(output, first_tensor(output).clone())  # a later in-place activation may write into it


def _depth(name: str) -> int:
    return name.count(".")


def find_site(net: nn.Module, pixel_values: Tensor, where: str = "before_last_stage") -> Site:
    """The site a head should act on.

    The order tried is: the output before the last change of resolution, where ABN puts it, unless a norm that follows
    undoes the scale; the last grid before pooling; the class row of the attention in the last quarter of the blocks.

    Args:
        net: any classifier.
        pixel_values: an example batch, used for its shape, device and type only.
        where: ``"before_last_stage"``, or ``"last"`` to start from the last grid before pooling.

    Raises:
        UnsupportedBackbone: none of them moves the logits.
    """
    with quiet(net):
        probe = _Probe(net, pixel_values)
        cuts = _Cuts(probe)
        last = next((c for c in reversed(probe.candidates) if cuts(c)), None)
        if last is None:
            raise UnsupportedBackbone(_no_site(net, probe))
        if where == "before_last_stage":
            earlier = [c for c in probe.candidates if _cells(c.grid) > _cells(last.grid) and c.felt]
            if earlier:
                resolution = min(_cells(c.grid) for c in earlier)
                stage = [c for c in enumerate(earlier) if _cells(c[1].grid) == resolution]
                stage.sort(key=lambda item: (_depth(item[1].name), -item[0]))
                candidate = next((c for _, c in stage if cuts(c)), None)
                # A constant gain is what a norm that follows undoes, and what batch norm or none lets through.
                if candidate and probe.effect(candidate, torch.full((), 1.5).to(pixel_values)) > FELT:
                    return Site(candidate.name, candidate.layout)
        for candidate in reversed(probe.candidates):
            if candidate.grid != last.grid:
                break
            if candidate.felt and cuts(candidate):
                if probe.effect(candidate, probe.random_gain(candidate)) > FELT:
                    return Site(candidate.name, candidate.layout)
                break
        blocks = _blocks(probe, cuts)
        if blocks:
            candidate = blocks[len(blocks) - 1 - max(1, len(blocks) // 4)]
            if candidate.layout.prefix and probe.effect(candidate, probe.random_gain(candidate), "attention") > 0:
                return Site(candidate.name, candidate.layout, "attention")
        raise UnsupportedBackbone(_no_site(net, probe))


class _Cuts:
    """The cut test, each module asked once and no more than ``budget`` modules in all."""

    def __init__(self, probe: _Probe, budget: int = 30):
        self.probe, self.budget, self.known = probe, budget, {}

    def __call__(self, candidate: _Candidate) -> bool:
        if candidate.name not in self.known:
            if self.budget == 0:
                return False
            self.budget -= 1
            self.known[candidate.name] = self.probe.is_cut(candidate)
        return self.known[candidate.name]


def _cells(grid: tuple[int, ...]) -> int:
    return grid[-1] * grid[-2]


def _blocks(probe: _Probe, cuts: _Cuts) -> list[_Candidate]:
    """The longest run of numbered siblings (``blocks.0``, ``blocks.1`` …) on the last grid: a transformer's blocks."""
    runs: dict[str, list[_Candidate]] = {}
    for candidate in probe.candidates:
        match = re.fullmatch(r"(.+)\.\d+", candidate.name)
        if match and candidate.grid == probe.candidates[-1].grid:
            runs.setdefault(match.group(1), []).append(candidate)
    longest = max(runs.values(), key=len, default=[])
    return longest if len(longest) > 1 and cuts(longest[0]) else []


def check_site(net: nn.Module, pixel_values: Tensor, name: str, mechanism: str | None = None) -> Site:
    """The site a user asked for by name, put to the same tests as one that was found.

    Raises:
        UnsupportedBackbone: the module does not exist, its output is no grid, something flows past it, or the logits
            do not feel a map there.
    """
    if name not in dict(net.named_modules()):
        raise UnsupportedBackbone(
            f"site {name!r} is not a module of the backbone; try {find_site(net, pixel_values).name!r}"
        )
    with quiet(net):
        probe = _Probe(net, pixel_values)
        candidate = next((c for c in probe.candidates if c.name == name), None)
        if candidate is None:
            usable = ", ".join(repr(c.name) for c in probe.candidates[-4:])
            raise UnsupportedBackbone(f"the output of {name!r} is not a spatial grid; modules that give one: {usable}")
        if not probe.is_cut(candidate):
            raise UnsupportedBackbone(
                f"not everything flows through {name!r}: part of the network goes past it; leave site='auto'"
            )
        for tried in (mechanism,) if mechanism else MECHANISMS:
            if tried == "attention" and not candidate.layout.prefix:
                continue
            if probe.effect(candidate, probe.random_gain(candidate), tried) > (FELT if tried == "scale" else 0):
                return Site(name, candidate.layout, tried)
    raise UnsupportedBackbone(
        f"a map at {name!r} would not move the logits (mechanism {mechanism or 'scale or attention'}): "
        "a normalisation undoes it or the class token ignores it; leave site='auto' or pool patches with pool='avg'"
    )


def _no_site(net: nn.Module, probe: _Probe) -> str:
    return (
        f"{type(net).__name__} at {'x'.join(map(str, probe.image_size))} has no module that every signal passes and whose locations "
        "move the logits; use a larger image, pool patches instead of the class token (pool='avg'), or name one with site=..."
    )


_READING: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Site]] = WeakKeyDictionary()


def reading_site(net: nn.Module, pixel_values: Tensor) -> Site:
    """The module whose output is the last grid the logits still depend on: where Grad-CAM reads.

    For a convolutional network that is the last stage; for a transformer that pools its class token, the input of the
    last block. Found by one forward and backward and a few cut tests on one image, then remembered for the network.
    """
    known = _READING.setdefault(net, {})
    size = tuple(pixel_values.shape[1:])
    if size not in known:
        with quiet(net):
            probe = _Probe(net, pixel_values[:1])
            cuts = _Cuts(probe)
            for candidate in reversed(probe.candidates):
                if candidate.felt and cuts(candidate):
                    known[size] = Site(candidate.name, candidate.layout)
                    break
            else:
                raise UnsupportedBackbone(_no_site(net, probe))
    return known[size]
