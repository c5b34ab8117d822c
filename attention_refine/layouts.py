"""One form for every feature: ``(B, C, *grid)``, and the way back to the layout a backbone uses.

Backbones hand out features as ``NCHW``, ``NHWC`` or tokens ``NLC`` (with 0, 1 or more prefix tokens before the
grid), and video backbones as ``NCTHW``, ``NTHWC`` or tokens. A :class:`Layout` says which; the functions here are pure
tensor code and know nothing of models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FORMATS = ("NCHW", "NHWC", "NLC", "NCTHW", "NTHWC")
MAX_PREFIX = 16  # class, distillation and register tokens; no published network has more
USUAL_PREFIX = 5  # a class token and four registers


@dataclass(frozen=True)
class Layout:
    """How a raw feature is laid out.

    Args:
        format: one of ``NCHW NHWC NLC NCTHW NTHWC``.
        prefix: tokens before the grid (class, distillation, registers); ``NLC`` only.
        grid_rank: 2 for images, 3 for video; only ``NLC`` needs it, the other formats say it themselves.
        frames_last: tokens of clips only: they run over ``(h, w, t)``, as TimeSformer's, not over ``(t, h, w)``.
    """

    format: str
    prefix: int = 0
    grid_rank: int = 2
    frames_last: bool = False

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"layout format {self.format!r} is not one of {', '.join(FORMATS)}")
        if self.format in ("NCTHW", "NTHWC") and self.grid_rank != 3:
            object.__setattr__(self, "grid_rank", 3)
        if self.prefix and self.format != "NLC":
            raise ValueError(f"only token features (NLC) have prefix tokens, not {self.format}")
        if not 0 <= self.prefix <= MAX_PREFIX:
            raise ValueError(f"prefix must be between 0 and {MAX_PREFIX}, got {self.prefix}")
        if self.frames_last and (self.format != "NLC" or self.grid_rank != 3):
            raise ValueError(f"only token features (NLC) of clips have frames_last, not {self.format}")


def token_grid(tokens: int, image_size: tuple[int, ...]) -> tuple[int, ...]:
    """The ``(h, w)`` grid of ``tokens`` patches whose aspect ratio is the image's: ``h * w == tokens``.

    Args:
        tokens: number of grid tokens (prefix tokens not counted).
        image_size: ``(H, W)`` of the input in pixels.

    Raises:
        ValueError: no factorisation of ``tokens`` has the image's aspect ratio (within one cell a side).
    """
    height, width = image_size[-2:]
    exact = math.sqrt(tokens * height / width)
    for h in sorted({math.floor(exact), math.ceil(exact), round(exact)}, key=lambda h: abs(h - exact)):
        if h > 0 and tokens % h == 0 and abs(tokens // h - h * width / height) < 1:
            return h, tokens // h
    raise ValueError(f"{tokens} tokens do not tile a {height}x{width} image: no h * w = {tokens} has that aspect ratio")


def grid_of(raw: Tensor, layout: Layout, image_size: tuple[int, ...]) -> tuple[int, ...]:
    """The grid, ``(h, w)`` or ``(t, h, w)``, that a raw feature of this layout covers.

    Args:
        raw: the feature as the backbone gives it.
        image_size: ``(H, W)`` of the input, or ``(T, H, W)`` of a clip (tokens only: their grid is not in their shape).
    """
    if layout.format in ("NCHW", "NCTHW"):
        return tuple(raw.shape[2:])
    if layout.format in ("NHWC", "NTHWC"):
        return tuple(raw.shape[1:-1])
    tokens = raw.shape[1] - layout.prefix
    if layout.grid_rank == 2:
        return token_grid(tokens, image_size)
    # A clip's temporal patch is not in the shape: the coarsest split whose frame grid has the image's aspect ratio.
    frames = image_size[0]
    for tubelet in range(1, frames + 1):
        if frames % tubelet == 0 and tokens % (frames // tubelet) == 0:
            try:
                return (frames // tubelet, *token_grid(tokens * tubelet // frames, image_size[-2:]))
            except ValueError:
                continue
    raise ValueError(f"{tokens} tokens do not tile a clip of {image_size}")


def infer_layout(
    raw: Tensor, image_size: tuple[int, ...], grids: frozenset[tuple[int, int]] = frozenset()
) -> Layout | None:
    """The layout of a raw feature of an image of ``image_size``, or ``None`` where it is no grid of at least 2 cells.

    A 4-D feature is ``NCHW`` when its last two sides have the image's aspect ratio, else ``NHWC`` when the middle two
    have. A 3-D one is tokens: the fewest prefix tokens that leave one of ``grids``, else at most five that leave any grid
    of the image's aspect ratio. Clips (``image_size`` of three) likewise with time.

    Args:
        raw: what a module returned.
        image_size: ``(H, W)``, or ``(T, H, W)`` of a clip.
        grids: ``(h, w)`` that other modules of the network returned; a count of tokens alone says little.
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
    if raw.ndim != 3 or raw.shape[2] == 1:
        return None
    found = []
    for prefix in range(min(MAX_PREFIX, raw.shape[1] - 3)):
        layout = Layout("NLC", prefix, grid_rank=len(image_size))
        try:
            found.append((layout, grid_of(raw, layout, image_size)[-2:]))
        except ValueError:
            continue
    known = (layout for layout, grid in found if grid in grids)
    return next(known, next((layout for layout, _ in found if layout.prefix <= USUAL_PREFIX), None))


def to_grid(raw: Tensor, layout: Layout, image_size: tuple[int, ...]) -> Tensor:
    """A raw feature as ``(B, C, *grid)``; prefix tokens are left out. A view where the layout allows one."""
    if layout.format in ("NCHW", "NCTHW"):
        return raw
    if layout.format in ("NHWC", "NTHWC"):
        return raw.movedim(-1, 1)
    grid = grid_of(raw, layout, image_size)
    tokens = raw[:, layout.prefix :].transpose(1, 2)
    if layout.frames_last:
        return tokens.unflatten(2, (*grid[1:], grid[0])).movedim(-1, 2)
    return tokens.unflatten(2, grid)


def from_grid(feature: Tensor, raw: Tensor, layout: Layout) -> Tensor:
    """The inverse of :func:`to_grid`: ``feature`` in the layout of ``raw``, whose prefix tokens are kept."""
    if layout.format in ("NCHW", "NCTHW"):
        return feature
    if layout.format in ("NHWC", "NTHWC"):
        return feature.movedim(1, -1)
    tokens = in_token_order(feature, layout).transpose(1, 2)
    return torch.cat([raw[:, : layout.prefix], tokens], dim=1) if layout.prefix else tokens


def in_token_order(feature: Tensor, layout: Layout) -> Tensor:
    """``(B, C, *grid)`` to ``(B, C, cells)``, the cells in the order in which this layout's tokens run over them."""
    return (feature.movedim(2, -1) if layout.frames_last else feature).flatten(2)
