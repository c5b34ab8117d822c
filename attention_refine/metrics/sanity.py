"""Does a map depend on the model at all? Randomisation tests, and the controls every table needs.

``explain`` is any function ``(net, pixel_values) -> maps (B, 1, h, w)``; fix its target inside it (a randomised model
predicts another class). The network given is never changed: a copy is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .agreement import SIMILARITIES

Explain = Callable[[nn.Module, Tensor], Tensor]
MODES = ("cascading", "independent")


@dataclass(frozen=True)
class RandomisationResult:
    """``similarity`` (B, L) to the original map after randomising down to (or only) each of ``layers``."""

    layers: tuple[str, ...]
    similarity: Tensor


def _similarity(similarity: str) -> Callable[..., Tensor]:
    if similarity not in SIMILARITIES:
        raise ValueError(f"similarity {similarity!r} is not one of {', '.join(SIMILARITIES)}")
    return SIMILARITIES[similarity]


@torch.no_grad()
def randomise(module: nn.Module, generator: torch.Generator) -> None:
    """Replace the module's own parameters by normal draws with each tensor's own mean and deviation, in place.

    Adebayo et al. re-run each layer's initialiser. Keeping the moments serves every parameter (class tokens and
    position embeddings too), keeps activations in range through deep networks, and forgets all that was learnt but two
    numbers. A constant tensor is drawn with deviation 1 (0.02 for biases and tokens of value 0).
    """
    for parameter in module.parameters(recurse=False):
        if not parameter.is_floating_point():
            continue
        mean, deviation = parameter.cpu().double().mean(), parameter.cpu().double().std(unbiased=False)
        if deviation == 0:
            deviation = deviation.new_tensor(1.0 if mean != 0 else 0.02)
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.copy_(noise * deviation + mean)


def parameter_randomisation(
    net: nn.Module,
    explain: Explain,
    pixel_values: Tensor,
    mode: str = "cascading",
    layers: list[list[str]] | int | None = None,
    similarity: str = "rank_correlation",
    seed: int = 0,
) -> RandomisationResult:
    """Model-parameter randomisation test (Adebayo et al. 2018): a map that stays the same does not explain the model.

    Args:
        mode: ``"cascading"`` randomises from the output down and keeps what is already random; ``"independent"`` one
            layer (or group) at a time.
        layers: None for each module with parameters of its own, from the last to the first in definition order; a
            number to merge those into that many groups; or the groups of module names.
        similarity: one of pearson, rank_correlation, cross_correlation, ssim.

    Returns:
        One column a group; low is good. The original network, its buffers and gradients are left alone.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is not one of {', '.join(MODES)}")
    compare = _similarity(similarity)
    if not isinstance(layers, list):
        names = [name for name, m in net.named_modules() if any(True for _ in m.parameters(recurse=False))][::-1]
        count = len(names) if layers is None else min(layers, len(names))
        if count < 1:
            raise ValueError(
                f"layers={layers} of a network with {len(names)} parametrised modules leaves none to randomise"
            )
        bounds = [round(i * len(names) / count) for i in range(count + 1)]
        layers = [names[a:b] for a, b in zip(bounds, bounds[1:])]
    original = explain(net, pixel_values)
    generator = torch.Generator().manual_seed(seed)
    changed = copy.deepcopy(net)
    columns = []
    for group in layers:
        if mode == "independent":
            changed = copy.deepcopy(net)
        for name in group:
            randomise(changed.get_submodule(name), generator)
        columns.append(compare(original, explain(changed, pixel_values)))
    return RandomisationResult(tuple("+".join(group) for group in layers), torch.stack(columns, dim=1))


def label_randomisation(
    net: nn.Module,
    net_of_random_labels: nn.Module,
    explain: Explain,
    pixel_values: Tensor,
    similarity: str = "rank_correlation",
) -> Tensor:
    """``(B,)`` data randomisation test (Adebayo et al. 2018): the maps of a model against another's.

    The other is trained on :func:`shuffle_labels`. High means the maps do not depend on what was learnt.
    """
    return _similarity(similarity)(explain(net, pixel_values), explain(net_of_random_labels, pixel_values))


def shuffle_labels(labels: Tensor, seed: int = 0) -> Tensor:
    """The labels (or rows of labels) permuted over the data set, for the model :func:`label_randomisation` wants."""
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)]


def target_randomisation(
    explain: Callable[[nn.Module, Tensor, Tensor], Tensor],
    net: nn.Module,
    pixel_values: Tensor,
    target: Tensor,
    num_classes: int,
    similarity: str = "rank_correlation",
    seed: int = 0,
) -> Tensor:
    """``(B,)`` random-logit test (Sixt et al. 2020): the target's map against that of a random other class.

    ``explain`` here takes ``(net, pixel_values, target (B,))``. High means the map does not depend on the class.
    """
    if num_classes < 2:
        raise ValueError(f"another class needs at least 2 classes, got {num_classes}")
    shift = torch.randint(1, num_classes, target.shape, generator=torch.Generator().manual_seed(seed))
    other = (target + shift.to(target.device)) % num_classes
    return _similarity(similarity)(explain(net, pixel_values, target), explain(net, pixel_values, other))


def random_maps(index: Tensor, size: tuple[int, int] = (7, 7), seed: int = 0) -> Tensor:
    """Control: ``(B, 1, h, w)`` uniform noise in [0, 1); each drawn from ``seed`` and its image's row in the data set.

    Args:
        index: ``(B,)`` rows, so that an image's control is the same in any batch.
        size: ``(h, w)``; use the size of the maps compared with, since coarse noise scores differently from fine noise.
    """
    maps = [torch.rand(1, *size, generator=torch.Generator().manual_seed(seed * 1_000_003 + i)) for i in index.tolist()]
    return torch.stack(maps).to(index.device) if maps else torch.empty(0, 1, *size, device=index.device)


def centre_maps(batch: int, size: tuple[int, int] = (7, 7), spread: float = 0.25) -> Tensor:
    """Control: ``(batch, 1, h, w)`` Gaussians on the middle of the image, deviation ``spread`` of each side.

    Give the image's own size: on a model's coarse grid it is another control for every model.
    """
    if spread <= 0:
        raise ValueError(f"spread must be positive, got {spread}")
    down, across = (torch.exp(-0.5 * (((torch.arange(n) + 0.5) / n - 0.5) / spread) ** 2) for n in size)
    return (down[:, None] * across).expand(batch, 1, *size).clone()
