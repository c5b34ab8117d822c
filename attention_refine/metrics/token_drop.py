"""Insertion and deletion on a transformer by leaving tokens out: no fill colour to choose, and about half the compute.

Tokens are taken out before the first block, after the position embeddings have been added, so a token left in still
knows where it belongs and one left out is not seen at all. Serves networks of equal blocks over one sequence of patch
tokens (timm and Hugging Face ViT, DeiT, CLIP, DINO, ...), those that hand each block its rotary positions among them
(timm's EVA-02, DINOv3 in both libraries): the positions of the kept tokens are handed on. Windowed, pyramid and
relative-position networks need their whole grid and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..backbones import infer_layout
from ..layouts import grid_of
from ._forward import (
    check_images,
    check_score,
    class_scores,
    evaluating,
    forward_all,
    forward_in_chunks,
    network_input,
    resolve_target,
    usual_chunk,
)
from ._maps import check_maps, removal_rank, to_size, wide
from ._registry import STEPPED, register_measure
from ._stages import counts_of, trapezoid
from .perturbation import InsertionDeletion, PerturbationResult

ROTARY = ("rope", "position_embeddings")  # how timm and transformers call what a block is given beside its tokens


class _Gate:
    """What passes into the blocks: all tokens, or the prefix and those that ``keep`` (n, k) lists."""

    def __init__(self) -> None:
        self.prefix = 0
        self.tokens_in_all = 0
        self.keep: Tensor | None = None
        self.tokens: Tensor | None = None

    def __call__(self, module: Any, args: Any, kwargs: Any) -> Any:
        tokens = args[0] if args else kwargs["hidden_states"]
        self.tokens = tokens
        if self.keep is None:
            return None
        where = self.prefix + self.keep[:, :, None].expand(-1, -1, tokens.shape[2])
        tokens = torch.cat([tokens[:, : self.prefix], tokens.gather(1, where)], dim=1)
        return ((tokens, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": tokens})

    def positions(self, module: Any, args: Any, kwargs: Any) -> Any:
        """The rotary positions of the tokens kept, for any block."""
        given = {name: kwargs[name] for name in ROTARY if kwargs.get(name) is not None}
        if self.keep is None or not given:
            return None
        return args, kwargs | {name: self._rows(value) for name, value in given.items()}

    def _rows(self, value: Any) -> Any:
        """``(N, d)`` as ``(n, 1, k, d)``, and ``(heads, N, d)`` as ``(n, heads, k, d)``; cosines and sines alike."""
        if isinstance(value, tuple):
            return tuple(self._rows(each) for each in value)
        if value.ndim not in (2, 3) or value.shape[-2] != self.tokens_in_all:
            raise ValueError(f"rotary positions {tuple(value.shape)} are not one row a patch of {self.tokens_in_all}")
        return value[self.keep][:, None] if value.ndim == 2 else value[:, self.keep].transpose(0, 1)


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """The longest run of modules of one kind: a transformer's blocks.

    Raises:
        ValueError: no two modules of one kind follow each other.
    """
    runs = [
        list(module)
        for module in net.modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential))
        and len(module) > 1
        and len({type(child) for child in module}) == 1
        and next(module[0].children(), None) is not None
    ]
    if not runs:
        raise ValueError(
            f"{type(net).__name__} has no run of equal blocks, so no tokens to drop: remove pixels instead"
        )
    return max(runs, key=len)


@contextmanager
def _gated(net: nn.Module) -> Iterator[_Gate]:
    gate = _Gate()
    blocks = blocks_of(net)
    handles = [block.register_forward_pre_hook(gate.positions, with_kwargs=True) for block in blocks]
    handles.append(blocks[0].register_forward_pre_hook(gate, with_kwargs=True))
    try:
        yield gate
    finally:
        for handle in handles:
            handle.remove()


def _to_grid(maps: Tensor, grid: tuple[int, ...]) -> Tensor:
    if maps.shape[-2] >= grid[0] and maps.shape[-1] >= grid[1]:
        return nn.functional.adaptive_avg_pool2d(wide(maps), (grid[0], grid[1])).to(maps.dtype)
    return to_size(maps, grid)


@register_measure(
    "token_insertion",
    title="Token insertion",
    better=True,
    needs="forwards",
    reads="insertion.auc",
    curve="insertion",
    takes=STEPPED,
)
@register_measure(
    "token_deletion",
    title="Token deletion",
    better=False,
    needs="forwards",
    reads="deletion.auc",
    curve="deletion",
    takes=STEPPED,
)
def token_insertion_and_deletion(
    net: nn.Module,
    pixel_values: Tensor,
    maps: Tensor,
    target: int | Tensor | None = None,
    n_steps: int = 49,
    score: str = "softmax",
    batch_size: int | None = None,
    progress: bool = False,
) -> InsertionDeletion:
    """Both curves of a token transformer: the top tokens alone, and the image without them.

    A network that reads its class token is shown from none to all of its patches. One that averages the patches cannot
    be shown none: there its curves keep one token at the empty end, and ``fractions`` are of the others.

    Args:
        maps: ``(B, 1, h, w)``; averaged over each patch where it is finer than the grid of tokens, else bilinear.
        n_steps: at most the number of patches.
        batch_size: None for 8 on a CPU and 64 elsewhere; the images of one forward keep equal numbers of tokens, so at
            most twice the images given.

    Returns:
        ``(insertion, deletion)``, as :func:`insertion_and_deletion`.

    Raises:
        ValueError: the network has no such tokens or cannot run on fewer, and as the perturbation measures do.
    """
    maps = check_maps(maps)
    check_images(pixel_values, maps)
    check_score(score)
    with evaluating(net, pixel_values.device), _gated(net) as gate:
        images = network_input(net, pixel_values)
        device, batch = images.device, len(images)
        chunk = batch_size or usual_chunk(device)
        clean = forward_all(net, images, chunk)
        target = resolve_target(target, clean)
        size, tokens = tuple(images.shape[-2:]), gate.tokens
        layout = infer_layout(tokens, size) if tokens is not None and tokens.ndim == 3 else None
        if tokens is None or layout is None or layout.format != "NLC":
            raise ValueError(
                f"the blocks of {type(net).__name__} do not take one sequence of patch tokens: "
                "remove pixels instead, by insertion and deletion"
            )
        gate.prefix = layout.prefix
        rank = removal_rank(_to_grid(maps, grid_of(tokens, layout, size))).to(device)
        order = rank.argsort(1)  # tokens in descending order of the map
        total = gate.tokens_in_all = order.shape[1]
        everyone = torch.arange(batch, device=device)

        def shown(owners: Tensor, keep: Tensor) -> Tensor:
            def make(job: Tensor) -> Tensor:
                gate.keep = keep[job]
                return images[owners[job]]

            def read(logits: Tensor, job: Tensor) -> Tensor:
                return class_scores(logits, target[owners[job]], score)

            try:
                return forward_in_chunks(net, make, read, len(owners), device, chunk)
            except (RuntimeError, IndexError, ValueError) as error:
                if isinstance(error, torch.cuda.OutOfMemoryError):
                    raise
                raise ValueError(
                    f"{type(net).__name__} cannot run on a part of its tokens ({error}): remove pixels instead"
                ) from error
            finally:
                gate.keep = None

        least, nothing = 0, None
        with suppress(ValueError):
            nothing = shown(everyone, order[:, :0])
        if nothing is None or not nothing.isfinite().all():
            least = 1
        counts = counts_of(n_steps, total - least)
        whole = class_scores(clean, target, score)
        inserted, deleted = whole.new_empty(2, batch, n_steps + 1).unbind(0)
        inserted[:, -1] = deleted[:, 0] = whole
        if nothing is not None and least == 0:
            inserted[:, 0] = deleted[:, -1] = nothing
        for step in tqdm(range(least == 0, n_steps), disable=not progress, unit="step", leave=False):
            kept = least + counts[step]
            keep = torch.cat([order[:, :kept], order[:, total - kept :]]).sort(1).values
            values = shown(everyone.repeat(2), keep)
            inserted[:, step], deleted[:, n_steps - step] = values[:batch], values[batch:]
    fractions = torch.tensor(counts, dtype=torch.float64, device=device) / (total - least)
    # Deletion keeps what insertion's mirror step shows, so its removals are counted from the other end.
    removed = (1 - fractions).flip(0)

    def result(curve: Tensor, at: Tensor) -> PerturbationResult:
        return PerturbationResult(trapezoid(curve, at), curve, at.float(), target)

    return InsertionDeletion(result(inserted, fractions), result(deleted, removed))


def token_insertion(net: nn.Module, pixel_values: Tensor, maps: Tensor, **options: Any) -> PerturbationResult:
    """The insertion half of :func:`token_insertion_and_deletion`, which computes both."""
    return token_insertion_and_deletion(net, pixel_values, maps, **options).insertion


def token_deletion(net: nn.Module, pixel_values: Tensor, maps: Tensor, **options: Any) -> PerturbationResult:
    """The deletion half of :func:`token_insertion_and_deletion`, which computes both."""
    return token_insertion_and_deletion(net, pixel_values, maps, **options).deletion
