"""Two images of noise through a network, and the questions a search for a site asks of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from ..layouts import from_grid, to_grid
from .attention import ClassRowGain
from .calibrate import liven
from .outputs import feature_of, logits_of, with_first_tensor
from .partial_forward import answering
from .trace import Candidate, image_size_of, trace

MECHANISMS = ("scale", "attention")
BUDGET = 32  # forwards of one image, of the 40 a search may cost: the first, with its gradient, counts for several
_SAME = 1e-3  # of the distance between the two images' logits
_DEAD = 1e-4  # of the logits: two images this close cannot be told apart in float32


class UnsupportedBackbone(ValueError):
    """The network has no usable site; the message says why and what to do."""


class Probe:
    """A network in evaluation mode, traced once.

    A network whose logits hardly differ between two images, as happens before training, is probed on a copy brought to
    life by :func:`~attention_refine.backbones.calibrate.liven`; the network itself is never written to.

    Attributes:
        candidates: in the order in which they finished.
        left: forwards that may still be spent.
    """

    def __init__(self, net: nn.Module, pixel_values: Tensor):
        self.net = net
        self.image_size = image_size_of(pixel_values)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn((2, *pixel_values.shape[1:]), generator=generator).to(pixel_values)
        self.first, self.second = noise[:1], noise[1:]
        self.left = BUDGET
        self._compare()
        if self.apart <= _DEAD * self.logits.norm():
            self.net = liven(copy.deepcopy(net), pixel_values)
            self._compare()
        if not self.apart > _DEAD / 100 * self.logits.norm():
            raise UnsupportedBackbone(
                f"{type(net).__name__} gives two different images the same logits, so what a map does cannot be seen; "
                "load trained weights, or give the site by name in a head's options"
            )

        if (self._logits(self.first) - self.logits).norm() > _SAME * self.apart:
            raise UnsupportedBackbone(
                f"{type(net).__name__} gives the same image different logits each time it is asked, in evaluation "
                "mode; turn its random masking or sampling off before wrapping"
            )
        self._cuts: dict[str, bool] = {}
        self._read: dict[str, bool] = {}
        self._effects: dict[tuple[str, str, bool], float] = {}
        self.candidates = self._trace()

    def _compare(self) -> None:
        self.logits = self._logits(self.first)
        self.apart = (self._logits(self.second) - self.logits).norm()

    def _logits(self, image: Tensor) -> Tensor:
        self.left -= 1
        with torch.no_grad():
            return logits_of(self.net(image)).float()

    def _trace(self) -> list[Candidate]:
        with torch.enable_grad():
            image = self.first.clone().requires_grad_()
            found, output = trace(self.net, image)
            logits = logits_of(output)
            if not logits.requires_grad:
                raise UnsupportedBackbone("the network's logits do not depend on its input differentiably")
            self._feel(found, logits, image)
        for candidate in found:  # keep values, not the graph
            candidate.output = with_first_tensor(candidate.output, feature_of(candidate.output).detach())
        return found

    def _feel(self, found: list[Candidate], logits: Tensor, image: Tensor) -> None:
        """Which outputs the logits feel; each gradient is looked at as it comes, so that they are never all kept."""

        def looking(candidate: Candidate) -> Callable[[Tensor], None]:
            def look(gradient: Tensor) -> None:
                on_grid = to_grid(gradient, candidate.layout, self.image_size)
                candidate.felt = bool(on_grid.abs().sum() > 1e-9 * gradient.abs().sum())

            return look

        tracked = [(candidate, raw) for candidate in found if (raw := feature_of(candidate.output)).requires_grad]
        for candidate, raw in tracked:
            raw.register_hook(looking(candidate))
        weights = torch.linspace(1, 2, logits.numel(), device=logits.device).view_as(logits)
        first = [raw for _, raw in tracked[:1]]  # beside the image, from which a frozen stem may cut the rest off
        torch.autograd.grad((logits * weights).sum(), [image, *first], allow_unused=True)

    def is_cut(self, candidate: Candidate) -> bool:
        """Whether the first image's logits come out when nothing but the candidate's output is the first image's.

        The input is the second image and every module before the candidate answers with zeros, as they do when a
        backbone is resumed: what flows past the candidate, a class token that no image has touched included, gives
        itself away.
        """
        if candidate.name not in self._cuts:
            try:
                forced = self._resume(candidate, self.second, lambda feature: feature)
                self._cuts[candidate.name] = bool((forced - self.logits).norm() <= _SAME * self.apart)
            except Exception:  # whatever a network says to zeros in the place of what it computes: no cut
                self._cuts[candidate.name] = False
        return self._cuts[candidate.name]

    def is_read(self, candidate: Candidate) -> bool:
        """Whether the logits change when the grid is blanked: a container may have pooled it inside for good."""
        if candidate.name not in self._read:
            blanked = self._resume(candidate, self.first, torch.zeros_like)
            self._read[candidate.name] = bool((blanked - self.logits).norm() > _SAME * self.apart)
        return self._read[candidate.name]

    def _resume(self, candidate: Candidate, image: Tensor, rewrite: Callable[[Tensor], Tensor]) -> Tensor:
        raw = feature_of(candidate.output).clone()  # an in-place activation may follow and write into it
        feature = rewrite(to_grid(raw, candidate.layout, self.image_size))
        output = with_first_tensor(candidate.output, from_grid(feature, raw, candidate.layout))
        with ExitStack() as stack:
            for name, calls in candidate.earlier.items():
                stack.enter_context(answering(self.net.get_submodule(name), calls))
            stack.enter_context(answering(self.net.get_submodule(candidate.name), [output], blank=False))
            return self._logits(image)

    def effect(self, candidate: Candidate, gain: Tensor | None = None, mechanism: str = "scale") -> float:
        """Change of the first image's logits when the candidate's locations are scaled, relative to their spread.

        Args:
            gain: ``(1, 1, *grid)`` or a scalar; by default ``1 + U(0, 1)`` at each location.
        """
        asked = candidate.name, mechanism, gain is None
        if asked not in self._effects:
            gain = self._random_gain(candidate) if gain is None else gain
            self._effects[asked] = self._effect(candidate, gain, mechanism)
        return self._effects[asked]

    def _effect(self, candidate: Candidate, gain: Tensor, mechanism: str) -> float:
        if mechanism == "attention":
            with ClassRowGain(gain, candidate.layout) as mode:
                moved = self._resume(candidate, self.first, lambda feature: feature)
            if not mode.calls:
                return 0.0
        else:
            moved = self._resume(candidate, self.first, lambda feature: feature * gain)
        spread = (self.logits - self.logits.mean()).norm().clamp_min(1e-30)
        return float((moved - self.logits).norm() / spread)

    def _random_gain(self, candidate: Candidate) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return (1 + torch.rand((1, 1, *candidate.grid), generator=generator)).to(self.first)
