"""A finer last grid from the same weights: stride 1 in the last stages, or patches that overlap.

Nothing is trained and no weight is drawn: the strides of modules that are there are changed, and learned positions are
interpolated to the new grid. What to change is found by running the network, and tried before it is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..layouts import USUAL_PREFIX, grid_of, infer_layout
from .contexts import output_hook, own_randomness, quiet
from .outputs import first_tensor
from .probe import UnsupportedBackbone
from .rebuild import describe
from .resolution import CONVOLUTIONS, POOLS, Resolution, inside, resolution_of
from .spec import NotRebuildable
from .trace import image_size_of, trace
from .transformers_spec import video_classifiers
from .video import FramesFirst


def higher_resolution(
    net: nn.Module, factor: int = 2, dilate: bool = False, input_size: tuple[int, ...] | None = None
) -> nn.Module:
    """Make the last grid ``factor`` times as fine on each side, with the same weights. The network itself is changed.

    Convolutional networks lose the stride of their last stages (the last one for 2, the last two for 4), as in BR-NPA.
    Vision transformers with learned positions get patches that overlap, at a stride of ``1 / factor`` of their size,
    and interpolated positions. What runs at the finer grid then costs ``factor ** 2`` times as much.

    Args:
        net: a classifier from timm, transformers or torchvision, or any other; not a wrapped model.
        factor: 2, 4 ...; 1 changes nothing.
        dilate: dilate the convolutions after a removed stride, which keeps what each one sees of the image (their
            pretrained scale); without, as in the paper, it shrinks.
        input_size: ``(C, H, W)`` of the images; by default what the network says, or 224 pixels.

    Raises:
        ValueError: a factor that is no power of two, or a network changed already.
        UnsupportedBackbone: a grid that no stride of its own makes, as a Swin's, or one that must keep its size.
    """
    if not isinstance(factor, int) or factor < 1 or factor & (factor - 1):
        raise ValueError(f"factor={factor!r} is not a power of two; take 2 or 4, or 1 for no change")
    if factor == 1:
        return net
    if hasattr(net, "backbone"):
        raise ValueError("higher_resolution changes a bare network: call it first, or pass resolution=... to wrap")
    changed = resolution_of(net)
    if changed is not None:
        raise ValueError(f"the network is at {changed.factor} times its resolution already; load it anew")
    example = _example(net, input_size)
    inner = inside(net)
    runs = FramesFirst(net) if type(net).__name__ in video_classifiers() else net
    with quiet(net), torch.no_grad(), own_randomness(example.device):
        grid, calls = _watch(runs, inner, example)
        tries = _strides(calls, grid, factor, dilate) or _patches(inner, calls, grid, factor)
        fault: str | None = f"no strided layer of its own makes its last grid {grid}"
        for changes in tries:
            fault = _try(changes, runs, inner, example, grid)
            if fault is None:
                return net
    raise UnsupportedBackbone(
        f"{type(inner).__name__} cannot be read at {factor} times its resolution: {fault}; take larger images instead "
        "(timm transformers: img_size=..., transformers: image_size in the config), or another backbone"
    )


def _try(changes: Resolution, net: nn.Module, inner: nn.Module, example: Tensor, grid: tuple[int, int]) -> str | None:
    """Change the network; what is wrong with it then, in which case it is as it was before."""
    parts = changes.parts(inner)
    try:
        changes.apply(inner)
        found, _ = trace(net, example)
        new = tuple(found[-1].grid[-2:])
        # A border's padding may cost or add a cell for each halving.
        if all(abs(now - changes.factor * old) < changes.factor for now, old in zip(new, grid)):
            return None
        fault = f"its last grid became {new}, not {changes.factor} times {grid}"
    except Exception as error:  # whatever a network says to a grid of another size
        fault = " ".join(str(error).split()) or type(error).__name__
    changes.take_back(inner, parts)
    return fault


# --- what to change --------------------------------------------------------------------------------------------------


@dataclass
class _Call:
    name: str
    module: nn.Module
    before: tuple[int, int]
    after: tuple[int, int]


def _watch(net: nn.Module, inner: nn.Module, example: Tensor) -> tuple[tuple[int, int], list[_Call]]:
    """The last grid, and every convolution and pool that ran, with the grid it was given and the one it made."""
    calls: list[_Call] = []
    around: dict[str, tuple[int, int]] = {}
    size = image_size_of(example)

    def note(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, output: Any) -> None:
            raw = first_tensor(output)
            layout = infer_layout(raw, size) if raw is not None and raw.ndim > 3 else None
            if raw is not None and layout is not None:
                around[name] = _side(grid_of(raw, layout, size))
            if isinstance(module, CONVOLUTIONS + POOLS):
                calls.append(_Call(name, module, _side(args[0].shape), _side(output.shape)))

        return hook

    with ExitStack() as stack:
        for name, module in inner.named_modules():
            stack.enter_context(output_hook(module, note(name)))
        found, _ = trace(net, example)
    if not found:
        raise UnsupportedBackbone(
            f"{type(inner).__name__} at {'x'.join(map(str, size))} returns no grid; use a larger image"
        )
    return _side(found[-1].grid), [call for call in calls if not _in_a_branch(call, around)]


def _side(shape: Sequence[int]) -> tuple[int, int]:
    return shape[-2], shape[-1]


def _in_a_branch(call: _Call, around: dict[str, tuple[int, int]]) -> bool:
    """Whether a module around it gives a finer grid again: keys of an attention at a lower resolution, say."""
    parts = call.name.split(".")
    above = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return any(math.prod(around[name]) > math.prod(call.after) for name in above if name in around)


def _strides(calls: list[_Call], grid: tuple[int, int], factor: int, dilate: bool) -> list[Resolution]:
    """Stride 1 in the stages that end at ``grid``; nothing where no layer of stride 2 makes it."""
    changes, strided, finest = Resolution(factor, dilate), [], grid
    for _ in range(int(math.log2(factor))):
        stage = [call for call in calls if call.after == finest and _pair(call.module.stride) == (2, 2)]
        if not stage:
            return []
        strided += stage
        finest = stage[-1].before
    for call in strided:
        module, kernel = call.module, _pair(call.module.kernel_size)
        spacing = _spacing(call, grid, factor) if dilate else 1
        if isinstance(module, (nn.AvgPool2d, nn.MaxPool2d)) and kernel == (2, 2):
            changes.pools.append([call.name, "max" if isinstance(module, nn.MaxPool2d) else "avg", spacing])
            continue
        changes.settings.append([call.name, "stride", _listed(module.stride), _last_two(module.stride, 1)])
        if isinstance(module, nn.Conv2d) and kernel == (2, 2):  # a block begins at its location: the rest comes after
            pads = module._reversed_padding_repeated_twice
            changes.settings.append([call.name, "padding_mode", module.padding_mode, "replicate"])
            changes.settings.append([call.name, "_reversed_padding_repeated_twice", list(pads), [0, spacing] * 2])
    for call in calls if dilate else ():
        spacing, kernel = _spacing(call, grid, factor), _pair(call.module.kernel_size)
        if spacing > 1 and isinstance(call.module, CONVOLUTIONS) and kernel != (1, 1):
            for attribute in ("dilation", "padding"):
                value = getattr(call.module, attribute)
                if not isinstance(value, str) and _pair(value) != (0, 0):
                    new = _last_two(value, *(spacing * one for one in _pair(value)))
                    changes.settings.append([call.name, attribute, _listed(value), new])
    return [changes]


def _spacing(call: _Call, grid: tuple[int, int], factor: int) -> int:
    """How far apart, on the finer grid, those locations are that were neighbours."""
    return max(1, round(factor * grid[0] / call.before[0]))


def _patches(net: nn.Module, calls: list[_Call], grid: tuple[int, int], factor: int) -> list[Resolution]:
    """Patches that overlap, centred as they are on cells of their stride; nothing where no patches make the grid.

    With learned positions interpolated once, and without, for networks that interpolate theirs to every input.
    """
    made = [call for call in calls if isinstance(call.module, CONVOLUTIONS) and call.after == grid]
    patch = next((call for call in made if _pair(call.module.stride) == _pair(call.module.kernel_size) != (1, 1)), None)
    if patch is None:
        return []
    module, sides = patch.module, _pair(patch.module.kernel_size)
    if any(side % factor for side in sides) or _pair(module.padding) != (0, 0):
        return []
    stride = [side // factor for side in sides]
    padding = [(side - step) // 2 for side, step in zip(sides, stride)]
    size = zip(patch.before, sides, stride, padding)
    after = [(pixels + 2 * pad - side) // step + 1 for pixels, side, step, pad in size]
    changes = Resolution(factor)
    changes.settings.append([patch.name, "stride", _listed(module.stride), _last_two(module.stride, *stride)])
    changes.settings.append([patch.name, "padding", _listed(module.padding), _last_two(module.padding, *padding)])
    cells = math.prod(grid)
    for name, parameter in net.named_parameters():
        if parameter.ndim == 3 and len(parameter) == 1 and 0 <= parameter.shape[1] - cells <= USUAL_PREFIX:
            changes.positions.append([name, parameter.shape[1] - cells, list(grid), after])
    return [changes, replace(changes, positions=[])] if changes.positions else [changes]


def _example(net: nn.Module, input_size: tuple[int, ...] | None) -> Tensor:
    if input_size is None:
        try:
            input_size = describe(net).preprocessing.get("input_size")
        except NotRebuildable:
            input_size = None
    parameter = next(net.parameters())
    size = tuple(input_size or (3, 224, 224))
    return torch.randn((1, *size), device=parameter.device, dtype=parameter.dtype)


def _pair(value: Any) -> tuple[Any, Any]:
    """The last two of a number a dimension, or one for all."""
    return tuple(value[-2:]) if isinstance(value, (tuple, list)) else (value, value)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _last_two(value: Any, *new: int) -> list[int]:
    """``value`` with its last two entries replaced, by one number or by two."""
    first = list(value[:-2]) if isinstance(value, (tuple, list)) else []
    return [*first, *(new if len(new) == 2 else new * 2)]
